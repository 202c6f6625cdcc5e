//! Adafactor with a given learning rate: the second moment of a matrix as one row and one column.
//!
//! transformers' `Adafactor(scale_parameter=False, relative_step=False)` with its other defaults,
//! which is what `optim: adafactor` means there: decay 1 - t^-0.8, no first moment, updates longer
//! than 1 (root mean square) cut to 1. Source: Shazeer and Stern, 2018.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::Result;
use crate::optim::rule::{Rate, Slots, Spec};
use crate::simd::{CHUNK, sum_sq, with_simd};
use crate::tensor::{update, view};

/// Added to every squared gradient.
const EPS: f32 = 1e-30;
/// Exponent of the decay.
const DECAY: f64 = -0.8;
/// Columns whose squares are summed by one task.
const COLUMNS: usize = 256;

/// A mean square for each row of a matrix, for each of its columns, or for each entry of a vector.
const ROW: &str = "exp_avg_sq_row";
const COL: &str = "exp_avg_sq_col";
const ALL: &str = "exp_avg_sq";

/// One row and one column of a matrix; a vector whole.
#[must_use]
pub fn layout(shape: &[usize]) -> Vec<Spec> {
    match shape {
        [m, n] => vec![Spec::f32(ROW, &[*m]), Spec::f32(COL, &[*n])],
        _ => vec![Spec::f32(ALL, shape)],
    }
}

/// One update of `param` from `grad * clip`; `slots.step` counts it already.
///
/// # Errors
/// When a tensor cannot be read or written.
pub fn step(param: &Tensor, grad: &Tensor, slots: &mut Slots, clip: f32, rate: Rate) -> Result<()> {
    let new = (slots.step as f64).powf(DECAY);
    let (keep, new) = ((1.0 - new) as f32, new as f32);
    let grad = view(grad)?;
    match *param.dims() {
        [_, n] => {
            mean_squares(&grad, n, slots, clip, (keep, new))?;
            let (row, col) = (view(slots.get(ROW)?)?, view(slots.get(COL)?)?);
            let mean = row.iter().map(|r| f64::from(*r)).sum::<f64>() / row.len() as f64;
            let by_row: Vec<f32> =
                row.iter().map(|r| clip * (mean / f64::from(*r)).sqrt() as f32).collect();
            let by_col: Vec<f32> = col.iter().map(|c| c.sqrt().recip()).collect();
            apply(param, &grad, n, rate, |r, c| by_row[r] * by_col[c])
        }
        _ => {
            update(slots.get(ALL)?, |v| {
                v.par_chunks_mut(CHUNK).zip(grad.par_chunks(CHUNK)).for_each(|(v, g)| {
                    with_simd(
                        #[inline(always)]
                        || {
                            for (v, g) in v.iter_mut().zip(g) {
                                *v = keep * *v + new * (g * clip * (g * clip) + EPS);
                            }
                        },
                    );
                });
            })?;
            let v = view(slots.get(ALL)?)?;
            apply(param, &grad, grad.len(), rate, |_, c| clip / v[c].sqrt())
        }
    }
}

/// Brings the mean squares of rows and columns up to date.
fn mean_squares(
    grad: &[f32],
    n: usize,
    slots: &Slots,
    clip: f32,
    (keep, new): (f32, f32),
) -> Result<()> {
    let squared = f64::from(clip).powi(2);
    let rows = grad.len() / n;
    update(slots.get(ROW)?, |row| {
        row.par_iter_mut().zip(grad.par_chunks_exact(n)).for_each(|(row, g)| {
            let sum = with_simd(
                #[inline(always)]
                || sum_sq(g),
            );
            *row = keep * *row + new * ((squared * sum / n as f64) as f32 + EPS);
        });
    })?;
    update(slots.get(COL)?, |col| {
        col.par_chunks_mut(COLUMNS).enumerate().for_each(|(block, col)| {
            let mut sums = [0f64; COLUMNS];
            for g in grad.chunks_exact(n) {
                let g = &g[block * COLUMNS..][..col.len()];
                with_simd(
                    #[inline(always)]
                    || {
                        for (sum, g) in sums.iter_mut().zip(g) {
                            *sum += f64::from(*g) * f64::from(*g);
                        }
                    },
                );
            }
            for (col, sum) in col.iter_mut().zip(sums) {
                *col = keep * *col + new * ((squared * sum / rows as f64) as f32 + EPS);
            }
        });
    })
}

/// `p = p (1 - lr wd) - lr u / max(1, rms(u))`, u = g * factor(row, column), rows of `n`.
fn apply(
    param: &Tensor,
    grad: &[f32],
    n: usize,
    rate: Rate,
    factor: impl Fn(usize, usize) -> f32 + Sync,
) -> Result<()> {
    let squares: Vec<f64> = grad
        .par_chunks_exact(n)
        .enumerate()
        .map(|(r, g)| {
            with_simd(
                #[inline(always)]
                || {
                    let each = g.iter().enumerate().map(|(c, g)| f64::from(g * factor(r, c)));
                    each.map(|u| u * u).sum::<f64>()
                },
            )
        })
        .collect();
    let rms = (squares.iter().sum::<f64>() / grad.len() as f64).sqrt();
    let size = (rate.lr / rms.max(1.0)) as f32;
    let decay = (1.0 - rate.lr * rate.weight_decay) as f32;
    update(param, |p| {
        p.par_chunks_exact_mut(n).zip(grad.par_chunks_exact(n)).enumerate().for_each(
            |(r, (p, g))| {
                with_simd(
                    #[inline(always)]
                    || {
                        for (c, (p, g)) in p.iter_mut().zip(g).enumerate() {
                            *p = *p * decay - size * (g * factor(r, c));
                        }
                    },
                );
            },
        );
    })
}
