//! Singular value decompositions of f32 matrices, computed in f64.
//!
//! [`svd`] is exact: the eigenvectors of the smaller Gram matrix (singular values below 1e-8 of the
//! largest are noise, and are less than f32 holds). [`svd_lowrank`] is the randomised range finder
//! of Halko, Martinsson and Tropp (2011) as torch.svd_lowrank has it, for matrices whose smaller
//! side is long. Both return orthonormal vectors whatever the matrix, zero included, and the same
//! bits for every thread count. Singular vectors are defined up to sign: here the entry of `u` with
//! the largest magnitude is positive.

mod eig;
mod mat;

pub use mat::Mat;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};
use crate::tensor::{from_vec, view};

/// The leading `k` singular triplets of a matrix [m, n].
#[derive(Clone, Debug)]
pub struct Svd {
    /// Left vectors, one a column: [m, k].
    pub u_mk: Mat,
    /// Singular values, falling.
    pub s: Vec<f64>,
    /// Right vectors, one a row: [k, n].
    pub vt_kn: Mat,
}

impl Svd {
    /// Left vectors as a tensor [m, k].
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn u(&self) -> Result<Tensor> {
        self.u_mk.tensor()
    }

    /// Right vectors as a tensor [k, n].
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn vt(&self) -> Result<Tensor> {
        self.vt_kn.tensor()
    }

    /// Of the transposed matrix.
    fn transposed(self) -> Self {
        Self { u_mk: self.vt_kn.t(), s: self.s, vt_kn: self.u_mk.t() }.signed()
    }

    /// Fixes each pair's sign.
    fn signed(mut self) -> Self {
        for c in 0..self.s.len() {
            let column = (0..self.u_mk.rows).map(|r| self.u_mk.at(r, c));
            let peak = column.fold(0f64, |best, x| if x.abs() > best.abs() { x } else { best });
            if peak < 0.0 {
                (0..self.u_mk.rows).for_each(|r| *self.u_mk.at_mut(r, c) *= -1.0);
                self.vt_kn.row_mut(c).iter_mut().for_each(|x| *x *= -1.0);
            }
        }
        self
    }
}

/// The leading `k` singular triplets of `a_mn` (fewer where a side is shorter), exactly. Costs about
/// 9 d³ operations for d = min(m, n): a second for d = 768.
///
/// # Errors
/// When the matrix holds something that is not finite.
pub fn svd(a_mn: &Tensor, k: usize) -> Result<Svd> {
    Ok(exact(&Mat::of(a_mn)?, k))
}

/// About the leading `q` singular triplets of `a_mn`, from a random subspace of `q` dimensions that
/// `rounds` rounds of subspace iteration turn towards the leading ones. Costs about
/// 4 m n q (rounds + 1) operations. The numbers are drawn from (`seed`, `layer`).
///
/// # Errors
/// When the matrix holds something that is not finite.
pub fn svd_lowrank(a_mn: &Tensor, q: usize, rounds: usize, seed: u64, layer: u32) -> Result<Svd> {
    let a = Mat::of(a_mn)?;
    let q = q.min(a.rows).min(a.cols);
    // The small matrix that is decomposed in the end has the longer side for its length.
    if a.rows < a.cols {
        return Ok(lowrank(&a, q, rounds, seed, layer));
    }
    Ok(lowrank(&a.t(), q, rounds, seed, layer).transposed())
}

/// Of a matrix with rows <= cols.
fn lowrank(a_mn: &Mat, q: usize, rounds: usize, seed: u64, layer: u32) -> Svd {
    let mut noise = vec![0f32; q * a_mn.cols];
    Stream::new(seed, Purpose::Subspace, 0, layer).fill_normal(&mut noise, 1.0);
    let omega_qn = Mat::from_f32(&noise, q, a_mn.cols);
    // Bases are kept as rows.
    let mut basis_qm = omega_qn.mul_t(a_mn);
    basis_qm.orthonormalise();
    for _ in 0..rounds {
        let mut right_qn = basis_qm.mul(a_mn);
        right_qn.orthonormalise();
        basis_qm = right_qn.mul_t(a_mn);
        basis_qm.orthonormalise();
    }
    let small = exact(&basis_qm.mul(a_mn), q);
    let u_mk = small.u_mk.t().mul(&basis_qm).t();
    Svd { u_mk, ..small }.signed()
}

fn exact(a_mn: &Mat, k: usize) -> Svd {
    if a_mn.rows > a_mn.cols {
        return exact(&a_mn.t(), k).transposed();
    }
    let k = k.min(a_mn.rows);
    let (values, vectors) = eig::symmetric(a_mn.mul_t(a_mn));
    // Eigenvalues rise; the singular values fall.
    let order: Vec<usize> = (0..values.len()).rev().take(k).collect();
    let mut ut_km = Mat::zeros(k, a_mn.rows);
    for (to, from) in order.iter().enumerate() {
        ut_km.row_mut(to).copy_from_slice(vectors.row(*from));
    }
    let mut vt_kn = ut_km.mul(a_mn);
    // The lengths of these rows are the singular values, without the square root's loss.
    let s = vt_kn.orthonormalise();
    Svd { u_mk: ut_km.t(), s, vt_kn }.signed()
}

