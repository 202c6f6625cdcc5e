//! Activations that are kept in bf16, and the products that make and read them.
//!
//! Where products round their operands to bf16 anyway, what one product hands to the next through a function of
//! each number (the MLP's gate) may lie in memory rounded: half of the traffic, and half of what a layer keeps. A
//! result is rounded once, from f32 sums, before it leaves the core. It is what torch's autocast keeps, too.
//! Operands of other precisions, and products that are too small for the unit, read such a tensor as f32.

use candle_core::{DType, Tensor};
use half::bf16;

use super::bf16::{self as unit, Lanes, Limbs, Number, Operand};
use super::columns::Columns;
use super::matmul::{self, Into, Mat, Precision, Threads};
use crate::error::Result;
use crate::tensor::{Place, View, from_vec, from_vec_of, place, update, view, view_of};

/// Whether products of `t` tokens, or of many where none are given, with a weight [features, terms] or its
/// transpose can round their results where `w` is.
#[must_use]
pub fn can_make(precision: Precision, w: &Tensor, t: Option<usize>, terms: usize) -> bool {
    let t = t.unwrap_or(usize::from(u16::MAX));
    matches!(place(w), Place::Host)
        && precision.limbs(t, terms, terms) == Some(Limbs::One)
        && unit::in_one_stretch(Limbs::One, terms)
}

/// `y_to = x_td w_odᵀ`, rounded.
///
/// # Errors
/// When the inner dimensions differ.
pub fn forward_to(x_td: &Tensor, w_od: &Tensor) -> Result<Tensor> {
    let ((t, d), (o, d_w)) = (x_td.dims2()?, w_od.dims2()?);
    matmul::same("input features", d, d_w)?;
    let (x, w) = (Held::of(x_td)?, Held::of(w_od)?);
    from_vec_of(product(&*x.rows(1.0), &*w.rows(1.0)), (t, o))
}

/// `dy_to w_od`, rounded.
///
/// # Errors
/// When the shapes do not fit.
pub fn input_grad_to(dy_to: &Tensor, w_od: &Tensor) -> Result<Tensor> {
    let ((t, o), (o_w, d)) = (dy_to.dims2()?, w_od.dims2()?);
    matmul::same("output features", o, o_w)?;
    let (dy, w) = (Held::of(dy_to)?, Held::of(w_od)?);
    from_vec_of(product(&*dy.rows(1.0), &*w.cols(1.0)), (t, d))
}

/// As [`matmul::forward`], of rounded `x_td`.
pub(super) fn forward(precision: Precision, x_td: &Tensor, w_od: &Tensor) -> Result<Tensor> {
    let ((t, d), (o, _)) = (x_td.dims2()?, w_od.dims2()?);
    let Some(limbs) = precision.limbs(t, o, d) else {
        return matmul::forward(precision, &x_td.to_dtype(DType::F32)?, w_od);
    };
    let (x, w) = (Held::of(x_td)?, Held::of(w_od)?);
    from_vec(whole(limbs, &*x.rows(1.0), &*w.rows(1.0)), (t, o))
}

/// As [`matmul::input_grad`], of rounded `dy_to`.
pub(super) fn input_grad(
    precision: Precision,
    dx_td: Option<Tensor>,
    scale: f32,
    dy_to: &Tensor,
    w_od: &Tensor,
) -> Result<Tensor> {
    let ((t, o), (_, d)) = (dy_to.dims2()?, w_od.dims2()?);
    let Some(limbs) = precision.limbs(t, d, o) else {
        let dy = dy_to.to_dtype(DType::F32)?;
        return matmul::input_grad(precision, dx_td, scale, &dy, w_od);
    };
    let (dy, w) = (Held::of(dy_to)?, Held::of(w_od)?);
    let (left, right) = (dy.rows(scale), w.cols(1.0));
    let Some(dx_td) = dx_td else {
        return from_vec(whole(limbs, &*left, &*right), (t, d));
    };
    update(&dx_td, |dx| put(limbs, dx, Into::Add, &*left, &*right))?;
    Ok(dx_td)
}

/// As [`matmul::weight_grad`], where `dy_to`, `x_td` or both are rounded.
pub(super) fn weight_grad(
    precision: Precision,
    dw_od: &mut Tensor,
    into: Into,
    scale: f32,
    dy_to: &Tensor,
    x_td: &Tensor,
) -> Result<()> {
    let ((t, o), (_, d)) = (dy_to.dims2()?, x_td.dims2()?);
    let Some(limbs) = precision.limbs(o, d, t) else {
        let [dy, x] = [dy_to, x_td].map(|operand| operand.to_dtype(DType::F32));
        return matmul::weight_grad(precision, dw_od, into, scale, &dy?, &x?);
    };
    let (dy, x) = (Held::of(dy_to)?, Held::of(x_td)?);
    update(dw_od, |dw| put(limbs, dw, into, &*dy.cols(scale), &*x.cols(1.0)))
}

