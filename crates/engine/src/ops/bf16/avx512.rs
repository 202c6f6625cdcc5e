//! Packing and products with AVX-512 and its bf16 instructions.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps,
    _mm512_and_si512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_castsi512_si256, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_epi16, _mm512_maskz_loadu_epi16,
    _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_permutex2var_epi16,
    _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_sub_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};
use std::mem::transmute;

use half::bf16;

use super::kernel::{Panels, Place, Sums, TileSums};
use super::pack::{Limbs, Number, SIDE, STEP, Source, Tile};
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

/// Positions of the upper halves of two registers' numbers.
const UPPER: [u16; 32] = {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 32 {
        index[i] = (2 * i + 1) as u16;
        i += 1;
    }
    index
};

/// Rounds or cuts a part.
///
/// # Safety
/// [`detected`], source and tiles fit each other, and one of the source's strides is 1.
#[expect(unsafe_code, reason = "vector instructions on parts of a slice")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn part<T: Number>(
    source: &Source<'_, T>,
    form: Form,
    limbs: Limbs,
    tiles: &mut [Tile],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match source.term_stride {
            1 => by_lane(source, form, limbs, tiles),
            _ => by_pair(source, form, limbs, tiles),
        }
    }
}

/// The terms of a lane lie side by side. Each block of 16 lanes x 32 terms is read once, transposed in registers
/// where it must be, and becomes a tile a limb that is written from its first byte to its last. (A lane from
/// end to end would be read in a better order, and written to lines 1 KiB apart, for which the first cache has
/// four sets.)
#[expect(unsafe_code, reason = "vector instructions on parts of a slice")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn by_lane<T: Number>(source: &Source<'_, T>, form: Form, limbs: Limbs, tiles: &mut [Tile]) {
    let count = limbs.count();
    for (p, panel) in tiles.chunks_exact_mut(limbs.tiles(source.terms).max(1)).enumerate() {
        for (s, tiles) in panel.chunks_exact_mut(count).enumerate() {
            let (lane, term) = (p * SIDE, s * STEP);
            let block = Block {
                from: source.data[lane * source.lane_stride + term..].as_ptr(),
                stride: source.lane_stride,
                lanes: SIDE.min(source.lanes - lane),
                terms: STEP.min(source.terms - term),
                scale: _mm512_set1_ps(source.scale),
            };
            // SAFETY: the block lies in the source.
            unsafe {
                match form {
                    Form::Left => block.left(tiles),
                    Form::Right => block.right(tiles),
                }
            }
        }
    }
}

/// Up to 16 lanes x 32 terms of a source.
struct Block<T> {
    from: *const T,
    /// Elements from a lane to the next.
    stride: usize,
    lanes: usize,
    terms: usize,
    scale: __m512,
}

#[expect(unsafe_code, reason = "vector instructions on parts of a slice")]
impl<T: Number> Block<T> {
    /// Sixteen terms of a lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(&self, lane: usize, half: usize) -> __m512 {
        let terms = self.terms.saturating_sub(half * SIDE);
        let mask = if lane < self.lanes { mask(terms) } else { 0 };
        let from = self.from.wrapping_add(lane * self.stride + half * SIDE);
        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD).cast());
        // SAFETY: masked to what there is.
        _mm512_mul_ps(unsafe { T::load(mask, from) }, self.scale)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn left(&self, tiles: &mut [Tile]) {
        for lane in 0..SIDE {
            // SAFETY: the block's.
            let row = unsafe { [self.load(lane, 0), self.load(lane, 1)] };
            put(tiles, lane, row, Halves::Follow);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn right(&self, tiles: &mut [Tile]) {
        for half in 0..2 {
            let mut rows = [_mm512_setzero_ps(); SIDE];
            for (lane, row) in rows.iter_mut().enumerate() {
                // SAFETY: the block's.
                *row = unsafe { self.load(lane, half) };
            }
            for (pair, rows) in transposed(rows).as_chunks::<2>().0.iter().enumerate() {
                put(tiles, half * SIDE / 2 + pair, *rows, Halves::Meet);
            }
        }
    }
}

/// The lanes of a term lie side by side.
#[expect(unsafe_code, reason = "vector instructions on parts of a slice")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn by_pair<T: Number>(source: &Source<'_, T>, form: Form, limbs: Limbs, tiles: &mut [Tile]) {
    let scale = _mm512_set1_ps(source.scale);
    let (steps, count) = (source.terms.div_ceil(STEP), limbs.count());
    let panels = source.lanes.div_ceil(SIDE);
    for s in 0..steps {
        for pair in 0..SIDE {
            let term = s * STEP + 2 * pair;
            for p in 0..panels {
                let lanes = mask(source.lanes - p * SIDE);
                let (first, second) = match source.terms.saturating_sub(term) {
                    0 => (0, 0),
                    1 => (lanes, 0),
                    _ => (lanes, lanes),
                };
                // SAFETY: the loads are masked to the lanes of terms that there are; a tile has 16 rows.
                unsafe {
                    let from =
                        source.data.as_ptr().wrapping_add(term * source.term_stride + p * SIDE);
                    let low = T::load(first, from);
                    let high = T::load(second, from.wrapping_add(source.term_stride));
                    // each row is elsewhere in memory, so that no cache asks for the next by itself
                    let next = from.wrapping_add(ROWS_AHEAD * source.term_stride);
                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(source.term_stride).cast());
                    let tiles = &mut tiles[(p * steps + s) * count..][..count];
                    put(tiles, pair, [low, high].map(|x| _mm512_mul_ps(x, scale)), Halves::Meet);
                }
            }
        }
        if form == Form::Left {
            for p in 0..panels {
                let tiles = &mut tiles[(p * steps + s) * count..][..count];
                tiles.iter_mut().for_each(|tile| transpose(tile));
            }
        }
    }
}

