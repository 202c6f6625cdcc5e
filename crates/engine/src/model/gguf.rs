//! GGUF files: llama.cpp's one-file models, read into full-precision parameters.
//!
//! candle parses the header and knows the quantised blocks; what it would trust blindly (sizes,
//! alignment, repeated names) is checked before it sees the file. The metadata becomes a Hugging
//! Face config, the tensors get Hugging Face's names, order and layout.

mod dequant;
mod meta;
mod names;
mod quantised;
mod scan;
mod to_config;

use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo};
use rayon::prelude::*;

pub(crate) use meta::{Meta, whole};

use super::config::{Arch, ModelConfig};
use super::params::{ParamSpec, expected_params};
use super::weights::{Dtype, Loaded, WeightData};
use crate::error::{Error, Result};
use names::RowOrder;

/// An open GGUF file whose header is sound.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    content: Content,
}

impl Gguf {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// When it cannot be read, is no GGUF file, is cut short, or its header contradicts itself.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        let content = scan::read(path, &mut file)?;
        Ok(Self { path: path.to_owned(), file, content })
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's config, made from the metadata.
    ///
    /// # Errors
    /// When the architecture is unknown or an entry is missing or wrong.
    pub fn config(&self) -> Result<ModelConfig> {
        to_config::config(self)
    }

    /// All parameters of the model in Hugging Face's names, order and layout, as `dtype`.
    ///
    /// # Errors
    /// When a tensor is missing, of another shape than `config` says, or cannot be read.
    pub fn read(&self, config: &ModelConfig, dtype: Dtype) -> Result<Loaded> {
        let specs = expected_params(config);
        let places =
            specs.iter().map(|spec| self.place(config, spec)).collect::<Result<Vec<_>>>()?;
        let read = |(spec, place): (&ParamSpec, &Place)| {
            let data =
                dequant::tensor(&self.file, place, dtype).map_err(|e| self.failure(place, e))?;
            Ok((spec.name.clone(), WeightData { shape: spec.shape.clone(), data }))
        };
        let read: Vec<_> = specs.par_iter().zip(&places).map(read).collect::<Result<_>>()?;
        let unused = self.unused(&places);
        Ok(Loaded { weights: read.into_iter().collect(), unused })
    }

    /// The Hugging Face repository that the file was converted from, where it says so.
    #[must_use]
    pub fn source_repo(&self) -> Option<String> {
        let text = |key: &str| self.content.metadata.get(key)?.to_string().ok();
        let url = text("general.source.repo_url").or_else(|| text("general.source.url"))?;
        let repo = url.strip_prefix("https://huggingface.co/")?.trim_matches('/');
        let plain = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let two = repo.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name));
        two.then(|| repo.to_owned())
    }

    /// Tensors that no place is of.
    fn unused(&self, places: &[Place]) -> Vec<String> {
        let used: std::collections::BTreeSet<_> =
            places.iter().map(|place| place.name.as_str()).collect();
        let mut unused: Vec<_> = self
            .content
            .tensor_infos
            .keys()
            .filter(|name| !used.contains(name.as_str()) && *name != names::ROPE_FACTORS)
            .cloned()
            .collect();
        unused.sort();
        unused
    }

    fn failure(&self, place: &Place, failure: dequant::Failure) -> Error {
        match failure {
            dequant::Failure::Io(e) => Error::io("read", &self.path, e),
            dequant::Failure::Candle(e) => self.error(format!("tensor {}: {e}", place.name)),
        }
    }

    /// The metadata, with typed access.
    pub(crate) fn meta(&self) -> Meta<'_> {
        Meta { source: &self.path, map: &self.content.metadata }
    }

    fn error(&self, why: impl Into<String>) -> Error {
        Error::input(self.path.display().to_string(), why)
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.content.tensor_infos.get(name)
    }

    /// A small f32 vector, whole.
    fn vector(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(info) = self.info(name) else {
            return Ok(None);
        };
        if info.ggml_dtype != GgmlDType::F32 || info.shape.dims().len() != 1 {
            return Err(self.error(format!("tensor {name}: expected one row of F32")));
        }
        let place = self.place_of(name.to_owned(), info, RowOrder::Same, 0.0);
        match dequant::tensor(&self.file, &place, Dtype::F32) {
            Ok(super::weights::Data::F32(data)) => Ok(Some(data)),
            Ok(super::weights::Data::Bf16(_)) => Ok(None),
            Err(e) => Err(self.failure(&place, e)),
        }
    }

    fn place(&self, config: &ModelConfig, spec: &ParamSpec) -> Result<Place> {
        let found =
            names::gguf_name(config, &spec.name).and_then(|name| Some((self.info(&name)?, name)));
        let Some((info, name)) = found else {
            return Err(self.error(format!("no tensor in the file for {}", spec.name)));
        };
        if info.shape.dims() != spec.shape {
            return Err(self.error(format!(
                "tensor {name} has shape {:?}, but the metadata makes it {:?}; the file is damaged",
                info.shape.dims(),
                spec.shape
            )));
        }
        let order = names::row_order(config, &spec.name);
        if order != RowOrder::Same && spec.shape.len() == 1 && info.ggml_dtype.block_size() > 1 {
            return Err(self.error(format!("tensor {name}: a quantised bias")));
        }
        let shift = if config.norm_plus_one && names::is_norm(&spec.name) { -1.0 } else { 0.0 };
        Ok(self.place_of(name, info, order, shift))
    }

    fn place_of(&self, name: String, info: &TensorInfo, order: RowOrder, shift: f32) -> Place {
        let dims = info.shape.dims();
        // A vector of biases in rope's order is permuted element by element: one column.
        let cols = match (dims, order) {
            ([_], RowOrder::Rope { .. }) => 1,
            _ => dims.last().copied().unwrap_or(1),
        };
        let rows = info.shape.elem_count() / cols.max(1);
        let offset = self.content.tensor_data_offset + info.offset;
        Place { name, offset, dtype: info.ggml_dtype, rows, cols, order, shift }
    }
}

/// Where a tensor lies and how it becomes a parameter.
#[derive(Debug)]
struct Place {
    /// Name in the file.
    name: String,
    /// First byte, from the start of the file.
    offset: u64,
    /// Format in the file.
    dtype: GgmlDType,
    rows: usize,
    cols: usize,
    /// Order of the rows in the file.
    order: RowOrder,
    /// Added to every element.
    shift: f32,
}

/// Architecture in `general.architecture` and ours.
const ARCHS: [(&str, Arch); 6] = [
    ("llama", Arch::Llama),
    ("qwen2", Arch::Qwen2),
    ("qwen3", Arch::Qwen3),
    ("gemma2", Arch::Gemma2),
    ("gemma3", Arch::Gemma3),
    ("phi3", Arch::Phi3),
];
