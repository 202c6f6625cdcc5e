//! DoRA: a linear layer whose rows have a learnt length, beside a LoRA that turns them.
//!
//! `y = bias + (m / n) * (x wᵀ + scale * (x aᵀ) bᵀ)` with `n_o = |w_o + scale * (b a)_o|`, which is
//! held constant in backward (the paper's section 4.3, and PEFT). With dropout, x~ = drop(x) takes
//! x's place but for `(x - x~) wᵀ`, which is added unscaled: PEFT's order of things. Saved are the
//! unscaled product and n. Nothing of the size of w is made: `n² = |w|² + 2 scale b (a wᵀ) +
//! scale² b (a aᵀ) bᵀ`, with |w|² computed once.
//! Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024; PEFT 0.18.1.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::linear::{self, Linear, Lora, Mode, add, add_row};
use super::store::{Grads, ParamId, Params};
use crate::error::Result;
use crate::ops::matmul::{self, Precision};
use crate::ops::matrix::Matrix;
use crate::simd::with_simd;
use crate::tensor::{from_vec, on_host, update, view};

/// What DoRA adds to a LoRA.
#[derive(Clone, Debug)]
pub struct Dora {
    /// The rows' lengths m, [out].
    pub magnitude: ParamId,
    /// |w_o|² of the frozen weight.
    base_sq: Arc<[f64]>,
}

/// What backward reads.
#[derive(Debug)]
pub(super) struct Saved {
    /// x~ wᵀ + scale * u bᵀ, [t, o].
    z_to: Tensor,
    /// n, [o].
    norm_o: Vec<f32>,
}

impl Dora {
    /// For a weight with rows of these squared lengths: it must not change any more.
    #[must_use]
    pub fn new(magnitude: ParamId, base_sq: Vec<f64>) -> Self {
        Self { magnitude, base_sq: base_sq.into() }
    }

    /// m / n, [o].
    fn factors(&self, params: &Params, norm_o: &[f32]) -> Result<Vec<f32>> {
        let m = params.value(self.magnitude).to_device(&Device::Cpu)?;
        let m = view(&m)?;
        Ok(m.iter().zip(norm_o).map(|(m, n)| m / n).collect())
    }
}

/// n_o = |w_o + scale * (b a)_o|.
///
/// # Errors
/// When the shapes do not fit.
pub fn weight_norms(
    w_od: &dyn Matrix,
    a_rd: &Tensor,
    b_or: &Tensor,
    scale: f32,
) -> Result<Vec<f32>> {
    norms(&w_od.row_squares()?, w_od, a_rd, b_or, scale)
}

/// Sets the rows' length of a weight into which the adapter is merged already.
///
/// # Errors
/// When the shapes do not fit.
pub fn merge(w_od: &Tensor, magnitude_o: &Tensor) -> Result<()> {
    let host = magnitude_o.to_device(&Device::Cpu)?;
    let (m, width) = (view(&host)?, w_od.dim(1)?);
    let norms = w_od.row_squares()?;
    let here = w_od.to_device(&Device::Cpu)?;
    update(&here, |w| {
        for ((row, m), square) in w.chunks_exact_mut(width).zip(&*m).zip(&norms) {
            let factor = m / square.sqrt() as f32;
            row.iter_mut().for_each(|w| *w *= factor);
        }
    })?;
    if !w_od.device().is_cpu() {
        w_od.slice_set(&here.to_device(w_od.device())?, 0, 0)?;
    }
    Ok(())
}

