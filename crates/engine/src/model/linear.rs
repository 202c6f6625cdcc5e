//! A linear layer, with an optional bias and an optional LoRA beside it.
//!
//! `y = x wᵀ + bias + scale * (drop(x) aᵀ) bᵀ`. The frozen product and the adapter add into one
//! output; nothing of the size of w exists for the adapter. Backward takes the layer's input again
//! (its caller recomputes it) and reads only u = drop(x) aᵀ from the forward pass.
//! Source: Hu et al., "LoRA", 2021; rsLoRA's scale (Kalajdzievski, 2023) is the caller's choice.

use candle_core::Tensor;
use rayon::prelude::*;

use super::dora::{self, Dora};
use super::store::{Grads, ParamId, Params};
use crate::error::{Error, Result};
use crate::ops::matmul;
use crate::rng::{Purpose, Stream};
use crate::simd::CHUNK;
use crate::tensor::{from_vec, on_host, update, view};

/// A linear layer's parameters.
#[derive(Clone, Debug)]
pub struct Linear {
    /// [out, in]; where it is packed, it is frozen.
    pub weight: ParamId,
    /// [out].
    pub bias: Option<ParamId>,
    /// The adapter beside it.
    pub lora: Option<Lora>,
}

/// Low-rank adapter of a linear layer.
#[derive(Clone, Debug)]
pub struct Lora {
    /// [r, in].
    pub a: ParamId,
    /// [out, r].
    pub b: ParamId,
    /// alpha / r, or alpha / sqrt(r).
    pub scale: f32,
    /// Probability of dropping an input element in training.
    pub dropout: f32,
    /// Tells the layers apart in the dropout stream.
    pub layer: u32,
    /// The rows' lengths, where they are learnt too.
    pub dora: Option<Dora>,
}

/// Whether dropout is on, and where in the run we are.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// Evaluation and generation: no dropout.
    Eval,
    /// Training: masks are a function of seed and micro-step.
    Train {
        /// The run's seed.
        seed: u64,
        /// Micro-batches before the step, and passes before this one in it.
        micro_step: u64,
    },
}

/// What backward reads besides the input: u = drop(x) aᵀ, [t, r].
#[derive(Debug, Default)]
pub struct Saved {
    pub(super) u_tr: Option<Tensor>,
    pub(super) dora: Option<dora::Saved>,
}

