//! Blocks to numbers: llama.cpp's formats, byte for byte as its `dequantize_row_*` read them.
//!
//! Each function unpacks the blocks of `bytes` into `out`, inside `with_simd`. The inner loops have
//! fixed lengths and no branches, so that the compiler vectorises them; products and sums stand in
//! llama.cpp's order, so that the numbers are its own to the bit.

/// Numbers of a super-block.
const SUPER: usize = 256;

/// A half-precision float's value, exactly; without branches but for infinities.
#[inline(always)]
fn half(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let sign = (bits & 0x8000) << 16;
    let magnitude = if bits & 0x7c00 == 0x7c00 {
        0x7f80_0000 | (bits & 0x03ff) << 13
    } else {
        // Exponents of halves are 112 below those of floats; the product mends that, subnormals too.
        (f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000)).to_bits()
    };
    f32::from_bits(sign | magnitude)
}

#[inline(always)]
fn half_at(bytes: &[u8], at: usize) -> f32 {
    half(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

#[inline(always)]
pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    }
}

#[inline(always)]
pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *x = half(u16::from_le_bytes(*b));
    }
}

/// How far a 4-bit number is from the low end of its byte: sixteen low halves, then the high ones.
const SHIFT: [u32; 32] = {
    let mut out = [0; 32];
    let mut j = 16;
    while j < 32 {
        out[j] = 4;
        j += 1;
    }
    out
};

/// Sixteen bytes, twice: one loop over 32 numbers is vectorised, two over sixteen are unrolled.
#[inline(always)]
fn twice(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out[..16].copy_from_slice(&bytes[..16]);
    out[16..].copy_from_slice(&bytes[..16]);
    out
}

#[inline(always)]
pub(super) fn q4_0(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let (d, q) = (half_at(b, 0), twice(&b[2..]));
        for j in 0..32 {
            y[j] = ((u32::from(q[j]) >> SHIFT[j] & 0xf) as i32 - 8) as f32 * d;
        }
    }
}

#[inline(always)]
pub(super) fn q4_1(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks::<20>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let (d, m, q) = (half_at(b, 0), half_at(b, 2), twice(&b[4..]));
        for j in 0..32 {
            y[j] = (u32::from(q[j]) >> SHIFT[j] & 0xf) as i32 as f32 * d + m;
        }
    }
}

/// Low and high half of a 5-bit block: the fifth bits of all 32 numbers lie in one word.
#[inline(always)]
fn five(high: u32, q: u8, j: usize) -> (i32, i32) {
    let low = i32::from(q & 0xf) | ((high >> j) << 4 & 0x10) as i32;
    (low, i32::from(q >> 4) | (high >> (j + 12) & 0x10) as i32)
}

#[inline(always)]
pub(super) fn q5_0(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks::<22>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let (d, high) = (half_at(b, 0), u32::from_le_bytes([b[2], b[3], b[4], b[5]]));
        for j in 0..16 {
            let (low, upper) = five(high, b[6 + j], j);
            y[j] = (low - 16) as f32 * d;
            y[j + 16] = (upper - 16) as f32 * d;
        }
    }
}

#[inline(always)]
pub(super) fn q5_1(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks::<24>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let (d, m) = (half_at(b, 0), half_at(b, 2));
        let high = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        for j in 0..16 {
            let (low, upper) = five(high, b[8 + j], j);
            y[j] = low as f32 * d + m;
            y[j + 16] = upper as f32 * d + m;
        }
    }
}

#[inline(always)]
pub(super) fn q8_0(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = half_at(b, 0);
        for j in 0..32 {
            y[j] = f32::from(b[2 + j] as i8) * d;
        }
    }
}

