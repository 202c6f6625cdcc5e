//! A row-major matrix of f64, its products and the orthonormalisation of its rows.

use rayon::prelude::*;

use crate::simd::{LANES, with_simd};

/// A matrix of f64, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Mat {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// `rows * cols` elements.
    pub data: Vec<f64>,
}

/// Rows of a result that are made together: what they read stays in the cache.
const ROWS: usize = 8;

impl Mat {
    /// Zeros.
    #[must_use]
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// From f32, which are `rows * cols`.
    #[must_use]
    pub fn from_f32(data: &[f32], rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: data.iter().map(|x| f64::from(*x)).collect() }
    }

    /// One element.
    #[must_use]
    pub fn at(&self, row: usize, col: usize) -> f64 {
        self.data[row * self.cols + col]
    }

    /// One element.
    pub fn at_mut(&mut self, row: usize, col: usize) -> &mut f64 {
        &mut self.data[row * self.cols + col]
    }

    /// One row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.cols..][..self.cols]
    }

    /// One row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.data[row * self.cols..][..self.cols]
    }

    /// The transpose, copied.
    #[must_use]
    pub fn t(&self) -> Self {
        let mut out = Self::zeros(self.cols, self.rows);
        for r in 0..self.rows {
            for (c, x) in self.row(r).iter().enumerate() {
                out.data[c * self.rows + r] = *x;
            }
        }
        out
    }

    /// `self otherᵀ`: [a, k] times the transpose of [b, k].
    #[must_use]
    pub fn mul_t(&self, other: &Self) -> Self {
        let mut out = Self::zeros(self.rows, other.rows);
        if out.data.is_empty() {
            return out;
        }
        out.data.par_chunks_mut(ROWS * other.rows).enumerate().for_each(|(block, to)| {
            with_simd(
                #[inline(always)]
                || {
                    for c in 0..other.rows {
                        for (r, to) in to.chunks_mut(other.rows).enumerate() {
                            to[c] = dot(self.row(block * ROWS + r), other.row(c));
                        }
                    }
                },
            );
        });
        out
    }

    /// `self other`: [a, k] times [k, b].
    #[must_use]
    pub fn mul(&self, other: &Self) -> Self {
        let mut out = Self::zeros(self.rows, other.cols);
        if out.data.is_empty() {
            return out;
        }
        out.data.par_chunks_mut(ROWS * other.cols).enumerate().for_each(|(block, to)| {
            with_simd(
                #[inline(always)]
                || {
                    for k in 0..self.cols {
                        for (r, to) in to.chunks_mut(other.cols).enumerate() {
                            add_scaled(to, self.at(block * ROWS + r, k), other.row(k));
                        }
                    }
                },
            );
        });
        out
    }

    /// Makes the rows orthonormal, first to last (Gram-Schmidt, twice over). A row that depends on
    /// those before it is replaced by some unit vector that does not; returns the lengths that the
    /// rows had beyond those before them, 0 for such a row.
    pub fn orthonormalise(&mut self) -> Vec<f64> {
        let mut lengths = Vec::with_capacity(self.rows);
        let scale = self.data.iter().fold(0f64, |m, x| m.max(x.abs()));
        let mut spare = 0;
        for r in 0..self.rows {
            let (done, rest) = self.data.split_at_mut(r * self.cols);
            let row = &mut rest[..self.cols];
            let had = norm(row);
            project_out(done, row);
            let left = norm(row);
            let kept = left > 1e-10 * had.max(1e-3 * scale) && left > 0.0;
            lengths.push(if kept { left } else { 0.0 });
            if kept {
                row.iter_mut().for_each(|x| *x /= left);
                continue;
            }
            // Unit vectors in turn: at most r of them lie in the span of r rows.
            while spare < self.cols {
                row.fill(0.0);
                row[spare] = 1.0;
                spare += 1;
                project_out(done, row);
                let left = norm(row);
                if left > 0.5 / (self.cols as f64).sqrt() {
                    row.iter_mut().for_each(|x| *x /= left);
                    break;
                }
            }
        }
        lengths
    }
}

/// Takes from `row` what lies along the orthonormal rows `done`, twice for accuracy.
fn project_out(done: &[f64], row: &mut [f64]) {
    if row.is_empty() {
        return;
    }
    for _ in 0..2 {
        for q in done.chunks_exact(row.len()) {
            with_simd(
                #[inline(always)]
                || {
                    let along = dot(q, row);
                    add_scaled(row, -along, q);
                },
            );
        }
    }
}

fn norm(x: &[f64]) -> f64 {
    with_simd(
        #[inline(always)]
        || dot(x, x),
    )
    .sqrt()
}

/// Scalar product in sixteen lanes.
#[inline(always)]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (a_head, a_tail) = a.as_chunks::<LANES>();
    let (b_head, b_tail) = b.as_chunks::<LANES>();
    for (x, y) in a_head.iter().zip(b_head) {
        for l in 0..LANES {
            lanes[l] = x[l].mul_add(y[l], lanes[l]);
        }
    }
    let tail: f64 = a_tail.iter().zip(b_tail).map(|(x, y)| x * y).sum();
    lanes.iter().sum::<f64>() + tail
}

/// `to += factor * x`.
#[inline(always)]
pub(super) fn add_scaled(to: &mut [f64], factor: f64, x: &[f64]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to = x.mul_add(factor, *to);
    }
}
