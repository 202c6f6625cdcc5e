//! Launches of `kernels/head.cu`: soft-capped logits, and their cross-entropy, which turns them into their gradients.

use candle_core::{DType, Tensor};

use super::Arg::{Float, Int, Read, Write};
use super::{Grid, Kernel, Machine, dense, int, launch, long, upload};
use crate::error::Result;
use crate::ops::head::{Head, Loss, Objective};

const fn kernel(name: &'static str) -> Kernel {
    Kernel { file: "head", name }
}

/// `cap * tanh(z / cap)` in place, of any shape.
///
/// # Errors
/// When the machine refuses.
pub fn softcap(m: &dyn Machine, z_nv: &Tensor, cap: f32) -> Result<Tensor> {
    let z = dense(z_nv)?;
    let n = z.elem_count();
    let args = [Write(&z), long(n)?, Float(cap)];
    launch(m, kernel("softcap"), Grid::elements(n), &args)?;
    Ok(z)
}

/// Loss of the rows of `z_nv`, capped logits, and for a scale the logits turned into their gradients.
///
/// # Errors
/// When the machine refuses.
pub fn cross_entropy(
    m: &dyn Machine,
    head: &Head,
    z_nv: &Tensor,
    targets: &[u32],
    scale: Option<f32>,
) -> Result<(Loss, Tensor)> {
    let z = dense(z_nv)?;
    let (n, v) = z.dims2()?;
    let (objective, smooth) = match head.objective {
        Objective::CrossEntropy => (0, 0.0),
        Objective::Smoothed(e) => (1, e),
        Objective::Dft => (2, 0.0),
    };
    let costs = m.uninit(&[n, 3], DType::F64)?;
    let targets = upload(m, targets)?;
    let args = [
        Write(&z),
        Write(&costs),
        Read(&targets),
        int(v)?,
        Int(objective),
        Float(smooth),
        Float(head.softcap.unwrap_or(0.0)),
        Float(scale.unwrap_or(0.0)),
        Int(i32::from(scale.is_some())),
    ];
    launch(m, kernel("cross_entropy"), Grid::rows(n, v, 8)?, &args)?;
    let mut loss = Loss::default();
    for row in costs.flatten_all()?.to_vec1::<f64>()?.as_chunks::<3>().0 {
        loss.sum += row[0];
        loss.plain += row[1];
        loss.correct += usize::from(row[2] > 0.0);
    }
    Ok((loss, z))
}
