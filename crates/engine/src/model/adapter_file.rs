//! LoRA adapters on disk, in PEFT's format: adapter_config.json and adapter_model.safetensors.
//!
//! What PEFT can say and the engine cannot do is refused by the field's name; an adapter is never
//! loaded as something other than it was.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::{Map, Value, json};

use super::brief;
use super::config::{ModelConfig, read_json};
use super::lora::{Init, LoraConfig, OUTER, PREFIX, Part, Targets, whole};
use super::params::{ParamKind, expected_params};
use super::save::write_safetensors;
use super::weights::{Dtype, Weights, read_safetensors};
use crate::error::{Error, Result};

/// The file with the settings.
const CONFIG: &str = "adapter_config.json";
/// The file with the matrices.
const WEIGHTS: &str = "adapter_model.safetensors";
/// The release whose fields are written.
const PEFT_VERSION: &str = "0.18.1";

/// An adapter as it lies on disk, checked against its model.
#[derive(Debug)]
pub struct AdapterFile {
    /// Its settings.
    pub lora: LoraConfig,
    /// The model it was made for, as written in the file.
    pub base_model: String,
    /// Its tensors by PEFT's names: layer by layer A, B and DoRA's lengths, then whole modules.
    pub weights: Weights,
}

/// Reads the adapter in `dir` for a model of `config`.
///
/// # Errors
/// When a file is missing or damaged, a tensor is missing, of another shape or for no layer of the
/// model, or the adapter uses something that is not supported: the text names it.
pub fn read_adapter(dir: &Path, config: &ModelConfig) -> Result<AdapterFile> {
    let path = dir.join(CONFIG);
    let fields = read_json(&path)?;
    let Value::Object(fields) = fields else {
        return Err(Error::input(path.display().to_string(), "expected a JSON object"));
    };
    let reader = Fields { source: path.display().to_string(), fields: &fields };
    reader.refuse_unsupported()?;
    let wrong = |why| reader.error("target_modules", why);
    let lora = LoraConfig {
        rank: reader.rank()?,
        alpha: reader.number("lora_alpha", 8.0)?,
        dropout: reader.number("lora_dropout", 0.0)? as f32,
        rslora: reader.flag("use_rslora")?,
        dora: reader.flag("use_dora")?,
        targets: Targets::of_json(fields.get("target_modules")).map_err(wrong)?,
        whole: reader.names("modules_to_save")?,
        init: match fields.get("init_lora_weights") {
            None => Init::Usual,
            Some(value) => Init::of_json(value).unwrap_or_default(),
        },
    };
    let mut expected = adapter_tensors(config, &lora).map_err(wrong)?;
    let wrong = |why| reader.error("modules_to_save", why);
    for spec in whole::params(config, &lora.whole).map_err(wrong)? {
        expected.push((format!("{PREFIX}{}", spec.name), spec.shape));
    }
    let base_model = fields.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or("");
    let weights = read_weights(dir, &expected)?;
    Ok(AdapterFile { lora, base_model: base_model.to_owned(), weights })
}

/// Writes an adapter into `dir`, which must exist. `tensors` are its tensors by PEFT's names;
/// `base_model` is written as it is.
///
/// # Errors
/// When a file cannot be written.
pub fn save_adapter(
    dir: &Path,
    lora: &LoraConfig,
    base_model: &str,
    tensors: &[(&str, &Tensor)],
    dtype: Dtype,
) -> Result<()> {
    write_safetensors(&dir.join(WEIGHTS), tensors, dtype)?;
    let path = dir.join(CONFIG);
    let mut value = adapter_config(lora, base_model);
    value.sort_all_objects();
    let text = format!("{value:#}");
    run::atomic::write(&path, text.as_bytes()).map_err(|e| Error::io("write", &path, e))
}

