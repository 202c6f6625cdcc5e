//! AdamW with decoupled weight decay, one pass over memory: clipping, moments and update together.
//!
//! `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g²`,
//! `p = p (1 - lr wd) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`: the order of
//! operations of torch.optim.AdamW. Moments are f32. Source: Loshchilov and Hutter, 2019.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::Result;
use crate::ops::gpu;
use crate::optim::rule::{Rate, Slots, Spec};
use crate::simd::{CHUNK, with_simd};
use crate::tensor::{Place, place, update, view};

/// Constants of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// The moments' names: torch's.
const M: &str = "exp_avg";
const V: &str = "exp_avg_sq";

impl AdamW {
    /// Both moments, in the parameter's shape.
    #[must_use]
    pub fn layout(shape: &[usize]) -> Vec<Spec> {
        vec![Spec::f32(M, shape), Spec::f32(V, shape)]
    }

    /// One update of `param` from `grad * clip`; `slots.step` counts it already.
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
        let kernel = self.kernel(slots.step, clip, rate);
        match place(param) {
            Place::Host => {}
            Place::Gpu(m) => {
                let moments = (slots.get(M)?, slots.get(V)?);
                return gpu::optimizer::adamw(&*m, &kernel, param, moments, grad);
            }
            Place::Composed => {
                let Kernel { step_size, root, decay, .. } = kernel;
                return self.update_composed(param, grad, slots, clip, (step_size, root, decay));
            }
        }
        let g = view(grad)?;
        let (m, v) = (slots.get(M)?, slots.get(V)?);
        update(param, |p| {
            update(m, |m| {
                update(v, |v| {
                    p.par_chunks_mut(CHUNK)
                        .zip(m.par_chunks_mut(CHUNK))
                        .zip(v.par_chunks_mut(CHUNK))
                        .zip(g.par_chunks(CHUNK))
                        .for_each(|(((p, m), v), g)| kernel.run(p, m, v, g));
                })
            })
        })???;
        Ok(())
    }

    /// What update number `step` does to a slice.
    #[must_use]
    pub fn kernel(&self, step: u64, clip: f32, rate: Rate) -> Kernel {
        let t = step as f64;
        Kernel {
            b1: self.beta1 as f32,
            c1: (1.0 - self.beta1) as f32,
            b2: self.beta2 as f32,
            c2: (1.0 - self.beta2) as f32,
            eps: self.eps as f32,
            step_size: (rate.lr / (1.0 - self.beta1.powf(t))) as f32,
            root: (1.0 - self.beta2.powf(t)).sqrt() as f32,
            decay: (1.0 - rate.lr * rate.weight_decay) as f32,
            clip,
        }
    }

    /// The same in candle operations; the parameter's storage is overwritten.
    fn update_composed(
        &self,
        param: &Tensor,
        grad: &Tensor,
        slots: &mut Slots,
        clip: f32,
        (step_size, root, decay): (f32, f32, f32),
    ) -> Result<()> {
        let g = (grad * f64::from(clip))?;
        let m = ((slots.get(M)? * self.beta1)? + (&g * (1.0 - self.beta1))?)?;
        let v = ((slots.get(V)? * self.beta2)? + (g.sqr()? * (1.0 - self.beta2))?)?;
        let denominator = ((v.sqrt()? / f64::from(root))? + self.eps)?;
        let moved = ((&m / denominator)? * f64::from(step_size))?;
        slots.set(M, m)?;
        slots.set(V, v)?;
        let next = ((param * f64::from(decay))? - moved)?;
        param.slice_set(&next, 0, 0)?;
        Ok(())
    }
}

/// The constants of one update, in f32.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    b1: f32,
    c1: f32,
    b2: f32,
    c2: f32,
    eps: f32,
    step_size: f32,
    root: f32,
    decay: f32,
    clip: f32,
}

impl Kernel {
    /// b1, c1, b2, c2, eps, step_size, root, decay, clip: what a GPU's kernel is given.
    pub(crate) fn constants(&self) -> [f32; 9] {
        let Self { b1, c1, b2, c2, eps, step_size, root, decay, clip } = *self;
        [b1, c1, b2, c2, eps, step_size, root, decay, clip]
    }

    /// Moves the parameter `p` and its moments along the gradient `g`.
    pub(super) fn run(&self, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        let Self { b1, c1, b2, c2, eps, step_size, root, decay, clip } = *self;
        with_simd(
            #[inline(always)]
            || {
                for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                    let g = g * clip;
                    *m = b1 * *m + c1 * g;
                    *v = b2 * *v + c2 * (g * g);
                    *p = *p * decay - step_size * (*m / (v.sqrt() / root + eps));
                }
            },
        );
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::store::{Grads, Params, Role};
    use crate::ops::testing::{close, random};
    use crate::optim::rule::{Rule, State};

    #[test]
    fn kernel_matches_composed_form_over_steps() {
        let adamw = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
        let rate = Rate { lr: 1e-2, weight_decay: 0.1 };
        let start = random(1, 40_000);
        let mut params = Params::default();
        let id = params.push("w".into(), start.copy().unwrap(), Role::Matrix);
        params.set_trainable(|_| true);
        let mut state = State::new();
        let reference = start.copy().unwrap();
        let layout = AdamW::layout(start.dims());
        let mut slots = Slots::zeros(&layout, start.device()).unwrap();
        for step in 0..5u64 {
            let grad = random(10 + step, 40_000);
            let mut grads = Grads::new(&params);
            let (slot, _) = grads.slot(id, &grad).unwrap().unwrap();
            *slot = grad.copy().unwrap();
            Rule::AdamW(adamw).step(&params, &grads, &mut state, 0.5, |_| rate).unwrap();
            slots.step += 1;
            let t = slots.step as f64;
            let consts = (
                (rate.lr / (1.0 - 0.9f64.powf(t))) as f32,
                (1.0 - 0.999f64.powf(t)).sqrt() as f32,
                (1.0 - rate.lr * rate.weight_decay) as f32,
            );
            adamw.update_composed(&reference, &grad, &mut slots, 0.5, consts).unwrap();
            close(params.value(id), &reference, 1e-6);
        }
        assert_eq!(state[&id].step, 5);
    }
}
