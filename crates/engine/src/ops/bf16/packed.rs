//! Operands that are packed once and multiplied several times, in whole blocks of 32 x 32.

use std::ops::Range;

use super::super::mat::Mat;
use super::super::matmul::Into;
use super::kernel::{Kernel, Panels, Place, Unit};
use super::pack::{Limbs, SIDE, STEP, Tile};
use super::{Form, Lanes, Operand, Part};

/// Lanes of a block.
pub const BLOCK: usize = 2 * SIDE;

/// Terms of a step are as many as lanes of a block: both cut what attention packs.
const _: () = assert!(STEP == BLOCK);

/// An operand in tiles. Lanes that fill up its last block, and terms that fill up its last step, are 0.
#[derive(Debug)]
pub struct Packed {
    tiles: Vec<Tile>,
    form: Form,
    limbs: Limbs,
    blocks: usize,
    steps: usize,
}

/// Some blocks of an operand, and some steps of their terms.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    of: &'a Packed,
    blocks: (usize, usize),
    steps: (usize, usize),
}

impl Default for Packed {
    fn default() -> Self {
        Self { tiles: Vec::new(), form: Form::Left, limbs: Limbs::One, blocks: 0, steps: 0 }
    }
}

impl Packed {
    /// Holds the rows of `lanes` from now on, times `scale` (before they are rounded).
    pub fn pack(&mut self, form: Form, limbs: Limbs, lanes: Mat<'_>, scale: f32) {
        let (count, terms) = (lanes.rows(), lanes.cols());
        (self.form, self.limbs) = (form, limbs);
        (self.blocks, self.steps) = (count.div_ceil(BLOCK), terms.div_ceil(STEP));
        let panel = limbs.tiles(terms);
        let (packed, all) = (count.div_ceil(SIDE) * panel, 2 * self.blocks * panel);
        if self.tiles.len() < all {
            self.tiles.resize(all, Tile::ZERO);
        }
        let whole = Part { form, limbs, lanes: 0..count, terms: 0..terms };
        Lanes::rows(lanes, scale).pack(whole, &mut self.tiles[..packed]);
        self.tiles[packed..all].fill(Tile::ZERO);
    }

    /// Those blocks, with all of their terms.
    ///
    /// # Panics
    /// When there are fewer: a bug in the calling kernel.
    #[must_use]
    pub fn blocks(&self, blocks: Range<usize>) -> View<'_> {
        assert!(blocks.end <= self.blocks, "bf16: no such block");
        View { of: self, blocks: (blocks.start, blocks.end), steps: (0, self.steps) }
    }

    /// All blocks, with those steps of their terms.
    ///
    /// # Panics
    /// When there are fewer: a bug in the calling kernel.
    #[must_use]
    pub fn steps(&self, steps: Range<usize>) -> View<'_> {
        assert!(steps.end <= self.steps, "bf16: no such step");
        View { of: self, blocks: (0, self.blocks), steps: (steps.start, steps.end) }
    }

    /// All of it.
    #[must_use]
    pub fn all(&self) -> View<'_> {
        self.steps(0..self.steps)
    }
}

impl<'a> View<'a> {
    /// The two panels of a block.
    fn panels(&self, block: usize) -> Panels<'a> {
        let count = self.of.limbs.count();
        let panel = self.of.steps * count;
        let part = |index: usize| {
            let from = index * panel + self.steps.0 * count;
            &self.of.tiles[from..from + (self.steps.1 - self.steps.0) * count]
        };
        Panels(part(2 * block), part(2 * block + 1))
    }
}

/// The unit that multiplies, ready on this thread until the result is dropped; a thread has one at a time.
#[must_use]
pub fn begin() -> Unit {
    Kernel::best().begin()
}

