//! A model's parameters in memory, and their reading from safetensors.
//!
//! Each tensor is read from its place in the file straight into its final buffer, in parallel and
//! without a memory map (a file cut short under a map would kill the process). What a file holds
//! is checked against the config before the first byte of data is read.

mod index;
mod quantised;
mod read;

use std::path::Path;

use candle_core::{Device, Tensor};
use half::bf16;
use indexmap::IndexMap;
use rayon::prelude::*;
use safetensors::tensor::Dtype as StDtype;

use index::{Entry, Index};
pub use quantised::read_folder_quantised;

use super::config::ModelConfig;
use super::params::{ParamSpec, expected_params};
use crate::error::{Error, Result};

/// The number format of parameters in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// The upper half of 32-bit floats.
    Bf16,
}

/// A tensor's elements, row by row.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// bfloat16.
    Bf16(Vec<bf16>),
}

impl Data {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The format.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
        }
    }
}

/// One tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightData {
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Data,
}

impl WeightData {
    /// A tensor of f32; `data.len()` must be the product of `shape`.
    #[must_use]
    pub fn f32(shape: Vec<usize>, data: Vec<f32>) -> Self {
        Self { shape, data: Data::F32(data) }
    }
}

/// Tensors by name, in a fixed order: the model's own (see [`expected_params`]), or the file's.
pub type Weights = IndexMap<String, WeightData>;

/// What was read from a model's files.
#[derive(Debug)]
pub struct Loaded {
    /// Every parameter of the model, in transformers' order.
    pub weights: Weights,
    /// Tensors in the files that the model has no use for.
    pub unused: Vec<String>,
}

/// Reads all parameters of `config` from a Hugging Face folder (`model.safetensors`, or shards
/// named by `model.safetensors.index.json`) as `dtype`.
///
/// # Errors
/// When a file is missing, cut short or damaged, a tensor is missing, there twice, of another
/// shape than the config says or of a format that cannot be trained, or the folder has pickle
/// files only. Nothing of a pickle file is ever read beyond its first bytes.
pub fn read_folder(dir: &Path, config: &ModelConfig, dtype: Dtype) -> Result<Loaded> {
    let index = Index::open_folder(dir)?;
    let specs = expected_params(config);
    let entries = specs.iter().map(|spec| index.find(spec, dir)).collect::<Result<Vec<_>>>()?;
    let unused = index.unused(&specs, config.tie_word_embeddings);
    let weights =
        read_all(&index, specs.iter().map(|spec| spec.name.as_str()).zip(entries), dtype)?;
    Ok(Loaded { weights, unused })
}

/// Reads every tensor of one safetensors file, in the file's order, as `dtype`.
///
/// # Errors
/// As [`read_folder`].
pub fn read_safetensors(path: &Path, dtype: Dtype) -> Result<Weights> {
    let index = Index::open_file(path)?;
    read_all(&index, index.entries.iter().map(|(name, entry)| (name.as_str(), entry)), dtype)
}

/// Reads every tensor of a file of optimiser state: f32 and bytes, as they are.
///
/// # Errors
/// As [`read_folder`].
pub fn read_state(path: &Path) -> Result<IndexMap<String, Tensor>> {
    let index = Index::open_file(path)?;
    let mut out = IndexMap::new();
    for (name, entry) in &index.entries {
        let shape = entry.shape.as_slice();
        let tensor = if entry.dtype == StDtype::U8 {
            let bytes = read::bytes(&index.files[entry.file].1, entry)
                .map_err(|e| Error::io("read", path, e))?;
            Tensor::from_vec(bytes, shape, &Device::Cpu)?
        } else {
            let one = read_all(&index, std::iter::once((name.as_str(), entry)), Dtype::F32)?;
            let data = one.into_iter().next().map(|(_, weight)| weight.data);
            let Some(Data::F32(values)) = data else {
                return Err(Error::Internal(format!("{name} was not read as f32")));
            };
            Tensor::from_vec(values, shape, &Device::Cpu)?
        };
        out.insert(name.clone(), tensor);
    }
    Ok(out)
}

fn read_all<'a>(
    index: &Index,
    wanted: impl Iterator<Item = (&'a str, &'a Entry)>,
    dtype: Dtype,
) -> Result<Weights> {
    let wanted: Vec<_> = wanted.collect();
    let read = |(name, entry): &(&str, &Entry)| {
        let (path, file) = &index.files[entry.file];
        let data =
            read::tensor(file, entry, dtype).map_err(|e| read_error(path, name, entry, e))?;
        Ok(((*name).to_owned(), WeightData { shape: entry.shape.clone(), data }))
    };
    let read: Vec<_> = wanted.par_iter().map(read).collect::<Result<_>>()?;
    Ok(read.into_iter().collect())
}

/// The error for a tensor that could not be read.
fn read_error(path: &Path, name: &str, entry: &Entry, failure: read::Failure) -> Error {
    match failure {
        read::Failure::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            let why = format!("the file was cut short while tensor {name} was read");
            Error::input(path.display().to_string(), why)
        }
        read::Failure::Io(e) => Error::io("read", path, e),
        read::Failure::Dtype => Error::input(
            path.display().to_string(),
            format!(
                "tensor {name} is {:?}; weights must be F32, F16 or BF16. Use the unquantised model",
                entry.dtype
            ),
        ),
    }
}

/// The error for a tensor whose shape is not the config's.
pub(super) fn shape_error(file: &Path, name: &str, found: &[usize], spec: &ParamSpec) -> Error {
    Error::input(
        file.display().to_string(),
        format!(
            "tensor {name} has shape {found:?}, but config.json makes it {:?}; the weights and \
             the config belong to different models",
            spec.shape
        ),
    )
}