impl Linear {
    /// `y_to`, and what backward needs.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, params: &Params, x_td: &Tensor, mode: Mode) -> Result<(Tensor, Saved)> {
        if let Some((lora, dora)) = self.dora() {
            return dora::forward(self, lora, dora, params, x_td, mode);
        }
        let mut y = params.matrix(self.weight).forward(params.precision, x_td)?;
        if let Some(bias) = self.bias {
            y = add_row(y, params.value(bias))?;
        }
        let Some(lora) = &self.lora else {
            return Ok((y, Saved::default()));
        };
        let (p, dropped) = (params.precision, lora.drop(x_td, mode)?);
        let u = matmul::forward(p, dropped.as_ref().unwrap_or(x_td), params.value(lora.a))?;
        let y = matmul::forward_add(p, y, lora.scale, &u, params.value(lora.b))?;
        Ok((y, Saved { u_tr: Some(u), dora: None }))
    }

    /// Whether it is one product with an f32 weight and nothing else.
    #[must_use]
    pub fn plain(&self, params: &Params) -> bool {
        let Self { weight, bias, lora } = self;
        bias.is_none() && lora.is_none() && params.get(*weight).packed.is_none()
    }

    /// Whether one of its parameters, or of its adapter's, wants a gradient.
    #[must_use]
    pub fn trained(&self, grads: &Grads) -> bool {
        let adapter = self.lora.iter().flat_map(|lora| {
            let magnitude = lora.dora.as_ref().map(|dora| dora.magnitude);
            [lora.a, lora.b].into_iter().chain(magnitude)
        });
        [self.weight].into_iter().chain(self.bias).chain(adapter).any(|id| grads.wants(id))
    }

    /// Whether backward reads the layer's input.
    #[must_use]
    pub fn reads_input(&self, grads: &Grads) -> bool {
        self.lora.is_some() || grads.wants(self.weight)
    }

    fn dora(&self) -> Option<(&Lora, &Dora)> {
        let lora = self.lora.as_ref()?;
        Some((lora, lora.dora.as_ref()?))
    }

    /// Adds the parameters' gradients; returns that of the input, added to `dx_td` where given, if
    /// `want_dx`. The input may be left out where [`Linear::reads_input`] says so.
    ///
    /// # Errors
    /// When the shapes do not fit.
    #[expect(clippy::too_many_arguments, reason = "one layer's operands")]
    pub fn backward(
        &self,
        params: &Params,
        grads: &mut Grads,
        x_td: Option<&Tensor>,
        saved: &Saved,
        dy_to: &Tensor,
        dx_td: Option<Tensor>,
        want_dx: bool,
        mode: Mode,
    ) -> Result<Option<Tensor>> {
        if let (Some((lora, dora)), Some(u), Some(z)) = (self.dora(), &saved.u_tr, &saved.dora) {
            self.own_grads(params, grads, x_td, dy_to)?;
            let (layer, kept, x) = ((self, lora, dora), (u, z), required(x_td)?);
            return dora::backward(layer, params, grads, x, kept, dy_to, dx_td, want_dx, mode);
        }
        let (dx, du) = self.input_backward(params, dy_to, dx_td, want_dx, mode)?;
        self.param_backward(params, grads, x_td, saved, dy_to, du.as_ref(), mode)?;
        Ok(dx)
    }

    /// Whether backward goes in two halves, [`Linear::input_backward`] and [`Linear::param_backward`].
    #[must_use]
    pub fn in_halves(&self) -> bool {
        self.dora().is_none()
    }

    /// The half of [`Linear::backward`] that needs no input: the input's gradient, and that of the adapter's u.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn input_backward(
        &self,
        params: &Params,
        dy_to: &Tensor,
        dx_td: Option<Tensor>,
        want_dx: bool,
        mode: Mode,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut dx = dx_td;
        if want_dx {
            dx = Some(params.matrix(self.weight).input_grad(params.precision, dx, 1.0, dy_to)?);
        }
        let Some(lora) = &self.lora else { return Ok((dx, None)) };
        let b = params.value(lora.b);
        let du = matmul::input_grad(params.precision, None, lora.scale, dy_to, b)?;
        if want_dx {
            dx = Some(lora.input_grad(params, &du, dx, mode)?);
        }
        Ok((dx, Some(du)))
    }

    /// The other half: adds the parameters' gradients.
    ///
    /// # Errors
    /// When the shapes do not fit.
    #[expect(clippy::too_many_arguments, reason = "one layer's operands")]
    pub fn param_backward(
        &self,
        params: &Params,
        grads: &mut Grads,
        x_td: Option<&Tensor>,
        saved: &Saved,
        dy_to: &Tensor,
        du_tr: Option<&Tensor>,
        mode: Mode,
    ) -> Result<()> {
        self.own_grads(params, grads, x_td, dy_to)?;
        let (Some(lora), Some(u), Some(du)) = (&self.lora, &saved.u_tr, du_tr) else {
            return Ok(());
        };
        let (p, a, b) = (params.precision, params.value(lora.a), params.value(lora.b));
        if let Some((db, into)) = grads.slot(lora.b, b)? {
            matmul::weight_grad(p, db, into, lora.scale, dy_to, u)?;
        }
        if let Some((da, into)) = grads.slot(lora.a, a)? {
            let x = required(x_td)?;
            let dropped = lora.drop(x, mode)?;
            matmul::weight_grad(p, da, into, 1.0, du, dropped.as_ref().unwrap_or(x))?;
        }
        Ok(())
    }

    /// Adds the gradients of weight and bias.
    fn own_grads(
        &self,
        params: &Params,
        grads: &mut Grads,
        x_td: Option<&Tensor>,
        dy_to: &Tensor,
    ) -> Result<()> {
        if let Some((dw, into)) = grads.slot(self.weight, params.value(self.weight))? {
            matmul::weight_grad(params.precision, dw, into, 1.0, dy_to, required(x_td)?)?;
        }
        if let Some(bias) = self.bias
            && let Some(db) = grads.summed(bias, params.value(bias))?
        {
            add_column_sums(db, dy_to)?;
        }
        Ok(())
    }
}

