//! Launches of `kernels/activation.cu`: the gated activation, both directions. All tensors are [t, i].

use candle_core::Tensor;

use super::Arg::{Int, Read, Write};
use super::{Grid, Kernel, Machine, dense, launch, long, output};
use crate::error::Result;
use crate::ops::activation::Gate;

/// As [`Gate::forward`].
///
/// # Errors
/// When the machine refuses.
pub fn forward(m: &dyn Machine, gate: Gate, gate_ti: &Tensor, up_ti: &Tensor) -> Result<Tensor> {
    let (g, up) = (dense(gate_ti)?, dense(up_ti)?);
    let a = output(m, g.dims())?;
    let n = g.elem_count();
    let args = [Write(&a), Read(&g), Read(&up), long(n)?, which(gate)];
    launch(m, kernel("gate_forward"), Grid::elements(n), &args)?;
    Ok(a)
}

/// As [`Gate::backward`].
///
/// # Errors
/// When the machine refuses.
pub fn backward(
    m: &dyn Machine,
    gate: Gate,
    gate_ti: &Tensor,
    up_ti: &Tensor,
    da_ti: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (g, up, da) = (dense(gate_ti)?, dense(up_ti)?, dense(da_ti)?);
    let n = g.elem_count();
    let args = [Write(&g), Write(&up), Read(&da), long(n)?, which(gate)];
    launch(m, kernel("gate_backward"), Grid::elements(n), &args)?;
    Ok((g, up))
}

/// As [`Gate::backward_and_forward`].
///
/// # Errors
/// When the machine refuses.
pub fn backward_and_forward(
    m: &dyn Machine,
    gate: Gate,
    gate_ti: &Tensor,
    up_ti: &Tensor,
    da_ti: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (g, up, da) = (dense(gate_ti)?, dense(up_ti)?, dense(da_ti)?);
    let n = g.elem_count();
    let args = [Write(&g), Write(&up), Write(&da), long(n)?, which(gate)];
    launch(m, kernel("gate_backward_and_forward"), Grid::elements(n), &args)?;
    Ok((g, up, da))
}

const fn kernel(name: &'static str) -> Kernel {
    Kernel { file: "activation", name }
}

fn which(gate: Gate) -> super::Arg<'static> {
    Int(match gate {
        Gate::Silu => 0,
        Gate::GeluTanh => 1,
    })
}
