//! Eigenvalues and eigenvectors of a symmetric matrix: Householder's reduction to three diagonals,
//! then the implicit QL iteration (EISPACK's tred2 and tql2, with vectors as rows).

use super::mat::{Mat, add_scaled, dot};
use crate::simd::with_simd;

/// Rounds of QL for one eigenvalue; two or three are usual, and no finite matrix is known to need
/// half as many.
const ROUNDS: usize = 60;

/// Eigenvalues, rising, and the eigenvectors as rows in the same order.
pub(super) fn symmetric(a: Mat) -> (Vec<f64>, Mat) {
    let n = a.rows;
    let (mut d, mut e, mut rows) = tridiagonal(a);
    ql(&mut d, &mut e, &mut rows);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| d[*a].total_cmp(&d[*b]));
    let mut sorted = Mat::zeros(n, n);
    for (to, from) in order.iter().enumerate() {
        sorted.row_mut(to).copy_from_slice(rows.row(*from));
    }
    (order.iter().map(|i| d[*i]).collect(), sorted)
}

/// The diagonal d, the diagonal e beside it (e[i] couples i and i + 1) and Qᵀ, where
/// A = Q T Qᵀ.
fn tridiagonal(mut a: Mat) -> (Vec<f64>, Vec<f64>, Mat) {
    let n = a.rows;
    let mut e = vec![0f64; n];
    let mut reflectors: Vec<Vec<f64>> = Vec::new();
    for (k, beside) in e.iter_mut().enumerate().take(n.saturating_sub(2)) {
        // the reflector that leaves of row k its first two entries
        let mut v = a.row(k)[k + 1..].to_vec();
        let length = with_simd(
            #[inline(always)]
            || dot(&v, &v),
        )
        .sqrt();
        let alpha = if v[0] > 0.0 { -length } else { length };
        *beside = alpha;
        v[0] -= alpha;
        let vv = with_simd(
            #[inline(always)]
            || dot(&v, &v),
        );
        if vv == 0.0 {
            reflectors.push(Vec::new());
            continue;
        }
        // A22 -= v wᵀ + w vᵀ with w = p - (p.v / v.v) v, p = 2 A22 v / v.v
        let mut w: Vec<f64> = (k + 1..n)
            .map(|r| {
                with_simd(
                    #[inline(always)]
                    || dot(&a.row(r)[k + 1..], &v),
                ) * 2.0
                    / vv
            })
            .collect();
        let along = with_simd(
            #[inline(always)]
            || dot(&w, &v),
        ) / vv;
        add_scaled(&mut w, -along, &v);
        for (i, r) in (k + 1..n).enumerate() {
            let row = &mut a.row_mut(r)[k + 1..];
            with_simd(
                #[inline(always)]
                || {
                    add_scaled(row, -v[i], &w);
                    add_scaled(row, -w[i], &v);
                },
            );
        }
        v.iter_mut().for_each(|x| *x /= (vv / 2.0).sqrt());
        reflectors.push(v);
    }
    if n >= 2 {
        e[n - 2] = a.at(n - 2, n - 1);
    }
    let d = (0..n).map(|i| a.at(i, i)).collect();
    (d, e, accumulated(n, &reflectors))
}

/// Qᵀ of Q = H0 H1 ...: the reflectors are applied last to first, each to the part that it touches.
fn accumulated(n: usize, reflectors: &[Vec<f64>]) -> Mat {
    // Row by row, q holds Qᵀ: Q = H Q' means that each row x of Qᵀ becomes x - (x.v) v.
    let mut q = Mat::zeros(n, n);
    (0..n).for_each(|i| *q.at_mut(i, i) = 1.0);
    for (k, v) in reflectors.iter().enumerate().rev().filter(|(_, v)| !v.is_empty()) {
        for r in k + 1..n {
            let row = &mut q.row_mut(r)[k + 1..];
            with_simd(
                #[inline(always)]
                || {
                    let along = dot(row, v);
                    add_scaled(row, -along, v);
                },
            );
        }
    }
    q
}

/// Turns the three diagonals into one, and `rows` along with them.
fn ql(d: &mut [f64], e: &mut [f64], rows: &mut Mat) {
    let n = d.len();
    let (mut shift, mut largest) = (0f64, 0f64);
    for l in 0..n {
        largest = largest.max(d[l].abs() + e[l].abs());
        let small = f64::EPSILON * largest;
        let m = (l..n).find(|m| e[*m].abs() <= small).unwrap_or(n - 1);
        for _ in 0..ROUNDS {
            if m == l || e[l].abs() <= small {
                break;
            }
            // the shift, taken from all that is left
            let g = d[l];
            let p = (d[l + 1] - g) / (2.0 * e[l]);
            let r = if p < 0.0 { -p.hypot(1.0) } else { p.hypot(1.0) };
            d[l] = e[l] / (p + r);
            d[l + 1] = e[l] * (p + r);
            let next = d[l + 1];
            let h = g - d[l];
            d[l + 2..].iter_mut().for_each(|d| *d -= h);
            shift += h;
            sweep(d, e, rows, l, m, next);
        }
        d[l] += shift;
        e[l] = 0.0;
    }
}

/// One QL sweep from m down to l.
fn sweep(d: &mut [f64], e: &mut [f64], rows: &mut Mat, l: usize, m: usize, next: f64) {
    let mut p = d[m];
    let (mut c, mut c2, mut c3) = (1f64, 1f64, 1f64);
    let (mut s, mut s2) = (0f64, 0f64);
    let beside = e[l + 1];
    for i in (l..m).rev() {
        (c3, c2, s2) = (c2, c, s);
        let (g, h) = (c * e[i], c * p);
        let r = p.hypot(e[i]);
        e[i + 1] = s * r;
        (s, c) = if r > 0.0 { (e[i] / r, p / r) } else { (0.0, 1.0) };
        p = c * d[i] - s * g;
        d[i + 1] = h + s * (c * g + s * d[i]);
        let cols = rows.cols;
        let (upper, lower) = rows.data[i * cols..(i + 2) * cols].split_at_mut(cols);
        with_simd(
            #[inline(always)]
            || {
                for (x, y) in upper.iter_mut().zip(lower) {
                    let h = *y;
                    *y = s * *x + c * h;
                    *x = c * *x - s * h;
                }
            },
        );
    }
    p = -s * s2 * c3 * beside * e[l] / next;
    e[l] = s * p;
    d[l] = c * p;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvectors_solve_and_values_rise() {
        for n in [1usize, 2, 3, 10, 97] {
            let mut a = Mat::zeros(n, n);
            for r in 0..n {
                for c in 0..=r {
                    let x = ((r * 31 + c * 17) % 23) as f64 - 11.0;
                    *a.at_mut(r, c) = x;
                    *a.at_mut(c, r) = x;
                }
            }
            let (values, vectors) = symmetric(a.clone());
            assert!(values.windows(2).all(|w| w[0] <= w[1]));
            let av = vectors.mul_t(&a);
            for (i, value) in values.iter().enumerate() {
                for (av, v) in av.row(i).iter().zip(vectors.row(i)) {
                    assert!((av - value * v).abs() < 1e-9 * (1.0 + 11.0 * n as f64), "{n}: {i}");
                }
            }
        }
    }

    #[test]
    fn diagonal_and_repeated_values() {
        let mut a = Mat::zeros(6, 6);
        for i in 0..6 {
            *a.at_mut(i, i) = [2.0, -1.0, 2.0, 0.0, 5.0, 2.0][i];
        }
        assert_eq!(symmetric(a).0, [-1.0, 0.0, 2.0, 2.0, 2.0, 5.0]);
    }
}
