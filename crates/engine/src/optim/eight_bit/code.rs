//! The dynamic 8-bit data type: seven decades, each with twice the codes of the one below.

use std::sync::LazyLock;

/// Values that share one scale.
pub(super) const BLOCK: usize = 256;

/// Codes for values of either sign, and for values that have none.
pub(super) static SIGNED: LazyLock<Code> = LazyLock::new(|| Code::new(true));
pub(super) static UNSIGNED: LazyLock<Code> = LazyLock::new(|| Code::new(false));

/// 256 values in [-1, 1], and what finds the nearest.
pub(super) struct Code {
    values: [f32; 256],
    /// Between neighbours.
    middles: [f32; 255],
    /// For each sign, exponent and upper five bits of a mantissa, the code nearest to the smallest
    /// number that begins so: the right one is this or one of the next few.
    first: Vec<u8>,
}

/// Bits of a number that are not looked at first.
const LOW_BITS: u32 = 18;

impl Code {
    fn new(signed: bool) -> Self {
        let mut list = vec![0f64, 1.0];
        for decade in 0..7u32 {
            let scale = 10f64.powi(decade as i32 - 6);
            let items = if signed { 1usize << decade } else { 2 << decade };
            for i in 0..items {
                // the middle of each of `items` equal parts of [0.1, 1]
                let mean = 0.1 + 0.9 * (i as f64 + 0.5) / items as f64;
                list.push(scale * mean);
                if signed {
                    list.push(-scale * mean);
                }
            }
        }
        list.sort_by(f64::total_cmp);
        let mut values = [0f32; 256];
        values.iter_mut().zip(&list).for_each(|(to, from)| *to = *from as f32);
        let mut middles = [0f32; 255];
        for (i, middle) in middles.iter_mut().enumerate() {
            *middle = ((list[i] + list[i + 1]) / 2.0) as f32;
        }
        let smallest = |bin: u32| {
            let bits = bin << LOW_BITS;
            // Of negative numbers the smallest has the largest magnitude.
            let negative = bits >> 31 == 1;
            f32::from_bits(if negative { bits | ((1 << LOW_BITS) - 1) } else { bits })
        };
        let nearest = |x: f32| middles.iter().take_while(|m| x > **m).count() as u8;
        let first = (0..1u32 << (32 - LOW_BITS)).map(|bin| nearest(smallest(bin))).collect();
        Self { values, middles, first }
    }

    /// The code of the value nearest to x.
    fn nearest(&self, x: f32) -> u8 {
        let mut code = self.first[(x.to_bits() >> LOW_BITS) as usize];
        while code < 255 && x > self.middles[usize::from(code)] {
            code += 1;
        }
        code
    }

    /// The values of a block.
    pub(super) fn decoded(&self, codes: &[u8], absmax: f32) -> [f32; BLOCK] {
        let mut out = [0f32; BLOCK];
        for (to, code) in out.iter_mut().zip(codes) {
            *to = self.values[usize::from(*code)] * absmax;
        }
        out
    }

    /// Encodes a block; returns its largest magnitude.
    pub(super) fn encode(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        let absmax = crate::simd::with_simd(
            #[inline(always)]
            || values.iter().fold(0f32, |m, x| if x.abs() > m { x.abs() } else { m }),
        );
        let scale = if absmax > 0.0 { absmax } else { 1.0 };
        for (code, x) in codes.iter_mut().zip(values) {
            *code = self.nearest(x / scale);
        }
        absmax
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_papers() {
        for (code, first, last) in [(&*SIGNED, -0.992_968_75f32, 1.0f32), (&*UNSIGNED, 0.0, 1.0)] {
            assert!((code.values[0] - first).abs() < 1e-6);
            assert_eq!(code.values[255], last);
            assert!(code.values.windows(2).all(|w| w[0] < w[1]));
            assert!(code.values.contains(&0.0));
        }
    }

    #[test]
    fn the_table_finds_what_a_search_finds() {
        for code in [&*SIGNED, &*UNSIGNED] {
            for i in -20_000i32..=20_000 {
                for x in [i as f32 / 20_000.0, (i as f32 / 20_000.0).powi(5), i as f32 * 1e-11] {
                    let want = code.middles.iter().take_while(|m| x > **m).count();
                    assert_eq!(usize::from(code.nearest(x)), want, "{x}");
                }
            }
            for (i, value) in code.values.iter().enumerate() {
                assert_eq!(usize::from(code.nearest(*value)), i);
            }
        }
    }
}
