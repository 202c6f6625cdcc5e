//! NF4 and FP4: bitsandbytes' 4-bit formats, with its tables, packing and double quantisation.
//!
//! A block of 64 numbers is scaled by its largest magnitude and each number becomes the nearest of
//! sixteen values; two lie in a byte, the first in the high half. With double quantisation the scales,
//! less their mean, are 8-bit themselves, in blocks of 256 (`dynamic`). Blocks do not cross rows: where
//! a row is no multiple of 64 its last block is shorter (bitsandbytes' blocks run on instead).
//! Source: Dettmers et al., "QLoRA", 2023, sections 3 and E; bitsandbytes' functional.py.

use rayon::prelude::*;

use super::dynamic::{self, Dynamic};
use super::{Format, Packed};
use crate::error::Result;
use crate::simd::with_simd;

/// Numbers that share a scale.
pub(super) const BLOCK: usize = 64;

/// The two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FourBit {
    /// Quantiles of the normal distribution.
    Nf4,
    /// Sign, two bits of exponent, one of mantissa.
    Fp4,
}

/// bitsandbytes' NF4 table.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// bitsandbytes' FP4 table by bit pattern; its values are made relative to the largest, 12.
const FP4: [f32; 16] = [
    0.0,
    0.0625 / 12.0,
    8.0 / 12.0,
    1.0,
    4.0 / 12.0,
    6.0 / 12.0,
    2.0 / 12.0,
    3.0 / 12.0,
    -0.0,
    -0.0625 / 12.0,
    -8.0 / 12.0,
    -1.0,
    -4.0 / 12.0,
    -6.0 / 12.0,
    -2.0 / 12.0,
    -3.0 / 12.0,
];

/// Bit patterns by rising value.
const NF4_ORDER: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const FP4_ORDER: [u8; 16] = [11, 10, 13, 12, 15, 14, 9, 8, 0, 1, 6, 7, 4, 5, 2, 3];

/// The two numbers of each byte.
type Pairs = [[f32; 2]; 256];

static NF4_PAIRS: Pairs = pairs_of(NF4);
static FP4_PAIRS: Pairs = pairs_of(FP4);

const fn pairs_of(table: [f32; 16]) -> Pairs {
    let mut out = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        out[byte] = [table[byte >> 4], table[byte & 15]];
        byte += 1;
    }
    out
}

/// The pairs of NF4, or of FP4.
#[inline(always)]
pub(super) fn pairs(nf4: bool) -> &'static Pairs {
    if nf4 { &NF4_PAIRS } else { &FP4_PAIRS }
}

/// A scale for each block.
#[derive(Clone, PartialEq)]
pub(super) enum Scales {
    /// As they were.
    Plain(Vec<f32>),
    /// Double quantisation.
    Dynamic(Dynamic),
}

impl Scales {
    #[inline(always)]
    fn get(&self, block: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[block],
            Self::Dynamic(scales) => scales.get(block),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Plain(scales) => scales.len() * 4,
            Self::Dynamic(scales) => scales.bytes(),
        }
    }
}

/// The blocks of `bytes`, whose first scale is `scale`, into `out`.
#[inline(always)]
pub(super) fn unpack(table: &Pairs, scales: &Scales, scale: usize, bytes: &[u8], out: &mut [f32]) {
    let blocks = out.chunks_mut(BLOCK).zip(bytes.as_chunks::<{ BLOCK / 2 }>().0);
    for (i, (out, bytes)) in blocks.enumerate() {
        let scale = scales.get(scale + i);
        let (two, rest) = out.as_chunks_mut::<2>();
        for (y, b) in two.iter_mut().zip(bytes) {
            let [first, second] = table[usize::from(*b)];
            *y = [first * scale, second * scale];
        }
        if let Some(y) = rest.first_mut() {
            *y = table[usize::from(bytes[two.len()])][0] * scale;
        }
    }
}