/// Refuses what is not finite.
fn finite(values: &[f32]) -> Result<()> {
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(()),
        false => {
            Err(Error::Internal("a matrix to decompose holds values that are not finite".into()))
        }
    }
}

impl Mat {
    /// The elements of a tensor [m, n] in main memory.
    ///
    /// # Errors
    /// When the tensor is no matrix or holds something that is not finite.
    pub fn of(a_mn: &Tensor) -> Result<Self> {
        let (m, n) = a_mn.dims2()?;
        let host = a_mn.to_device(&candle_core::Device::Cpu)?.contiguous()?;
        let data = view(&host)?;
        finite(&data)?;
        Ok(Self::from_f32(&data, m, n))
    }

    /// As a tensor of f32.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn tensor(&self) -> Result<Tensor> {
        from_vec(self.data.iter().map(|x| *x as f32).collect(), (self.rows, self.cols))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::testing::{close, random};

    /// A matrix with these singular values.
    fn made(m: usize, n: usize, s: &[f64]) -> Tensor {
        let mut u = Mat::of(&random(1, (s.len(), m))).unwrap();
        let mut vt = Mat::of(&random(2, (s.len(), n))).unwrap();
        u.orthonormalise();
        vt.orthonormalise();
        let mut us = u.t();
        for r in 0..m {
            us.row_mut(r).iter_mut().zip(s).for_each(|(x, s)| *x *= s);
        }
        us.mul(&vt).tensor().unwrap()
    }

    fn orthonormal(rows: &Mat) {
        let gram = rows.mul_t(rows);
        for r in 0..gram.rows {
            for c in 0..gram.cols {
                let want = if r == c { 1.0 } else { 0.0 };
                assert!((gram.at(r, c) - want).abs() < 1e-9, "({r}, {c}): {}", gram.at(r, c));
            }
        }
    }

    /// Rebuilds the matrix from its triplets; checks values, order and orthonormality.
    fn check(a: &Tensor, found: &Svd, values: &[f64], tolerance: f64) {
        orthonormal(&found.u_mk.t());
        orthonormal(&found.vt_kn);
        // What is 1e-8 of the largest is noise, and so is its order.
        assert!(found.s.windows(2).all(|w| w[0] >= w[1] - 1e-6));
        for (got, want) in found.s.iter().zip(values) {
            assert!((got - want).abs() < 1e-5 * values[0], "{:?} {values:?}", found.s);
        }
        let mut us = found.u_mk.clone();
        for r in 0..us.rows {
            us.row_mut(r).iter_mut().zip(&found.s).for_each(|(x, s)| *x *= s);
        }
        close(&us.mul(&found.vt_kn).tensor().unwrap(), a, tolerance);
    }

    #[test]
    fn known_singular_values_come_back() {
        for (m, n) in [(5, 5), (40, 7), (7, 40), (130, 130), (33, 65)] {
            let s: Vec<f64> = (0..m.min(n)).map(|i| 3.0 / (1.0 + i as f64)).collect();
            let a = made(m, n, &s);
            check(&a, &svd(&a, m.min(n)).unwrap(), &s, 1e-5);
            let top = svd(&a, 3).unwrap();
            assert_eq!((top.u_mk.cols, top.vt_kn.rows, top.s.len()), (3, 3, 3));
        }
    }

    #[test]
    fn rank_deficient_and_zero_matrices_have_orthonormal_vectors() {
        let two = made(20, 30, &[2.0, 1.0]);
        check(&two, &svd(&two, 6).unwrap(), &[2.0, 1.0, 0.0, 0.0], 1e-5);
        check(&two, &svd_lowrank(&two, 6, 2, 1, 0).unwrap(), &[2.0, 1.0, 0.0], 1e-5);
        let zero = two.zeros_like().unwrap();
        for found in [svd(&zero, 4).unwrap(), svd_lowrank(&zero, 4, 1, 1, 0).unwrap()] {
            orthonormal(&found.u_mk.t());
            orthonormal(&found.vt_kn);
            assert!(found.s.iter().all(|s| *s == 0.0));
        }
        let nan = (two * f64::NAN).unwrap();
        assert!(svd(&nan, 2).is_err());
    }

    #[test]
    fn the_range_finder_finds_what_stands_out() {
        for (m, n) in [(300, 80), (80, 300)] {
            let s: Vec<f64> = (0..80).map(|i| 0.7f64.powi(i)).collect();
            let a = made(m, n, &s);
            let (exact, random) = (svd(&a, 8).unwrap(), svd_lowrank(&a, 16, 4, 7, 3).unwrap());
            for i in 0..8 {
                assert!((exact.s[i] - random.s[i]).abs() < 1e-6, "{i}: {:?}", random.s);
                let dot: f64 =
                    exact.vt_kn.row(i).iter().zip(random.vt_kn.row(i)).map(|(a, b)| a * b).sum();
                assert!((dot.abs() - 1.0).abs() < 1e-6, "vector {i}: {dot}");
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let a = random(3, (150, 90));
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| svd(&a, 20).unwrap())
        };
        let (one, two) = (with(1), with(2));
        assert_eq!(one.vt_kn.data, two.vt_kn.data);
        assert_eq!(one.s, two.s);
    }
}
