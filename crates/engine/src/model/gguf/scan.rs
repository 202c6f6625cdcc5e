//! The walk over a GGUF header that precedes candle's: every length is held against the file
//! before anything is allocated for it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Content;

use crate::error::{Error, Result};
use crate::model::brief;

/// Elements of all arrays together; candle spends 32 bytes on each.
const MAX_ELEMENTS: u64 = 1 << 24;
/// Bytes of a header.
const MAX_HEADER: u64 = 1 << 28;
/// Elements of one tensor.
const MAX_TENSOR: u64 = 1 << 40;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Checks a file's header and lets candle parse it.
pub(super) fn read(path: &Path, file: &mut File) -> Result<Content> {
    let bad = |why: String| {
        Error::input(
            path.display().to_string(),
            format!("damaged GGUF file: {why}; fetch it again"),
        )
    };
    let len = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    let mut scan =
        Scan { reader: BufReader::new(&mut *file), at: 0, len, elements: 0, alignment: 32 };
    let end = scan.header().map_err(|why| match why {
        Stop::Damaged(why) => bad(why),
        Stop::Refused(why) => Error::input(path.display().to_string(), why),
        Stop::Io(e) => Error::io("read", path, e),
    })?;
    file.rewind().map_err(|e| Error::io("read", path, e))?;
    let mut header = vec![0; usize::try_from(end).unwrap_or_default()];
    file.read_exact(&mut header).map_err(|e| Error::io("read", path, e))?;
    Content::read(&mut Cursor::new(header)).map_err(|e| bad(brief(e)))
}

enum Stop {
    /// The file contradicts itself or ends too early.
    Damaged(String),
    /// The file may be sound but is not for us.
    Refused(String),
    Io(std::io::Error),
}

struct Scan<'a> {
    reader: BufReader<&'a mut File>,
    /// Bytes read so far.
    at: u64,
    /// Bytes of the file.
    len: u64,
    /// Array elements so far.
    elements: u64,
    alignment: u64,
}

type Step<T> = std::result::Result<T, Stop>;

fn damaged<T>(why: impl Into<String>) -> Step<T> {
    Err(Stop::Damaged(why.into()))
}