fn norms(
    base_sq: &[f64],
    w_od: &dyn Matrix,
    a_rd: &Tensor,
    b_or: &Tensor,
    scale: f32,
) -> Result<Vec<f32>> {
    let here = |t: Tensor| t.to_device(&Device::Cpu);
    let product = |x: &Tensor, w: &Tensor| matmul::forward(Precision::F32, x, w);
    let p_ro = here(w_od.forward(Precision::F32, a_rd)?)?;
    let h_or = here(product(b_or, &product(a_rd, a_rd)?)?)?;
    let b_or = here(b_or.clone())?;
    let (o, r) = b_or.dims2()?;
    let (p, h, b) = (view(&p_ro)?, view(&h_or)?, view(&b_or)?);
    let scale = f64::from(scale);
    let norm = |i: usize| {
        let (b, h) = (&b[i * r..][..r], &h[i * r..][..r]);
        let cross: f64 = (0..r).map(|k| f64::from(b[k]) * f64::from(p[k * o + i])).sum();
        let own: f64 = (0..r).map(|k| f64::from(b[k]) * f64::from(h[k])).sum();
        (base_sq[i] + 2.0 * scale * cross + scale * scale * own).max(0.0).sqrt() as f32
    };
    Ok((0..o).map(norm).collect())
}

/// The layer's output, and what backward needs.
pub(super) fn forward(
    linear: &Linear,
    lora: &Lora,
    dora: &Dora,
    params: &Params,
    x_td: &Tensor,
    mode: Mode,
) -> Result<(Tensor, linear::Saved)> {
    let (w, a, b) = (params.matrix(linear.weight), params.value(lora.a), params.value(lora.b));
    let (p, dropped) = (params.precision, lora.drop(x_td, mode)?);
    let x = dropped.as_ref().unwrap_or(x_td);
    let u = matmul::forward(p, x, a)?;
    let z = w.forward(p, x)?;
    let z_to = matmul::forward_add(p, z, lora.scale, &u, b)?;
    let norm_o = norms(&dora.base_sq, w, a, b, lora.scale)?;
    let mut y = scaled(&z_to, &dora.factors(params, &norm_o)?)?;
    if dropped.is_some() {
        y = w.forward_add(p, y, &(x_td - x)?)?;
    }
    if let Some(bias) = linear.bias {
        y = add_row(y, params.value(bias))?;
    }
    Ok((y, linear::Saved { u_tr: Some(u), dora: Some(Saved { z_to, norm_o }) }))
}

/// Adds the gradients of m, a and b; returns the input's, added to `dx_td`, if `want_dx`.
#[expect(clippy::too_many_arguments, reason = "one layer's operands")]
pub(super) fn backward(
    (linear, lora, dora): (&Linear, &Lora, &Dora),
    params: &Params,
    grads: &mut Grads,
    x_td: &Tensor,
    (u_tr, saved): (&Tensor, &Saved),
    dy_to: &Tensor,
    dx_td: Option<Tensor>,
    want_dx: bool,
    mode: Mode,
) -> Result<Option<Tensor>> {
    let (w, a, b) = (params.matrix(linear.weight), params.value(lora.a), params.value(lora.b));
    if let Some(dm) = grads.summed(dora.magnitude, params.value(dora.magnitude))? {
        add_magnitude_grad(dm, dy_to, saved)?;
    }
    let p = params.precision;
    let dz = scaled(dy_to, &dora.factors(params, &saved.norm_o)?)?;
    if let Some((db, into)) = grads.slot(lora.b, b)? {
        matmul::weight_grad(p, db, into, lora.scale, &dz, u_tr)?;
    }
    let du = matmul::input_grad(p, None, lora.scale, &dz, b)?;
    if let Some((da, into)) = grads.slot(lora.a, a)? {
        let dropped = lora.drop(x_td, mode)?;
        matmul::weight_grad(p, da, into, 1.0, &du, dropped.as_ref().unwrap_or(x_td))?;
    }
    if !want_dx {
        return Ok(dx_td);
    }
    if !lora.drops(mode) {
        let dx = w.input_grad(p, dx_td, 1.0, &dz)?;
        return Ok(Some(matmul::input_grad(p, Some(dx), 1.0, &du, a)?));
    }
    let through = w.input_grad(p, None, 1.0, &(&dz - dy_to)?)?;
    let through = matmul::input_grad(p, Some(through), 1.0, &du, a)?;
    let masked = lora.drop(&through, mode)?.unwrap_or(through);
    let dx = w.input_grad(p, dx_td, 1.0, dy_to)?;
    Ok(Some(add(dx, &masked)?))
}

