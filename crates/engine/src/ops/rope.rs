//! Rotary position embedding, half-split as Hugging Face lays it out, in place.
//!
//! Dimension pairs (i, i + rotary/2) of each head turn by position * inv_freq[i]. The gradient is
//! the rotation back, so backward is the same kernel with the angle negated. Dimensions past the
//! rotary part pass through (Phi-3's partial rotary).
//! Source: Su et al., "RoFormer", 2021; layout of transformers' `apply_rotary_pos_emb`.

use std::sync::OnceLock;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::ops::gpu::{self, Machine};
use crate::simd::with_simd;
use crate::tensor::{Place, place, update};

/// Tokens of one task.
const ROWS: usize = 32;

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By the position's angle.
    Forward,
    /// Back: the gradient's direction.
    Backward,
}

/// cos and sin for each token of a micro-batch: [t, rotary/2].
#[derive(Clone, Debug)]
pub struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    /// cos and sin on the GPU, from the first use there: every layer turns by the same angles.
    on_gpu: OnceLock<(Tensor, Tensor)>,
}

impl Angles {
    /// Angles of `positions` for the given inverse frequencies; cos and sin are multiplied by
    /// `scaling` (yarn's attention factor, otherwise 1). The angle is a product in f32, as in
    /// transformers.
    #[must_use]
    pub fn new(inv_freq: &[f32], scaling: f32, positions: &[u32]) -> Self {
        let angles = positions.iter().flat_map(|p| inv_freq.iter().map(move |f| *p as f32 * f));
        let (sin, cos) = angles
            .map(|a| {
                let (sin, cos) = f64::from(a).sin_cos();
                (sin as f32 * scaling, cos as f32 * scaling)
            })
            .unzip();
        Self { cos, sin, half: inv_freq.len(), on_gpu: OnceLock::new() }
    }

    /// Turns every head of `x_thk` ([t, heads * head_dim]) and returns it.
    ///
    /// # Errors
    /// When the tensor cannot be written.
    pub fn apply(&self, x_thk: Tensor, head_dim: usize, direction: Direction) -> Result<Tensor> {
        match place(&x_thk) {
            Place::Host => {}
            Place::Gpu(m) => return self.apply_gpu(&*m, &x_thk, head_dim, direction),
            Place::Composed => return self.apply_composed(&x_thk, head_dim, direction),
        }
        let (_, width) = x_thk.dims2()?;
        let (half, sign) = (self.half, sign(direction));
        update(&x_thk, |x| {
            x.par_chunks_mut(ROWS * width)
                .zip(self.cos.par_chunks(ROWS * half))
                .zip(self.sin.par_chunks(ROWS * half))
                .for_each(|((x, cos), sin)| {
                    with_simd(
                        #[inline(always)]
                        || {
                            let rows = x
                                .chunks_exact_mut(width)
                                .zip(cos.chunks_exact(half))
                                .zip(sin.chunks_exact(half));
                            for ((row, cos), sin) in rows {
                                for head in row.chunks_exact_mut(head_dim) {
                                    turn(head, cos, sin, sign);
                                }
                            }
                        },
                    );
                });
        })?;
        Ok(x_thk)
    }

    fn apply_gpu(&self, m: &dyn Machine, x: &Tensor, k: usize, way: Direction) -> Result<Tensor> {
        let tables = match self.on_gpu.get() {
            Some(tables) => tables,
            None => {
                let made = gpu::rope::tables(m, &self.cos, &self.sin)?;
                self.on_gpu.get_or_init(|| made)
            }
        };
        gpu::rope::apply(m, x, tables, k, sign(way))
    }

    fn apply_composed(&self, x_thk: &Tensor, head_dim: usize, way: Direction) -> Result<Tensor> {
        let (t, width) = x_thk.dims2()?;
        let (half, device) = (self.half, x_thk.device());
        let table = |v: &[f32], d: &Device| Tensor::from_slice(v, (t, 1, half), d);
        let (cos, sin) = (table(&self.cos, device)?, table(&self.sin, device)?);
        let sin = (sin * f64::from(sign(way)))?;
        let x = x_thk.reshape((t, width / head_dim, head_dim))?;
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let mut parts = vec![first, second];
        if head_dim > 2 * half {
            parts.push(x.narrow(2, 2 * half, head_dim - 2 * half)?);
        }
        Ok(Tensor::cat(&parts, 2)?.reshape((t, width))?)
    }
}

fn sign(direction: Direction) -> f32 {
    match direction {
        Direction::Forward => 1.0,
        Direction::Backward => -1.0,
    }
}

#[inline(always)]
fn turn(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let (first, rest) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
        let (x, y, sin) = (*a, *b, sign * sin);
        *a = x * cos - y * sin;
        *b = y * cos + x * sin;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::testing::{close, random};

    #[test]
    fn kernel_matches_composed_and_backward_undoes_forward() {
        for (t, heads, dim, half) in [(1, 1, 4, 2), (40, 3, 16, 8), (5, 2, 12, 4)] {
            let inv_freq: Vec<f32> = (0..half).map(|i| 0.7f32.powi(i)).collect();
            let positions: Vec<u32> = (0..t as u32).map(|p| p % 7).collect();
            let angles = Angles::new(&inv_freq, 1.0, &positions);
            let x = random(1, (t, heads * dim));
            let y = angles.apply(x.copy().unwrap(), dim, Direction::Forward).unwrap();
            close(&y, &angles.apply_composed(&x, dim, Direction::Forward).unwrap(), 1e-6);
            let back = angles.apply(y, dim, Direction::Backward).unwrap();
            close(&back, &x, 1e-6);
        }
    }
}