/// `dst (+)= left right`, rows `stride` elements apart, whole blocks: 32 rows for each of `left`'s, 32 columns for
/// each of `right`'s.
///
/// # Panics
/// When the operands do not fit each other or the destination: a bug in the calling kernel.
pub fn multiply(
    unit: &Unit,
    left: View<'_>,
    right: View<'_>,
    dst: &mut [f32],
    stride: usize,
    into: Into,
) {
    let limbs = left.of.limbs;
    let forms = (left.of.form, right.of.form) == (Form::Left, Form::Right);
    let steps = left.steps.1 - left.steps.0 == right.steps.1 - right.steps.0;
    assert!(forms && steps && limbs == right.of.limbs, "bf16: packed operands do not fit");
    let (rows, cols) = (left.blocks.0..left.blocks.1, right.blocks.0..right.blocks.1);
    let (height, width) = (rows.len() * BLOCK, cols.len() * BLOCK);
    if height * width == 0 {
        return;
    }
    let fits = width <= stride && (height - 1) * stride + width <= dst.len();
    assert!(fits, "bf16: destination short");
    for (j, col) in cols.enumerate() {
        let right = right.panels(col);
        for (i, row) in rows.clone().enumerate() {
            let start = dst[i * BLOCK * stride + j * BLOCK..].as_mut_ptr();
            let next = start.cast_const().cast();
            let place = Place { start, stride, into, next, next_stride: 4 * stride };
            #[expect(unsafe_code, reason = "kernels write blocks of a matrix")]
            // SAFETY: the block lies inside `dst`, which is ours.
            unsafe {
                unit.whole(limbs, left.panels(row), right, place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of whole numbers below 16, which both roundings hold.
    fn numbers(rows: usize, cols: usize, seed: usize) -> Vec<f32> {
        (0..rows * cols).map(|i| ((i * 7 + i / 5 + seed) % 16) as f32 - 8.0).collect()
    }

    #[test]
    fn parts_of_packed_operands_make_products() {
        for limbs in [Limbs::One, Limbs::Three] {
            for (rows, cols, terms) in [(1, 1, 1), (32, 64, 32), (40, 33, 70), (70, 16, 100)] {
                let (a, b) = (numbers(rows, terms, 1), numbers(terms, cols, 2));
                let (mut left, mut right) = (Packed::default(), Packed::default());
                // buffers that were larger before
                left.pack(Form::Right, limbs, Mat::new(&numbers(96, 128, 3), 96, 128, 128), 1.0);
                left.pack(Form::Left, limbs, Mat::new(&a, rows, terms, terms), 2.0);
                right.pack(Form::Right, limbs, Mat::new(&b, terms, cols, cols).t(), 1.0);
                let stride = cols.next_multiple_of(BLOCK) + 32;
                let mut dst = vec![0.5; rows.next_multiple_of(BLOCK) * stride];
                let all = terms.div_ceil(STEP);
                let unit = begin();
                multiply(&unit, left.all(), right.all(), &mut dst, stride, Into::Overwrite);
                // the last step again, into the last rows
                let last = left.blocks - 1;
                let tail = View { blocks: (last, left.blocks), ..left.steps(all - 1..all) };
                let to = &mut dst[last * BLOCK * stride..];
                multiply(&unit, tail, right.steps(all - 1..all), to, stride, Into::Add);
                for (r, row) in dst.chunks(stride).enumerate() {
                    for (c, got) in row.iter().enumerate() {
                        let product = |k: usize| 2.0 * a[r * terms + k] * b[k * cols + c];
                        let want = match (r < rows && c < cols, c < stride - 32) {
                            (_, false) => 0.5,
                            (false, true) => 0.0,
                            (true, true) => {
                                let again =
                                    if r >= last * BLOCK { (all - 1) * STEP } else { terms };
                                (0..terms).chain(again..terms).map(product).sum()
                            }
                        };
                        assert!((got - want).abs() < 1e-3, "{limbs:?} {r} {c}: {got} {want}");
                    }
                }
            }
        }
    }
}
