//! Launches of `kernels/rms_norm.cu`: root-mean-square normalisation, both directions.
//!
//! Shapes as in [`crate::ops::rms_norm`]; rows = all numbers of x over the weight's.

use candle_core::Tensor;

use super::Arg::{Float, Read, Write};
use super::{Grid, Kernel, Machine, THREADS, count, dense, int, launch, output};
use crate::error::Result;
use crate::ops::rms_norm::RmsNorm;

/// The fewest rows, and the most chunks, of a weight gradient's partial sums.
const CHUNK_ROWS: usize = 64;
const CHUNKS: usize = 256;

const fn kernel(name: &'static str) -> Kernel {
    Kernel { file: "rms_norm", name }
}

/// As [`RmsNorm::forward`].
///
/// # Errors
/// When the machine refuses.
pub fn forward(
    m: &dyn Machine,
    norm: &RmsNorm,
    x_td: &Tensor,
    w_d: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (x, w) = (dense(x_td)?, dense(w_d)?);
    let d = w.elem_count();
    let rows = x.elem_count() / d;
    let (y, rstd) = (output(m, x.dims())?, output(m, &[rows])?);
    let args = [Write(&y), Write(&rstd), Read(&x), Read(&w), int(d)?];
    let args = [&args[..], &[Float(norm.eps), Float(norm.offset)]].concat();
    launch(m, kernel("rms_norm_forward"), Grid::rows(rows, d, 4)?, &args)?;
    Ok((y, rstd))
}

/// As [`RmsNorm::backward`].
///
/// # Errors
/// When the machine refuses.
#[expect(clippy::too_many_arguments, reason = "the operands of one op")]
pub fn backward(
    m: &dyn Machine,
    norm: &RmsNorm,
    dx_td: &Tensor,
    dw_d: Option<&mut Tensor>,
    dy_td: &Tensor,
    x_td: &Tensor,
    w_d: &Tensor,
    rstd_t: &Tensor,
) -> Result<Tensor> {
    let (dx, dy, x) = (dense(dx_td)?, dense(dy_td)?, dense(x_td)?);
    let (w, rstd) = (dense(w_d)?, dense(rstd_t)?);
    let d = w.elem_count();
    let rows = x.elem_count() / d;
    let args = [Write(&dx), Read(&dy), Read(&x), Read(&w), Read(&rstd), int(d)?];
    let args = [&args[..], &[Float(norm.offset)]].concat();
    launch(m, kernel("rms_norm_backward"), Grid::rows(rows, d, 4)?, &args)?;
    if let Some(dw_d) = dw_d {
        *dw_d = dense(dw_d)?;
        weight_grad(m, dw_d, &dy, &x, &rstd)?;
    }
    Ok(dx)
}

/// dw += the sum over all rows of dy * x * rstd: in chunks of rows, then over the chunks.
fn weight_grad(m: &dyn Machine, dw: &Tensor, dy: &Tensor, x: &Tensor, rstd: &Tensor) -> Result<()> {
    let (d, rows) = (dw.elem_count(), rstd.elem_count());
    let chunk_rows = rows.div_ceil(CHUNKS).max(CHUNK_ROWS);
    let chunks = rows.div_ceil(chunk_rows);
    let parts = output(m, &[chunks, d])?;
    let columns = count(d.div_ceil(THREADS))?;
    let grid = Grid { blocks: (columns, count(chunks)?), threads: THREADS as u32, scratch: 0 };
    let args = [Write(&parts), Read(dy), Read(x), Read(rstd), int(rows)?, int(d)?];
    let args = [&args[..], &[int(chunk_rows)?]].concat();
    launch(m, kernel("rms_norm_weight_parts"), grid, &args)?;
    let grid = Grid { blocks: (columns, 1), ..grid };
    let args = [Write(dw), Read(&parts), int(chunks)?, int(d)?];
    launch(m, kernel("rms_norm_weight_sum"), grid, &args)
}
