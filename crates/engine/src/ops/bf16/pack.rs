//! Tiles: 16 lanes x 32 terms, rounded to bf16, in the order in which the kernels read them.
//!
//! Two terms that follow each other share 32 bits, the first in the low half. A left tile holds lane
//! after lane, 16 pairs each; a right tile holds pair after pair, 16 lanes each: one is the other's
//! transpose, in units of 32 bits.

use super::Form;

/// Lanes of a tile, and pairs of terms.
pub const SIDE: usize = 16;

/// Terms of a tile.
pub const STEP: usize = 2 * SIDE;

/// 16 x 16 pairs of bf16 numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Tile(pub [u32; SIDE * SIDE]);

impl Tile {
    /// All zero.
    pub const ZERO: Self = Self([0; SIDE * SIDE]);
}

/// A part of an f32 matrix, from its first number on.
pub struct Source<'a> {
    /// From the first number on.
    pub data: &'a [f32],
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

impl Source<'_> {
    /// Whether all of it lies inside `data`, and `tiles` are as many as it fills.
    fn fits(&self, tiles: usize) -> bool {
        let last = |n: usize, stride: usize| n.saturating_sub(1) * stride;
        let end = last(self.lanes, self.lane_stride) + last(self.terms, self.term_stride);
        let inside = self.lanes * self.terms == 0 || end < self.data.len();
        inside && tiles == self.lanes.div_ceil(SIDE) * self.terms.div_ceil(STEP)
    }
}

/// Rounds a part: panel after panel of 16 lanes, each of a tile a step.
///
/// # Panics
/// When the source reaches past its slice, or there are more or fewer tiles: a bug in the operand.
pub fn part(source: &Source<'_>, form: Form, tiles: &mut [Tile]) {
    assert!(source.fits(tiles.len()), "bf16: operand or tiles short");
    #[cfg(target_arch = "x86_64")]
    if source.lane_stride.min(source.term_stride) == 1 && super::avx512::detected() {
        #[expect(unsafe_code, reason = "vector instructions")]
        // SAFETY: the CPU has them, and source and tiles were checked.
        return unsafe { super::avx512::part(source, form, tiles) };
    }
    portable(source, form, tiles);
}

/// As [`part`], number by number.
pub(super) fn portable(source: &Source<'_>, form: Form, tiles: &mut [Tile]) {
    let at = |lane: usize, term: usize| {
        if lane >= source.lanes || term >= source.terms {
            return 0;
        }
        let x = source.data[lane * source.lane_stride + term * source.term_stride];
        u32::from(round(x * source.scale))
    };
    let steps = source.terms.div_ceil(STEP).max(1);
    for (i, tile) in tiles.iter_mut().enumerate() {
        let (panel, step) = (i / steps, i % steps);
        for lane in 0..SIDE {
            for pair in 0..SIDE {
                let (lane_at, term) = (panel * SIDE + lane, step * STEP + 2 * pair);
                let place = match form {
                    Form::Left => lane * SIDE + pair,
                    Form::Right => pair * SIDE + lane,
                };
                tile.0[place] = at(lane_at, term) | at(lane_at, term + 1) << 16;
            }
        }
    }
}

/// The nearest bf16, ties to even. What is too small for a normal number is 0, as the CPUs' own
/// instruction has it.
fn round(x: f32) -> u16 {
    if x.is_subnormal() {
        return half::bf16::from_f32(0.0f32.copysign(x)).to_bits();
    }
    half::bf16::from_f32(x).to_bits()
}
