//! What a linear layer, the head and the embedding ask of a weight [out, in], however it is stored.
//!
//! A candle tensor answers through [`matmul`]; quantised weights ([`crate::quant::Packed`]) unpack a
//! panel at a time. Only products with activations exist here: a weight behind this trait that is not
//! a plain tensor is frozen.

use candle_core::Tensor;
use rayon::prelude::*;

use super::matmul::Precision;
use super::{embedding, matmul};
use crate::error::Result;
use crate::simd::{sum_sq, with_simd};
use crate::tensor::view;

/// A weight of shape [out, in].
pub trait Matrix: Sync {
    /// (out, in).
    ///
    /// # Errors
    /// When it is no matrix.
    fn dims(&self) -> Result<(usize, usize)>;

    /// `x_td wᵀ`, [t, out].
    ///
    /// # Errors
    /// When the inner dimensions differ.
    fn forward(&self, precision: Precision, x_td: &Tensor) -> Result<Tensor>;

    /// `y_to += x_td wᵀ`, returning `y_to`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    fn forward_add(&self, precision: Precision, y_to: Tensor, x_td: &Tensor) -> Result<Tensor>;

    /// `scale * dy_to w`, added to `dx_td` where one is given, [t, in].
    ///
    /// # Errors
    /// When the shapes do not fit.
    fn input_grad(
        &self,
        precision: Precision,
        dx_td: Option<Tensor>,
        scale: f32,
        dy_to: &Tensor,
    ) -> Result<Tensor>;

    /// Rows `ids`, times `scale`, [ids, in].
    ///
    /// # Errors
    /// When an id is not below `out`.
    fn rows(&self, ids: &[u32], scale: f32) -> Result<Tensor>;

    /// Squared Euclidean length of each row (DoRA starts from it).
    ///
    /// # Errors
    /// When the weight cannot be read.
    fn row_squares(&self) -> Result<Vec<f64>>;
}

impl Matrix for Tensor {
    fn dims(&self) -> Result<(usize, usize)> {
        Ok(self.dims2()?)
    }

    fn forward(&self, precision: Precision, x_td: &Tensor) -> Result<Tensor> {
        matmul::forward(precision, x_td, self)
    }

    fn forward_add(&self, precision: Precision, y_to: Tensor, x_td: &Tensor) -> Result<Tensor> {
        matmul::forward_add(precision, y_to, 1.0, x_td, self)
    }

    fn input_grad(
        &self,
        precision: Precision,
        dx_td: Option<Tensor>,
        scale: f32,
        dy_to: &Tensor,
    ) -> Result<Tensor> {
        matmul::input_grad(precision, dx_td, scale, dy_to, self)
    }

    fn rows(&self, ids: &[u32], scale: f32) -> Result<Tensor> {
        embedding::forward(self, ids, scale)
    }

    fn row_squares(&self) -> Result<Vec<f64>> {
        let (_, width) = self.dims2()?;
        let host = self.to_device(&candle_core::Device::Cpu)?;
        let data = view(&host)?;
        let square = |row: &[f32]| {
            with_simd(
                #[inline(always)]
                || sum_sq(row),
            )
        };
        Ok(data.par_chunks_exact(width).map(square).collect())
    }
}
