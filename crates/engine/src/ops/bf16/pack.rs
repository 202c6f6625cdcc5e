//! Tiles: 16 lanes x 32 terms in bf16, in the order in which the kernels read them.
//!
//! Two terms that follow each other share 32 bits, the first in the low half. A left tile holds lane
//! after lane, 16 pairs each; a right tile holds pair after pair, 16 lanes each: one is the other's
//! transpose, in units of 32 bits.

use super::Form;
use crate::simd::Stored;

/// Lanes of a tile, and pairs of terms.
pub const SIDE: usize = 16;

/// Terms of a tile.
pub const STEP: usize = 2 * SIDE;

/// How many bf16 numbers stand for an f32 number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limbs {
    /// The nearest.
    One,
    /// A high, a middle and a low part of eight bits each, whose sum it is. A product of two numbers is
    /// then six products of parts; the three smallest of the nine, at most 2^-22 of it together, are left
    /// out. The sum of many products is as good as f32 arithmetic's, whose every addition rounds by 2^-24.
    Three,
}

impl Limbs {
    /// The number.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Three => 3,
        }
    }

    /// Tiles of a panel of `terms`.
    #[must_use]
    pub const fn tiles(self, terms: usize) -> usize {
        terms.div_ceil(STEP) * self.count()
    }

    /// Which parts of the left and the right operand are multiplied, the smallest products first.
    #[must_use]
    pub const fn products(self) -> &'static [(usize, usize)] {
        match self {
            Self::One => &[(0, 0)],
            Self::Three => &[(2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0)],
        }
    }
}

/// 16 x 16 pairs of bf16 numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Tile(pub [u32; SIDE * SIDE]);

impl Tile {
    /// All zero.
    pub const ZERO: Self = Self([0; SIDE * SIDE]);
}

/// A number of an operand.
pub trait Number: Stored {
    /// Sixteen that lie side by side, those that `mask` leaves out 0.
    ///
    /// # Safety
    /// The CPU has AVX-512 F and BW, and the numbers of the mask may be read.
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "vector instructions")]
    unsafe fn load(
        mask: std::arch::x86_64::__mmask16,
        from: *const Self,
    ) -> std::arch::x86_64::__m512;
}

#[cfg(not(target_arch = "x86_64"))]
impl Number for f32 {}

#[cfg(not(target_arch = "x86_64"))]
impl Number for half::bf16 {}

/// A part of a matrix, from its first number on.
pub struct Source<'a, T = f32> {
    /// From the first number on.
    pub data: &'a [T],
    /// Elements from a lane to the next.
    pub lane_stride: usize,
    /// Elements from a term to the next.
    pub term_stride: usize,
    /// Lanes; those that fill up the last panel become 0.
    pub lanes: usize,
    /// Terms; those that fill up the last step become 0.
    pub terms: usize,
    /// What each number is multiplied by before it is rounded.
    pub scale: f32,
}

impl<T> Source<'_, T> {
    /// Whether all of it lies inside `data`, and `tiles` are as many as it fills.
    fn fits(&self, limbs: Limbs, tiles: usize) -> bool {
        let last = |n: usize, stride: usize| n.saturating_sub(1) * stride;
        let end = last(self.lanes, self.lane_stride) + last(self.terms, self.term_stride);
        let inside = self.lanes * self.terms == 0 || end < self.data.len();
        inside && tiles == self.lanes.div_ceil(SIDE) * limbs.tiles(self.terms)
    }
}

/// Rounds or cuts a part: panel after panel of 16 lanes, each of a tile a limb a step.
///
/// # Panics
/// When the source reaches past its slice, or there are more or fewer tiles: a bug in the operand.
pub fn part<T: Number>(source: &Source<'_, T>, form: Form, limbs: Limbs, tiles: &mut [Tile]) {
    assert!(source.fits(limbs, tiles.len()), "bf16: operand or tiles short");
    #[cfg(target_arch = "x86_64")]
    if source.lane_stride.min(source.term_stride) == 1 && super::avx512::detected() {
        #[expect(unsafe_code, reason = "vector instructions")]
        // SAFETY: the CPU has them, and source and tiles were checked.
        return unsafe { super::avx512::part(source, form, limbs, tiles) };
    }
    match limbs {
        Limbs::One if source.lane_stride.min(source.term_stride) == 1 => plain(source, form, tiles),
        _ => portable(source, form, limbs, tiles),
    }
}

