//! The gated activation between the MLP's matrices: `a = act(gate) * up`.
//!
//! act is SiLU (SwiGLU: Llama, Qwen, Mistral, Phi-3) or the tanh form of GELU (GeGLU: Gemma).
//! Backward overwrites the saved gate and up with their gradients: nobody reads them afterwards.
//! Source: Shazeer, "GLU Variants Improve Transformer", 2020.

use candle_core::{DType, Tensor, WithDType};
use half::bf16;
use rayon::prelude::*;

use crate::error::Result;
use crate::ops::gpu;
use crate::simd::{CHUNK, Stored, sigmoid, tanh, with_simd};
use crate::tensor::{Element, Place, filled, from_vec_of, place, update_of, view_of};

/// Which function gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// x * sigmoid(x).
    Silu,
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x³))).
    GeluTanh,
}

impl Gate {
    /// `act(gate) * up`, all [t, i].
    ///
    /// # Errors
    /// When the tensors cannot be read.
    pub fn forward(self, gate_ti: &Tensor, up_ti: &Tensor) -> Result<Tensor> {
        match place(gate_ti) {
            Place::Host => {}
            Place::Gpu(m) => return gpu::activation::forward(&*m, self, gate_ti, up_ti),
            Place::Composed => return self.forward_composed(gate_ti, up_ti),
        }
        match gate_ti.dtype() {
            DType::BF16 => self.forward_on::<bf16>(gate_ti, up_ti),
            _ => self.forward_on::<f32>(gate_ti, up_ti),
        }
    }

    fn forward_on<T: Kept>(self, gate_ti: &Tensor, up_ti: &Tensor) -> Result<Tensor> {
        let (gate, up) = (view_of::<T>(gate_ti)?, view_of::<T>(up_ti)?);
        let out = match self {
            Self::Silu => gated(&gate, &up, silu),
            Self::GeluTanh => gated(&gate, &up, gelu_tanh),
        };
        from_vec_of(out, gate_ti.shape())
    }

    /// Gradients of gate and up from that of the product; the two tensors are reused for them.
    ///
    /// # Errors
    /// When the tensors cannot be written.
    pub fn backward(
        self,
        gate_ti: Tensor,
        up_ti: Tensor,
        da_ti: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        match place(&gate_ti) {
            Place::Host => {}
            Place::Gpu(m) => return gpu::activation::backward(&*m, self, &gate_ti, &up_ti, da_ti),
            Place::Composed => return self.backward_composed(&gate_ti, &up_ti, da_ti),
        }
        match gate_ti.dtype() {
            DType::BF16 => self.backward_on::<bf16>(&gate_ti, &up_ti, da_ti)?,
            _ => self.backward_on::<f32>(&gate_ti, &up_ti, da_ti)?,
        }
        Ok((gate_ti, up_ti))
    }

    fn backward_on<T: Kept>(self, gate_ti: &Tensor, up_ti: &Tensor, da_ti: &Tensor) -> Result<()> {
        let da = view_of::<T>(da_ti)?;
        update_of(gate_ti, |gate: &mut [T]| {
            update_of(up_ti, |up| match self {
                Self::Silu => grads(gate, up, &da, silu),
                Self::GeluTanh => grads(gate, up, &da, gelu_tanh),
            })
        })?
    }

    /// As [`Gate::backward`], and the product once more, in the place of its gradient: one pass does both.
    ///
    /// # Errors
    /// When the tensors cannot be written.
    pub fn backward_and_forward(
        self,
        gate_ti: Tensor,
        up_ti: Tensor,
        da_ti: Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        match place(&gate_ti) {
            Place::Host => {}
            Place::Gpu(m) => {
                return gpu::activation::backward_and_forward(&*m, self, &gate_ti, &up_ti, &da_ti);
            }
            Place::Composed => {
                let a = self.forward_composed(&gate_ti, &up_ti)?;
                let (dgate, dup) = self.backward_composed(&gate_ti, &up_ti, &da_ti)?;
                return Ok((dgate, dup, a));
            }
        }
        match gate_ti.dtype() {
            DType::BF16 => self.backward_and_forward_on::<bf16>(&gate_ti, &up_ti, &da_ti)?,
            _ => self.backward_and_forward_on::<f32>(&gate_ti, &up_ti, &da_ti)?,
        }
        Ok((gate_ti, up_ti, da_ti))
    }