fn required(x_td: Option<&Tensor>) -> Result<&Tensor> {
    x_td.ok_or_else(|| Error::Internal("a layer's input was not kept".into()))
}

impl Lora {
    /// The input's gradient through the adapter, added to `dx_td` where given.
    fn input_grad(
        &self,
        params: &Params,
        du_tr: &Tensor,
        dx_td: Option<Tensor>,
        mode: Mode,
    ) -> Result<Tensor> {
        let (p, a) = (params.precision, params.value(self.a));
        if !self.drops(mode) {
            return matmul::input_grad(p, dx_td, 1.0, du_tr, a);
        }
        let through = matmul::input_grad(p, None, 1.0, du_tr, a)?;
        let masked = self.drop(&through, mode)?.unwrap_or(through);
        match dx_td {
            Some(dx) => add(dx, &masked),
            None => Ok(masked),
        }
    }

    pub(super) fn drops(&self, mode: Mode) -> bool {
        self.dropout > 0.0 && matches!(mode, Mode::Train { .. })
    }

    /// x with elements dropped and the rest scaled by 1 / (1 - p); `None` = x itself. The same
    /// mask for every call in one micro-step.
    pub(super) fn drop(&self, x_td: &Tensor, mode: Mode) -> Result<Option<Tensor>> {
        let Mode::Train { seed, micro_step } = mode else {
            return Ok(None);
        };
        if self.dropout <= 0.0 {
            return Ok(None);
        }
        let stream = Stream::new(seed, Purpose::LoraDropout, micro_step, self.layer);
        let keep = 1.0 / (1.0 - self.dropout);
        let host = x_td.to_device(&candle_core::Device::Cpu)?;
        let mut out = view(&host)?.to_vec();
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(c, chunk)| {
            for (i, four) in chunk.chunks_mut(4).enumerate() {
                let words = stream.block((c * CHUNK / 4 + i) as u32);
                for (x, word) in four.iter_mut().zip(words) {
                    let u = (word >> 8) as f32 * (1.0 / 16_777_216.0);
                    *x = if u < self.dropout { 0.0 } else { *x * keep };
                }
            }
        });
        Ok(Some(from_vec(out, x_td.shape())?.to_device(x_td.device())?))
    }
}

/// `y += x`, returning y.
///
/// # Errors
/// When the tensors cannot be written.
pub fn add(y: Tensor, x: &Tensor) -> Result<Tensor> {
    if !on_host(&y) {
        return Ok((y + x)?);
    }
    let x = view(x)?;
    update(&y, |y| {
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            crate::simd::with_simd(
                #[inline(always)]
                || {
                    for (y, x) in y.iter_mut().zip(x) {
                        *y += x;
                    }
                },
            );
        });
    })?;
    Ok(y)
}

pub(super) fn add_row(y_to: Tensor, bias_o: &Tensor) -> Result<Tensor> {
    if !on_host(&y_to) {
        return Ok(y_to.broadcast_add(bias_o)?);
    }
    let bias = view(bias_o)?;
    update(&y_to, |y| {
        y.par_chunks_mut(bias.len()).for_each(|row| {
            for (y, b) in row.iter_mut().zip(&*bias) {
                *y += b;
            }
        });
    })?;
    Ok(y_to)
}

