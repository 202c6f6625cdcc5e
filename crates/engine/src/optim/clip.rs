//! Norm of the gradient, and the factor that clips it.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::Result;
use crate::model::store::{Grads, Params};
use crate::ops::gpu;
use crate::simd::{CHUNK, sum_sq, with_simd};
use crate::tensor::{Place, on_host, place, view};

/// Euclidean norm over all gradients: squares are summed in f64 by fixed chunks, in order.
///
/// # Errors
/// When a gradient cannot be read.
pub fn grad_norm(params: &Params, grads: &Grads) -> Result<f64> {
    let grads: Vec<&Tensor> = params.trained().into_iter().filter_map(|id| grads.get(id)).collect();
    if let Some(Place::Gpu(m)) = grads.first().map(|grad| place(grad)) {
        return Ok(gpu::optimizer::square_sums(&*m, &grads)?.iter().sum::<f64>().sqrt());
    }
    let mut total = 0f64;
    for grad in grads {
        if !on_host(grad) {
            total += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
            continue;
        }
        let g = view(grad)?;
        let parts: Vec<f64> = g
            .par_chunks(CHUNK)
            .map(|c| {
                with_simd(
                    #[inline(always)]
                    || sum_sq(c),
                )
            })
            .collect();
        total += parts.iter().sum::<f64>();
    }
    Ok(total.sqrt())
}

/// Factor on the gradients for `max_grad_norm` (torch's `clip_grad_norm_`); 1 where it is 0.
#[must_use]
pub fn clip_factor(norm: f64, max_grad_norm: f64) -> f32 {
    if max_grad_norm <= 0.0 {
        return 1.0;
    }
    (max_grad_norm / (norm + 1e-6)).min(1.0) as f32
}
