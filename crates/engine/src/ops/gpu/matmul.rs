//! Products of matrices on a GPU: a linear layer's three, as one call of BLAS each, which adds to what is there.
//!
//! BLAS counts columns first: a row-major [r, c] is its [c, r]. So `to = x y` is asked for as `toᵀ = yᵀ xᵀ`,
//! and no number moves. With [`Precision::Bf16`] the operands are rounded to bf16; sums and results are f32.
//! Shapes as in [`crate::ops::matmul`].

use candle_core::{DType, Tensor};

use super::{Machine, dense, output, too_large};
use crate::error::Result;
use crate::ops::matmul::{Into, Precision};

/// `c = alpha op(a) op(b) + beta c`, column-major: op(a) is [m, k], op(b) [k, n].
#[derive(Clone, Copy, Debug)]
pub struct Gemm<'a> {
    /// Its operands; both f32 or both bf16.
    pub a: Operand<'a>,
    /// The second.
    pub b: Operand<'a>,
    /// The result, f32, whose columns are `m` apart.
    pub c: &'a Tensor,
    /// m, n and k.
    pub sizes: [i32; 3],
    /// Factor on the product.
    pub alpha: f32,
    /// 0, and `c` may hold anything; or 1.
    pub beta: f32,
}

/// A dense matrix.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// Its numbers.
    pub tensor: &'a Tensor,
    /// Whether op transposes.
    pub transposed: bool,
    /// From one column to the next.
    pub stride: i32,
}

/// A row-major matrix or its transpose.
type Side<'a> = (&'a Tensor, bool);

/// As [`crate::ops::matmul::forward`].
///
/// # Errors
/// When the machine refuses.
pub fn forward(m: &dyn Machine, p: Precision, x_td: &Tensor, w_od: &Tensor) -> Result<Tensor> {
    let y = output(m, &[x_td.dims2()?.0, w_od.dims2()?.0])?;
    product(m, p, &y, Into::Overwrite, 1.0, (x_td, false), (w_od, true))?;
    Ok(y)
}

/// As [`crate::ops::matmul::forward_add`].
///
/// # Errors
/// When the machine refuses.
pub fn forward_add(
    m: &dyn Machine,
    p: Precision,
    y_to: &Tensor,
    scale: f32,
    x_td: &Tensor,
    w_od: &Tensor,
) -> Result<Tensor> {
    let y = dense(y_to)?;
    product(m, p, &y, Into::Add, scale, (x_td, false), (w_od, true))?;
    Ok(y)
}

/// As [`crate::ops::matmul::input_grad`].
///
/// # Errors
/// When the machine refuses.
pub fn input_grad(
    m: &dyn Machine,
    p: Precision,
    dx_td: Option<&Tensor>,
    scale: f32,
    dy_to: &Tensor,
    w_od: &Tensor,
) -> Result<Tensor> {
    let (dx, into) = match dx_td {
        Some(dx) => (dense(dx)?, Into::Add),
        None => (output(m, &[dy_to.dims2()?.0, w_od.dims2()?.1])?, Into::Overwrite),
    };
    product(m, p, &dx, into, scale, (dy_to, false), (w_od, false))?;
    Ok(dx)
}

/// As [`crate::ops::matmul::weight_grad`].
///
/// # Errors
/// When the machine refuses.
pub fn weight_grad(
    m: &dyn Machine,
    p: Precision,
    dw_od: &mut Tensor,
    into: Into,
    scale: f32,
    dy_to: &Tensor,
    x_td: &Tensor,
) -> Result<()> {
    *dw_od = dense(dw_od)?;
    product(m, p, dw_od, into, scale, (dy_to, true), (x_td, false))
}

/// `to (+)= scale * x y`.
fn product(
    m: &dyn Machine,
    precision: Precision,
    to: &Tensor,
    into: Into,
    scale: f32,
    x: Side<'_>,
    y: Side<'_>,
) -> Result<()> {
    let (rows, columns) = to.dims2()?;
    let inner = x.0.dim(usize::from(!x.1))?;
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    if inner == 0 {
        if into == Into::Overwrite {
            to.zero_set()?;
        }
        return Ok(());
    }
    let given = |(tensor, _): Side<'_>| -> Result<Tensor> {
        let tensor = dense(tensor)?;
        Ok(match precision {
            Precision::F32 => tensor,
            Precision::Bf16 => tensor.to_dtype(DType::BF16)?,
        })
    };
    let (left, right) = (given(x)?, given(y)?);
    let size = |n: usize| i32::try_from(n).map_err(|_| too_large(n));
    let gemm = Gemm {
        a: Operand { tensor: &right, transposed: y.1, stride: size(right.dim(1)?)? },
        b: Operand { tensor: &left, transposed: x.1, stride: size(left.dim(1)?)? },
        c: to,
        sizes: [size(columns)?, size(rows)?, size(inner)?],
        alpha: scale,
        beta: if into == Into::Add { 1.0 } else { 0.0 },
    };
    m.gemm(&gemm)
}
