//! Products on the units that CPUs have for bfloat16: of operands that are rounded to it, and of f32
//! operands that are cut into three such numbers each.
//!
//! `dst (+)= a b`. Operands are rounded to the nearest bf16 while they are packed, or cut without loss
//! into a high, a middle and a low part ([`Limbs`]); every product and sum is f32: what a GPU's tensor
//! cores do. The kernel is AMX where the CPU has it (Sapphire Rapids), else AVX-512's `vdpbf16ps`
//! (Zen 4), on Arm `bfdot`; [`available`] says whether there is one.
//!
//! The result is cut into blocks of 32 x 32. The operand with fewer lanes (rows of a, columns of b)
//! is packed whole and shared; groups of the other's lanes are tasks, each of which packs its group,
//! a stretch of terms at a time, and multiplies it by all of the first. The order in which an
//! element's terms are added depends on the shapes alone, never on the threads.
//! Source: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use rayon::prelude::*;

use super::matmul::{Into, Threads};
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::mask;
use kernel::{Kernel, Place, Sums, Unit};
pub use operand::{Form, Grain, Lanes, Operand, Part};
pub use pack::{Limbs, Number, Tile};
use pack::{SIDE, STEP};
use packed::BLOCK;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod operand;
mod pack;
pub(super) mod packed;

/// Tiles of two panels that a group is packed for at once. The result is read and written once a stretch, which
/// costs more than panels that come from the second cache instead of the first.
const DEPTH: usize = 144;

/// Tiles of the shared operand that are held at once, if it has so many: 8 MiB. The logits' gradient times the
/// output matrix has a term for each word of the vocabulary.
const SHARE: usize = 8 << 10;

/// Lanes of a group, at most: its panels fit the second cache.
const GROUP: usize = 192;

/// Products smaller than this stay on the thread that asks.
const SMALL: usize = 1 << 20;

/// Whether this CPU multiplies bf16 numbers faster than f32 ones.
#[must_use]
pub fn available() -> bool {
    Kernel::best() != Kernel::Portable
}

/// Whether f32 products are faster as six of bf16 numbers than with this CPU's f32 instructions.
#[must_use]
pub fn carries_f32() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Kernel::best() == Kernel::Amx;
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// What multiplies bf16 numbers here, for the log.
#[must_use]
pub fn unit_name() -> &'static str {
    Kernel::best().name()
}

