//! Matrices as products read them: strided, inside a slice, of f32 or of bf16 numbers.

use candle_core::{DType, Tensor};
use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::bf16::{Lanes, Operand};
use crate::error::Result;
use crate::tensor::{View, view, view_of};

/// A matrix inside a slice: `rows` x `cols` with element strides.
#[derive(Clone, Copy)]
pub struct Mat<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// A row-major matrix that fills `data`, with rows `row_stride` apart.
    #[must_use]
    pub fn new(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose; nothing moves.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from a row to the next, and from a column to the next.
    #[must_use]
    pub fn strides(&self) -> (usize, usize) {
        (self.row_stride, self.col_stride)
    }

    /// The slice from an element on; empty beyond its end.
    #[must_use]
    pub fn from(&self, row: usize, col: usize) -> &'a [T] {
        self.data.get(row * self.row_stride + col * self.col_stride..).unwrap_or(&[])
    }

    fn last(&self) -> usize {
        (self.rows.max(1) - 1) * self.row_stride + (self.cols.max(1) - 1) * self.col_stride
    }
}

/// # Panics
/// When the shapes do not fit or a matrix reaches past its slice: a bug in the calling kernel.
pub(crate) fn fits(a: &Mat<'_>, b: &Mat<'_>) {
    assert_eq!(a.cols, b.rows, "gemm: inner dimensions differ");
    let empty = a.rows == 0 || b.cols == 0 || a.cols == 0;
    assert!(empty || (a.last() < a.data.len() && b.last() < b.data.len()), "gemm: operand short");
}

/// A matrix of either type of number.
#[derive(Clone, Copy)]
pub(crate) enum Side<'a> {
    /// f32.
    Whole(Mat<'a>),
    /// Rounded.
    Rounded(Mat<'a, bf16>),
}

impl<'a> Side<'a> {
    /// Rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Whole(mat) => mat.rows,
            Self::Rounded(mat) => mat.rows,
        }
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        match self {
            Self::Whole(mat) => mat.cols,
            Self::Rounded(mat) => mat.cols,
        }
    }

    /// The transpose; nothing moves.
    pub fn t(self) -> Self {
        match self {
            Self::Whole(mat) => Self::Whole(mat.t()),
            Self::Rounded(mat) => Self::Rounded(mat.t()),
        }
    }

    /// Its rows as an operand of the bf16 unit, times `scale`.
    pub fn lanes(self, scale: f32) -> Box<dyn Operand + 'a> {
        match self {
            Self::Whole(mat) => Box::new(Lanes::rows(mat, scale)),
            Self::Rounded(mat) => Box::new(Lanes::rows(mat, scale)),
        }
    }

    /// The same matrix in f32; `copy` holds it where it was rounded.
    pub fn whole<'b>(self, copy: &'b mut Vec<f32>) -> Mat<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Whole(mat) => mat,
            Self::Rounded(Mat { data, rows, cols, row_stride, col_stride }) => {
                *copy = data.to_f32_vec();
                Mat { data: copy, rows, cols, row_stride, col_stride }
            }
        }
    }
}

/// A tensor of two dimensions, held for reading.
pub(crate) struct Held<'a> {
    numbers: Numbers<'a>,
    rows: usize,
    cols: usize,
}

enum Numbers<'a> {
    Whole(View<'a>),
    Rounded(View<'a, bf16>),
}

impl<'a> Held<'a> {
    /// # Errors
    /// When it is no contiguous matrix of f32 or bf16 numbers on the CPU.
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        let (rows, cols) = tensor.dims2()?;
        let numbers = match tensor.dtype() {
            DType::BF16 => Numbers::Rounded(view_of(tensor)?),
            _ => Numbers::Whole(view(tensor)?),
        };
        Ok(Self { numbers, rows, cols })
    }

    /// The matrix.
    pub fn side(&self) -> Side<'_> {
        let (rows, cols) = (self.rows, self.cols);
        match &self.numbers {
            Numbers::Whole(data) => Side::Whole(Mat::new(data, rows, cols, cols)),
            Numbers::Rounded(data) => Side::Rounded(Mat::new(data, rows, cols, cols)),
        }
    }
}