fn add_column_sums(db_o: &mut Tensor, dy_to: &Tensor) -> Result<()> {
    if !on_host(dy_to) {
        *db_o = (&*db_o + dy_to.sum(0)?)?;
        return Ok(());
    }
    let dy = view(dy_to)?;
    update(db_o, |db| {
        for row in dy.chunks_exact(db.len()) {
            for (db, dy) in db.iter_mut().zip(row) {
                *db += dy;
            }
        }
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::store::Role;
    use crate::ops::testing::{close, dot, finite_difference, random};

    const T: usize = 64;
    const D: usize = 96;

    fn layer(dropout: f32, index: u32) -> (Linear, Params) {
        let mut params = Params::default();
        let weight = params.push("w".into(), random(1, (40, D)), Role::Matrix);
        let a = params.push("a".into(), random(2, (4, D)), Role::Adapter);
        let b = params.push("b".into(), random(3, (40, 4)), Role::Adapter);
        params.set_trainable(|p| p.role == Role::Adapter);
        let lora = Some(Lora { a, b, scale: 0.5, dropout, layer: index, dora: None });
        (Linear { weight, bias: None, lora }, params)
    }

    #[test]
    fn dropout_drops_its_share_and_scales_the_rest() {
        let ones =
            Tensor::ones((T, D), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let mask = |p: f32, index: u32, micro_step| {
            let (linear, _) = layer(p, index);
            let mode = Mode::Train { seed: 5, micro_step };
            let dropped = linear.lora.unwrap().drop(&ones, mode).unwrap();
            dropped.map(|t| view(&t).unwrap().to_vec())
        };
        for p in [0.1f32, 0.5, 0.9] {
            let found = mask(p, 0, 0).unwrap();
            let keep = 1.0 / (1.0 - p);
            assert!(found.iter().all(|x| *x == 0.0 || *x == keep));
            let share = found.iter().filter(|x| **x == 0.0).count() as f32 / found.len() as f32;
            assert!((share - p).abs() < 0.03, "{p}: {share}");
            assert_eq!(mask(p, 0, 0).unwrap(), found);
            assert_ne!(mask(p, 1, 0).unwrap(), found);
            assert_ne!(mask(p, 0, 1).unwrap(), found);
        }
        assert!(mask(0.0, 0, 0).is_none());
        let (linear, _) = layer(0.5, 0);
        assert!(linear.lora.unwrap().drop(&ones, Mode::Eval).unwrap().is_none());
    }

    #[test]
    fn gradients_with_and_without_dropout() {
        for (p, mode) in [(0.0, Mode::Eval), (0.3, Mode::Train { seed: 1, micro_step: 2 })] {
            let (linear, params) = layer(p, 3);
            let (x, dy) = (random(6, (T, D)), random(7, (T, 40)));
            let (_, saved) = linear.forward(&params, &x, mode).unwrap();
            let mut grads = Grads::new(&params);
            let dx = linear.backward(&params, &mut grads, Some(&x), &saved, &dy, None, true, mode);
            let dx = dx.unwrap().unwrap();
            let lora = linear.lora.as_ref().unwrap();
            let w = params.value(linear.weight);
            let (a, b) = (params.value(lora.a), params.value(lora.b));
            let loss = |x: &Tensor, a: &Tensor, b: &Tensor| {
                let dropped = lora.drop(x, mode).unwrap().unwrap_or(x.clone());
                let u = dropped.matmul(&a.t().unwrap()).unwrap();
                let beside = (u.matmul(&b.t().unwrap()).unwrap() * 0.5).unwrap();
                dot(&(x.matmul(&w.t().unwrap()).unwrap() + beside).unwrap(), &dy)
            };
            let (y, _) = linear.forward(&params, &x, mode).unwrap();
            assert!((dot(&y, &dy) - loss(&x, a, b)).abs() < 1e-2);
            finite_difference(&x, &dx, 1e-2, |x| loss(x, a, b));
            finite_difference(a, grads.get(lora.a).unwrap(), 1e-2, |a| loss(&x, a, b));
            finite_difference(b, grads.get(lora.b).unwrap(), 1e-2, |b| loss(&x, a, b));
            assert!(grads.get(linear.weight).is_none());
            let mut again = Grads::new(&params);
            let none =
                linear.backward(&params, &mut again, Some(&x), &saved, &dy, None, false, mode);
            assert!(none.unwrap().is_none());
            close(again.get(lora.a).unwrap(), grads.get(lora.a).unwrap(), 1e-7);
        }
    }
}
