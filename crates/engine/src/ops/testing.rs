//! What the op tests share: random tensors, comparison by norm, finite differences.

#![expect(clippy::unwrap_used, reason = "tests")]

use candle_core::{Shape, Tensor};

use crate::rng::{Purpose, Stream};
use crate::tensor::{from_vec, view};

/// A tensor of normal numbers, the same for the same `seed`.
pub fn random(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let mut data = vec![0f32; shape.elem_count()];
    Stream::new(seed, Purpose::InitWeights, 0, 0).fill_normal(&mut data, 1.0);
    from_vec(data, shape).unwrap()
}

/// Asserts that `got` is within `tolerance` of `want`, relative to the norm of `want`.
#[track_caller]
pub fn close(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims());
    let got = got.contiguous().unwrap();
    let want = want.contiguous().unwrap();
    let (g, w) = (view(&got).unwrap(), view(&want).unwrap());
    let norm = w.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let error =
        g.iter().zip(&*w).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt();
    assert!(error <= tolerance * norm.max(1e-6), "error {error:.3e} of norm {norm:.3e}");
}

/// Asserts that `grad` is the gradient of `loss` at `x`, by central differences along a few random
/// directions (relative `tolerance`).
#[track_caller]
pub fn finite_difference(x: &Tensor, grad: &Tensor, tolerance: f64, loss: impl Fn(&Tensor) -> f64) {
    for direction in 0..4u64 {
        let v = random(900 + direction, x.shape().clone());
        let step = 3e-3;
        let moved = |s: f64| (x + (&v * s).unwrap()).unwrap();
        let slope = (loss(&moved(step)) - loss(&moved(-step))) / (2.0 * step);
        let (g, v) = (view(grad).unwrap(), view(&v).unwrap());
        let dot: f64 = g.iter().zip(&*v).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!((slope - dot).abs() <= tolerance * slope.abs().max(1.0), "{slope} {dot}");
    }
}

/// Sum of the elementwise product, in f64: a scalar loss whose gradient in `y` is `dy`.
pub fn dot(y: &Tensor, dy: &Tensor) -> f64 {
    let (y, dy) = (view(y).unwrap(), view(dy).unwrap());
    y.iter().zip(&*dy).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
