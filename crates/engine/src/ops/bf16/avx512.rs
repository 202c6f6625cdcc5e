//! Packing and products with AVX-512 and its bf16 instructions.

use std::arch::x86_64::{
    __m512bh, __m512i, __mmask16, _mm512_add_ps, _mm512_castps_si512, _mm512_cvtne2ps_pbh,
    _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_loadu_ps, _mm512_mul_ps,
    _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_i32x4, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::mem::transmute;

use super::kernel::Sums;
use super::pack::{SIDE, STEP, Source, Tile};
use super::{Form, Into};

/// Whether the CPU has the instructions of this file.
pub fn detected() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512bf16")
}

/// Positions of the low and high halves' numbers, in turn.
const ZIP: [u16; 32] = {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 32 {
        index[i] = (i / 2 + 16 * (i % 2)) as u16;
        i += 1;
    }
    index
};

/// Rounds a tile.
///
/// # Safety
/// [`detected`], the source fits its slice, and one of its strides is 1.
#[expect(unsafe_code, reason = "vector instructions on parts of a slice")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn tile(source: &Source<'_>, form: Form, tile: &mut Tile) {
    let data = source.data.as_ptr();
    let scale = _mm512_set1_ps(source.scale);
    let zero = _mm512_setzero_ps();
    let mask = |n: usize| -> __mmask16 { if n >= 16 { !0 } else { (1 << n) - 1 } };
    // SAFETY (all loads): lanes and terms beyond the source's are masked or not read.
    let by_lane = source.term_stride == 1;
    let mut rows = [_mm512_castps_si512(zero); SIDE];
    if by_lane {
        let (low, high) = (mask(source.terms), mask(source.terms.saturating_sub(16)));
        for (lane, row) in rows.iter_mut().enumerate().take(source.lanes) {
            // SAFETY: see above.
            let (a, b) = unsafe {
                let from = data.add(lane * source.lane_stride);
                let second =
                    if high == 0 { zero } else { _mm512_maskz_loadu_ps(high, from.add(16)) };
                (_mm512_maskz_loadu_ps(low, from), second)
            };
            *row = bits(_mm512_cvtne2ps_pbh(_mm512_mul_ps(b, scale), _mm512_mul_ps(a, scale)));
        }
    } else {
        let lanes = mask(source.lanes);
        // SAFETY: the table is as long as a register.
        let zip = unsafe { _mm512_loadu_si512(ZIP.as_ptr().cast()) };
        for (pair, row) in rows.iter_mut().enumerate().take(source.terms.div_ceil(2)) {
            // SAFETY: see above.
            let (a, b) = unsafe {
                let from = data.add(2 * pair * source.term_stride);
                let second = match 2 * pair + 1 < source.terms {
                    true => _mm512_maskz_loadu_ps(lanes, from.add(source.term_stride)),
                    false => zero,
                };
                (_mm512_maskz_loadu_ps(lanes, from), second)
            };
            let both = _mm512_cvtne2ps_pbh(_mm512_mul_ps(b, scale), _mm512_mul_ps(a, scale));
            *row = _mm512_permutexvar_epi16(zip, bits(both));
        }
    }
    if by_lane != (form == Form::Left) {
        rows = transpose(rows);
    }
    for (row, to) in rows.iter().zip(tile.0.as_chunks_mut::<SIDE>().0) {
        // SAFETY: a row of a tile is as long as a register.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), *row) };
    }
}

#[expect(unsafe_code, reason = "the same 512 bits under another name")]
fn bits(x: __m512bh) -> __m512i {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { transmute(x) }
}

