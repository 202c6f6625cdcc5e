//! Activations that are kept in bf16, and the products that make and read them.
//!
//! Where products round their operands to bf16 anyway, what one product hands to the next through a function of
//! each number (the MLP's gate) may lie in memory rounded: half of the traffic, and half of what a layer keeps. A
//! result is rounded once, from f32 sums, before it leaves the core. It is what torch's autocast keeps, too.
//! Operands of other precisions, and products that are too small for the unit, read such a tensor as f32.

use candle_core::Tensor;
use half::bf16;

use super::bf16::{self as unit, Limbs};
use super::mat::{Held, Side};
use super::matmul::{self, Precision};
use crate::error::Result;
use crate::tensor::{Place, from_vec_of, place};

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
    from_vec_of(product(x.side(), w.side().t()), (t, o))
}

/// `dy_to w_od`, rounded.
///
/// # Errors
/// When the shapes do not fit.
pub fn input_grad_to(dy_to: &Tensor, w_od: &Tensor) -> Result<Tensor> {
    let ((t, o), (o_w, d)) = (dy_to.dims2()?, w_od.dims2()?);
    matmul::same("output features", o, o_w)?;
    let (dy, w) = (Held::of(dy_to)?, Held::of(w_od)?);
    from_vec_of(product(dy.side(), w.side()), (t, d))
}

/// `a b`, rounded.
fn product(a: Side<'_>, b: Side<'_>) -> Vec<bf16> {
    let len = a.rows() * b.cols();
    let mut data = Vec::with_capacity(len);
    #[expect(unsafe_code, reason = "memory that has not been written yet")]
    // SAFETY: the allocation holds `len` elements, all of which the product writes and none of which it reads.
    unsafe {
        unit::rounded(data.as_mut_ptr(), &*a.lanes(1.0), &*b.t().lanes(1.0));
        data.set_len(len);
    }
    data
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::ops::matmul::Into;
    use crate::ops::testing::{close, random};

    /// The nearest bf16 numbers, as f32.
    fn rounded(x: &Tensor) -> Tensor {
        x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
    }

    #[test]
    fn products_of_rounded_operands_are_those_of_their_values() {
        for (t, d, o) in [(1, 1, 1), (3, 5, 7), (33, 64, 48), (130, 96, 257), (40, 2305, 32)] {
            let (x, w, dy) = (random(1, (t, d)), random(2, (o, d)), random(3, (t, o)));
            let [x16, w16, dy16] = [&x, &w, &dy].map(|x| x.to_dtype(DType::BF16).unwrap());
            let [x, w, dy] = [&x, &w, &dy].map(rounded);
            for precision in [Precision::Bf16, Precision::F32] {
                let want = matmul::forward(precision, &x, &w).unwrap();
                for (x_is, w_is) in [(&x16, &w), (&x, &w16), (&x16, &w16)] {
                    close(&matmul::forward(precision, x_is, w_is).unwrap(), &want, 1e-6);
                    let [got, want] = [(x_is, w_is), (&x, &w)].map(|(x, w)| {
                        let y = random(6, (t, o));
                        matmul::forward_add(precision, y, 0.5, x, w).unwrap()
                    });
                    close(&got, &want, 1e-6);
                }
                let start = random(4, (t, d));
                for into in [None, Some(start)] {
                    let grad = |dy: &Tensor, w: &Tensor| {
                        let into = into.as_ref().map(|start| start.copy().unwrap());
                        matmul::input_grad(precision, into, 0.5, dy, w).unwrap()
                    };
                    for (dy_is, w_is) in [(&dy16, &w), (&dy, &w16), (&dy16, &w16)] {
                        close(&grad(dy_is, w_is), &grad(&dy, &w), 1e-6);
                    }
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
