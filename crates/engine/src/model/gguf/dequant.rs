//! One tensor from a GGUF file to memory: read, put in order and dequantised in parallel, some
//! rows at a time, so that the packed form is never in memory as a whole.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use candle_core::CpuStorage;
use half::bf16;
use rayon::prelude::*;

use super::Place;
use super::names::RowOrder;
use crate::model::weights::{Data, Dtype};

/// Elements that one thread unpacks at a time: packed and unpacked they fit its cache.
const CHUNK: usize = 1 << 16;

/// Why a tensor could not be read.
pub(super) enum Failure {
    /// The file.
    Io(io::Error),
    /// candle would not unpack it.
    Candle(candle_core::Error),
}

/// Reads a tensor as `dtype`.
pub(super) fn tensor(file: &File, place: &Place, dtype: Dtype) -> Result<Data, Failure> {
    Ok(match dtype {
        Dtype::F32 => Data::F32(unpack(file, place, |x| x)?),
        Dtype::Bf16 => Data::Bf16(unpack(file, place, bf16::from_f32)?),
    })
}

/// A tensor's blocks in the model's order of rows.
pub(super) fn raw(file: &File, place: &Place) -> Result<Vec<u8>, Failure> {
    let row_bytes = place.cols / place.dtype.block_size() * place.dtype.type_size();
    let mut out = vec![0u8; place.rows * row_bytes];
    let head_dim = match place.order {
        RowOrder::Rope { head_dim } => head_dim,
        RowOrder::Same => 1,
    };
    let step = (CHUNK / place.cols.max(1)).max(1).div_ceil(head_dim) * head_dim * row_bytes;
    out.par_chunks_mut(step.max(1)).enumerate().try_for_each_init(
        Vec::new,
        |spare, (i, chunk)| {
            file.read_exact_at(chunk, place.offset + (i * step) as u64).map_err(Failure::Io)?;
            if head_dim > 1 {
                halves_apart(chunk, spare, row_bytes, head_dim);
            }
            Ok(())
        },
    )?;
    Ok(out)
}

fn unpack<T>(file: &File, place: &Place, to: impl Fn(f32) -> T + Sync) -> Result<Vec<T>, Failure>
where
    T: bytemuck::Pod + Send,
{
    let (rows, cols) = (place.rows, place.cols);
    let row_bytes = cols / place.dtype.block_size() * place.dtype.type_size();
    let mut step = (CHUNK / cols.max(1)).max(1);
    if let RowOrder::Rope { head_dim } = place.order {
        // Rows change places within a head: whole heads are read together.
        step = step.div_ceil(head_dim) * head_dim;
    }
    let mut out = vec![T::zeroed(); rows * cols];
    out.par_chunks_mut(step * cols).enumerate().try_for_each_init(
        // Blocks hold up to 8-byte aligned fields; a Vec<u64> is aligned for all of them.
        || (vec![0u64; (step * row_bytes).div_ceil(8)], Vec::new()),
        |(buffer, spare), (i, chunk)| {
            let bytes = chunk.len() / cols * row_bytes;
            let raw = &mut bytemuck::cast_slice_mut(buffer.as_mut_slice())[..bytes];
            let at = place.offset + (i * step * row_bytes) as u64;
            file.read_exact_at(raw, at).map_err(Failure::Io)?;
            if let RowOrder::Rope { head_dim } = place.order {
                halves_apart(raw, spare, row_bytes, head_dim);
            }
            let blocks = place.dtype.from_data(Cow::Borrowed(raw));
            let floats = blocks.dequantize(chunk.len()).map_err(Failure::Candle)?;
            let CpuStorage::F32(floats) = floats else {
                return Err(Failure::Candle(candle_core::Error::Msg(
                    "not dequantised to f32".into(),
                )));
            };
            for (out, x) in chunk.iter_mut().zip(floats) {
                *out = to(x + place.shift);
            }
            Ok(())
        },
    )?;
    Ok(out)
}

/// Undoes llama.cpp's interleaving in each head of `raw`: row 2j + s of the file is row
/// s * head_dim / 2 + j of the model.
fn halves_apart(raw: &mut [u8], spare: &mut Vec<u8>, row_bytes: usize, head_dim: usize) {
    let half = head_dim / 2;
    for head in raw.chunks_exact_mut(head_dim * row_bytes) {
        spare.clear();
        spare.extend_from_slice(head);
        for (to, row) in head.chunks_exact_mut(row_bytes).enumerate() {
            let from = 2 * (to % half) + to / half;
            row.copy_from_slice(&spare[from * row_bytes..(from + 1) * row_bytes]);
        }
    }
}
