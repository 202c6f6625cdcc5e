//! Products with Arm's bf16 instructions (FEAT_BF16: Neoverse V1 and N2, Apple M2 and later).
//!
//! `bfdot` is what `vdpbf16ps` is on 128 bits: a lane of the sum for each lane of the right tile's row, plus two
//! products, rounded to odd. Rust has no stable intrinsic for it, hence the assembly. Four rows of a left tile and
//! all sixteen columns of a right one are summed at once: 16 of 32 registers.

use std::arch::aarch64::{
    float32x4_t, uint32x4_t, vaddq_f32, vdupq_n_f32, vld1q_f32, vld1q_u32, vst1q_f32,
};
use std::arch::asm;

use super::Into;
use super::kernel::{Panels, Place, TileSums};
use super::pack::{Limbs, SIDE, Tile};

/// Numbers of a register.
const WIDE: usize = 4;

/// Rows of the result that are summed in registers at once.
const ROWS: usize = 4;

/// Sums of some rows of a tile.
type RowSums = [[float32x4_t; SIDE / WIDE]; ROWS];

/// Whether the CPU has the instructions of this file.
pub fn detected() -> bool {
    std::arch::is_aarch64_feature_detected!("bf16")
}

/// As [`super::kernel::Unit::whole`].
///
/// # Safety
/// [`detected`]; panels that are as long; and as there.
#[expect(unsafe_code, reason = "vector instructions on shared memory")]
#[target_feature(enable = "neon,bf16")]
pub unsafe fn block(limbs: Limbs, a: Panels<'_>, b: Panels<'_>, place: Place) {
    for row in (0..2 * SIDE).step_by(ROWS) {
        let a = if row < SIDE { a.0 } else { a.1 };
        for (half, b) in [b.0, b.1].into_iter().enumerate() {
            let sums = rows(limbs, a, row % SIDE, b);
            for (r, sums) in sums.iter().enumerate() {
                for (c, sum) in sums.iter().enumerate() {
                    let at = (row + r) * place.stride + half * SIDE + c * WIDE;
                    // SAFETY: it lies in the block, which is the caller's.
                    unsafe {
                        let to = place.start.add(at);
                        let value = match place.into {
                            Into::Overwrite => *sum,
                            Into::Add => vaddq_f32(vld1q_f32(to), *sum),
                        };
                        vst1q_f32(to, value);
                    }
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
#[target_feature(enable = "neon,bf16")]
pub unsafe fn sums(limbs: Limbs, a: &[Tile], b: &[Tile]) -> TileSums {
    let mut out = [0f32; SIDE * SIDE];
    for (i, to) in out.chunks_exact_mut(ROWS * SIDE).enumerate() {
        let sums = rows(limbs, a, i * ROWS, b);
        for (to, sum) in to.chunks_exact_mut(WIDE).zip(sums.iter().flatten()) {
            // SAFETY: as long as a register.
            unsafe { vst1q_f32(to.as_mut_ptr(), *sum) };
        }
    }
    out
}

/// The sums of rows `row` to `row + ROWS` of a left panel, and of a right one.
#[inline]
#[target_feature(enable = "neon,bf16")]
fn rows(limbs: Limbs, a: &[Tile], row: usize, b: &[Tile]) -> RowSums {
    let mut sums = [[vdupq_n_f32(0.0); SIDE / WIDE]; ROWS];
    let count = limbs.count();
    for (a, b) in a.chunks_exact(count).zip(b.chunks_exact(count)) {
        for (i, j) in limbs.products() {
            let (a, b) = (&a[*i], &b[*j]);
            for pair in (0..SIDE).step_by(WIDE) {
                let mut x = [load(a, row, pair); ROWS];
                for (r, x) in x.iter_mut().enumerate().skip(1) {
                    *x = load(a, row + r, pair);
                }
                dots::<0>(&mut sums, &x, b, pair);
                dots::<1>(&mut sums, &x, b, pair + 1);
                dots::<2>(&mut sums, &x, b, pair + 2);
                dots::<3>(&mut sums, &x, b, pair + 3);
            }
        }
    }
    sums
}

/// Adds the products of a pair: number `AT` of each of `x`, and row `pair` of `b`.
#[inline]
#[target_feature(enable = "neon,bf16")]
fn dots<const AT: u8>(sums: &mut RowSums, x: &[uint32x4_t; ROWS], b: &Tile, pair: usize) {
    for c in 0..SIDE / WIDE {
        let y = load(b, pair, c * WIDE);
        for (sums, x) in sums.iter_mut().zip(x) {
            sums[c] = dot::<AT>(sums[c], y, *x);
        }
    }
}

/// `sum + y x[AT]`, of pairs.
#[expect(unsafe_code, reason = "an instruction that has no stable intrinsic")]
#[inline]
#[target_feature(enable = "neon,bf16")]
fn dot<const AT: u8>(mut sum: float32x4_t, y: uint32x4_t, x: uint32x4_t) -> float32x4_t {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "bfdot {sum:v}.4s, {y:v}.8h, {x:v}.2h[{at}]",
            sum = inout(vreg) sum,
            y = in(vreg) y,
            x = in(vreg) x,
            at = const AT,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Four numbers of a tile's row, from `at` on.
#[expect(unsafe_code, reason = "a part of a tile's row is a register")]
#[inline]
#[target_feature(enable = "neon")]
fn load(tile: &Tile, row: usize, at: usize) -> uint32x4_t {
    let four = &tile.0[row * SIDE + at..][..WIDE];
    // SAFETY: as long as a register.
    unsafe { vld1q_u32(four.as_ptr()) }
}

const _: () = assert!(SIDE.is_multiple_of(ROWS) && SIDE.is_multiple_of(WIDE));
