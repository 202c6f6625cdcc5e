//! Root-mean-square normalisation: `y = x * rstd * (w + offset)`, rstd = 1 / sqrt(mean(x²) + eps).
//!
//! `offset` is 0, or 1 for Gemma, which stores w - 1. Backward reads x and the saved rstd.
//! Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
//! Shapes: rows of width d; a [t, h*k] tensor with a weight of k elements is normed head by head.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ops::gpu;
use crate::simd::{LANES, sum2, with_simd};
use crate::tensor::{Place, filled, from_vec, place, update, view};

/// Rows of one task. Fixed: the weight gradient is summed per task, then over tasks in order.
const ROWS: usize = 32;

/// The parts of a norm that do not change in training.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the stored weight: 0, or 1 for Gemma.
    pub offset: f32,
}

impl RmsNorm {
    /// Normed rows, and rstd for each (what backward needs besides x).
    ///
    /// # Errors
    /// When the weight's length does not divide the width of x.
    pub fn forward(&self, x_td: &Tensor, w_d: &Tensor) -> Result<(Tensor, Tensor)> {
        let d = width(x_td, w_d)?;
        match place(x_td) {
            Place::Host => {}
            Place::Gpu(m) => return gpu::rms_norm::forward(&*m, self, x_td, w_d),
            Place::Composed => return self.forward_composed(x_td, w_d),
        }
        let (x, w) = (view(x_td)?, view(w_d)?);
        let (y, rstd) = filled(x.len(), ROWS * d, |i, y| {
            let mut rstd = [0f32; ROWS];
            let x = &x[i * ROWS * d..];
            with_simd(
                #[inline(always)]
                || {
                    let rows = y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(&mut rstd);
                    for ((y, x), rstd) in rows {
                        let mean_sq = sum2(x, x, |a, b| a * b) / d as f32;
                        *rstd = 1.0 / (mean_sq + self.eps).sqrt();
                        for ((y, x), w) in y.iter_mut().zip(x).zip(&*w) {
                            *y = x * *rstd * (w + self.offset);
                        }
                    }
                },
            );
            rstd
        });
        let rows = x.len() / d;
        let mut rstd = rstd.concat();
        rstd.truncate(rows);
        Ok((from_vec(y, x_td.shape())?, from_vec(rstd, rows)?))
    }

    /// Adds the input gradient to `dx_td` and returns it; adds the weight gradient to `dw_d` where
    /// the weight is trained.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn backward(
        &self,
        dx_td: Tensor,
        dw_d: Option<&mut Tensor>,
        dy_td: &Tensor,
        x_td: &Tensor,
        w_d: &Tensor,
        rstd_t: &Tensor,
    ) -> Result<Tensor> {
        let d = width(x_td, w_d)?;
        match place(x_td) {
            Place::Host => {}
            Place::Gpu(m) => {
                return gpu::rms_norm::backward(&*m, self, &dx_td, dw_d, dy_td, x_td, w_d, rstd_t);
            }
            Place::Composed => {
                return self.backward_composed(dx_td, dw_d, dy_td, x_td, w_d, rstd_t);
            }
        }
        let (dy, x, w, rstd) = (view(dy_td)?, view(x_td)?, view(w_d)?, view(rstd_t)?);
        let want_dw = dw_d.is_some();
        let partial: Vec<Vec<f32>> = update(&dx_td, |dx| {
            dx.par_chunks_mut(ROWS * d)
                .zip(dy.par_chunks(ROWS * d))
                .zip(x.par_chunks(ROWS * d))
                .zip(rstd.par_chunks(ROWS))
                .map(|(((dx, dy), x), rstd)| {
                    let mut dw = if want_dw { vec![0f32; d] } else { Vec::new() };
                    with_simd(
                        #[inline(always)]
                        || {
                            let rows = dx
                                .chunks_exact_mut(d)
                                .zip(dy.chunks_exact(d))
                                .zip(x.chunks_exact(d))
                                .zip(rstd);
                            for (((dx, dy), x), rstd) in rows {
                                self.row_backward(dx, dy, x, &w, *rstd);
                                for ((dw, dy), x) in dw.iter_mut().zip(dy).zip(x) {
                                    *dw += dy * x * rstd;
                                }
                            }
                        },
                    );
                    dw
                })
                .collect()
        })?;
        if let Some(dw_d) = dw_d {
            update(dw_d, |dw| {
                for part in &partial {
                    for (dw, p) in dw.iter_mut().zip(part) {
                        *dw += p;
                    }
                }
            })?;
        }
        Ok(dx_td)
    }

    /// dx += rstd * (g - x * rstd² * mean(g x)), g = dy * (w + offset).
    #[inline(always)]
    fn row_backward(&self, dx: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], rstd: f32) {
        let mut lanes = [0f32; LANES];
        let (dy_head, dy_tail) = dy.as_chunks::<LANES>();
        let (w_head, w_tail) = w.as_chunks::<LANES>();
        let (x_head, x_tail) = x.as_chunks::<LANES>();
        for ((dy, w), x) in dy_head.iter().zip(w_head).zip(x_head) {
            for l in 0..LANES {
                lanes[l] += dy[l] * (w[l] + self.offset) * x[l];
            }
        }
        let mut dot: f32 = lanes.iter().sum();
        for ((dy, w), x) in dy_tail.iter().zip(w_tail).zip(x_tail) {
            dot += dy * (w + self.offset) * x;
        }
        let pull = dot * rstd * rstd / x.len() as f32;
        for (((dx, dy), x), w) in dx.iter_mut().zip(dy).zip(x).zip(w) {
            *dx += rstd * (dy * (w + self.offset) - x * pull);
        }
    }

    fn forward_composed(&self, x_td: &Tensor, w_d: &Tensor) -> Result<(Tensor, Tensor)> {
        let d = width(x_td, w_d)?;
        let x = x_td.reshape(((), d))?;
        let mean_sq = (x.sqr()?.sum_keepdim(1)? / d as f64)?;
        let rstd = (mean_sq + f64::from(self.eps))?.sqrt()?.recip()?;
        let scale = (w_d + f64::from(self.offset))?;
        let y = x.broadcast_mul(&rstd)?.broadcast_mul(&scale)?;
        Ok((y.reshape(x_td.shape())?, rstd.flatten_all()?))
    }

    fn backward_composed(
        &self,
        dx_td: Tensor,
        dw_d: Option<&mut Tensor>,
        dy_td: &Tensor,
        x_td: &Tensor,
        w_d: &Tensor,
        rstd_t: &Tensor,
    ) -> Result<Tensor> {
        let d = width(x_td, w_d)?;
        let (x, dy) = (x_td.reshape(((), d))?, dy_td.reshape(((), d))?);
        let rstd = rstd_t.reshape(((), 1))?;
        let normed = x.broadcast_mul(&rstd)?;
        if let Some(dw) = dw_d {
            *dw = (&*dw + (&dy * &normed)?.sum(0)?)?;
        }
        let g = dy.broadcast_mul(&(w_d + f64::from(self.offset))?)?;
        let mean = ((&g * &normed)?.sum_keepdim(1)? / d as f64)?;
        let dx = (g - normed.broadcast_mul(&mean)?)?.broadcast_mul(&rstd)?;
        Ok((dx_td + dx.reshape(x_td.shape())?)?)
    }
}