thread_local! {
    /// The shared operand of this thread's product.
    static SHARED: Cell<Vec<Tile>> = const { Cell::new(Vec::new()) };
    /// The group of this thread's task.
    static OWN: Cell<Vec<Tile>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` on at least `count` tiles of this thread, whatever is in them.
fn with_tiles<R>(
    buffer: &'static LocalKey<Cell<Vec<Tile>>>,
    count: usize,
    work: impl FnOnce(&mut [Tile]) -> R,
) -> R {
    let mut tiles = buffer.take();
    if tiles.len() < count {
        tiles.resize(count, Tile::ZERO);
    }
    let result = work(&mut tiles[..count]);
    buffer.set(tiles);
    result
}

/// The first element of a product's result.
#[derive(Clone, Copy)]
enum Start {
    /// Sums.
    Whole(*mut f32),
    /// Sums that are rounded.
    Rounded(*mut half::bf16),
}

impl Start {
    /// Where the element lies that is so many further.
    fn address(self, further: usize) -> *const u8 {
        match self {
            Self::Whole(start) => start.wrapping_add(further).cast_const().cast(),
            Self::Rounded(start) => start.wrapping_add(further).cast_const().cast(),
        }
    }

    /// Bytes of an element.
    fn size(self) -> usize {
        match self {
            Self::Whole(_) => size_of::<f32>(),
            Self::Rounded(_) => size_of::<half::bf16>(),
        }
    }
}

/// Where a product goes: rows `stride` elements apart.
struct Destination {
    start: Start,
    stride: usize,
    rows: usize,
    cols: usize,
}

#[expect(unsafe_code, reason = "blocks of one matrix are written by several threads")]
// SAFETY: every task writes the rows or columns of its own lanes only, and the matrix outlives them.
unsafe impl Sync for Destination {}

/// `dst (+)= a b`: the lanes of `left` are the rows of the result, those of `right` its columns.
///
/// # Safety
/// `(left.lanes() - 1) * stride + right.lanes()` elements from `dst` on are of one allocation that
/// nobody else uses meanwhile. With [`Into::Overwrite`] they may be uninitialised.
///
/// # Panics
/// When the operands' terms differ in number: a bug in the calling op.
#[expect(unsafe_code, reason = "a destination that may be uninitialised comes as a pointer")]
pub(super) unsafe fn product(
    limbs: Limbs,
    threads: Threads,
    dst: *mut f32,
    stride: usize,
    into: Into,
    left: &dyn Operand,
    right: &dyn Operand,
) {
    let start = Start::Whole(dst);
    let to = Destination { start, stride, rows: left.lanes(), cols: right.lanes() };
    multiply((Kernel::best(), limbs, threads.of(&to, left)), &to, into, left, right);
}

/// Whether the sums of so many terms are finished in registers: only such a product can be [`rounded`].
#[must_use]
pub(super) fn in_one_stretch(limbs: Limbs, terms: usize) -> bool {
    stretches(limbs, terms, 1).len() == 1
}

/// `dst = a b`, each sum rounded to bf16, row-major.
///
/// # Safety
/// As [`product`], for `left.lanes() * right.lanes()` elements.
///
/// # Panics
/// As [`product`], and when the terms are not [`in_one_stretch`].
#[expect(unsafe_code, reason = "a destination that may be uninitialised comes as a pointer")]
pub(super) unsafe fn rounded(dst: *mut half::bf16, left: &dyn Operand, right: &dyn Operand) {
    let (rows, cols) = (left.lanes(), right.lanes());
    let to = Destination { start: Start::Rounded(dst), stride: cols, rows, cols };
    assert!(in_one_stretch(Limbs::One, left.terms()), "bf16: too many terms to round their sum");
    let threads = Threads::Pool.of(&to, left);
    multiply((Kernel::best(), Limbs::One, threads), &to, Into::Overwrite, left, right);
}

impl Threads {
    /// How many.
    fn of(self, to: &Destination, left: &dyn Operand) -> usize {
        match self {
            Self::Pool if to.rows * to.cols * left.terms() >= SMALL => rayon::current_num_threads(),
            _ => 1,
        }
    }
}

fn multiply(
    (kernel, limbs, threads): (Kernel, Limbs, usize),
    to: &Destination,
    into: Into,
    left: &dyn Operand,
    right: &dyn Operand,
) {
    let terms = left.terms();
    assert_eq!(terms, right.terms(), "bf16: inner dimensions differ");
    if to.rows == 0 || to.cols == 0 {
        return;
    }
    let rows_outside = to.rows >= to.cols;
    let (outer, inner) = if rows_outside { (left, right) } else { (right, left) };
    let (form, inner_form) = match rows_outside {
        true => (Form::Left, Form::Right),
        false => (Form::Right, Form::Left),
    };
    let stretches = stretches(limbs, terms, outer.grain().terms.max(inner.grain().terms));
    let panels = inner.lanes().div_ceil(SIDE);
    let mut into = into;
    let each = panels * limbs.tiles(stretches[0].len());
    for stretches in stretches.chunks((SHARE / each.max(1)).max(1)) {
        let all: usize = stretches.iter().map(|s| panels * limbs.tiles(s.len())).sum();
        with_tiles(&SHARED, all, |shared| {
            pack_whole((inner, inner_form, limbs), stretches, threads, shared);
            let task = Task { kernel, limbs, to, into, rows_outside, form, stretches, shared };
            let size = group_size(outer, threads);
            let groups = outer.lanes().div_ceil(size);
            let group = |i: usize| i * size..outer.lanes().min((i + 1) * size);
            match threads {
                1 => (0..groups).for_each(|i| task.run(outer, group(i))),
                _ => (0..groups).into_par_iter().for_each(|i| task.run(outer, group(i))),
            }
        });
        into = Into::Add;
    }
}

/// Equal stretches of the terms, each a whole number of steps and of `grain`, but for the last.
fn stretches(limbs: Limbs, terms: usize, grain: usize) -> Vec<Range<usize>> {
    let unit = STEP.max(grain);
    let depth = STEP * DEPTH / 2 / limbs.count();
    let count = terms.div_ceil(depth.max(unit)).max(1);
    let length = terms.div_ceil(count).next_multiple_of(unit).max(unit);
    // also where there are no terms: a sum of nothing is still written
    let starts = (0..terms.max(1)).step_by(length);
    starts.map(|from| from..terms.min(from + length)).collect()
}

/// Lanes of a task: as many as the cache likes, fewer where there would be too few tasks to share out.
fn group_size(operand: &dyn Operand, threads: usize) -> usize {
    let unit = (2 * SIDE).next_multiple_of(operand.grain().lanes);
    let fair = operand.lanes().div_ceil(4 * threads).next_multiple_of(unit);
    fair.clamp(unit, GROUP.max(unit))
}

/// Packs every lane: stretch by stretch, panel by panel, step by step.
fn pack_whole(
    (inner, form, limbs): (&dyn Operand, Form, Limbs),
    stretches: &[Range<usize>],
    threads: usize,
    mut tiles: &mut [Tile],
) {
    let lanes = inner.lanes();
    let unit = group_size(inner, threads);
    for terms in stretches {
        let each = limbs.tiles(terms.len());
        let (these, rest) = tiles.split_at_mut(lanes.div_ceil(SIDE) * each);
        tiles = rest;
        if each == 0 {
            continue;
        }
        let pack = |(i, part): (usize, &mut [Tile])| {
            let lanes = i * unit..lanes.min((i + 1) * unit);
            inner.pack(Part { form, limbs, lanes, terms: terms.clone() }, part);
        };
        let size = unit.div_ceil(SIDE) * each;
        match threads {
            1 => these.chunks_mut(size).enumerate().for_each(pack),
            _ => these.par_chunks_mut(size).enumerate().for_each(pack),
        }
    }
}

/// Sums of a block that are rounded next, in the first cache.
#[repr(align(64))]
struct BlockSums(Sums);

/// What the groups of one product share.
struct Task<'a> {
    kernel: Kernel,
    limbs: Limbs,
    to: &'a Destination,
    into: Into,
    /// Whether a group is some rows of the result, or some columns.
    rows_outside: bool,
    form: Form,
    stretches: &'a [Range<usize>],
    shared: &'a [Tile],
}

impl Task<'_> {
    /// The rows, or columns, `group` of the result.
    fn run(&self, outer: &dyn Operand, group: Range<usize>) {
        let panels = group.len().div_ceil(SIDE);
        let longest = self.limbs.tiles(self.stretches[0].len());
        let inner_lanes = if self.rows_outside { self.to.cols } else { self.to.rows };
        let inner_panels = inner_lanes.div_ceil(SIDE);
        with_tiles(&OWN, panels * longest, |own| {
            let unit = self.kernel.begin();
            let mut shared = self.shared;
            for (i, terms) in self.stretches.iter().enumerate() {
                let each = self.limbs.tiles(terms.len());
                let (lanes, terms) = (group.clone(), terms.clone());
                let part = Part { form: self.form, limbs: self.limbs, lanes, terms };
                outer.pack(part, &mut own[..panels * each]);
                let (these, rest) = shared.split_at(inner_panels * each);
                shared = rest;
                let into = if i == 0 { self.into } else { Into::Add };
                let mut blocks = pairs(inner_panels)
                    .flat_map(|other| pairs(panels).map(move |mine| (other, mine)))
                    .peekable();
                while let Some(block) = blocks.next() {
                    let next = blocks.peek().copied().unwrap_or(block);
                    let [at, next] = [block, next].map(|(other, mine)| {
                        let (mine, other) = (group.start + mine * SIDE, other * SIDE);
                        if self.rows_outside { (mine, other) } else { (other, mine) }
                    });
                    let (other, mine) = block;
                    let mine = &own[mine * each..panels.min(mine + 2) * each];
                    let other = &these[other * each..inner_panels.min(other + 2) * each];
                    let (a, b) = if self.rows_outside { (mine, other) } else { (other, mine) };
                    self.block(&unit, each, (a, b), into, at, next);
                }
            }
        });
    }

    /// One or two panels times one or two, at a row and a column of the result, and where the next ones go.
    fn block(
        &self,
        unit: &Unit,
        each: usize,
        operands: (&[Tile], &[Tile]),
        into: Into,
        (row, col): (usize, usize),
        next: (usize, usize),
    ) {
        let Destination { start, stride, .. } = *self.to;
        let (rows, cols) = (self.to.rows - row, self.to.cols - col);
        let part = (rows.min(2 * SIDE), cols.min(2 * SIDE));
        let (at, next) = (row * stride + col, start.address(next.0 * stride + next.1));
        let next_stride = start.size() * stride;
        #[expect(unsafe_code, reason = "kernels write blocks of a matrix that threads share")]
        // SAFETY: the block lies inside the destination, in lanes that are this task's alone.
        unsafe {
            match start {
                Start::Whole(start) => {
                    let start = start.add(at);
                    let place = Place { start, stride, into, next, next_stride };
                    unit.block(self.limbs, each, operands, part, place);
                }
                Start::Rounded(to) => {
                    let (start, into) = (std::ptr::null_mut(), Into::Overwrite);
                    let place = Place { start, stride: BLOCK, into, next, next_stride };
                    self.rounded_block(unit, each, operands, part, place, to.add(at));
                }
            }
        }
    }

    /// As [`Task::block`], to a rounded result: the sums stay in the first cache.
    ///
    /// # Safety
    /// The part of the matrix from `to` on is this task's alone.
    #[expect(unsafe_code, reason = "kernels write blocks of a matrix that threads share")]
    #[inline(never)]
    unsafe fn rounded_block(
        &self,
        unit: &Unit,
        each: usize,
        operands: (&[Tile], &[Tile]),
        part: (usize, usize),
        place: Place,
        to: *mut half::bf16,
    ) {
        let mut sums = BlockSums([0.0; BLOCK * BLOCK]);
        let place = Place { start: sums.0.as_mut_ptr(), ..place };
        // SAFETY: the sums are a block; the caller's promise.
        unsafe {
            unit.block(self.limbs, each, operands, part, place);
            kernel::round_sums(&sums.0, part, to, self.to.stride);
        }
    }
}

/// The first of each two panels.
fn pairs(panels: usize) -> impl Iterator<Item = usize> {
    (0..panels).step_by(2)
}

#[cfg(test)]
mod tests;
