//! Lion (the sign of an interpolated momentum), and plain gradient descent.
//!
//! Lion: `p = p (1 - lr wd) - lr sign(b1 m + (1 - b1) g)`, then `m = b2 m + (1 - b2) g`, in the order
//! of bitsandbytes' `lion_32bit`. Source: Chen et al., 2023. Gradient descent is torch.optim.SGD
//! without momentum, whose weight decay is a part of the gradient.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::Result;
use crate::optim::rule::{Rate, Slots, Spec};
use crate::simd::{CHUNK, with_simd};
use crate::tensor::{update, view};

/// Lion's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Weight of the momentum in the direction.
    pub beta1: f64,
    /// Decay of the momentum.
    pub beta2: f64,
}

/// The momentum's name.
const M: &str = "exp_avg";

impl Lion {
    /// The momentum, in the parameter's shape.
    #[must_use]
    pub fn layout(shape: &[usize]) -> Vec<Spec> {
        vec![Spec::f32(M, shape)]
    }

    /// One update of `param` from `grad * clip`.
    ///
    /// # Errors
    /// When a tensor cannot be read or written.
    pub fn update(
        &self,
        param: &Tensor,
        grad: &Tensor,
        slots: &mut Slots,
        clip: f32,
        rate: Rate,
    ) -> Result<()> {
        let kernel = self.kernel(clip, rate);
        let g = view(grad)?;
        let m = slots.get(M)?;
        update(param, |p| {
            update(m, |m| {
                p.par_chunks_mut(CHUNK)
                    .zip(m.par_chunks_mut(CHUNK))
                    .zip(g.par_chunks(CHUNK))
                    .for_each(|((p, m), g)| {
                        with_simd(
                            #[inline(always)]
                            || {
                                for ((p, m), g) in p.iter_mut().zip(m).zip(g) {
                                    (*p, *m) = kernel.one(*p, *m, *g);
                                }
                            },
                        );
                    });
            })
        })?
    }

    /// What one update does to one entry.
    pub(super) fn kernel(&self, clip: f32, rate: Rate) -> Kernel {
        Kernel {
            b1: self.beta1 as f32,
            c1: (1.0 - self.beta1) as f32,
            b2: self.beta2 as f32,
            c2: (1.0 - self.beta2) as f32,
            decay: (1.0 - rate.lr * rate.weight_decay) as f32,
            lr: rate.lr as f32,
            clip,
        }
    }
}

/// The constants of one update, in f32.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    b1: f32,
    c1: f32,
    b2: f32,
    c2: f32,
    decay: f32,
    lr: f32,
    clip: f32,
}

impl Kernel {
    /// (parameter, momentum) after the update.
    #[inline(always)]
    pub(super) fn one(&self, p: f32, m: f32, g: f32) -> (f32, f32) {
        let g = g * self.clip;
        let along = self.b1 * m + self.c1 * g;
        let sign = if along > 0.0 { 1.0 } else { 0.0 } - if along < 0.0 { 1.0 } else { 0.0 };
        (p * self.decay - self.lr * sign, self.b2 * m + self.c2 * g)
    }
}

/// One step of gradient descent: `p -= lr (g + wd p)`.
///
/// # Errors
/// When a tensor cannot be read or written.
pub fn sgd(param: &Tensor, grad: &Tensor, clip: f32, rate: Rate) -> Result<()> {
    let g = view(grad)?;
    let (lr, decay) = (rate.lr as f32, rate.weight_decay as f32);
    update(param, |p| {
        p.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).for_each(|(p, g)| {
            with_simd(
                #[inline(always)]
                || {
                    for (p, g) in p.iter_mut().zip(g) {
                        *p -= lr * (g * clip + decay * *p);
                    }
                },
            );
        });
    })
}
