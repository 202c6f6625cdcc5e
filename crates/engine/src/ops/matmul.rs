//! The three products of a linear layer, on strided slices: through the gemm crate with f32 instructions, or
//! through [`super::bf16`] on the CPU's bf16 unit ([`Precision::limbs`] decides).
//!
//! Weights are stored as Hugging Face stores them, `w_od` = [out, in]:
//! forward `y_to = x_td w_odᵀ`, input gradient `dx_td = dy_to w_od`, weight gradient
//! `dw_od += dy_toᵀ x_td`. Transposes are strides, never copies; accumulation happens inside the
//! product. Both split over rows and columns only, so results do not depend on the thread count.

use candle_core::Tensor;
use gemm::Parallelism;

use super::bf16::{self, Limbs};
use super::columns::Columns;
use super::gpu;
use super::mat::{Held, Mat, Side};
use crate::error::{Error, Result};
use crate::tensor::{Place, from_vec, place, update};

/// What a product does with what is in its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// Overwrites it (it may be uninitialised garbage).
    Overwrite,
    /// Adds to it.
    Add,
}

/// What the operands of products are rounded to. Sums and results are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Nothing: they are f32.
    #[default]
    F32,
    /// bfloat16, where the CPU multiplies it faster ([`bf16::available`]).
    Bf16,
}

/// Rows, columns or terms below which a product waits for memory, not for arithmetic: rounding would only
/// cost.
const FEW: usize = 8;

/// Operations below which an f32 product is not worth cutting its operands.
const WORTH_CUTTING: usize = 1 << 22;

impl Precision {
    /// How the operands of an m x n product of k terms are given to the CPU's bf16 unit; `None`: they are
    /// not, and it is one of f32 instructions.
    #[must_use]
    pub fn limbs(self, m: usize, n: usize, k: usize) -> Option<Limbs> {
        let cut = || 2 * m * n * k >= WORTH_CUTTING && bf16::carries_f32();
        match self {
            _ if m.min(n).min(k) < FEW => None,
            Self::Bf16 => Some(Limbs::One),
            Self::F32 => cut().then_some(Limbs::Three),
        }
    }

    /// How operands that stay packed for several products are given to the CPU's bf16 unit; `None`: they are
    /// not, and products are of f32 instructions.
    #[must_use]
    pub fn kept(self) -> Option<Limbs> {
        match self {
            Self::Bf16 => Some(Limbs::One),
            Self::F32 => bf16::carries_f32().then_some(Limbs::Three),
        }
    }
}

/// Who computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The thread that asks: it is a task already.
    One,
    /// The current pool, where the product is large enough to be worth splitting.
    Pool,
}

/// `scale * a b`, row-major.
pub(crate) fn product(
    precision: Precision,
    threads: Threads,
    scale: f32,
    a: Side<'_>,
    b: Side<'_>,
) -> Vec<f32> {
    let (rows, cols) = (a.rows(), b.cols());
    if a.cols() == 0 {
        return vec![0.0; rows * cols];
    }
    #[expect(unsafe_code, reason = "memory that has not been written yet")]
    // SAFETY: the product is as large as the matrix, overwrites all of it and reads none; nobody else
    // knows of it.
    unsafe {
        Columns::written(rows, cols, |to| {
            to.product_of_either(precision, threads, Into::Overwrite, scale, a, b);
        })
    }
}

/// `dst (+)= scale * a b` with rows one after the other.
fn product_into(
    precision: Precision,
    dst: &mut [f32],
    into: Into,
    scale: f32,
    a: Side<'_>,
    b: Side<'_>,
) {
    let to = Columns::new(dst, b.cols());
    #[expect(unsafe_code, reason = "parts of a matrix are written through a pointer")]
    // SAFETY: `dst` is exclusively borrowed.
    unsafe {
        to.product_of_either(precision, Threads::Pool, into, scale, a, b);
    }
}

