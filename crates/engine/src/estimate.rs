//! The memory that a run will take: `run::estimate` for the model that its arguments name.

use run::config::Config;
use run::estimate::{Estimate, Known, Shape, estimate};
use run::fields::FinetuningType;

use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::freeze::Freeze;
use crate::model::gguf::Gguf;
use crate::model::hub::ModelLocation;
use crate::model::lora::{OUTER, Targets, whole};
use crate::model::params::{ParamKind, ParamSpec, expected_params};
use crate::model::quantise::{Plan, Target};
use crate::prepare::{Surroundings, locate, read_config};

/// Estimates the memory of a training run; nothing but the model's header is read.
///
/// # Errors
/// When there is no such model, or its config cannot be read.
pub fn of_run(config: &Config, around: &Surroundings) -> Result<Estimate> {
    let location = locate(config, around)?;
    let model = read_config(&location)?;
    of_model(config, &location, &model)
}

/// The same for a model that was found, and whose config was read.
///
/// # Errors
/// When the arguments name modules that the model has not, or a GGUF file cannot be read.
pub fn of_model(
    config: &Config,
    location: &ModelLocation,
    model: &ModelConfig,
) -> Result<Estimate> {
    let lora = config.finetuning_type == FinetuningType::Lora;
    let weights = match (location, Target::of(config)?) {
        (ModelLocation::Gguf(file), Some(target)) if lora => {
            let plan = Plan::new(target, model, &config.additional_target)?;
            Some(Gguf::open(file)?.quantised_bytes(model, &plan)?)
        }
        _ => None,
    };
    let counts = trained(config, model)?;
    let (added, chosen) = (lora.then_some(counts.added), Some(counts.chosen));
    let mut shape = shape(model);
    // a head that is trained whole is no longer the embedding
    shape.tied &= !(lora && counts.outer);
    Ok(estimate(config, &shape, Known { weights, added, chosen }))
}

/// Parameters that a run trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trained {
    /// Those of an adapter.
    pub added: u64,
    /// Those of the model.
    pub chosen: u64,
    /// Whether the embedding or the head is among the latter.
    pub outer: bool,
}

/// Counts the parameters that the arguments ask to train: all, those of the layers that freeze leaves, or
/// an adapter's with the modules beside it that are trained whole.
///
/// # Errors
/// When the arguments name modules that the model has not.
pub fn trained(config: &Config, model: &ModelConfig) -> Result<Trained> {
    let specs = expected_params(model);
    match config.finetuning_type {
        FinetuningType::Full => Ok(of_own(&specs)),
        FinetuningType::Freeze => {
            let freeze = Freeze {
                layers: config.freeze_trainable_layers,
                modules: &config.freeze_trainable_modules,
                extra: &config.freeze_extra_modules,
            };
            let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
            let parts = freeze.parts(&names, model.num_hidden_layers);
            let parts = parts.map_err(|why| Error::input("freeze_trainable_modules", why))?;
            let hit = |spec: &&ParamSpec| parts.iter().any(|part| spec.name.contains(part));
            Ok(of_own(specs.iter().filter(hit)))
        }
        FinetuningType::Lora => {
            let chosen = match config.additional_target.as_slice() {
                [] => Vec::new(),
                names => whole::params(model, names)
                    .map_err(|why| Error::input("additional_target", why))?,
            };
            Ok(Trained { added: adapter(config, &specs)?, ..of_own(&chosen) })
        }
    }
}

fn of_own<'s>(specs: impl IntoIterator<Item = &'s ParamSpec>) -> Trained {
    let mut found = Trained::default();
    for spec in specs {
        found.chosen += size(spec);
        found.outer |= spec.kind == ParamKind::Embedding;
    }
    found
}

fn size(spec: &ParamSpec) -> u64 {
    spec.shape.iter().map(|side| *side as u64).product()
}