fn width(x_td: &Tensor, w_d: &Tensor) -> Result<usize> {
    let d = w_d.dims1()?;
    match x_td.dims().last() {
        Some(last) if d > 0 && last.is_multiple_of(d) => Ok(d),
        _ => Err(Error::Internal(format!("rms_norm of {:?} by {d}", x_td.dims()))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::testing::{close, dot, finite_difference, random};

    #[test]
    fn both_directions_match_the_composed_form() {
        for (t, d, heads, offset) in
            [(1, 8, 1, 0.0), (70, 96, 1, 0.0), (9, 24, 4, 0.0), (5, 33, 1, 1.0)]
        {
            let norm = RmsNorm { eps: 1e-5, offset };
            let (x, w) = (random(1, (t, d * heads)), random(2, d));
            let (dy, dx0) = (random(3, (t, d * heads)), random(4, (t, d * heads)));
            let (y, rstd) = norm.forward(&x, &w).unwrap();
            let (y_ref, rstd_ref) = norm.forward_composed(&x, &w).unwrap();
            close(&y, &y_ref, 1e-6);
            close(&rstd, &rstd_ref, 1e-6);
            let (mut dw, mut dw_ref) = (random(5, d), random(5, d));
            let start = dx0.copy().unwrap();
            let dx = norm.backward(start, Some(&mut dw), &dy, &x, &w, &rstd).unwrap();
            let dx_ref =
                norm.backward_composed(dx0, Some(&mut dw_ref), &dy, &x, &w, &rstd).unwrap();
            close(&dx, &dx_ref, 1e-5);
            close(&dw, &dw_ref, 1e-5);
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let norm = RmsNorm { eps: 1e-5, offset: 0.0 };
        let (x, w, dy) = (random(1, (6, 20)), random(2, 20), random(3, (6, 20)));
        let (_, rstd) = norm.forward(&x, &w).unwrap();
        let mut dw = w.zeros_like().unwrap();
        let dx = norm.backward(x.zeros_like().unwrap(), Some(&mut dw), &dy, &x, &w, &rstd).unwrap();
        finite_difference(&x, &dx, 1e-2, |x| dot(&norm.forward(x, &w).unwrap().0, &dy));
        finite_difference(&w, &dw, 1e-2, |w| dot(&norm.forward(&x, w).unwrap().0, &dy));
    }
}