/// `z * factor`, column by column.
fn scaled(z_to: &Tensor, factor_o: &[f32]) -> Result<Tensor> {
    let o = factor_o.len();
    if !on_host(z_to) {
        let factor = from_vec(factor_o.to_vec(), o)?.to_device(z_to.device())?;
        return Ok(z_to.broadcast_mul(&factor)?);
    }
    let z = view(z_to)?;
    let mut y = vec![0f32; z.len()];
    y.par_chunks_mut(o).zip(z.par_chunks(o)).for_each(|(y, z)| {
        with_simd(
            #[inline(always)]
            || {
                for ((y, z), f) in y.iter_mut().zip(z).zip(factor_o) {
                    *y = z * f;
                }
            },
        );
    });
    from_vec(y, z_to.shape())
}

/// `dm_o += (sum over t of dy_to z_to) / n_o`, by blocks of columns.
fn add_magnitude_grad(dm_o: &mut Tensor, dy_to: &Tensor, saved: &Saved) -> Result<()> {
    /// Columns of one task.
    const BLOCK: usize = 256;
    let (t, o) = dy_to.dims2()?;
    if !on_host(dy_to) {
        let norm = from_vec(saved.norm_o.clone(), o)?.to_device(dy_to.device())?;
        *dm_o = (&*dm_o + ((dy_to * &saved.z_to)?.sum(0)? / norm)?)?;
        return Ok(());
    }
    let (dy, z) = (view(dy_to)?, view(&saved.z_to)?);
    update(dm_o, |dm| {
        dm.par_chunks_mut(BLOCK).zip(saved.norm_o.par_chunks(BLOCK)).enumerate().for_each(
            |(c, (dm, norm))| {
                let mut sums = [0f32; BLOCK];
                let sums = &mut sums[..dm.len()];
                with_simd(
                    #[inline(always)]
                    || {
                        for row in 0..t {
                            let at = row * o + c * BLOCK;
                            let (dy, z) = (&dy[at..at + sums.len()], &z[at..at + sums.len()]);
                            for ((s, dy), z) in sums.iter_mut().zip(dy).zip(z) {
                                *s += dy * z;
                            }
                        }
                    },
                );
                for ((dm, s), n) in dm.iter_mut().zip(&*sums).zip(norm) {
                    *dm += s / n;
                }
            },
        );
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::store::Role;
    use crate::ops::testing::{close, finite_difference, random};

    const T: usize = 7;
    const D: usize = 33;
    const O: usize = 300;
    const R: usize = 4;
    const SCALE: f32 = 0.7;

    fn layer(dropout: f32) -> (Linear, Params) {
        let mut params = Params::default();
        let mut push = |name: &str, t: Tensor, role| params.push(name.into(), t, role);
        let weight = push("w", random(1, (O, D)), Role::Matrix);
        let bias = Some(push("bias", random(2, O), Role::Bias));
        let a = push("a", random(3, (R, D)), Role::Adapter);
        let b = push("b", random(4, (O, R)), Role::Adapter);
        let magnitude = push("m", random(5, O), Role::Adapter);
        params.set_trainable(|p| p.role == Role::Adapter);
        let dora = Some(Dora::new(magnitude, params.value(weight).row_squares().unwrap()));
        let lora = Some(Lora { a, b, scale: SCALE, dropout, layer: 0, dora });
        (Linear { weight, bias, lora }, params)
    }

    fn column(v: &[f32]) -> Tensor {
        from_vec(v.to_vec(), v.len()).unwrap()
    }

    /// The layer in candle operations, with the dropped input given.
    fn composed(p: &Params, x: &Tensor, dropped: &Tensor) -> Tensor {
        let v = |name: &str| p.value(p.find(name).unwrap());
        let (w, a, b) = (v("w"), v("a"), v("b"));
        let delta = (b.matmul(a).unwrap() * f64::from(SCALE)).unwrap();
        let turned = (w + delta).unwrap();
        let n = turned.sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
        close(&column(&weight_norms(w, a, b, SCALE).unwrap()), &n, 1e-5);
        let scaled = dropped.matmul(&turned.t().unwrap()).unwrap();
        let scaled = scaled.broadcast_mul(&(v("m") / n).unwrap()).unwrap();
        let plain = (x - dropped).unwrap().matmul(&w.t().unwrap()).unwrap();
        (scaled + plain).unwrap().broadcast_add(v("bias")).unwrap()
    }

    #[test]
    fn forward_and_merge_match_the_composed_form() {
        let x = random(6, (T, D));
        for (dropout, mode) in
            [(0.0, Mode::Eval), (0.5, Mode::Eval), (0.5, Mode::Train { seed: 1, micro_step: 2 })]
        {
            let (linear, params) = layer(dropout);
            let lora = linear.lora.as_ref().unwrap();
            let dropped = lora.drop(&x, mode).unwrap().unwrap_or(x.clone());
            let (y, _) = linear.forward(&params, &x, mode).unwrap();
            close(&y, &composed(&params, &x, &dropped), 1e-5);
        }
        let (linear, params) = layer(0.0);
        let (y, _) = linear.forward(&params, &x, Mode::Eval).unwrap();
        let v = |name: &str| params.value(params.find(name).unwrap());
        let delta = (v("b").matmul(v("a")).unwrap() * f64::from(SCALE)).unwrap();
        let merged = (v("w") + delta).unwrap();
        merge(&merged, v("m")).unwrap();
        let again =
            matmul::forward(Precision::F32, &x, &merged).unwrap().broadcast_add(v("bias")).unwrap();
        close(&again, &y, 1e-5);
    }

    /// Finite differences of the layer with its norms held at their values.
    #[test]
    fn gradients_are_those_with_the_norm_held() {
        for (dropout, mode) in [(0.0, Mode::Eval), (0.4, Mode::Train { seed: 3, micro_step: 1 })] {
            let (linear, params) = layer(dropout);
            let (x, dy) = (random(6, (T, D)), random(7, (T, O)));
            let (_, saved) = linear.forward(&params, &x, mode).unwrap();
            let mut grads = Grads::new(&params);
            let dx = linear
                .backward(&params, &mut grads, Some(&x), &saved, &dy, None, true, mode)
                .unwrap()
                .unwrap();
            let lora = linear.lora.as_ref().unwrap();
            let norm_o = &saved.dora.as_ref().unwrap().norm_o;
            let v = |name: &str| params.value(params.find(name).unwrap()).clone();
            let loss = |x: &Tensor, a: &Tensor, b: &Tensor, m: &Tensor| {
                let dropped = lora.drop(x, mode).unwrap().unwrap_or(x.clone());
                let delta = (b.matmul(a).unwrap() * f64::from(SCALE)).unwrap();
                let turned = (v("w") + delta).unwrap();
                let factor = (m / column(norm_o)).unwrap();
                let y = dropped.matmul(&turned.t().unwrap()).unwrap();
                let y = y.broadcast_mul(&factor).unwrap();
                let plain = (x - dropped).unwrap().matmul(&v("w").t().unwrap()).unwrap();
                crate::ops::testing::dot(&(y + plain).unwrap(), &dy)
            };
            let (a, b, m) = (v("a"), v("b"), v("m"));
            let grad = |name: &str| grads.get(params.find(name).unwrap()).unwrap();
            finite_difference(&x, &dx, 1e-2, |x| loss(x, &a, &b, &m));
            finite_difference(&a, grad("a"), 1e-2, |a| loss(&x, a, &b, &m));
            finite_difference(&b, grad("b"), 1e-2, |b| loss(&x, &a, b, &m));
            finite_difference(&m, grad("m"), 1e-2, |m| loss(&x, &a, &b, m));
        }
    }
}