/// Parameters of a fresh adapter.
fn adapter(config: &Config, specs: &[ParamSpec]) -> Result<u64> {
    let matrices: Vec<&ParamSpec> =
        specs.iter().filter(|spec| spec.kind == ParamKind::Matrix).collect();
    let module = |spec: &ParamSpec| spec.name.trim_end_matches(".weight").to_owned();
    let paths: Vec<String> = matrices.iter().map(|spec| module(spec)).collect();
    let borrowed: Vec<&str> = paths.iter().map(String::as_str).collect();
    let hits = Targets::of_argument(&config.lora_target).matched(&borrowed, &OUTER);
    let hits = hits.map_err(|why| Error::input("lora_target", why))?;
    let table = specs.iter().find(|spec| spec.kind == ParamKind::Embedding);
    let places = matrices.into_iter().chain(OUTER.iter().filter_map(|_| table));
    let named = borrowed.iter().chain(&OUTER).zip(hits).zip(places);
    let rank = config.lora_rank as u64;
    let count = |((path, hit), spec): ((&&str, bool), &ParamSpec)| {
        let sides = spec.shape.iter().map(|side| *side as u64).sum::<u64>();
        let lengths = if config.use_dora { spec.shape.first().map_or(0, |n| *n as u64) } else { 0 };
        let here = hit && !whole::excludes(&config.additional_target, path);
        if here { rank * sides + lengths } else { 0 }
    };
    Ok(named.map(count).sum())
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LAYERS: u64 = 2;
    /// Outputs and inputs of q, k, v, o and of gate, up, down.
    const SIDES: [u64; 7] = [8 + 8, 4 + 8, 4 + 8, 8 + 8, 12 + 8, 12 + 8, 8 + 12];

    fn counted(arguments: Value) -> Result<Trained> {
        let model = json!({
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 8,
            "intermediate_size": 12, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 16, "hidden_act": "silu",
            "max_position_embeddings": 8, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
            "tie_word_embeddings": true,
        });
        let model = ModelConfig::from_value(model, "test").unwrap();
        let (config, _) = Config::from_map(arguments.as_object().unwrap()).unwrap();
        trained(&config, &model)
    }

    #[test]
    fn every_way_to_name_modules_is_counted() {
        let check = |arguments: Value, added: u64, chosen: u64| {
            let found = counted(arguments.clone()).unwrap();
            assert_eq!((found.added, found.chosen), (added, chosen), "{arguments}");
        };
        let r4 = |target: &str| json!({ "lora_rank": 4, "lora_target": target });
        let all: u64 = SIDES.iter().sum();
        check(r4("all"), 4 * LAYERS * all, 0);
        check(r4("q_proj,v_proj"), 4 * LAYERS * (16 + 12), 0);
        check(r4("1.self_attn.q_proj"), 4 * 16, 0);
        check(r4(r".*\.(gate|up)_proj"), 4 * LAYERS * 40, 0);
        check(r4(r".*layers\.0\..*"), 4 * all, 0);
        check(r4("q_proj,embed_tokens"), 4 * (LAYERS * 16 + 16 + 8), 0);
        let dora = json!({ "lora_rank": 4, "lora_target": "q_proj", "use_dora": true });
        check(dora, LAYERS * (4 * 16 + 8), 0);
        let whole =
            json!({ "lora_rank": 4, "lora_target": "q_proj", "additional_target": "lm_head" });
        check(whole.clone(), 4 * LAYERS * 16, 16 * 8);
        assert!(counted(whole).unwrap().outer);
        let layer = 2 * 64 + 2 * 32 + 3 * 96 + 2 * 4 + 2 * 8;
        let freeze = json!({ "finetuning_type": "freeze", "freeze_trainable_layers": 1 });
        check(freeze, 0, layer);
        check(json!({ "finetuning_type": "full" }), 0, LAYERS * layer + 16 * 8 + 8);
    }

    #[test]
    fn modules_that_are_none_are_named() {
        for (target, part) in [("qq_proj", "lora_target: "), ("(", "not a regular expression")] {
            let error = counted(json!({ "lora_target": target })).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = counted(json!({ "additional_target": "nothing" })).unwrap_err().to_string();
        assert!(error.contains("additional_target: "), "{error}");
    }
}
