//! 16-bit numbers made while a model is loaded: the frozen base of `bf16` and `fp16`.
//!
//! Each number is rounded to the nearest, ties to even, as torch does.

use half::{bf16, f16};
use rayon::prelude::*;
use run::config::Half;

use super::{Format, Packed};
use crate::error::Result;

/// Numbers that one thread converts at a time.
const CHUNK: usize = 1 << 14;

/// Rounds a weight that comes some rows at a time.
pub struct HalfBuilder {
    half: Half,
    cols: usize,
    bytes: Vec<u8>,
}

impl HalfBuilder {
    /// No rows yet, of `cols` numbers each.
    #[must_use]
    pub fn new(half: Half, cols: usize) -> Self {
        Self { half, cols: cols.max(1), bytes: Vec::new() }
    }

    /// Takes the memory for `rows` rows at once: a weight that grows is copied each time it outgrows its place.
    #[must_use]
    pub fn room_for(mut self, rows: usize) -> Self {
        self.bytes.reserve_exact(2 * rows * self.cols);
        self
    }

    /// Appends whole rows; whether all their numbers are finite in the new format.
    #[must_use]
    pub fn push(&mut self, rows: &[f32]) -> bool {
        let at = self.bytes.len();
        self.bytes.resize(at + 2 * rows.len(), 0);
        let round = |x: f32| match self.half {
            Half::Bf16 => {
                let x = bf16::from_f32(x);
                (x.to_le_bytes(), x.is_finite())
            }
            Half::Fp16 => {
                let x = f16::from_f32(x);
                (x.to_le_bytes(), x.is_finite())
            }
        };
        rows.par_chunks(CHUNK)
            .zip(self.bytes[at..].par_chunks_mut(2 * CHUNK))
            .map(|(rows, bytes)| {
                let mut all = true;
                for (x, b) in rows.iter().zip(bytes.as_chunks_mut::<2>().0) {
                    let finite;
                    (*b, finite) = round(*x);
                    all &= finite;
                }
                all
            })
            .reduce(|| true, |a, b| a & b)
    }

    /// The weight.
    ///
    /// # Errors
    /// When the numbers are no whole rows.
    pub fn finish(self) -> Result<Packed> {
        let rows = self.bytes.len() / 2 / self.cols;
        Packed::new(self.half.into(), rows, self.cols, self.bytes)
    }
}

impl From<Half> for Format {
    fn from(half: Half) -> Self {
        match half {
            Half::Bf16 => Self::Bf16,
            Half::Fp16 => Self::F16,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_the_nearest() {
        let eps = f32::EPSILON * 65536.0; // 2^-7
        for (half, x, want, finite) in [
            (Half::Bf16, 1.0 + 0.4 * eps, 1.0, true),
            (Half::Bf16, 1.0 + 0.6 * eps, 1.0 + eps, true),
            // ties to even
            (Half::Bf16, 1.0 + 0.5 * eps, 1.0, true),
            (Half::Bf16, 1.0 + 1.5 * eps, 1.0 + 2.0 * eps, true),
            (Half::Bf16, 1e38, 9.968_2e37, true),
            (Half::Fp16, 0.1, 0.099_975_586, true),
            (Half::Fp16, 65504.0, 65504.0, true),
            (Half::Fp16, 70000.0, f32::INFINITY, false),
            (Half::Bf16, f32::NAN, f32::NAN, false),
        ] {
            let mut builder = HalfBuilder::new(half, 2);
            assert_eq!(builder.push(&[x, 0.5]), finite, "{half:?} {x}");
            let packed = builder.finish().unwrap();
            let got = packed.dequantise_rows(0..1).unwrap();
            assert!(got[0] == want || want.is_nan() || (got[0] / want - 1.0).abs() < 1e-3);
            assert_eq!(got[1], 0.5);
            assert_eq!(packed.bytes(), 4);
        }
        let mut builder = HalfBuilder::new(Half::Bf16, 4);
        assert!(builder.push(&[1.0; 6]));
        assert!(builder.finish().is_err());
    }
}