/// Scale and minimum of group `j`: 6 bits each, eight of each in twelve bytes.
#[inline(always)]
fn scale_min(j: usize, s: &[u8]) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 0xf | (s[j - 4] >> 6) << 4, s[j + 4] >> 4 | (s[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

#[inline(always)]
pub(super) fn q4_k(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks::<144>().0.iter().zip(out.as_chunks_mut::<SUPER>().0) {
        let (d, min) = (half_at(b, 0), half_at(b, 2));
        let (scales, q) = (&b[4..16], &b[16..144]);
        for (pair, y) in y.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            let q = &q[32 * pair..][..32];
            let (s1, m1) = scale_min(2 * pair, scales);
            let (s2, m2) = scale_min(2 * pair + 1, scales);
            let (d1, m1, d2, m2) = (d * s1, min * m1, d * s2, min * m2);
            for l in 0..32 {
                y[l] = d1 * f32::from(q[l] & 0xf) - m1;
                y[l + 32] = d2 * f32::from(q[l] >> 4) - m2;
            }
        }
    }
}

#[inline(always)]
pub(super) fn q5_k(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks::<176>().0.iter().zip(out.as_chunks_mut::<SUPER>().0) {
        let (d, min) = (half_at(b, 0), half_at(b, 2));
        let (scales, high, q) = (&b[4..16], &b[16..48], &b[48..176]);
        for (pair, y) in y.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            let q = &q[32 * pair..][..32];
            let (s1, m1) = scale_min(2 * pair, scales);
            let (s2, m2) = scale_min(2 * pair + 1, scales);
            let (d1, m1, d2, m2) = (d * s1, min * m1, d * s2, min * m2);
            for l in 0..32 {
                let fifth = high[l] >> (2 * pair);
                y[l] = d1 * f32::from(q[l] & 0xf | (fifth & 1) << 4) - m1;
                y[l + 32] = d2 * f32::from(q[l] >> 4 | (fifth >> 1 & 1) << 4) - m2;
            }
        }
    }
}

#[inline(always)]
pub(super) fn q6_k(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks::<210>().0.iter().zip(out.as_chunks_mut::<SUPER>().0) {
        let d = half_at(b, 208);
        for (part, y) in y.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let low = &b[64 * part..][..64];
            let high = &b[128 + 32 * part..][..32];
            let scale = |i: usize| d * f32::from(b[192 + 8 * part + i] as i8);
            for group in 0..2 {
                let s = [scale(group), scale(group + 2), scale(group + 4), scale(group + 6)];
                for l in 16 * group..16 * group + 16 {
                    let (a, c, h) = (low[l], low[l + 32], high[l]);
                    y[l] = s[0] * six(a & 0xf, h);
                    y[l + 32] = s[1] * six(c & 0xf, h >> 2);
                    y[l + 64] = s[2] * six(a >> 4, h >> 4);
                    y[l + 96] = s[3] * six(c >> 4, h >> 6);
                }
            }
        }
    }
}

#[inline(always)]
fn six(low: u8, high: u8) -> f32 {
    (i32::from(low | (high & 3) << 4) - 32) as f32
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use candle_core::Device;
    use candle_core::quantized::{GgmlDType, QTensor};

    use crate::ops::testing::random;
    use crate::quant::{Format, Packed};

    #[test]
    fn halves_are_converted_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (super::half(bits), half::f16::from_bits(bits).to_f32());
            let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
            assert!(same, "{bits:#x}: {got} {want}");
        }
    }

    #[test]
    fn every_format_unpacks_to_candles_numbers() {
        use GgmlDType::{BF16, F16, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        for dtype in [BF16, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K] {
            let (rows, cols) = (5, 768);
            let quantised = QTensor::quantize(&random(1, (rows, cols)), dtype).unwrap();
            let want = quantised.dequantize(&Device::Cpu).unwrap();
            let want = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let bytes = quantised.data().unwrap().to_vec();
            let packed = Packed::new(Format::of(dtype).unwrap(), rows, cols, bytes).unwrap();
            let mut got = vec![0f32; rows * cols];
            packed.unpack_rows(0..rows, 0, cols, &mut got);
            assert_eq!(got, want, "{dtype:?}");
            // A slice of columns, of some rows.
            let mut part = vec![0f32; 2 * 256];
            packed.unpack_rows([3, 1].into_iter(), 256, 256, &mut part);
            assert_eq!(part[..256], want[3 * cols + 256..][..256], "{dtype:?}");
            assert_eq!(part[256..], want[cols + 256..][..256], "{dtype:?}");
        }
        assert!(Packed::new(Format::Q4_0, 1, 33, vec![0; 18]).is_err());
        assert!(Packed::new(Format::Q4_0, 1, 32, vec![0; 17]).is_err());
    }
}
