//! What a product reads: an operand as lanes (rows of the left one, columns of the right one), each
//! with a number for every term of the sums.

use std::ops::Range;

use super::super::mat::Mat;
use super::pack::{self, Limbs, Number, Source, Tile};

/// Which side of a product a tile is for. See [`super::pack`] for the two layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A lane after the other.
    Left,
    /// A pair of terms after the other.
    Right,
}

/// A part of an operand, and what it is packed for.
#[derive(Clone, Debug)]
pub struct Part {
    /// The side of the product.
    pub form: Form,
    /// Rounded or cut.
    pub limbs: Limbs,
    /// Which lanes.
    pub lanes: Range<usize>,
    /// Which terms of them.
    pub terms: Range<usize>,
}

/// What lanes and terms are a multiple of when a part of an operand is packed, unless it ends there.
#[derive(Clone, Copy, Debug)]
pub struct Grain {
    /// Lanes.
    pub lanes: usize,
    /// Terms.
    pub terms: usize,
}

/// One side of a product.
pub trait Operand: Sync {
    /// Rows of the left operand, columns of the right one.
    fn lanes(&self) -> usize;

    /// Terms of every sum.
    fn terms(&self) -> usize;

    /// What parts may be asked for.
    fn grain(&self) -> Grain;

    /// Rounds or cuts a part to bf16, into panels of 16 lanes, one after the other, each of a tile a limb
    /// a step. Lanes and terms that fill up the last panel and step are 0.
    fn pack(&self, part: Part, tiles: &mut [Tile]);
}

/// A matrix as an operand.
#[derive(Clone, Copy)]
pub struct Lanes<'a, T = f32> {
    mat: Mat<'a, T>,
    scale: f32,
}

impl<'a, T> Lanes<'a, T> {
    /// The rows of `a`, times `scale` (before they are rounded).
    #[must_use]
    pub fn rows(a: Mat<'a, T>, scale: f32) -> Self {
        Self { mat: a, scale }
    }

    /// The columns of `b`.
    #[must_use]
    pub fn columns(b: Mat<'a, T>) -> Self {
        Self { mat: b.t(), scale: 1.0 }
    }
}

impl<T: Number> Operand for Lanes<'_, T> {
    fn lanes(&self) -> usize {
        self.mat.rows()
    }

    fn terms(&self) -> usize {
        self.mat.cols()
    }

    fn grain(&self) -> Grain {
        Grain { lanes: 1, terms: 1 }
    }

    fn pack(&self, part: Part, tiles: &mut [Tile]) {
        let (lane_stride, term_stride) = self.mat.strides();
        let data = self.mat.from(part.lanes.start, part.terms.start);
        let (lanes, terms, scale) = (part.lanes.len(), part.terms.len(), self.scale);
        let source = Source { data, lane_stride, term_stride, lanes, terms, scale };
        pack::part(&source, part.form, part.limbs, tiles);
    }
}