#[expect(unsafe_code, reason = "vector instructions on parts of a slice")]
impl Number for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(mask: __mmask16, from: *const Self) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
}

#[expect(unsafe_code, reason = "vector instructions on parts of a slice")]
impl Number for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(mask: __mmask16, from: *const Self) -> __m512 {
        // SAFETY: the caller's promise.
        let halves = unsafe { _mm512_maskz_loadu_epi16(mask.into(), from.cast()) };
        let wide = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(halves));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
    }
}

/// Rounds the first `rows` x `cols` of a block's sums to `to`, rows `stride` elements apart.
///
/// # Safety
/// [`detected`], and so many elements from `to` on are the caller's.
#[expect(unsafe_code, reason = "vector instructions on shared memory")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn round_sums(sums: &Sums, (rows, cols): (usize, usize), to: *mut bf16, stride: usize) {
    let mask = if cols >= 2 * SIDE { !0 } else { (1 << cols) - 1 };
    for (r, row) in sums.as_chunks::<{ 2 * SIDE }>().0.iter().take(rows).enumerate() {
        // SAFETY: a row of sums is two registers; the caller's promise.
        unsafe {
            let (low, high) =
                (_mm512_loadu_ps(row.as_ptr()), _mm512_loadu_ps(row[SIDE..].as_ptr()));
            let both = bits(_mm512_cvtne2ps_pbh(high, low));
            _mm512_mask_storeu_epi16(to.add(r * stride).cast(), mask, both);
        }
    }
}

/// Elements from what is loaded to what is asked for meanwhile.
const AHEAD: usize = 4 * SIDE;

/// Terms between them, where each has its row.
const ROWS_AHEAD: usize = 8;

/// The first `n` of sixteen.
pub fn mask(n: usize) -> __mmask16 {
    if n >= 16 { !0 } else { (1 << n) - 1 }
}

/// How two registers of sixteen numbers become sixteen pairs.
#[derive(Clone, Copy)]
enum Halves {
    /// The second register's numbers follow the first's.
    Follow,
    /// Each number of the first meets one of the second.
    Meet,
}

/// Row `row` of a step's tiles, one a limb: 32 numbers, rounded or cut.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn put(tiles: &mut [Tile], row: usize, [low, high]: [__m512; 2], halves: Halves) {
    if let [tile] = tiles {
        let both = bits(_mm512_cvtne2ps_pbh(high, low));
        return store(
            tile,
            row,
            match halves {
                Halves::Follow => both,
                Halves::Meet => _mm512_permutexvar_epi16(table(&ZIP), both),
            },
        );
    }
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    let (mut low, mut high) = (low, high);
    for tile in tiles {
        let (a, b) = (_mm512_castps_si512(low), _mm512_castps_si512(high));
        store(
            tile,
            row,
            match halves {
                Halves::Follow => _mm512_permutex2var_epi16(a, table(&UPPER), b),
                Halves::Meet => {
                    _mm512_or_si512(_mm512_srli_epi32::<16>(a), _mm512_and_si512(b, upper))
                }
            },
        );
        low = _mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_and_si512(a, upper)));
        high = _mm512_sub_ps(high, _mm512_castsi512_ps(_mm512_and_si512(b, upper)));
    }
}

#[expect(unsafe_code, reason = "a table is a register")]
#[inline]
#[target_feature(enable = "avx512f")]
fn table(of: &[u16; 32]) -> __m512i {
    // SAFETY: the table is as long as a register.
    unsafe { _mm512_loadu_si512(of.as_ptr().cast()) }
}

#[expect(unsafe_code, reason = "a row of a tile is a register")]
#[inline]
#[target_feature(enable = "avx512f")]
fn store(tile: &mut Tile, row: usize, value: __m512i) {
    let to = &mut tile.0.as_chunks_mut::<SIDE>().0[row];
    // SAFETY: a row of a tile is as long as a register.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), value) };
}

