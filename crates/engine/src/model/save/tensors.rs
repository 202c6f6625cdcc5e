//! One safetensors file, streamed tensor by tensor.

use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype as StDtype, Metadata, TensorInfo};

use crate::error::{Error, Result};
use crate::model::weights::Dtype;
use crate::tensor::view;

/// Bytes of one element.
pub(super) fn width(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 4,
        Dtype::Bf16 => 2,
    }
}

/// Writes tensors into a safetensors file, f32 as `dtype` and bytes as they are, sorted by name, with the metadata that
/// transformers asks for. The file appears whole or not at all; a tensor elsewhere than in main
/// memory is fetched when its turn comes.
///
/// # Errors
/// When the file cannot be written or a tensor not read.
pub fn write_safetensors(path: &Path, tensors: &[(&str, &Tensor)], dtype: Dtype) -> Result<()> {
    let mut tensors = tensors.to_vec();
    tensors.sort_by_key(|(name, _)| *name);
    let header = header(&tensors, dtype)?;
    run::atomic::write_with(path, |file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (_, tensor) in &tensors {
            write(&mut out, tensor, dtype)?;
        }
        out.flush()?;
        Ok(())
    })
    .map_err(|failure| match failure {
        Failure::Io(e) => Error::io("write", path, e),
        Failure::Engine(e) => e,
    })
}

enum Failure {
    Io(std::io::Error),
    Engine(Error),
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::Io(e)
    }
}

/// The header, filled up with spaces so that the data begins at a multiple of eight.
fn header(tensors: &[(&str, &Tensor)], dtype: Dtype) -> Result<Vec<u8>> {
    let format = |tensor: &Tensor| match (tensor.dtype(), dtype) {
        (DType::U8, _) => (StDtype::U8, 1),
        (_, Dtype::F32) => (StDtype::F32, width(dtype)),
        (_, Dtype::Bf16) => (StDtype::BF16, width(dtype)),
    };
    let mut end = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let start = end;
        let (format, width) = format(tensor);
        end += tensor.elem_count() * width;
        let shape = tensor.dims().to_vec();
        let info = TensorInfo { dtype: format, shape, data_offsets: (start, end) };
        infos.push(((*name).to_owned(), info));
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let internal = |e: String| Error::Internal(format!("safetensors header: {e}"));
    let header = Metadata::new(Some(metadata), infos).map_err(|e| internal(e.to_string()))?;
    let mut bytes = serde_json::to_vec(&header).map_err(|e| internal(e.to_string()))?;
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}

fn write(out: &mut impl Write, tensor: &Tensor, dtype: Dtype) -> Result<(), Failure> {
    /// Elements that are converted at a time.
    const CHUNK: usize = 1 << 16;
    let candle = |e: candle_core::Error| Failure::Engine(e.into());
    let here = tensor.to_device(&Device::Cpu).and_then(|t| t.contiguous()).map_err(candle)?;
    if here.dtype() == DType::U8 {
        let bytes = here.flatten_all().and_then(|t| t.to_vec1::<u8>()).map_err(candle)?;
        out.write_all(&bytes)?;
        return Ok(());
    }
    let data = view(&here).map_err(Failure::Engine)?;
    match dtype {
        Dtype::F32 => out.write_all(bytemuck::cast_slice(&data))?,
        Dtype::Bf16 => {
            let mut buffer = vec![bf16::ZERO; CHUNK.min(data.len())];
            for chunk in data.chunks(CHUNK) {
                let part = &mut buffer[..chunk.len()];
                part.convert_from_f32_slice(chunk);
                out.write_all(bytemuck::cast_slice(part))?;
            }
        }
    }
    Ok(())
}
