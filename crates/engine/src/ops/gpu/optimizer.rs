//! Launches of `kernels/optimizer.cu`: an update of AdamW, and the gradients' sums of squares.

use candle_core::{DType, Tensor};

use super::Arg::{Float, Read, Write};
use super::{Grid, Kernel, Machine, THREADS, dense, int, launch, long};
use crate::error::{Error, Result};
use crate::optim::adamw;

/// Blocks that sum squares: each leaves one number to the block that sums these.
const BLOCKS: u32 = 1024;

const fn kernel(name: &'static str) -> Kernel {
    Kernel { file: "optimizer", name }
}

/// Moves `param` and its moments along `grad`, in place; all have the same shape.
///
/// # Errors
/// When the machine refuses, or what is written is not dense.
pub fn adamw(
    m: &dyn Machine,
    with: &adamw::Kernel,
    param: &Tensor,
    (first, second): (&Tensor, &Tensor),
    grad: &Tensor,
) -> Result<()> {
    if !(param.is_contiguous() && first.is_contiguous() && second.is_contiguous()) {
        return Err(Error::Internal("AdamW was given a strided parameter".into()));
    }
    let grad = dense(grad)?;
    let n = param.elem_count();
    let args = [Write(param), Write(first), Write(second), Read(&grad), long(n)?];
    let constants = with.constants().map(Float);
    launch(m, kernel("adamw"), Grid::elements(n), &[&args[..], &constants].concat())
}

/// The sum of the squares of each tensor, in f64. The machine is asked once for all.
///
/// # Errors
/// When the machine refuses.
pub fn square_sums(m: &dyn Machine, grads: &[&Tensor]) -> Result<Vec<f64>> {
    if grads.is_empty() {
        return Ok(Vec::new());
    }
    let totals = m.uninit(&[grads.len()], DType::F64)?;
    for (at, grad) in grads.iter().enumerate() {
        let grad = dense(grad)?;
        let n = grad.elem_count();
        let blocks = Grid::elements(n).blocks.0.clamp(1, BLOCKS);
        let parts = m.uninit(&[blocks as usize], DType::F64)?;
        let grid = Grid { blocks: (blocks, 1), ..Grid::rows(1, THREADS, 8)? };
        launch(m, kernel("square_parts"), grid, &[Write(&parts), Read(&grad), long(n)?])?;
        let args = [Write(&totals), Read(&parts), int(blocks as usize)?, int(at)?];
        launch(m, kernel("square_total"), Grid::rows(1, THREADS, 8)?, &args)?;
    }
    Ok(totals.to_vec1()?)
}
