//! Launches of `kernels/attention.cu`: attention over concatenated rows, both directions.
//!
//! A block owns a tile of tokens of one head; which tokens is listed on the host ([`tiles`]) and uploaded. Backward
//! is three launches: delta, the gradient of queries (tiles of queries), those of keys and values (tiles of keys).
//! Shapes as in [`crate::ops::attention`].

use candle_core::Tensor;

use super::Arg::{Float, Read, Write};
use super::{Arg, Grid, Kernel, Machine, THREADS, WARP, count, dense, int, launch, long, output};
use crate::error::{Error, Result};
use crate::ops::attention::{Attention, Saved};

/// The kernels that were compiled.
#[derive(Debug)]
struct Size {
    /// The widest head it can do.
    columns: usize,
    /// Tokens of the tile that a block owns.
    tile: usize,
    forward: Kernel,
    queries: Kernel,
    keys: Kernel,
}

macro_rules! size {
    ($columns:literal, $tile:literal) => {
        Size {
            columns: $columns,
            tile: $tile,
            forward: kernel(concat!("attention_forward_", $columns)),
            queries: kernel(concat!("attention_backward_queries_", $columns)),
            keys: kernel(concat!("attention_backward_keys_", $columns)),
        }
    };
}

/// As the last lines of attention.cu: a tile is 16 R tokens.
const SIZES: [Size; 3] = [size!(64, 64), size!(128, 64), size!(256, 32)];

/// `OTHER`, `DEPTH` and `WIDTH` of attention.cu.
const OTHER: usize = 64;
const DEPTH: usize = 32;
const WIDTH: usize = 64;

const fn kernel(name: &'static str) -> Kernel {
    Kernel { file: "attention", name }
}

/// Whether there is a kernel for heads of this width.
#[must_use]
pub fn supports(a: &Attention) -> bool {
    a.head_dim.is_multiple_of(8) && size(a).is_ok()
}

/// As [`Attention::forward`].
///
/// # Errors
/// When the machine refuses, or [`supports`] says no.
pub fn forward(
    m: &dyn Machine,
    a: &Attention,
    q_thk: &Tensor,
    k_tgk: &Tensor,
    v_tgk: &Tensor,
    offsets: &[usize],
) -> Result<Saved> {
    let size = size(a)?;
    let (q, k, v) = (dense(q_thk)?, dense(k_tgk)?, dense(v_tgk)?);
    let (t, width) = q.dims2()?;
    let (o, lse) = (output(m, &[t, width])?, output(m, &[t, a.heads])?);
    let tiles = tiles(m, offsets, size.tile)?;
    let args = [Write(&o), Write(&lse), Read(&q), Read(&k), Read(&v), Read(&tiles)];
    let args = [&args[..], &shape(a, t)?].concat();
    launch(m, size.forward, size.grid(&tiles, a.heads)?, &args)?;
    Ok(Saved { o_thk: o, lse_th: lse })
}

/// As [`Attention::backward`].
///
/// # Errors
/// When the machine refuses, or [`supports`] says no.
#[expect(clippy::too_many_arguments, reason = "the operands of one op")]
pub fn backward(
    m: &dyn Machine,
    a: &Attention,
    do_thk: &Tensor,
    q_thk: &Tensor,
    k_tgk: &Tensor,
    v_tgk: &Tensor,
    saved: &Saved,
    offsets: &[usize],
) -> Result<(Tensor, Tensor, Tensor)> {
    let size = size(a)?;
    let (dy, q, k, v) = (dense(do_thk)?, dense(q_thk)?, dense(k_tgk)?, dense(v_tgk)?);
    let (o, lse) = (dense(&saved.o_thk)?, dense(&saved.lse_th)?);
    let (t, width) = q.dims2()?;
    let (kv, rows) = ([t, a.kv_heads * a.head_dim], t * a.heads);
    let delta = output(m, &[t, a.heads])?;
    let args = [Write(&delta), Read(&dy), Read(&o), long(rows)?, int(a.head_dim)?];
    let blocks = (count(rows.div_ceil(THREADS / WARP))?, 1);
    let grid = Grid { blocks, threads: THREADS as u32, scratch: 0 };
    launch(m, kernel("attention_delta"), grid, &args)?;

    let (dq, dk, dv) = (output(m, &[t, width])?, output(m, &kv)?, output(m, &kv)?);
    let tiles = tiles(m, offsets, size.tile)?;
    let read = [Read(&dy), Read(&q), Read(&k), Read(&v), Read(&lse), Read(&delta), Read(&tiles)];
    let shape = shape(a, t)?;
    let args = [&[Write(&dq)][..], &read, &shape].concat();
    launch(m, size.queries, size.grid(&tiles, a.heads)?, &args)?;
    let args = [&[Write(&dk), Write(&dv)][..], &read, &shape].concat();
    launch(m, size.keys, size.grid(&tiles, a.kv_heads)?, &args)?;
    Ok((dq, dk, dv))
}

fn size(a: &Attention) -> Result<&'static Size> {
    let fits = SIZES.iter().find(|size| a.head_dim <= size.columns);
    fits.ok_or_else(|| Error::Internal(format!("no attention kernel for heads of {}", a.head_dim)))
}

impl Size {
    fn grid(&self, tiles: &Tensor, heads: usize) -> Result<Grid> {
        let weights = self.tile * (OTHER + 1);
        let stage = ((self.tile + OTHER) * (DEPTH + 1)).max(OTHER * WIDTH);
        let blocks = (count(tiles.elem_count() / 3)?, count(heads)?);
        Ok(Grid { blocks, threads: THREADS as u32, scratch: (4 * (weights + stage)) as u32 })
    }
}

/// First token of the row, of the tile, and past the row's end, of every tile: [tiles * 3]. The last tiles of a row,
/// whose queries see the most keys, come first.
fn tiles(m: &dyn Machine, offsets: &[usize], tile: usize) -> Result<Tensor> {
    let mut list = Vec::new();
    for row in offsets.windows(2) {
        for from in (row[0]..row[1]).step_by(tile).rev() {
            list.extend([count(row[0])?, count(from)?, count(row[1])?]);
        }
    }
    super::upload(m, &list)
}

/// The last arguments of each kernel.
fn shape(a: &Attention, t: usize) -> Result<[Arg<'static>; 6]> {
    // A window as wide as everything is none, and 0 stands for none.
    let window = a.window.filter(|w| *w < t).unwrap_or(0);
    Ok([
        int(a.heads)?,
        int(a.kv_heads)?,
        int(a.head_dim)?,
        Float(a.scale),
        int(window)?,
        a.softcap.map_or(Float(0.0), Float),
    ])
}