/// adapter_config.json with every field that PEFT writes.
fn adapter_config(lora: &LoraConfig, base_model: &str) -> Value {
    let whole = lora.alpha.fract() == 0.0 && lora.alpha.abs() < 1e15;
    let alpha = if whole { json!(lora.alpha as i64) } else { json!(lora.alpha) };
    // The shortest decimal of the f32: 0.1 rather than 0.10000000149.
    let dropout: f64 = lora.dropout.to_string().parse().unwrap_or(f64::from(lora.dropout));
    let whole = if lora.whole.is_empty() { Value::Null } else { json!(lora.whole) };
    json!({
        "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null,
        "auto_mapping": null, "base_model_name_or_path": base_model, "bias": "none",
        "corda_config": null, "ensure_weight_tying": false, "eva_config": null,
        "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
        "init_lora_weights": lora.init.to_json(), "layer_replication": null, "layers_pattern": null,
        "layers_to_transform": null, "loftq_config": {}, "lora_alpha": alpha, "lora_bias": false,
        "lora_dropout": dropout, "megatron_config": null, "megatron_core": "megatron.core",
        "modules_to_save": whole, "peft_type": "LORA", "peft_version": PEFT_VERSION,
        "qalora_group_size": 16, "r": lora.rank, "rank_pattern": {}, "revision": null,
        "target_modules": lora.targets.to_json(), "target_parameters": null, "task_type": "CAUSAL_LM",
        "trainable_token_indices": null, "use_dora": lora.dora, "use_qalora": false,
        "use_rslora": lora.rslora,
    })
}

/// Names and shapes of an adapter's own tensors.
fn adapter_tensors(
    config: &ModelConfig,
    lora: &LoraConfig,
) -> Result<Vec<(String, Vec<usize>)>, String> {
    let linear = |spec: super::params::ParamSpec| {
        let path = spec.name.strip_suffix(".weight")?.to_owned();
        (spec.kind == ParamKind::Matrix).then_some((path, spec.shape))
    };
    let modules: Vec<(String, Vec<usize>)> =
        expected_params(config).into_iter().filter_map(linear).collect();
    let paths: Vec<&str> = modules.iter().map(|(path, _)| path.as_str()).collect();
    let hits = lora.targets.matched(&paths, &OUTER)?;
    let [embedding, head] = [paths.len(), paths.len() + 1].map(|i| hits.get(i) == Some(&true));
    if head && !whole::excludes(&lora.whole, OUTER[1]) {
        return Err("an adapter on lm_head is not supported".into());
    }
    let mut out = Vec::new();
    for ((path, shape), _) in modules.iter().zip(hits).filter(|(_, hit)| *hit) {
        let &[outputs, inputs] = shape.as_slice() else { continue };
        if whole::excludes(&lora.whole, path) {
            continue;
        }
        out.push((Part::A.file_name(path), vec![lora.rank, inputs]));
        out.push((Part::B.file_name(path), vec![outputs, lora.rank]));
        if lora.dora {
            out.push((Part::Magnitude.file_name(path), vec![outputs]));
        }
    }
    if embedding && !whole::excludes(&lora.whole, OUTER[0]) {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        out.push((Part::EmbedA.file_name(OUTER[0]), vec![lora.rank, vocab]));
        out.push((Part::EmbedB.file_name(OUTER[0]), vec![hidden, lora.rank]));
    }
    Ok(out)
}

/// The tensors of the adapter in `dir`, unchecked, and the file that they are from.
///
/// # Errors
/// When the file is missing, damaged, or a pickle.
pub(super) fn read_tensors(dir: &Path) -> Result<(PathBuf, Weights)> {
    let path = dir.join(WEIGHTS);
    if !path.exists() && dir.join("adapter_model.bin").exists() {
        let why = "a pickle (PyTorch) file, which is never read here; save the adapter again with \
                   safetensors";
        return Err(Error::input(dir.join("adapter_model.bin").display().to_string(), why));
    }
    let tensors = read_safetensors(&path, Dtype::F32)?;
    Ok((path, tensors))
}