/// Quantises a weight that comes some rows at a time.
pub struct FourBitBuilder {
    kind: FourBit,
    double: bool,
    cols: usize,
    bytes: Vec<u8>,
    scales: Vec<f32>,
}

impl FourBitBuilder {
    /// No rows yet, of `cols` numbers each. `double` quantises the scales too.
    #[must_use]
    pub fn new(kind: FourBit, cols: usize, double: bool) -> Self {
        Self { kind, double, cols: cols.max(1), bytes: Vec::new(), scales: Vec::new() }
    }

    /// Takes the memory for `rows` rows at once: a weight that grows is copied each time it outgrows its place.
    #[must_use]
    pub fn room_for(mut self, rows: usize) -> Self {
        self.bytes.reserve_exact(rows * self.cols / 2);
        self
    }

    /// Appends whole rows; whether all their numbers are finite.
    #[must_use]
    pub fn push(&mut self, rows: &[f32]) -> bool {
        let (table, order) = match self.kind {
            FourBit::Nf4 => (NF4, NF4_ORDER),
            FourBit::Fp4 => (FP4, FP4_ORDER),
        };
        let sorted = order.map(|bits| table[usize::from(bits)]);
        let middles: [f32; 15] = std::array::from_fn(|i| (sorted[i] + sorted[i + 1]) / 2.0);
        let blocks = self.cols.div_ceil(BLOCK);
        let (bytes_at, scales_at) = (self.bytes.len(), self.scales.len());
        let n = rows.len() / self.cols;
        self.bytes.resize(bytes_at + n * blocks * BLOCK / 2, 0);
        self.scales.resize(scales_at + n * blocks, 0.0);
        let bytes = self.bytes[bytes_at..].par_chunks_mut(blocks * BLOCK / 2);
        let scales = self.scales[scales_at..].par_chunks_mut(blocks);
        rows.par_chunks(self.cols)
            .zip(bytes.zip(scales))
            .map(|(row, (bytes, scales))| {
                with_simd(
                    #[inline(always)]
                    || pack_row(row, &middles, &order, bytes, scales),
                )
            })
            .reduce(|| true, |a, b| a & b)
    }

    /// The weight.
    ///
    /// # Errors
    /// Never, for rows that were whole.
    pub fn finish(self) -> Result<Packed> {
        let rows = self.scales.len() / self.cols.div_ceil(BLOCK);
        let scales = match self.double {
            true => Scales::Dynamic(dynamic::quantise(&self.scales)),
            false => Scales::Plain(self.scales),
        };
        let format = match self.kind {
            FourBit::Nf4 => Format::Nf4,
            FourBit::Fp4 => Format::Fp4,
        };
        let cols = self.cols;
        Ok(Packed { format, rows, cols, bytes: self.bytes, scales: Some(scales) })
    }
}

/// One row into its blocks; whether all its numbers are finite.
#[inline(always)]
fn pack_row(
    row: &[f32],
    middles: &[f32; 15],
    order: &[u8; 16],
    bytes: &mut [u8],
    scales: &mut [f32],
) -> bool {
    let mut finite = true;
    for ((block, bytes), scale) in
        row.chunks(BLOCK).zip(bytes.chunks_exact_mut(BLOCK / 2)).zip(scales)
    {
        let mut padded = [0f32; BLOCK];
        padded[..block.len()].copy_from_slice(block);
        let mut largest = 0f32;
        for x in padded {
            finite &= x.is_finite();
            largest = largest.max(x.abs());
        }
        *scale = largest;
        let inverse = 1.0 / largest.max(1e-38);
        let mut index = [0u8; BLOCK];
        for (index, x) in index.iter_mut().zip(padded) {
            let scaled = (x * inverse).clamp(-1.0, 1.0);
            for middle in middles {
                *index += u8::from(scaled > *middle);
            }
        }
        for (byte, two) in bytes.iter_mut().zip(index.as_chunks::<2>().0) {
            *byte = order[usize::from(two[0])] << 4 | order[usize::from(two[1])];
        }
    }
    finite
}