/// `dst (+)= scale * a b` with f32 instructions.
///
/// # Safety
/// The operands [`fits`]; row i of the product, at `dst + i * dst_stride`, is of one allocation, and nobody
/// else uses it. With [`Into::Overwrite`] it may be uninitialised.
#[expect(unsafe_code, reason = "the gemm crate's entry point takes raw pointers")]
pub(crate) unsafe fn gemm_raw(
    dst: *mut f32,
    dst_stride: usize,
    into: Into,
    scale: f32,
    a: Mat<'_>,
    b: Mat<'_>,
    threads: Threads,
) {
    let (m, n, k) = (a.rows(), b.cols(), a.cols());
    let [(a_row, a_col), (b_row, b_col)] = [a.strides(), b.strides()];
    if m == 0 || n == 0 {
        return;
    }
    let (read_dst, alpha) = match into {
        Into::Overwrite => (false, 0.0),
        Into::Add => (true, 1.0),
    };
    let threads = match threads {
        Threads::One => Parallelism::None,
        Threads::Pool => pool(2 * m * n * k),
    };
    // SAFETY: the caller keeps every access of the three strided matrices inside their slices and others
    // away from the destination, and f32 has no invalid bit patterns.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            1,
            dst_stride as isize,
            read_dst,
            a.from(0, 0).as_ptr(),
            a_col as isize,
            a_row as isize,
            b.from(0, 0).as_ptr(),
            b_col as isize,
            b_row as isize,
            alpha,
            scale,
            false,
            false,
            false,
            threads,
        );
    }
}

/// Threads of the current pool, for a product large enough to be worth splitting.
fn pool(flops: usize) -> Parallelism {
    if flops < 1 << 18 || rayon::current_num_threads() == 1 {
        Parallelism::None
    } else {
        Parallelism::Rayon(rayon::current_num_threads())
    }
}

/// `y_to = x_td w_odᵀ`.
///
/// # Errors
/// When the inner dimensions differ.
pub fn forward(precision: Precision, x_td: &Tensor, w_od: &Tensor) -> Result<Tensor> {
    let ((t, d), (o, d_w)) = (x_td.dims2()?, w_od.dims2()?);
    same("input features", d, d_w)?;
    match place(x_td) {
        Place::Host => {}
        Place::Gpu(m) => return gpu::matmul::forward(&*m, precision, x_td, w_od),
        Place::Composed => return Ok(x_td.matmul(&w_od.t()?)?),
    }
    let (x, w) = (Held::of(x_td)?, Held::of(w_od)?);
    from_vec(product(precision, Threads::Pool, 1.0, x.side(), w.side().t()), (t, o))
}

/// `y_to += scale * x_td w_odᵀ`, returning `y_to`.
///
/// # Errors
/// When the shapes do not fit.
pub fn forward_add(
    precision: Precision,
    y_to: Tensor,
    scale: f32,
    x_td: &Tensor,
    w_od: &Tensor,
) -> Result<Tensor> {
    let ((_, d), (_, d_w)) = (x_td.dims2()?, w_od.dims2()?);
    same("input features", d, d_w)?;
    match place(x_td) {
        Place::Host => {}
        Place::Gpu(m) => {
            return gpu::matmul::forward_add(&*m, precision, &y_to, scale, x_td, w_od);
        }
        Place::Composed => {
            let product = x_td.matmul(&w_od.t()?)?;
            return Ok((y_to + (product * f64::from(scale))?)?);
        }
    }
    let (x, w) = (Held::of(x_td)?, Held::of(w_od)?);
    let (a, b) = (x.side(), w.side().t());
    update(&y_to, |y| product_into(precision, y, Into::Add, scale, a, b))?;
    Ok(y_to)
}

