//! GGUF metadata to a Hugging Face config.json, which the one parser then reads.

use serde_json::{Value, json};

use super::{ARCHS, Gguf, Meta, names};
use crate::error::Result;
use crate::model::brief;
use crate::model::config::{Arch, ModelConfig, Rope, RopeKind};
use crate::model::rope_freq;

/// The config of a file.
pub(super) fn config(gguf: &Gguf) -> Result<ModelConfig> {
    let meta = gguf.meta();
    let (prefix, arch) = architecture(meta)?;
    let key = |name: &str| format!("{prefix}.{name}");
    if meta.int(&key("expert_count"))?.unwrap_or(0) > 0 {
        return Err(meta.error(
            &key("expert_count"),
            "mixtures of experts are not supported",
        ));
    }
    let hidden = meta.need_int(&key("embedding_length"))?;
    let heads = meta.need_int(&key("attention.head_count"))?;
    let head_dim = match meta.int(&key("attention.key_length"))? {
        Some(dim) => dim,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    if meta
        .int(&key("attention.value_length"))?
        .is_some_and(|value| value != head_dim)
    {
        let why = "values of another width than keys are not supported";
        return Err(meta.error(&key("attention.value_length"), why));
    }
    let vocab = match gguf.info("token_embd.weight").map(|info| info.shape.dims()) {
        Some([rows, _]) => *rows,
        _ => return Err(gguf.error("no tensor token_embd.weight in the file")),
    };
    let theta = meta.float(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    let has = |name: &str| gguf.info(name).is_some();
    let mut out = json!({
        "architectures": [arch.class_name()],
        "model_type": arch.model_type(),
        "hidden_size": hidden,
        "intermediate_size": meta.need_int(&key("feed_forward_length"))?,
        "num_hidden_layers": meta.need_int(&key("block_count"))?,
        "num_attention_heads": heads,
        "num_key_value_heads": meta.int(&key("attention.head_count_kv"))?.unwrap_or(heads),
        "head_dim": head_dim,
        "vocab_size": vocab,
        "max_position_embeddings": meta.need_int(&key("context_length"))?,
        "rms_norm_eps": meta.float(&key("attention.layer_norm_rms_epsilon"))?,
        "rope_theta": theta,
        "rope_scaling": scaling(meta, prefix)?,
        "tie_word_embeddings": !has("output.weight"),
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": true,
        "dtype": "float32",
    });
    let mut set = |name: &str, value: Value| out[name] = value;
    for (name, entry) in [
        ("bos_token_id", "bos"),
        ("eos_token_id", "eos"),
        ("pad_token_id", "padding"),
    ] {
        set(
            name,
            json!(meta.int(&format!("tokenizer.ggml.{entry}_token_id"))?),
        );
    }
    match arch {
        Arch::Gemma2 | Arch::Gemma3 => gemma(arch, meta, prefix, &mut set)?,
        _ => set("hidden_act", json!("silu")),
    }
    match arch {
        Arch::Llama => {
            set("attention_bias", json!(has("blk.0.attn_q.bias")));
            set("mlp_bias", json!(has("blk.0.ffn_gate.bias")));
        }
        Arch::Qwen3 => set("attention_bias", json!(false)),
        Arch::Phi3 => {
            set(
                "sliding_window",
                json!(meta.int(&key("attention.sliding_window"))?),
            );
            set(
                "original_max_position_embeddings",
                json!(meta.int(&key("rope.scaling.original_context_length"))?),
            );
            if has("rope_factors_long.weight") {
                return Err(meta.error(&key("rope.scaling"), "rope type longrope is not supported"));
            }
        }
        _ => {}
    }
    if let Some(rotated) = meta
        .int(&key("rope.dimension_count"))?
        .filter(|n| *n != head_dim)
    {
        set(
            "partial_rotary_factor",
            json!(rotated as f64 / head_dim as f64),
        );
    }
    if let Some(factors) = gguf.vector(names::ROPE_FACTORS)? {
        set(
            "rope_scaling",
            llama3(gguf, theta, head_dim as usize, &factors)?,
        );
    }
    ModelConfig::from_value(out, &gguf.path.display().to_string())
}

fn architecture(meta: Meta<'_>) -> Result<(&'static str, Arch)> {
    let key = "general.architecture";
    let name = meta
        .text(key)?
        .ok_or_else(|| meta.error(key, "missing from the metadata"))?;
    ARCHS
        .into_iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| {
            let known: Vec<_> = ARCHS.iter().map(|(known, _)| *known).collect();
            meta.error(
                key,
                format!(
                    "{} is not supported; known are {}",
                    brief(name),
                    known.join(", ")
                ),
            )
        })
}

/// `rope_scaling`, or null.
fn scaling(meta: Meta, prefix: &str) -> Result<Value> {
    let key = |name: &str| format!("{prefix}.rope.scaling.{name}");
    let factor = meta.float(&key("factor"))?;
    match meta.text(&key("type"))? {
        None | Some("none") => Ok(Value::Null),
        Some("linear") => Ok(json!({ "rope_type": "linear", "factor": factor })),
        Some("yarn") => {
            let mut out = json!({ "rope_type": "yarn", "factor": factor });
            if let Some(original) = meta.int(&key("original_context_length"))? {
                out["original_max_position_embeddings"] = json!(original);
            }
            for (name, entry) in [
                ("beta_fast", "yarn_beta_fast"),
                ("beta_slow", "yarn_beta_slow"),
            ] {
                if let Some(beta) = meta.float(&key(entry))? {
                    out[name] = json!(beta);
                }
            }
            Ok(out)
        }
        Some(other) => Err(meta.error(&key("type"), format!("{} is not supported", brief(other)))),
    }
}

/// What only Gemma has. llama.cpp keeps neither the pattern of windows nor the score's scale;
/// both follow from the model's size, as in its own loader.
fn gemma(arch: Arch, meta: Meta, prefix: &str, set: &mut impl FnMut(&str, Value)) -> Result<()> {
    let key = |name: &str| format!("{prefix}.{name}");
    set("hidden_activation", json!("gelu_pytorch_tanh"));
    set("attention_bias", json!(false));
    set(
        "sliding_window",
        json!(meta.int(&key("attention.sliding_window"))?),
    );
    let (layers, hidden) = (
        meta.need_int(&key("block_count"))?,
        meta.need_int(&key("embedding_length"))?,
    );
    let heads = meta.need_int(&key("attention.head_count"))?;
    let largest = if arch == Arch::Gemma2 { 46 } else { 62 };
    let scalar = match meta.int(&key("attention.key_length"))? {
        Some(dim) if layers != largest => dim,
        _ => hidden.checked_div(heads).unwrap_or(0),
    };
    set("query_pre_attn_scalar", json!(scalar));
    let cap = |name: &str| meta.float(&key(name));
    set(
        "attn_logit_softcapping",
        json!(cap("attn_logit_softcapping")?),
    );
    set(
        "final_logit_softcapping",
        json!(cap("final_logit_softcapping")?),
    );
    if arch == Arch::Gemma3 {
        let pattern = meta
            .int(&key("attention.sliding_window_pattern"))?
            .unwrap_or(6);
        set("sliding_window_pattern", json!(pattern));
        set(
            "rope_local_base_freq",
            json!(meta.float(&key("rope.freq_base_swa"))?.unwrap_or(10_000.0)),
        );
    }
    Ok(())
}

/// Llama 3's scaling from its table of divisors: the largest is the factor, the rest must be what
/// the formula makes of it.
fn llama3(gguf: &Gguf, theta: f64, head_dim: usize, factors: &[f32]) -> Result<Value> {
    let wrong = || gguf.error("rope_freqs.weight: not the frequencies of any Llama 3 model");
    if factors.len() * 2 != head_dim {
        return Err(wrong());
    }
    let factor = factors.iter().copied().fold(1.0, f32::max);
    let (low, high, original) = (1.0, 4.0, 8192);
    let frequencies = |kind: RopeKind| {
        let rope = Rope {
            theta,
            partial_rotary_factor: 1.0,
            kind,
        };
        rope_freq::inv_freq(&rope, head_dim, original).0
    };
    let plain = frequencies(RopeKind::Default);
    let scaled = frequencies(RopeKind::Llama3 {
        factor: factor.into(),
        low_freq_factor: low,
        high_freq_factor: high,
        original,
    });
    let fits = plain
        .iter()
        .zip(&scaled)
        .zip(factors)
        .all(|((p, s), f)| (p / f - s).abs() <= 1e-4 * s);
    if !fits {
        return Err(wrong());
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }))
}