/// As [`part`], rounded, where numbers lie side by side: loops over them that compilers turn into vector
/// instructions.
pub(super) fn plain<T: Number>(source: &Source<'_, T>, form: Form, tiles: &mut [Tile]) {
    let steps = Limbs::One.tiles(source.terms).max(1);
    for (i, tile) in tiles.iter_mut().enumerate() {
        let (lane, term) = (i / steps * SIDE, i % steps * STEP);
        let block = Source {
            data: &source.data[lane * source.lane_stride + term * source.term_stride..],
            lanes: SIDE.min(source.lanes - lane),
            terms: STEP.min(source.terms - term),
            ..*source
        };
        let lies = if source.term_stride == 1 {
            by_lane(&block, tile);
            Form::Left
        } else {
            by_term(&block, tile);
            Form::Right
        };
        if lies != form {
            transpose(tile);
        }
    }
}

/// Rounds lanes whose terms lie side by side: a left tile.
fn by_lane<T: Number>(block: &Source<'_, T>, tile: &mut Tile) {
    for (lane, to) in tile.0.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
        let mut row = [0; STEP];
        if lane < block.lanes {
            round_all(
                &block.data[lane * block.lane_stride..][..block.terms],
                block.scale,
                &mut row,
            );
        }
        for (to, [low, high]) in to.iter_mut().zip(row.as_chunks().0) {
            *to = pair(*low, *high);
        }
    }
}

/// Rounds terms whose lanes lie side by side: a right tile.
fn by_term<T: Number>(block: &Source<'_, T>, tile: &mut Tile) {
    for (two, to) in tile.0.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
        let [low, high] = [2 * two, 2 * two + 1].map(|term| {
            let mut row = [0; SIDE];
            if term < block.terms {
                round_all(
                    &block.data[term * block.term_stride..][..block.lanes],
                    block.scale,
                    &mut row,
                );
            }
            row
        });
        for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
            *to = pair(low, high);
        }
    }
}

/// Two terms that follow each other.
fn pair(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

fn round_all<T: Number>(from: &[T], scale: f32, to: &mut [u16]) {
    for (to, x) in to.iter_mut().zip(from) {
        *to = round(x.get() * scale);
    }
}

fn transpose(tile: &mut Tile) {
    let from = *tile;
    for (i, row) in tile.0.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
        for (to, from) in row.iter_mut().zip(from.0.as_chunks::<SIDE>().0) {
            *to = from[i];
        }
    }
}

/// As [`part`], number by number: the reference.
pub(super) fn portable<T: Number>(
    source: &Source<'_, T>,
    form: Form,
    limbs: Limbs,
    tiles: &mut [Tile],
) {
    let at = |limb: usize, lane: usize, term: usize| {
        if lane >= source.lanes || term >= source.terms {
            return 0;
        }
        let x = source.data[lane * source.lane_stride + term * source.term_stride];
        let x = x.get() * source.scale;
        u32::from(match limbs {
            Limbs::One => round(x),
            Limbs::Three => cut(x)[limb],
        })
    };
    let (steps, count) = (source.terms.div_ceil(STEP).max(1), limbs.count());
    for (i, tile) in tiles.iter_mut().enumerate() {
        let (panel, step, limb) = (i / count / steps, i / count % steps, i % count);
        for lane in 0..SIDE {
            for pair in 0..SIDE {
                let (lane_at, term) = (panel * SIDE + lane, step * STEP + 2 * pair);
                let place = match form {
                    Form::Left => lane * SIDE + pair,
                    Form::Right => pair * SIDE + lane,
                };
                tile.0[place] = at(limb, lane_at, term) | at(limb, lane_at, term + 1) << 16;
            }
        }
    }
}

/// The number's high, middle and low eight bits; what is left of a number that is not finite is none.
fn cut(x: f32) -> [u16; 3] {
    let high = |x: f32| x.to_bits() & 0xffff_0000;
    let middle = x - f32::from_bits(high(x));
    let low = middle - f32::from_bits(high(middle));
    [x, middle, low].map(|part| (part.to_bits() >> 16) as u16)
}

/// The nearest bf16, ties to even. What is too small for a normal number is 0, as the CPUs' own
/// instruction has it.
#[inline]
pub(super) fn round(x: f32) -> u16 {
    let (sign, size) = (x.to_bits() & 0x8000_0000, x.to_bits() & 0x7fff_ffff);
    let normal = if size < 0x0080_0000 { f32::from_bits(sign) } else { x };
    <half::bf16 as Stored>::put(normal).to_bits()
}
