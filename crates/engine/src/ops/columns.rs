//! A matrix whose parts are written by several tasks, each part by one.

use super::bf16::{self, Lanes};
use super::matmul::{Into, Mat, Precision, gemm_columns};

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

    /// A matrix in memory that nothing has been written to yet: tasks overwrite all of it.
    pub fn unwritten(data: &mut Vec<f32>, len: usize, stride: usize) -> Self {
        data.clear();
        data.reserve_exact(len);
        Self { start: data.as_mut_ptr(), len, stride }
    }

    /// `part (+)= scale * a b` on this thread alone, for the part from (`row`, `col`) on that is as large
    /// as the product.
    ///
    /// # Safety
    /// No other thread may use that part meanwhile. If it is added to, it has been written before.
    #[expect(unsafe_code, reason = "as above")]
    pub unsafe fn product(
        &self,
        precision: Precision,
        (row, col): (usize, usize),
        into: Into,
        scale: f32,
        a: Mat<'_>,
        b: Mat<'_>,
    ) {
        let at = row * self.stride + col;
        assert!(at <= self.len && col + b.cols() <= self.stride, "part outside its matrix");
        let len = self.len - at;
        // SAFETY: `at` lies inside the allocation; the extent of the product is checked by
        // `gemm_columns`, and below; the caller keeps other threads away.
        unsafe {
            let dst = self.start.add(at);
            let Some(limbs) = precision.limbs(a.rows(), b.cols(), a.cols()) else {
                return gemm_columns(dst, len, self.stride, into, scale, a, b);
            };
            assert!(
                a.rows() == 0 || (a.rows() - 1) * self.stride + b.cols() <= len,
                "part outside its matrix"
            );
            let (left, right) = (Lanes::rows(a, scale), Lanes::columns(b));
            bf16::product_alone(limbs, dst, self.stride, into, &left, &right);
        }
    }

    /// `width` elements of a row.
    ///
    /// # Safety
    /// As [`Columns::product`], until the slice is dropped; they have been written before, or are not read.
    #[expect(unsafe_code, reason = "as above")]
    #[expect(clippy::mut_from_ref, reason = "tasks share the matrix, never a part of it")]
    pub unsafe fn row(&self, row: usize, col: usize, width: usize) -> &mut [f32] {
        let at = row * self.stride + col;
        assert!(at + width <= self.len, "part outside its matrix");
        // SAFETY: inside the allocation, and the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), width) }
    }
}