impl Scan<'_> {
    /// Walks the whole header and returns where it ends.
    fn header(&mut self) -> Step<u64> {
        if &self.bytes::<4>()? != b"GGUF" {
            return Err(Stop::Refused("not a GGUF file (it does not begin with GGUF)".into()));
        }
        match self.u32()? {
            2 | 3 => {}
            1 => {
                return Err(Stop::Refused(
                    "GGUF version 1 is obsolete; convert the model again".into(),
                ));
            }
            v if v.swap_bytes() <= 3 => return Err(Stop::Refused("a big-endian GGUF file".into())),
            v => return Err(Stop::Refused(format!("GGUF version {v} is not known here"))),
        }
        let (tensors, entries) = (self.u64()?, self.u64()?);
        let mut keys = BTreeSet::new();
        for _ in 0..entries {
            let key = self.string("a metadata key")?;
            let kind = self.u32()?;
            if key == b"general.alignment" {
                self.alignment = self.alignment_of(kind)?;
            } else {
                self.value(kind)?;
            }
            if let Some(key) = keys.replace(key) {
                return damaged(format!("metadata key {} is there twice", label(&key)));
            }
        }
        let mut names = BTreeSet::new();
        let mut end_of_data = 0;
        for _ in 0..tensors {
            let name = self.string("a tensor name")?;
            end_of_data = end_of_data.max(self.tensor(&label(&name))?);
            if let Some(name) = names.replace(name) {
                return damaged(format!("tensor {} is there twice", label(&name)));
            }
        }
        let start = self.at.div_ceil(self.alignment) * self.alignment;
        let needed = start.saturating_add(end_of_data);
        if needed > self.len {
            return damaged(format!(
                "it is truncated: {} bytes where {needed} are described",
                self.len
            ));
        }
        Ok(self.at)
    }

    /// One tensor's description; returns where its data ends, from the start of all data.
    fn tensor(&mut self, name: &str) -> Step<u64> {
        let dims = self.u32()?;
        if dims == 0 || dims > 4 {
            return damaged(format!("tensor {name} has {dims} dimensions"));
        }
        let (mut row, mut elements) = (0, 1u64);
        for i in 0..dims {
            let dim = self.u64()?;
            row = if i == 0 { dim } else { row };
            elements = match elements.checked_mul(dim) {
                Some(n) if n > 0 && n <= MAX_TENSOR => n,
                _ => return damaged(format!("tensor {name} has an impossible shape")),
            };
        }
        let code = self.u32()?;
        let Some(dtype) = dtype(code) else {
            return Err(Stop::Refused(format!(
                "tensor {name} has quantised type {code}, which is not read here; known are F32, \
                 F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K"
            )));
        };
        let block = dtype.block_size() as u64;
        if !row.is_multiple_of(block) {
            return damaged(format!(
                "tensor {name}: rows of {row} are no whole number of blocks of {block}"
            ));
        }
        let offset = self.u64()?;
        Ok(offset.saturating_add(elements / block * dtype.type_size() as u64))
    }

    fn value(&mut self, kind: u32) -> Step<()> {
        match kind {
            STRING => self.skip_string(),
            ARRAY => {
                let (kind, count) = (self.u32()?, self.u64()?);
                self.elements = self.elements.saturating_add(count);
                if self.elements > MAX_ELEMENTS {
                    return damaged("its metadata arrays have too many elements");
                }
                match kind {
                    STRING => (0..count).try_for_each(|_| self.skip_string()),
                    ARRAY => damaged("an array of arrays in the metadata"),
                    kind => self.skip(count.saturating_mul(width(kind)?)),
                }
            }
            kind => self.skip(width(kind)?),
        }
    }

    fn alignment_of(&mut self, kind: u32) -> Step<u64> {
        const U32: u32 = 4;
        let alignment = if kind == U32 { u64::from(self.u32()?) } else { 0 };
        if !alignment.is_power_of_two() || alignment > 1 << 16 {
            return damaged("general.alignment is no power of two");
        }
        Ok(alignment)
    }

    fn bytes<const N: usize>(&mut self) -> Step<[u8; N]> {
        self.advance(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(Stop::Io)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Step<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Step<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn string(&mut self, what: &str) -> Step<Vec<u8>> {
        let len = self.u64()?;
        if len > 1 << 16 {
            return damaged(format!("{what} of {len} bytes"));
        }
        self.advance(len)?;
        let mut bytes = vec![0; len as usize];
        self.reader.read_exact(&mut bytes).map_err(Stop::Io)?;
        Ok(bytes)
    }

    fn skip_string(&mut self) -> Step<()> {
        let len = self.u64()?;
        self.skip(len)
    }

    fn skip(&mut self, bytes: u64) -> Step<()> {
        self.advance(bytes)?;
        // The file is at least this long, and a header at most 256 MiB.
        self.reader.seek_relative(bytes as i64).map_err(Stop::Io)
    }

    /// Claims the next `bytes`; they must lie in the file and within a sane header.
    fn advance(&mut self, bytes: u64) -> Step<()> {
        self.at = match self.at.checked_add(bytes) {
            Some(at) if at <= self.len && at <= MAX_HEADER => at,
            _ => return damaged(format!("it ends within its header ({} bytes)", self.len)),
        };
        Ok(())
    }
}

/// Bytes of a plain metadata value.
fn width(kind: u32) -> Step<u64> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => damaged(format!("metadata type {kind} does not exist")),
    }
}

/// ggml's number of a tensor type, for those that are read here.
fn dtype(code: u32) -> Option<GgmlDType> {
    Some(match code {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

/// A name from the file, for an error.
fn label(name: &[u8]) -> String {
    brief(String::from_utf8_lossy(name))
}
