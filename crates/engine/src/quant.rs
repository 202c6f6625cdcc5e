//! Frozen weights that stay quantised: blocks in memory, unpacked a panel at a time where they are
//! used.
//!
//! A weight [rows, cols] is stored row by row; a row is a whole number of blocks. The formats are
//! llama.cpp's, as a GGUF file holds them; NF4 and FP4, as bitsandbytes makes them; and plain halves,
//! which are exact for a model that comes in them.

mod blocks;
mod dynamic;
mod four_bit;
mod halves;
mod product;
mod q8;

use std::fmt;

use candle_core::quantized::GgmlDType;

use crate::error::{Error, Result};

pub use four_bit::{FourBit, FourBitBuilder};
pub use halves::HalfBuilder;
pub use q8::Q8Builder;

/// How the numbers of a weight are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// llama.cpp's: 32 numbers, one scale, 4 bits each.
    Q4_0,
    /// 32 numbers, scale and minimum, 4 bits each.
    Q4_1,
    /// 32 numbers, one scale, 5 bits each.
    Q5_0,
    /// 32 numbers, scale and minimum, 5 bits each.
    Q5_1,
    /// 32 numbers, one scale, 8 bits each.
    Q8_0,
    /// 256 numbers in 8 groups with 6-bit scales and minima, 4 bits each.
    Q4K,
    /// As Q4K, 5 bits each.
    Q5K,
    /// 256 numbers in 16 groups with 8-bit scales, 6 bits each.
    Q6K,
    /// 64 numbers, one scale, 16 quantiles of the normal distribution (QLoRA).
    Nf4,
    /// 64 numbers, one scale, 4-bit floats.
    Fp4,
}

impl Format {
    /// The format of a GGUF tensor, where it can stay as it is.
    #[must_use]
    pub fn of(dtype: GgmlDType) -> Option<Self> {
        Some(match dtype {
            GgmlDType::BF16 => Self::Bf16,
            GgmlDType::F16 => Self::F16,
            GgmlDType::Q4_0 => Self::Q4_0,
            GgmlDType::Q4_1 => Self::Q4_1,
            GgmlDType::Q5_0 => Self::Q5_0,
            GgmlDType::Q5_1 => Self::Q5_1,
            GgmlDType::Q8_0 => Self::Q8_0,
            GgmlDType::Q4K => Self::Q4K,
            GgmlDType::Q5K => Self::Q5K,
            GgmlDType::Q6K => Self::Q6K,
            _ => return None,
        })
    }

    /// Numbers of a block.
    #[must_use]
    pub fn block(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Nf4 | Self::Fp4 => four_bit::BLOCK,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block; NF4's and FP4's scales lie apart.
    fn block_bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Nf4 | Self::Fp4 => four_bit::BLOCK / 2,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A frozen weight [rows, cols] in blocks.
#[derive(Clone, PartialEq)]
pub struct Packed {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    scales: Option<four_bit::Scales>,
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({} [{}, {}])", self.format, self.rows, self.cols)
    }
}

impl Packed {
    /// A weight from its blocks, row after row. Not for NF4 and FP4, which [`FourBitBuilder`] makes.
    ///
    /// # Errors
    /// When a row is no whole number of blocks, or the bytes are too few or too many.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: Vec<u8>) -> Result<Self> {
        let wanted = rows * (cols / format.block()) * format.block_bytes();
        let apart = matches!(format, Format::Nf4 | Format::Fp4);
        let empty = rows == 0 || cols == 0;
        if apart || empty || !cols.is_multiple_of(format.block()) || bytes.len() != wanted {
            return Err(Error::Internal(format!(
                "{} bytes are no {format} weight of {rows} x {cols}",
                bytes.len()
            )));
        }
        Ok(Self { format, rows, cols, bytes, scales: None })
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// (rows, columns).
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// How many numbers it holds.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.rows * self.cols
    }

    /// Memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.scales.as_ref().map_or(0, four_bit::Scales::bytes)
    }

    fn row_bytes(&self) -> usize {
        self.cols.div_ceil(self.format.block()) * self.format.block_bytes()
    }

    /// Columns `from ..` of `rows`, one row after the other in `out`, each `width` long. `from` is a
    /// multiple of the block; `width` is one, or ends with the row.
    #[inline(always)]
    fn unpack_rows(
        &self,
        rows: impl Iterator<Item = usize>,
        from: usize,
        width: usize,
        out: &mut [f32],
    ) {
        let (block, size) = (self.format.block(), self.format.block_bytes());
        let (first, count) = (from / block, width.div_ceil(block));
        for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
            let at = row * self.row_bytes() + first * size;
            let bytes = &self.bytes[at..at + count * size];
            match (self.format, &self.scales) {
                (Format::Bf16, _) => blocks::bf16(bytes, out),
                (Format::F16, _) => blocks::f16(bytes, out),
                (Format::Q4_0, _) => blocks::q4_0(bytes, out),
                (Format::Q4_1, _) => blocks::q4_1(bytes, out),
                (Format::Q5_0, _) => blocks::q5_0(bytes, out),
                (Format::Q5_1, _) => blocks::q5_1(bytes, out),
                (Format::Q8_0, _) => blocks::q8_0(bytes, out),
                (Format::Q4K, _) => blocks::q4_k(bytes, out),
                (Format::Q5K, _) => blocks::q5_k(bytes, out),
                (Format::Q6K, _) => blocks::q6_k(bytes, out),
                (Format::Nf4 | Format::Fp4, Some(scales)) => {
                    let table = four_bit::pairs(self.format == Format::Nf4);
                    let scale = row * self.cols.div_ceil(block) + first;
                    four_bit::unpack(table, scales, scale, bytes, out);
                }
                // A four-bit weight is made with its scales.
                (Format::Nf4 | Format::Fp4, None) => {}
            }
        }
    }
}