fn read_weights(dir: &Path, expected: &[(String, Vec<usize>)]) -> Result<Weights> {
    let (path, mut found) = read_tensors(dir)?;
    let bad = |why: String| Error::input(path.display().to_string(), why);
    // PEFT writes the frozen embedding too where it has an adapter.
    found.retain(|name, _| !name.contains(".base_layer."));
    let mut out = Weights::new();
    for (name, shape) in expected {
        let with_suffix = || format!("{name}.weight");
        let tensor = found.swap_remove(name).or_else(|| found.swap_remove(&with_suffix()));
        let Some(tensor) = tensor else {
            return Err(bad(format!("tensor {name} is missing, but {CONFIG} names its layer")));
        };
        if &tensor.shape != shape {
            return Err(bad(format!(
                "tensor {name} has shape {:?}, expected {shape:?} by r and the model's config",
                tensor.shape
            )));
        }
        out.insert(name.clone(), tensor);
    }
    match found.keys().min() {
        None => Ok(out),
        Some(name) => Err(bad(format!(
            "tensor {} belongs to no layer of this model that target_modules names",
            brief(name)
        ))),
    }
}

/// Typed access to adapter_config.json.
struct Fields<'a> {
    source: String,
    fields: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn error(&self, name: &str, why: impl std::fmt::Display) -> Error {
        Error::input(&self.source, format!("{name}: {why}"))
    }

    fn rank(&self) -> Result<usize> {
        let rank = match self.fields.get("r") {
            None => Some(8),
            Some(value) => value.as_u64().filter(|r| (1..=1 << 16).contains(r)),
        };
        let rank =
            rank.ok_or_else(|| self.error("r", "expected a whole number from 1 to 65536"))?;
        Ok(rank as usize)
    }

    fn number(&self, name: &str, default: f64) -> Result<f64> {
        let value = self.fields.get(name).filter(|value| !value.is_null());
        let number = value.map_or(Some(default), Value::as_f64).filter(|x| *x >= 0.0);
        number.ok_or_else(|| self.error(name, "expected a number, 0 or more"))
    }

    fn flag(&self, name: &str) -> Result<bool> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.error(name, "expected true or false")),
        }
    }

    fn names(&self, name: &str) -> Result<Vec<String>> {
        let list = match self.fields.get(name) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(list) => list.as_array(),
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let names = list.and_then(|list| list.iter().map(text).collect());
        names.ok_or_else(|| self.error(name, "expected a list of module names"))
    }

    /// Refuses every setting that would make the adapter something else than plain LoRA.
    fn refuse_unsupported(&self) -> Result<()> {
        let plain = |name: &str, value: &Value| match (name, value) {
            ("peft_type", value) => value == "LORA",
            ("bias", value) => value == "none",
            // Others than these change the base model's weights in their own ways.
            ("init_lora_weights", value) => Init::of_json(value).is_some(),
            (_, Value::Null | Value::Bool(false)) => true,
            (_, Value::Object(map)) => map.is_empty(),
            (_, Value::Array(list)) => list.is_empty(),
            _ => false,
        };
        const CHECKED: [&str; 19] = [
            "peft_type",
            "bias",
            "init_lora_weights",
            "use_qalora",
            "lora_bias",
            "fan_in_fan_out",
            "rank_pattern",
            "alpha_pattern",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
            "layer_replication",
            "target_parameters",
            "trainable_token_indices",
            "alora_invocation_tokens",
            "arrow_config",
            "megatron_config",
            "ensure_weight_tying",
            "loftq_config",
        ];
        for name in CHECKED {
            if let Some(value) = self.fields.get(name).filter(|value| !plain(name, value)) {
                let why = format!("{} is not supported", brief(value));
                return Err(self.error(name, why));
            }
        }
        match self.fields.get("peft_type") {
            Some(_) => Ok(()),
            None => Err(self.error("peft_type", "missing; expected \"LORA\"")),
        }
    }
}
