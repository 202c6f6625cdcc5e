//! Vector code without intrinsics: loops that the compiler vectorises for the CPU at hand.
//!
//! [`with_simd`] compiles its closure for AVX-512, AVX2 and the baseline (pulp's dispatch) and runs
//! the best one. What is called inside must be `#[inline(always)]`. Sums go through sixteen lanes in
//! a fixed order, so that a result depends on neither the instruction set's width nor the threads.

use std::sync::LazyLock;

use half::bf16;

/// Lanes of every reduction.
pub const LANES: usize = 16;

/// Elements of a chunk handed to one task by elementwise kernels. Fixed: it shapes reductions.
pub const CHUNK: usize = 1 << 14;

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Runs `f` compiled for the best instruction set of this CPU. Write the closure as
/// `#[inline(always)] || ..`: a closure that is not inlined here keeps the baseline's instructions.
#[inline(always)]
pub fn with_simd<R>(f: impl FnOnce() -> R) -> R {
    ARCH.dispatch(f)
}

/// The CPU features that choose kernels, in a fixed order: they are part of a result's identity.
#[must_use]
pub fn cpu_features() -> Vec<String> {
    let arch = match () {
        () if cfg!(target_arch = "x86_64") => "x86_64",
        () if cfg!(target_arch = "aarch64") => "aarch64",
        () => "other",
    };
    let mut found = vec![arch.to_owned()];
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
            ("amx-bf16", crate::ops::bf16::carries_f32()),
        ];
        found.extend(known.iter().filter(|k| k.1).map(|k| k.0.to_owned()));
    }
    #[cfg(target_arch = "aarch64")]
    found.extend(std::arch::is_aarch64_feature_detected!("bf16").then(|| "bf16".to_owned()));
    found
}

/// A number as it lies in memory: an f32, or one that is rounded to bf16.
pub trait Stored: Copy + Send + Sync + 'static {
    /// 0.
    const ZERO: Self;

    /// Its value.
    fn get(self) -> f32;

    /// The number that is nearest to `x`, ties to even.
    fn put(x: f32) -> Self;
}

impl Stored for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    #[inline(always)]
    fn put(x: f32) -> Self {
        x
    }
}

impl Stored for bf16 {
    const ZERO: Self = Self::ZERO;

    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// As `bf16::from_f32`, without branches.
    #[inline(always)]
    fn put(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
        Self::from_bits(if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded })
    }
}

/// Sum over `i` of `f(a[i], b[i])` in f32, in sixteen lanes.
#[inline(always)]
pub fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_head, a_tail) = a.as_chunks::<LANES>();
    let (b_head, b_tail) = b.as_chunks::<LANES>();
    for (x, y) in a_head.iter().zip(b_head) {
        for l in 0..LANES {
            lanes[l] += f(x[l], y[l]);
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(x, y)| f(*x, *y)).sum();
    fold(lanes) + tail
}

/// Sum of the elements, in sixteen lanes.
#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    sum2(a, a, |x, _| x)
}

/// Largest element; -inf for none.
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (head, tail) = a.as_chunks::<LANES>();
    for x in head {
        for l in 0..LANES {
            lanes[l] = if x[l] > lanes[l] { x[l] } else { lanes[l] };
        }
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m })
}

/// Sum of squares in f64, in sixteen lanes.
#[inline(always)]
pub fn sum_sq(a: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (head, tail) = a.as_chunks::<LANES>();
    for x in head {
        for l in 0..LANES {
            lanes[l] += f64::from(x[l]) * f64::from(x[l]);
        }
    }
    let tail: f64 = tail.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    lanes.iter().sum::<f64>() + tail
}

#[inline(always)]
fn fold(lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    let mut lanes = lanes;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// e^x to about 1 ulp for x in [-87, 88]; 0 below, large and finite above.
///
/// Range reduction to |r| <= ln 2 / 2 and a degree-6 polynomial (Cephes' expf coefficients).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer in every vector width.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, clamped));
    let mut p = 1.987_569_2e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    // n is in the last bits of `shifted`, counted from ROUND's; a cast of a float to an integer, which
    // saturates, is no vector operation.
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let scale = f32::from_bits(exponent << 23);
    let value = y * scale;
    if x < -87.0 { 0.0 } else { value }
}

/// The logistic function.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh(x) = 2 sigmoid(2x) - 1, with the series near 0 where that cancels.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let far = 2.0 / (1.0 + exp(-2.0 * x)) - 1.0;
    let x2 = x * x;
    let near = x * (1.0 + x2 * (-1.0 / 3.0 + x2 * (2.0 / 15.0 + x2 * (-17.0 / 315.0))));
    if x.abs() < 0.15 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_rounded_as_half_does() {
        for upper in 0..=u16::MAX {
            for lower in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(upper) << 16 | lower);
                let (got, want) = (<bf16 as Stored>::put(x), bf16::from_f32(x));
                assert_eq!(got.to_bits(), want.to_bits(), "{upper:x} {lower:x}");
                assert_eq!(got.get().to_bits(), got.to_f32().to_bits(), "{upper:x} {lower:x}");
            }
        }
    }

    fn check(name: &str, f: impl Fn(f32) -> f32, reference: impl Fn(f64) -> f64, tolerance: f64) {
        for i in -8000..8000 {
            let x = i as f32 * 0.01;
            let (got, want) = (
                f64::from(with_simd(
                    #[inline(always)]
                    || f(x),
                )),
                reference(f64::from(x)),
            );
            let error = (got - want).abs() / want.abs().max(1e-30);
            assert!(error < tolerance || (got - want).abs() < 1e-37, "{name}({x}): {got} {want}");
        }
    }

    #[test]
    fn elementary_functions_match_libm() {
        check("exp", exp, f64::exp, 3e-7);
        check("sigmoid", sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 1e-6);
        check("tanh", tanh, f64::tanh, 2e-6);
    }

    #[test]
    fn reductions_match_a_plain_sum() {
        for n in [0usize, 1, 15, 16, 17, 1000] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32).sin()).collect();
            let plain: f64 = a.iter().map(|x| f64::from(*x)).sum();
            assert!((f64::from(sum(&a)) - plain).abs() < 1e-3);
            let squares: f64 = a.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            assert!((sum_sq(&a) - squares).abs() < 1e-9 * (1.0 + squares));
            let largest = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&a).to_bits(), largest.to_bits());
        }
    }
}
