//! 8-bit blocks made while a model is loaded: llama.cpp's Q8_0.
//!
//! 32 numbers share a half-precision scale, their largest magnitude / 127, and are rounded to whole
//! multiples of it.

use half::f16;
use rayon::prelude::*;

use super::{Format, Packed};
use crate::error::Result;
use crate::simd::with_simd;

const BLOCK: usize = 32;
const BYTES: usize = 34;

/// Quantises a weight that comes some rows at a time.
pub struct Q8Builder {
    cols: usize,
    bytes: Vec<u8>,
}

impl Q8Builder {
    /// No rows yet, of `cols` numbers each: a multiple of 32.
    #[must_use]
    pub fn new(cols: usize) -> Self {
        Self { cols: cols.max(1), bytes: Vec::new() }
    }

    /// Takes the memory for `rows` rows at once: a weight that grows is copied each time it outgrows its place.
    #[must_use]
    pub fn room_for(mut self, rows: usize) -> Self {
        self.bytes.reserve_exact(rows * self.cols / BLOCK * BYTES);
        self
    }

    /// Appends whole rows; whether all their numbers are finite.
    #[must_use]
    pub fn push(&mut self, rows: &[f32]) -> bool {
        let at = self.bytes.len();
        self.bytes.resize(at + rows.len() / BLOCK * BYTES, 0);
        rows.par_chunks(BLOCK * 64)
            .zip(self.bytes[at..].par_chunks_mut(BYTES * 64))
            .map(|(rows, bytes)| {
                with_simd(
                    #[inline(always)]
                    || pack(rows, bytes),
                )
            })
            .reduce(|| true, |a, b| a & b)
    }

    /// The weight.
    ///
    /// # Errors
    /// When a row is no multiple of 32.
    pub fn finish(self) -> Result<Packed> {
        let rows = self.bytes.len() / BYTES * BLOCK / self.cols;
        Packed::new(Format::Q8_0, rows, self.cols, self.bytes)
    }
}

/// Blocks of numbers; whether all are finite.
#[inline(always)]
fn pack(rows: &[f32], bytes: &mut [u8]) -> bool {
    let mut finite = true;
    for (x, b) in rows.as_chunks::<BLOCK>().0.iter().zip(bytes.as_chunks_mut::<BYTES>().0) {
        let mut largest = 0f32;
        for x in x {
            finite &= x.is_finite();
            largest = largest.max(x.abs());
        }
        let scale = largest / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        [b[0], b[1]] = f16::from_f32(scale).to_le_bytes();
        for (b, x) in b[2..].iter_mut().zip(x) {
            *b = (x * inverse).round() as i8 as u8;
        }
    }
    finite
}