/// `scale * dy_to w_od`, added to `dx_td` where one is given.
///
/// # Errors
/// When the shapes do not fit.
pub fn input_grad(
    precision: Precision,
    dx_td: Option<Tensor>,
    scale: f32,
    dy_to: &Tensor,
    w_od: &Tensor,
) -> Result<Tensor> {
    let ((t, o), (o_w, d)) = (dy_to.dims2()?, w_od.dims2()?);
    same("output features", o, o_w)?;
    match place(dy_to) {
        Place::Host => {}
        Place::Gpu(m) => {
            let dx = dx_td.as_ref();
            return gpu::matmul::input_grad(&*m, precision, dx, scale, dy_to, w_od);
        }
        Place::Composed => {
            let product = (dy_to.matmul(w_od)? * f64::from(scale))?;
            return Ok(match dx_td {
                Some(dx) => (dx + product)?,
                None => product,
            });
        }
    }
    let (dy, w) = (Held::of(dy_to)?, Held::of(w_od)?);
    let (a, b) = (dy.side(), w.side());
    if let Some(dx_td) = dx_td {
        update(&dx_td, |dx| product_into(precision, dx, Into::Add, scale, a, b))?;
        return Ok(dx_td);
    }
    from_vec(product(precision, Threads::Pool, scale, a, b), (t, d))
}

/// `dw_od (+)= scale * dy_toᵀ x_td`, in place.
///
/// # Errors
/// When the shapes do not fit.
pub fn weight_grad(
    precision: Precision,
    dw_od: &mut Tensor,
    into: Into,
    scale: f32,
    dy_to: &Tensor,
    x_td: &Tensor,
) -> Result<()> {
    let ((t, _), (t_x, _)) = (dy_to.dims2()?, x_td.dims2()?);
    same("tokens", t, t_x)?;
    match place(dy_to) {
        Place::Host => {}
        Place::Gpu(m) => {
            return gpu::matmul::weight_grad(&*m, precision, dw_od, into, scale, dy_to, x_td);
        }
        Place::Composed => {
            let product = (dy_to.t()?.matmul(x_td)? * f64::from(scale))?;
            let sum = match into {
                Into::Overwrite => product,
                Into::Add => (&*dw_od + product)?,
            };
            return Ok(dw_od.slice_set(&sum, 0, 0)?);
        }
    }
    let (dy, x) = (Held::of(dy_to)?, Held::of(x_td)?);
    let (a, b) = (dy.side().t(), x.side());
    update(dw_od, |dw| product_into(precision, dw, into, scale, a, b))
}

pub(crate) fn same(what: &str, left: usize, right: usize) -> Result<()> {
    if left == right {
        return Ok(());
    }
    Err(Error::Internal(format!("matmul: {what} differ, {left} and {right}")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::testing::{close, random};

    #[test]
    fn products_match_candle() {
        for (t, d, o) in [(1, 1, 1), (3, 5, 7), (33, 64, 48), (130, 96, 257)] {
            let (x, w, dy) = (random(1, (t, d)), random(2, (o, d)), random(3, (t, o)));
            close(
                &forward(Precision::F32, &x, &w).unwrap(),
                &x.matmul(&w.t().unwrap()).unwrap(),
                1e-5,
            );
            let dx = dy.matmul(&w).unwrap();
            close(&input_grad(Precision::F32, None, 1.0, &dy, &w).unwrap(), &dx, 1e-5);
            let start = random(4, (t, d));
            let want = (&start + (&dx * 0.5).unwrap()).unwrap();
            close(
                &input_grad(Precision::F32, Some(start.copy().unwrap()), 0.5, &dy, &w).unwrap(),
                &want,
                1e-5,
            );
            let dw = dy.t().unwrap().matmul(&x).unwrap();
            let mut got = random(5, (o, d));
            weight_grad(Precision::F32, &mut got, Into::Overwrite, 1.0, &dy, &x).unwrap();
            close(&got, &dw, 1e-5);
            weight_grad(Precision::F32, &mut got, Into::Add, 2.0, &dy, &x).unwrap();
            close(&got, &(dw * 3.0).unwrap(), 1e-5);
        }
    }
}
