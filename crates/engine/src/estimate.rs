//! The memory that a run will take: `run::estimate` for the model that its arguments name.

use run::config::Config;
use run::estimate::{Estimate, Shape, estimate};
use run::fields::FinetuningType;

use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gguf::Gguf;
use crate::model::hub::ModelLocation;
use crate::model::quantise::{Plan, Target};
use crate::prepare::{Surroundings, locate, read_config};

/// Estimates the memory of a training run; nothing but the model's header is read.
///
/// # Errors
/// When there is no such model, or its config cannot be read.
pub fn of_run(config: &Config, around: &Surroundings) -> Result<Estimate> {
    let location = locate(config, around)?;
    let model = read_config(&location)?;
    let lora = config.finetuning_type == FinetuningType::Lora;
    let weights = match (&location, Target::of(config)?) {
        (ModelLocation::Gguf(file), Some(target)) if lora => {
            let plan = Plan::new(target, &model, &config.additional_target)?;
            Some(Gguf::open(file)?.quantised_bytes(&model, &plan)?)
        }
        _ => None,
    };
    Ok(estimate(config, &shape(&model), weights))
}

/// The sizes of a model.
#[must_use]
pub fn shape(model: &ModelConfig) -> Shape {
    let dtype = model.raw.get("dtype").or_else(|| model.raw.get("torch_dtype"));
    Shape {
        hidden: model.hidden_size,
        intermediate: model.intermediate_size,
        layers: model.num_hidden_layers,
        heads: model.num_attention_heads,
        kv_heads: model.num_key_value_heads,
        head_dim: model.head_dim,
        vocab: model.vocab_size,
        tied: model.tie_word_embeddings,
        qk_norm: model.qk_norm,
        post_norms: model.post_norms,
        halves: dtype.and_then(|d| d.as_str()) != Some("float32"),
    }
}