/// A matrix, whatever its numbers are.
enum Held<'a> {
    Whole(View<'a>, usize, usize),
    Rounded(View<'a, bf16>, usize, usize),
}

impl<'a> Held<'a> {
    fn of(tensor: &'a Tensor) -> Result<Self> {
        let (rows, cols) = tensor.dims2()?;
        Ok(match tensor.dtype() {
            DType::BF16 => Self::Rounded(view_of(tensor)?, rows, cols),
            _ => Self::Whole(view(tensor)?, rows, cols),
        })
    }

    /// Its rows as an operand, times `scale`.
    fn rows(&self, scale: f32) -> Box<dyn Operand + '_> {
        match self {
            Self::Whole(x, rows, cols) => lanes(Mat::new(x, *rows, *cols, *cols), scale),
            Self::Rounded(x, rows, cols) => lanes(Mat::new(x, *rows, *cols, *cols), scale),
        }
    }

    /// Its columns.
    fn cols(&self, scale: f32) -> Box<dyn Operand + '_> {
        match self {
            Self::Whole(x, rows, cols) => lanes(Mat::new(x, *rows, *cols, *cols).t(), scale),
            Self::Rounded(x, rows, cols) => lanes(Mat::new(x, *rows, *cols, *cols).t(), scale),
        }
    }
}

fn lanes<'a, T: Number>(mat: Mat<'a, T>, scale: f32) -> Box<dyn Operand + 'a> {
    Box::new(Lanes::rows(mat, scale))
}

/// `left right`, rounded.
fn product(left: &dyn Operand, right: &dyn Operand) -> Vec<bf16> {
    let len = left.lanes() * right.lanes();
    let mut data = Vec::with_capacity(len);
    #[expect(unsafe_code, reason = "memory that has not been written yet")]
    // SAFETY: the allocation holds `len` elements, all of which the product writes and none of which it reads.
    unsafe {
        unit::rounded(data.as_mut_ptr(), left, right);
        data.set_len(len);
    }
    data
}

/// `left right`.
fn whole(limbs: Limbs, left: &dyn Operand, right: &dyn Operand) -> Vec<f32> {
    #[expect(unsafe_code, reason = "memory that has not been written yet")]
    // SAFETY: the product overwrites all of the matrix and reads none of it.
    unsafe {
        Columns::written(left.lanes(), right.lanes(), |to| {
            to.product_of(limbs, Threads::Pool, (0, 0), Into::Overwrite, left, right);
        })
    }
}

/// `dst (+)= left right`.
fn put(limbs: Limbs, dst: &mut [f32], into: Into, left: &dyn Operand, right: &dyn Operand) {
    let to = Columns::new(dst, right.lanes());
    #[expect(unsafe_code, reason = "parts of a matrix are written through a pointer")]
    // SAFETY: `dst` is exclusively borrowed.
    unsafe {
        to.product_of(limbs, Threads::Pool, (0, 0), into, left, right);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::testing::{close, random};

    /// The nearest bf16 numbers, as f32.
    fn rounded(x: &Tensor) -> Tensor {
        x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
    }

    #[test]
    fn products_of_rounded_operands_are_those_of_their_values() {
        for (t, d, o) in [(1, 1, 1), (3, 5, 7), (33, 64, 48), (130, 96, 257), (40, 2305, 32)] {
            let (x, w, dy) = (random(1, (t, d)), random(2, (o, d)), random(3, (t, o)));
            let [x16, dy16] = [&x, &dy].map(|x| x.to_dtype(DType::BF16).unwrap());
            let [x, dy] = [&x, &dy].map(rounded);
            for precision in [Precision::Bf16, Precision::F32] {
                let want = matmul::forward(precision, &x, &w).unwrap();
                close(&matmul::forward(precision, &x16, &w).unwrap(), &want, 1e-6);
                let start = random(4, (t, d));
                for into in [None, Some(start)] {
                    let [a, b] = [&dy16, &dy].map(|dy| {
                        let into = into.as_ref().map(|start| start.copy().unwrap());
                        matmul::input_grad(precision, into, 0.5, dy, &w).unwrap()
                    });
                    close(&a, &b, 1e-6);
                }
                for (dy_is, x_is) in [(&dy16, &x), (&dy, &x16), (&dy16, &x16)] {
                    let [mut got, mut want] = [5, 5].map(|seed| random(seed, (o, d)));
                    for into in [Into::Overwrite, Into::Add] {
                        matmul::weight_grad(precision, &mut got, into, 2.0, dy_is, x_is).unwrap();
                        matmul::weight_grad(precision, &mut want, into, 2.0, &dy, &x).unwrap();
                    }
                    close(&got, &want, 1e-6);
                }
            }
        }
    }

    #[test]
    fn results_are_rounded_once() {
        for (t, d, o) in [(1, 1, 1), (33, 64, 48), (130, 96, 257), (64, 2304, 1600)] {
            let (x, w, dy) = (random(1, (t, d)), random(2, (o, d)), random(3, (t, o)));
            let (y, dx) = (forward_to(&x, &w).unwrap(), input_grad_to(&dy, &w));
            let [x, w, dy] = [&x, &w, &dy].map(rounded);
            let want = rounded(&x.matmul(&w.t().unwrap()).unwrap());
            assert_eq!(y.dtype(), DType::BF16);
            close(&y.to_dtype(DType::F32).unwrap(), &want, 8e-3);
            if unit::in_one_stretch(Limbs::One, o) {
                let want = rounded(&dy.matmul(&w).unwrap());
                close(&dx.unwrap().to_dtype(DType::F32).unwrap(), &want, 8e-3);
            }
        }
        let like = random(1, (1, 1));
        assert!(!can_make(Precision::F32, &like, Some(64), 64));
        assert!(!can_make(Precision::Bf16, &like, None, 4096));
        assert!(!can_make(Precision::Bf16, &like, Some(4), 64));
        assert!(can_make(Precision::Bf16, &like, Some(64), 2304));
        assert!(can_make(Precision::Bf16, &like, None, 2304));
    }
}