#[expect(unsafe_code, reason = "the same 512 bits under another name")]
fn bits(x: __m512bh) -> __m512i {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { transmute(x) }
}

/// Turns a tile into its transpose.
#[expect(unsafe_code, reason = "a row of a tile is a register")]
#[target_feature(enable = "avx512f")]
fn transpose(tile: &mut Tile) {
    let rows = tile.0.as_chunks_mut::<SIDE>().0;
    let mut r = [_mm512_setzero_ps(); SIDE];
    // SAFETY: a row of a tile is as long as a register.
    unsafe {
        for (r, row) in r.iter_mut().zip(&*rows) {
            *r = _mm512_castsi512_ps(_mm512_loadu_si512(row.as_ptr().cast()));
        }
        for (row, r) in rows.iter_mut().zip(transposed(r)) {
            _mm512_storeu_si512(row.as_mut_ptr().cast(), _mm512_castps_si512(r));
        }
    }
}

/// The transpose of sixteen rows of sixteen.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(r: [__m512; SIDE]) -> [__m512; SIDE] {
    let mut a = r;
    // pairs of rows: numbers 0 and 1, then 2 and 3, of every four
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    // four rows: b[4 i + q] has number q of each four, of rows 4 i .. 4 i + 4
    let mut b = a;
    for i in 0..4 {
        let at = 4 * i;
        let two = |x: usize| _mm512_castps_pd(a[at + x]);
        b[at] = _mm512_castpd_ps(_mm512_unpacklo_pd(two(0), two(2)));
        b[at + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(two(0), two(2)));
        b[at + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(two(1), two(3)));
        b[at + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(two(1), two(3)));
    }
    // quarters of registers: number 4 f + q of the rows is in quarter f of b[q], b[4 + q], b[8 + q], b[12 + q]
    for q in 0..4 {
        let low = _mm512_shuffle_f32x4::<0x44>(b[q], b[4 + q]);
        let low_next = _mm512_shuffle_f32x4::<0x44>(b[8 + q], b[12 + q]);
        let high = _mm512_shuffle_f32x4::<0xee>(b[q], b[4 + q]);
        let high_next = _mm512_shuffle_f32x4::<0xee>(b[8 + q], b[12 + q]);
        a[q] = _mm512_shuffle_f32x4::<0x88>(low, low_next);
        a[4 + q] = _mm512_shuffle_f32x4::<0xdd>(low, low_next);
        a[8 + q] = _mm512_shuffle_f32x4::<0x88>(high, high_next);
        a[12 + q] = _mm512_shuffle_f32x4::<0xdd>(high, high_next);
    }
    a
}

/// Rows of the result that are summed in registers at once, for 32 columns: 16 sums, two operands.
const ROWS: usize = 8;

/// As [`super::kernel::Unit::whole`].
///
/// # Safety
/// [`detected`]; panels that are as long; and as there.
#[expect(unsafe_code, reason = "vector instructions on shared memory")]
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn block(limbs: Limbs, a: Panels<'_>, b: Panels<'_>, place: Place) {
    let count = limbs.count();
    for part in 0..2 * SIDE / ROWS {
        let first = part * ROWS % SIDE;
        let a = if part * ROWS < SIDE { a.0 } else { a.1 };
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        let steps = a.chunks_exact(count).zip(b.0.chunks_exact(count));
        for ((a, b0), b1) in steps.zip(b.1.chunks_exact(count)) {
            for (i, j) in limbs.products() {
                for pair in 0..SIDE {
                    let (b0, b1) = (right(&b0[*j], pair), right(&b1[*j], pair));
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = left(&a[*i], first + r, pair);
                        sums[0] = _mm512_dpbf16_ps(sums[0], x, b0);
                        sums[1] = _mm512_dpbf16_ps(sums[1], x, b1);
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                // SAFETY: row part * ROWS + r and 32 columns of the block, which is the caller's.
                unsafe {
                    let to = place.start.add((part * ROWS + r) * place.stride + half * SIDE);
                    let value = match place.into {
                        Into::Overwrite => *sum,
                        Into::Add => _mm512_add_ps(_mm512_loadu_ps(to), *sum),
                    };
                    _mm512_storeu_ps(to, value);
                }
            }
        }
    }
}

/// The sums of one left panel and one right one.
///
/// # Safety
/// [`detected`].
#[expect(unsafe_code, reason = "vector instructions")]
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn sums(limbs: Limbs, a: &[Tile], b: &[Tile]) -> TileSums {
    let mut sums = [_mm512_setzero_ps(); SIDE];
    let count = limbs.count();
    for (a, b) in a.chunks_exact(count).zip(b.chunks_exact(count)) {
        for (i, j) in limbs.products() {
            for pair in 0..SIDE {
                let b = right(&b[*j], pair);
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_dpbf16_ps(*sum, left(&a[*i], r, pair), b);
                }
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
