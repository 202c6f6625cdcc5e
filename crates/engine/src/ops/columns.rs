//! A matrix whose parts are written by several tasks, each part by one. Every product ends here.

use super::bf16::{self, Lanes, Limbs, Operand};
use super::mat::{Mat, Side, fits};
use super::matmul::{Into, Precision, Threads, gemm_raw};
#[cfg(target_arch = "x86_64")]
use super::thin;

/// A matrix in memory, rows `stride` elements apart.
pub(crate) struct Columns {
    start: *mut f32,
    len: usize,
    stride: usize,
}

#[expect(unsafe_code, reason = "parts of one matrix are written by several threads")]
// SAFETY: every access promises that no other thread uses its part, and the matrix outlives the tasks.
unsafe impl Sync for Columns {}

impl Columns {
    /// A matrix that fills `data`.
    pub fn new(data: &mut [f32], stride: usize) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), stride }
    }

    /// A matrix of `rows` x `stride` that `write` fills. Its memory is not cleared first: products are the
    /// largest that a layer takes.
    ///
    /// # Safety
    /// `write` overwrites every element, and reads none before.
    #[expect(unsafe_code, reason = "memory that has not been written yet")]
    pub unsafe fn written(rows: usize, stride: usize, write: impl FnOnce(&Self)) -> Vec<f32> {
        let len = rows * stride;
        let mut data = Vec::with_capacity(len);
        write(&Self { start: data.as_mut_ptr(), len, stride });
        // SAFETY: the allocation holds `len` elements, and all of them have been written.
        unsafe {
            data.set_len(len);
        }
        data
    }

    /// `part (+)= scale * a b`, for the part from (`row`, `col`) on that is as large as the product.
    ///
    /// # Safety
    /// No other task uses that part meanwhile. If it is added to, it has been written before.
    ///
    /// # Panics
    /// When the shapes do not fit or a matrix reaches past its slice: a bug in the calling kernel.
    #[expect(unsafe_code, reason = "as above")]
    #[expect(clippy::too_many_arguments, reason = "a product's operands and its place")]
    pub unsafe fn product(
        &self,
        precision: Precision,
        threads: Threads,
        at: (usize, usize),
        into: Into,
        scale: f32,
        a: Mat<'_>,
        b: Mat<'_>,
    ) {
        fits(&a, &b);
        // SAFETY: the caller's promise; the operands and the part were checked.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if threads == Threads::Pool
                && let Some(kind) = thin::Kind::of(&a, &b)
            {
                return thin::product(kind, self, at, into, scale, a, b);
            }
            if let Some(limbs) = precision.limbs(a.rows(), b.cols(), a.cols()) {
                let (left, right) = (Lanes::rows(a, scale), Lanes::columns(b));
                return self.product_of(limbs, threads, at, into, &left, &right);
            }
            let dst = self.part(at, a.rows(), b.cols());
            gemm_raw(dst, self.stride, into, scale, a, b, threads);
        }
    }

    /// `(+)= scale * a b` of operands of either type, for the whole matrix. Rounded ones are read as they are by
    /// the CPU's bf16 unit, else as f32.
    ///
    /// # Safety
    /// As [`Columns::product`].
    ///
    /// # Panics
    /// As there.
    #[expect(unsafe_code, reason = "as above")]
    pub unsafe fn product_of_either(
        &self,
        precision: Precision,
        threads: Threads,
        into: Into,
        scale: f32,
        a: Side<'_>,
        b: Side<'_>,
    ) {
        let limbs = match (a, b) {
            (Side::Whole(_), Side::Whole(_)) => None,
            _ => precision.limbs(a.rows(), b.cols(), a.cols()),
        };
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(limbs) = limbs {
                let (left, right) = (a.lanes(scale), b.t().lanes(1.0));
                return self.product_of(limbs, threads, (0, 0), into, &*left, &*right);
            }
            let (mut a_copy, mut b_copy) = (Vec::new(), Vec::new());
            let (a, b) = (a.whole(&mut a_copy), b.whole(&mut b_copy));
            self.product(precision, threads, (0, 0), into, scale, a, b);
        }
    }

    /// `part (+)= left right` on the CPU's bf16 unit.
    ///
    /// # Safety
    /// As [`Columns::product`].
    ///
    /// # Panics
    /// As there.
    #[expect(unsafe_code, reason = "as above")]
    pub unsafe fn product_of(
        &self,
        limbs: Limbs,
        threads: Threads,
        at: (usize, usize),
        into: Into,
        left: &dyn Operand,
        right: &dyn Operand,
    ) {
        let dst = self.part(at, left.lanes(), right.lanes());
        // SAFETY: the part lies inside the allocation, and is the caller's alone.
        unsafe { bf16::product(limbs, threads, dst, self.stride, into, left, right) }
    }

    /// `width` elements of a row.
    ///
    /// # Safety
    /// As [`Columns::product`], until the slice is dropped; they have been written before, or are not read.
    #[expect(unsafe_code, reason = "as above")]
    #[expect(clippy::mut_from_ref, reason = "tasks share the matrix, never a part of it")]
    pub unsafe fn row(&self, row: usize, col: usize, width: usize) -> &mut [f32] {
        // SAFETY: inside the allocation, and the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.part((row, col), 1, width), width) }
    }

    /// The first element of a part, which lies inside the matrix.
    fn part(&self, (row, col): (usize, usize), rows: usize, cols: usize) -> *mut f32 {
        let at = row * self.stride + col;
        let end = if rows * cols == 0 { at } else { at + (rows - 1) * self.stride + cols };
        assert!(end <= self.len && col + cols <= self.stride, "part outside its matrix");
        #[expect(unsafe_code, reason = "as above")]
        // SAFETY: `at` is at most `len`.
        unsafe {
            self.start.add(at)
        }
    }
}
