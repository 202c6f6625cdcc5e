//! Launches of `kernels/rope.cu`: rotary position embedding in place.

use candle_core::Tensor;

use super::Arg::{Float, Read, Write};
use super::{Grid, Kernel, Machine, dense, int, launch, long, upload};
use crate::error::Result;

/// cos and sin on the machine, both [t * half].
///
/// # Errors
/// When the machine has no memory left.
pub fn tables(m: &dyn Machine, cos: &[f32], sin: &[f32]) -> Result<(Tensor, Tensor)> {
    Ok((upload(m, cos)?, upload(m, sin)?))
}

/// Turns every head of `x_thk` ([t, heads * head_dim]) by the angles of [`tables`], forwards for a `sign` of 1 and
/// back for -1, and returns it.
///
/// # Errors
/// When the machine refuses.
pub fn apply(
    m: &dyn Machine,
    x_thk: &Tensor,
    (cos, sin): &(Tensor, Tensor),
    head_dim: usize,
    sign: f32,
) -> Result<Tensor> {
    let x = dense(x_thk)?;
    let (t, width) = x.dims2()?;
    let (half, heads) = (cos.elem_count() / t.max(1), width / head_dim);
    let pairs = t * heads * half;
    let args = [Write(&x), Read(cos), Read(sin), long(pairs)?, int(heads)?, int(head_dim)?];
    let args = [&args[..], &[int(half)?, Float(sign)]].concat();
    launch(m, Kernel { file: "rope", name: "rope" }, Grid::elements(pairs), &args)?;
    Ok(x)
}