    fn backward_and_forward_on<T: Kept>(
        self,
        gate_ti: &Tensor,
        up_ti: &Tensor,
        da_ti: &Tensor,
    ) -> Result<()> {
        update_of(gate_ti, |gate: &mut [T]| {
            update_of(up_ti, |up| {
                update_of(da_ti, |da| match self {
                    Self::Silu => grads_and_product(gate, up, da, silu),
                    Self::GeluTanh => grads_and_product(gate, up, da, gelu_tanh),
                })
            })
        })??
    }

    fn forward_composed(self, gate_ti: &Tensor, up_ti: &Tensor) -> Result<Tensor> {
        let value = match self {
            Self::Silu => gate_ti.silu()?,
            Self::GeluTanh => gate_ti.gelu()?,
        };
        Ok((value * up_ti)?)
    }

    fn backward_composed(
        self,
        gate_ti: &Tensor,
        up_ti: &Tensor,
        da_ti: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (value, slope) = match self {
            Self::Silu => {
                let s = (gate_ti.neg()?.exp()? + 1.0)?.recip()?;
                let slope = (&s * ((gate_ti * (1.0 - &s)?)? + 1.0)?)?;
                ((gate_ti * &s)?, slope)
            }
            Self::GeluTanh => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                let cube = (gate_ti.sqr()? * gate_ti)?;
                let t = ((gate_ti + (cube * 0.044_715)?)? * root)?.tanh()?;
                let inner = (((gate_ti.sqr()? * (3.0 * 0.044_715))? + 1.0)? * root)?;
                let open = ((1.0 - t.sqr()?)? * inner)?;
                let slope = (((&t + 1.0)? * 0.5)? + ((gate_ti * open)? * 0.5)?)?;
                (((gate_ti * (t + 1.0)?)? * 0.5)?, slope)
            }
        };
        Ok((((da_ti * up_ti)? * slope)?, (da_ti * value)?))
    }
}

// The function is chosen outside the loops: a choice inside becomes both functions of every number, since vector
// code has no branches.

/// What the tensors hold: f32, or bf16 ([`super::rounded`]).
trait Kept: Element + Stored + WithDType {}

impl<T: Element + Stored + WithDType> Kept for T {}

/// `act(gate) * up`.
fn gated<T: Kept>(gate: &[T], up: &[T], act: impl Fn(f32) -> (f32, f32) + Sync) -> Vec<T> {
    /// A piece is still in the first cache when it is written after it was cleared.
    const PIECE: usize = CHUNK / 4;
    let (out, _) = filled(gate.len(), PIECE, |i, out: &mut [T]| {
        let (gate, up) = (&gate[i * PIECE..], &up[i * PIECE..]);
        with_simd(
            #[inline(always)]
            || {
                for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                    *out = T::put(act(gate.get()).0 * up.get());
                }
            },
        );
    });
    out
}

/// Puts the gradients of gate and up in their places.
fn grads<T: Kept>(gate: &mut [T], up: &mut [T], da: &[T], act: impl Fn(f32) -> (f32, f32) + Sync) {
    let chunks = gate.par_chunks_mut(CHUNK).zip(up.par_chunks_mut(CHUNK)).zip(da.par_chunks(CHUNK));
    chunks.for_each(|((gate, up), da)| {
        with_simd(
            #[inline(always)]
            || {
                for ((gate, up), da) in gate.iter_mut().zip(up).zip(da) {
                    let (value, slope) = act(gate.get());
                    let (u, da) = (up.get(), da.get());
                    *gate = T::put(da * u * slope);
                    *up = T::put(da * value);
                }
            },
        );
    });
}

