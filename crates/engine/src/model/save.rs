//! Writing a model folder as transformers does: config.json, generation_config.json and
//! safetensors, in shards where the weights are large.
//!
//! Each file appears whole or not at all; config.json comes last, so that a folder that has one
//! has all the rest. Tensors are written one after the other from where they lie.

mod tensors;

use std::path::Path;

use candle_core::Tensor;
use serde_json::{Map, Value, json};

pub use tensors::write_safetensors;

use super::config::{ModelConfig, read_json};
use super::weights::Dtype;
use crate::error::{Error, Result};

/// transformers' default bound on one file of weights, in bytes.
pub const MAX_SHARD: u64 = 5_000_000_000;

/// How a model is written.
#[derive(Debug, Clone)]
pub struct SaveOptions<'a> {
    /// Number format of the weights.
    pub dtype: Dtype,
    /// Largest size of one file of weights, in bytes.
    pub max_shard: u64,
    /// generation_config.json of the model that was trained, where it has one.
    pub generation: Option<&'a Map<String, Value>>,
    /// Tokens that end an answer besides the config's own: the chat template's stop words.
    pub stop_ids: &'a [u32],
}

/// Writes a model into `dir`, which must exist. `tensors` are its parameters by Hugging Face's
/// names; a tied lm_head among them is left out.
///
/// # Errors
/// When a file cannot be written; files of an older model that were not yet replaced remain.
pub fn save_model(
    dir: &Path,
    config: &ModelConfig,
    tensors: &[(&str, &Tensor)],
    options: &SaveOptions,
) -> Result<()> {
    let tied = |name: &str| config.tie_word_embeddings && name == "lm_head.weight";
    let tensors: Vec<_> = tensors.iter().filter(|(name, _)| !tied(name)).copied().collect();
    let shards = shards(&tensors, options.dtype, options.max_shard);
    let mut kept = Vec::new();
    let mut weight_map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        write_safetensors(&dir.join(&name), shard, options.dtype)?;
        weight_map.extend(shard.iter().map(|(tensor, _)| ((*tensor).to_owned(), json!(name))));
        kept.push(name);
    }
    if shards.len() > 1 {
        let elements: usize = tensors.iter().map(|(_, tensor)| tensor.elem_count()).sum();
        let bytes = elements * tensors::width(options.dtype);
        let metadata = json!({ "total_parameters": elements, "total_size": bytes });
        let index = json!({ "metadata": metadata, "weight_map": weight_map });
        let name = "model.safetensors.index.json".to_owned();
        write_json(&dir.join(&name), index)?;
        kept.push(name);
    }
    remove_stale(dir, &kept)?;
    write_json(&dir.join("generation_config.json"), generation_config(config, options))?;
    write_json(&dir.join("config.json"), config_json(config, options.dtype))
}

/// generation_config.json of a model folder, where it has one.
///
/// # Errors
/// When there is one that cannot be read or is no JSON object.
pub fn read_generation_config(dir: &Path) -> Result<Option<Map<String, Value>>> {
    let path = dir.join("generation_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    match read_json(&path)? {
        Value::Object(map) => Ok(Some(map)),
        _ => Err(Error::input(path.display().to_string(), "expected a JSON object")),
    }
}

/// The config as it was read, with what training may have changed.
#[must_use]
pub fn config_json(config: &ModelConfig, dtype: Dtype) -> Value {
    let mut raw = config.raw.clone();
    let name = match dtype {
        Dtype::F32 => "float32",
        Dtype::Bf16 => "bfloat16",
    };
    // Older releases read and write torch_dtype alone.
    let field = if raw.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
    raw.insert(field.into(), json!(name));
    raw.insert("architectures".into(), json!([config.arch.class_name()]));
    raw.insert("model_type".into(), json!(config.arch.model_type()));
    raw.insert("vocab_size".into(), json!(config.vocab_size));
    Value::Object(raw)
}

/// The trained model's generation_config.json, or one from its config; either way generation
/// stops at the template's stop words too.
fn generation_config(config: &ModelConfig, options: &SaveOptions) -> Value {
    let mut out = options.generation.cloned().unwrap_or_default();
    // Derived from the model config, it would be derived again on loading and lose the stop words.
    out.remove("_from_model_config");
    let given = match out.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
        Some(id) => id.as_u64().into_iter().collect(),
        None => Vec::new(),
    };
    let mut eos: Vec<u64> = Vec::new();
    let own = config.eos_token_ids.iter().chain(options.stop_ids).map(|id| u64::from(*id));
    for id in given.into_iter().chain(own) {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    match eos.as_slice() {
        [] => {}
        [id] => drop(out.insert("eos_token_id".into(), json!(id))),
        ids => drop(out.insert("eos_token_id".into(), json!(ids))),
    }
    for (name, id) in [("bos_token_id", config.bos_token_id), ("pad_token_id", config.pad_token_id)]
    {
        if let Some(id) = id {
            out.entry(name).or_insert(json!(id));
        }
    }
    if let Some(version) = config.raw.get("transformers_version") {
        out.entry("transformers_version").or_insert(version.clone());
    }
    Value::Object(out)
}

type Shard<'a> = Vec<(&'a str, &'a Tensor)>;

/// The tensors in their order, cut into files as transformers does: one that is too large for any
/// file has one of its own.
fn shards<'a>(tensors: &[(&'a str, &'a Tensor)], dtype: Dtype, max: u64) -> Vec<Shard<'a>> {
    let mut whole: Vec<Shard> = Vec::new();
    let mut current: Shard = Vec::new();
    let mut size = 0;
    for &(name, tensor) in tensors {
        let bytes = (tensor.elem_count() * tensors::width(dtype)) as u64;
        if bytes > max {
            whole.push(vec![(name, tensor)]);
            continue;
        }
        if size + bytes > max {
            whole.push(std::mem::take(&mut current));
            size = 0;
        }
        size += bytes;
        current.push((name, tensor));
    }
    if !current.is_empty() || whole.is_empty() {
        whole.push(current);
    }
    whole
}

/// Removes the weights of an older model in the same folder: files that would be read before, or
/// beside, those just written.
fn remove_stale(dir: &Path, kept: &[String]) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let shard = name
            .strip_prefix("model-")
            .and_then(|rest| rest.strip_suffix(".safetensors"))
            .and_then(|rest| rest.split_once("-of-"))
            .is_some_and(|(i, n)| {
                [i, n].iter().all(|part| part.chars().all(|c| c.is_ascii_digit()))
            });
        let ours = shard || name == "model.safetensors" || name == "model.safetensors.index.json";
        if ours && !kept.contains(&name) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|e| Error::io("remove", path, e))?;
        }
    }
    Ok(())
}

/// Writes JSON as transformers does: sorted, indented by two, a line's end at the end.
pub(super) fn write_json(path: &Path, mut value: Value) -> Result<()> {
    value.sort_all_objects();
    let text = format!("{value:#}\n");
    run::atomic::write(path, text.as_bytes()).map_err(|e| Error::io("write", path, e))
}