/// The transpose of 16 x 16 words.
#[target_feature(enable = "avx512f")]
fn transpose(r: [__m512i; SIDE]) -> [__m512i; SIDE] {
    let mut a = r;
    // pairs of rows: words 0 and 1, then 2 and 3, of every four
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    // four rows: row q of b[4 i ..] has word q of each four, of rows 4 i .. 4 i + 4
    let mut b = a;
    for i in 0..4 {
        let at = 4 * i;
        b[at] = _mm512_unpacklo_epi64(a[at], a[at + 2]);
        b[at + 1] = _mm512_unpackhi_epi64(a[at], a[at + 2]);
        b[at + 2] = _mm512_unpacklo_epi64(a[at + 1], a[at + 3]);
        b[at + 3] = _mm512_unpackhi_epi64(a[at + 1], a[at + 3]);
    }
    // quarters of registers: word 4 f + q of the rows is in quarter f of b[q], b[4 + q], b[8 + q], b[12 + q]
    let mut out = b;
    for q in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x44>(b[q], b[4 + q]);
        let low_next = _mm512_shuffle_i32x4::<0x44>(b[8 + q], b[12 + q]);
        let high = _mm512_shuffle_i32x4::<0xee>(b[q], b[4 + q]);
        let high_next = _mm512_shuffle_i32x4::<0xee>(b[8 + q], b[12 + q]);
        out[q] = _mm512_shuffle_i32x4::<0x88>(low, low_next);
        out[4 + q] = _mm512_shuffle_i32x4::<0xdd>(low, low_next);
        out[8 + q] = _mm512_shuffle_i32x4::<0x88>(high, high_next);
        out[12 + q] = _mm512_shuffle_i32x4::<0xdd>(high, high_next);
    }
    out
}

/// Rows of the result that are summed in registers at once, for 32 columns: 16 sums, two operands.
const ROWS: usize = 8;

/// As [`super::kernel::Unit::block`].
///
/// # Safety
/// [`detected`]; two panels of `steps` tiles each; and as there.
#[expect(unsafe_code, reason = "vector instructions on shared memory")]
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn block(steps: usize, a: &[Tile], b: &[Tile], c: *mut f32, stride: usize, into: Into) {
    for part in 0..2 * SIDE / ROWS {
        let first = part * ROWS % SIDE;
        let a = &a[part * ROWS / SIDE * steps..][..steps];
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for ((a, b0), b1) in a.iter().zip(&b[..steps]).zip(&b[steps..]) {
            for pair in 0..SIDE {
                let (b0, b1) = (right(b0, pair), right(b1, pair));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = left(a, first + r, pair);
                    sums[0] = _mm512_dpbf16_ps(sums[0], x, b0);
                    sums[1] = _mm512_dpbf16_ps(sums[1], x, b1);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                // SAFETY: row part * ROWS + r and 32 columns of the block, which is the caller's.
                unsafe {
                    let to = c.add((part * ROWS + r) * stride + half * SIDE);
                    let value = match into {
                        Into::Overwrite => *sum,
                        Into::Add => _mm512_add_ps(_mm512_loadu_ps(to), *sum),
                    };
                    _mm512_storeu_ps(to, value);
                }
            }
        }
    }
}

/// As [`super::kernel::Unit::tile`].
///
/// # Safety
/// [`detected`].
#[expect(unsafe_code, reason = "vector instructions")]
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn sums(a: &[Tile], b: &[Tile]) -> Sums {
    let mut sums = [_mm512_setzero_ps(); SIDE];
    for (a, b) in a.iter().zip(b) {
        for pair in 0..SIDE {
            let b = right(b, pair);
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_dpbf16_ps(*sum, left(a, r, pair), b);
            }
        }
    }
    let mut out = [0f32; SIDE * SIDE];
    for (row, sum) in out.as_chunks_mut::<SIDE>().0.iter_mut().zip(&sums) {
        // SAFETY: a row is as long as a register.
        unsafe { _mm512_storeu_ps(row.as_mut_ptr(), *sum) };
    }
    out
}

/// Pair `pair` of a left tile's lane, sixteen times.
#[expect(unsafe_code, reason = "the same 512 bits under another name")]
#[inline]
#[target_feature(enable = "avx512f")]
fn left(a: &Tile, lane: usize, pair: usize) -> __m512bh {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { transmute(_mm512_set1_epi32(a.0[lane * SIDE + pair].cast_signed())) }
}

/// Pair `pair` of a right tile's sixteen lanes.
#[expect(unsafe_code, reason = "a row of a tile is a register")]
#[inline]
#[target_feature(enable = "avx512f")]
fn right(b: &Tile, pair: usize) -> __m512bh {
    let row: &[u32; SIDE] = &b.0.as_chunks::<SIDE>().0[pair];
    // SAFETY: a row is as long as a register, and all bit patterns are numbers.
    unsafe { transmute(_mm512_loadu_si512(row.as_ptr().cast())) }
}

const _: () = assert!(STEP == 32 && (2 * SIDE).is_multiple_of(ROWS));