/// As [`grads`], and the product in the place of its gradient.
fn grads_and_product<T: Kept>(
    gate: &mut [T],
    up: &mut [T],
    da: &mut [T],
    act: impl Fn(f32) -> (f32, f32) + Sync,
) {
    let chunks = gate.par_chunks_mut(CHUNK).zip(up.par_chunks_mut(CHUNK));
    chunks.zip(da.par_chunks_mut(CHUNK)).for_each(|((gate, up), da)| {
        with_simd(
            #[inline(always)]
            || {
                for ((gate, up), da) in gate.iter_mut().zip(up).zip(da) {
                    let (value, slope) = act(gate.get());
                    let (u, d) = (up.get(), da.get());
                    *gate = T::put(d * u * slope);
                    *up = T::put(d * value);
                    *da = T::put(value * u);
                }
            },
        );
    });
}

/// SiLU and its derivative.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

/// GELU's tanh form and its derivative.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.797_884_6;
    let t = tanh(ROOT * (x + 0.044_715 * x * x * x));
    let inner = ROOT * (1.0 + 3.0 * 0.044_715 * x * x);
    (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::testing::{close, dot, finite_difference, random};

    #[test]
    fn both_directions_match_composed_and_finite_differences() {
        for gate in [Gate::Silu, Gate::GeluTanh] {
            for (t, i) in [(1, 3), (37, 50), (300, 64)] {
                let (g, u, da) = (random(1, (t, i)), random(2, (t, i)), random(3, (t, i)));
                let a = gate.forward(&g, &u).unwrap();
                close(&a, &gate.forward_composed(&g, &u).unwrap(), 1e-5);
                let (dg, du) = gate.backward(g.copy().unwrap(), u.copy().unwrap(), &da).unwrap();
                let (dg_ref, du_ref) = gate.backward_composed(&g, &u, &da).unwrap();
                close(&dg, &dg_ref, 1e-5);
                close(&du, &du_ref, 1e-5);
                let parts = [&g, &u, &da].map(|x| x.copy().unwrap());
                let [g2, u2, da2] = parts;
                let (dg2, du2, a2) = gate.backward_and_forward(g2, u2, da2).unwrap();
                for (got, want) in [(&dg2, &dg), (&du2, &du), (&a2, &a)] {
                    close(got, want, 0.0);
                }
                finite_difference(&g, &dg, 2e-2, |g| dot(&gate.forward(g, &u).unwrap(), &da));
                // rounded, against f32 of the rounded numbers
                let half = |x: &Tensor| x.to_dtype(DType::BF16).unwrap();
                let wide = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
                let halves = [&g, &u, &da].map(half);
                let [g3, u3, da3] = halves.each_ref().map(wide);
                let near = |got: &Tensor, want: &Tensor| {
                    assert_eq!(got.dtype(), DType::BF16);
                    close(&wide(got), &wide(&half(want)), 8e-3);
                };
                let [g4, u4, da4] = halves.each_ref().map(|x| x.copy().unwrap());
                near(&gate.forward(&g4, &u4).unwrap(), &gate.forward(&g3, &u3).unwrap());
                let (dg3, du3, a3) = gate.backward_and_forward(g3, u3, da3).unwrap();
                let (dg5, du5) = {
                    let (g5, u5) = (g4.copy().unwrap(), u4.copy().unwrap());
                    gate.backward(g5, u5, &da4).unwrap()
                };
                let (dg4, du4, a4) = gate.backward_and_forward(g4, u4, da4).unwrap();
                for (got, want) in
                    [(&dg4, &dg3), (&du4, &du3), (&a4, &a3), (&dg5, &dg3), (&du5, &du3)]
                {
                    near(got, want);
                }
            }
        }
    }
}
