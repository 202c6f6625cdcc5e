//! One tensor from file to memory, in chunks that are read and converted in parallel.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::Dtype as StDtype;

use super::index::Entry;
use super::{Data, Dtype};

/// Elements read at once by one thread: large enough for the disk, small enough for the cache.
const CHUNK: usize = 1 << 18;

/// Why a tensor could not be read.
pub(super) enum Failure {
    /// The file.
    Io(io::Error),
    /// Its format is none that is trained.
    Dtype,
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// Reads a tensor as `dtype`.
pub(super) fn tensor(file: &File, entry: &Entry, dtype: Dtype) -> Result<Data, Failure> {
    match dtype {
        Dtype::F32 => Ok(Data::F32(match entry.dtype {
            StDtype::F32 => plain(file, entry)?,
            StDtype::F16 => convert(file, entry, |from: &[f16], to| from.convert_to_f32_slice(to))?,
            StDtype::BF16 => {
                convert(file, entry, |from: &[bf16], to| from.convert_to_f32_slice(to))?
            }
            _ => return Err(Failure::Dtype),
        })),
        Dtype::Bf16 => Ok(Data::Bf16(match entry.dtype {
            StDtype::BF16 => plain(file, entry)?,
            StDtype::F32 => convert(file, entry, |from: &[f32], to: &mut [bf16]| {
                to.convert_from_f32_slice(from)
            })?,
            StDtype::F16 => convert(file, entry, |from: &[f16], to: &mut [bf16]| {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = bf16::from_f32(from.to_f32());
                }
            })?,
            _ => return Err(Failure::Dtype),
        })),
    }
}

/// A tensor of bytes.
pub(super) fn bytes(file: &File, entry: &Entry) -> io::Result<Vec<u8>> {
    plain(file, entry)
}

/// A tensor whose elements are in the file as they will be in memory.
fn plain<T>(file: &File, entry: &Entry) -> io::Result<Vec<T>>
where
    T: bytemuck::Pod + Send,
{
    let size = size_of::<T>();
    let mut data = vec![T::zeroed(); entry.len / size];
    data.par_chunks_mut(CHUNK).enumerate().try_for_each(|(i, chunk)| {
        let at = entry.offset + (i * CHUNK * size) as u64;
        file.read_exact_at(bytemuck::cast_slice_mut(chunk), at)
    })?;
    Ok(data)
}

/// A tensor whose elements are converted on the way.
fn convert<F, T>(
    file: &File,
    entry: &Entry,
    to: impl Fn(&[F], &mut [T]) + Sync,
) -> io::Result<Vec<T>>
where
    F: bytemuck::Pod,
    T: bytemuck::Pod + Send,
{
    let size = size_of::<F>();
    let mut data = vec![T::zeroed(); entry.len / size];
    data.par_chunks_mut(CHUNK).enumerate().try_for_each_init(
        || vec![F::zeroed(); CHUNK],
        |buffer, (i, chunk)| {
            let raw = &mut buffer[..chunk.len()];
            let at = entry.offset + (i * CHUNK * size) as u64;
            file.read_exact_at(bytemuck::cast_slice_mut(raw), at)?;
            to(raw, chunk);
            io::Result::Ok(())
        },
    )?;
    Ok(data)
}
