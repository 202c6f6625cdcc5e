//! GGUF metadata to a Hugging Face config.json, which the one parser then reads.

use serde_json::{Value, json};

use super::{ARCHS, Gguf, Meta, names};
use crate::error::Result;
use crate::model::brief;
use crate::model::config::{Arch, ModelConfig, Rope, RopeKind};
use crate::model::rope_freq;

/// The config of a file.
pub(super) fn config(gguf: &Gguf) -> Result<ModelConfig> {
    let source = Source::new(gguf)?;
    let mut out = source.sizes()?;
    source.tokens(&mut out)?;
    source.rope(&mut out)?;
    match source.arch {
        Arch::Gemma2 | Arch::Gemma3 => source.gemma(&mut out)?,
        _ => out["hidden_act"] = json!("silu"),
    }
    match source.arch {
        Arch::Llama => {
            out["attention_bias"] = json!(source.has("blk.0.attn_q.bias"));
            out["mlp_bias"] = json!(source.has("blk.0.ffn_gate.bias"));
        }
        Arch::Qwen3 => out["attention_bias"] = json!(false),
        Arch::Phi3 => out["sliding_window"] = json!(source.int("attention.sliding_window")?),
        _ => {}
    }
    ModelConfig::from_value(out, &gguf.path.display().to_string())
}

/// The metadata of a file's architecture.
struct Source<'a> {
    gguf: &'a Gguf,
    meta: Meta<'a>,
    /// What its keys begin with.
    prefix: &'static str,
    arch: Arch,
    hidden: u64,
    heads: u64,
    head_dim: u64,
}

impl<'a> Source<'a> {
    fn new(gguf: &'a Gguf) -> Result<Self> {
        let meta = gguf.meta();
        let (prefix, arch) = architecture(meta)?;
        let mut source = Self { gguf, meta, prefix, arch, hidden: 0, heads: 0, head_dim: 0 };
        source.hidden = source.need("embedding_length")?;
        source.heads = source.need("attention.head_count")?;
        source.head_dim = match source.int("attention.key_length")? {
            Some(dim) => dim,
            None => source.by_heads(),
        };
        if source.int("attention.value_length")?.is_some_and(|value| value != source.head_dim) {
            let why = "values of another width than keys are not supported";
            return Err(meta.error(&source.key("attention.value_length"), why));
        }
        if source.int("expert_count")?.unwrap_or(0) > 0 {
            let why = "mixtures of experts are not supported";
            return Err(meta.error(&source.key("expert_count"), why));
        }
        Ok(source)
    }

    /// What every architecture has.
    fn sizes(&self) -> Result<Value> {
        let vocab = match self.gguf.info("token_embd.weight").map(|info| info.shape.dims()) {
            Some([rows, _]) => *rows,
            _ => return Err(self.gguf.error("no tensor token_embd.weight in the file")),
        };
        let eps = "attention.layer_norm_rms_epsilon";
        let eps = self.float(eps)?.ok_or_else(|| self.meta.error(&self.key(eps), "missing"))?;
        Ok(json!({
            "architectures": [self.arch.class_name()],
            "model_type": self.arch.model_type(),
            "hidden_size": self.hidden,
            "intermediate_size": self.need("feed_forward_length")?,
            "num_hidden_layers": self.need("block_count")?,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.int("attention.head_count_kv")?.unwrap_or(self.heads),
            "head_dim": self.head_dim,
            "vocab_size": vocab,
            "max_position_embeddings": self.need("context_length")?,
            "rms_norm_eps": eps,
            "tie_word_embeddings": !self.has("output.weight"),
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": true,
            "dtype": "float32",
        }))
    }

    fn tokens(&self, out: &mut Value) -> Result<()> {
        for (field, entry) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding")] {
            let id = self.meta.int(&format!("tokenizer.ggml.{entry}_token_id"))?;
            out[format!("{field}_token_id")] = json!(id);
        }
        Ok(())
    }

    fn rope(&self, out: &mut Value) -> Result<()> {
        let theta = self.float("rope.freq_base")?.unwrap_or(10_000.0);
        out["rope_theta"] = json!(theta);
        out["rope_scaling"] = match self.gguf.vector(names::ROPE_FACTORS)? {
            Some(factors) => llama3(self.gguf, theta, self.head_dim as usize, &factors)?,
            None => self.scaling()?,
        };
        if self.has("rope_factors_long.weight") {
            let why = "rope type longrope is not supported";
            return Err(self.meta.error(&self.key("rope.scaling"), why));
        }
        if let Some(rotated) = self.int("rope.dimension_count")?.filter(|n| *n != self.head_dim) {
            out["partial_rotary_factor"] = json!(rotated as f64 / self.head_dim as f64);
        }
        Ok(())
    }

    /// `rope_scaling`, or null.
    fn scaling(&self) -> Result<Value> {
        let key = self.key("rope.scaling.type");
        let factor = self.float("rope.scaling.factor")?;
        match self.meta.text(&key)? {
            None | Some("none") => Ok(Value::Null),
            Some("linear") => Ok(json!({ "rope_type": "linear", "factor": factor })),
            Some("yarn") => {
                let mut out = json!({ "rope_type": "yarn", "factor": factor });
                if let Some(original) = self.int("rope.scaling.original_context_length")? {
                    out["original_max_position_embeddings"] = json!(original);
                }
                for beta in ["beta_fast", "beta_slow"] {
                    if let Some(value) = self.float(&format!("rope.scaling.yarn_{beta}"))? {
                        out[beta] = json!(value);
                    }
                }
                Ok(out)
            }
            Some(other) => Err(self.meta.error(&key, format!("{} is not supported", brief(other)))),
        }
    }

    /// What only Gemma has. llama.cpp keeps neither the pattern of windows nor the score's scale;
    /// both follow from the model's size, as in its own loader.
    fn gemma(&self, out: &mut Value) -> Result<()> {
        out["hidden_activation"] = json!("gelu_pytorch_tanh");
        out["attention_bias"] = json!(false);
        out["sliding_window"] = json!(self.int("attention.sliding_window")?);
        // The largest of each family, 27B, scales by the hidden size's share of a head.
        let largest = if self.arch == Arch::Gemma2 { 46 } else { 62 };
        let of_hidden = self.need("block_count")? == largest;
        let scalar = if of_hidden { self.by_heads() } else { self.head_dim };
        out["query_pre_attn_scalar"] = json!(scalar);
        for cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
            out[cap] = json!(self.float(cap)?);
        }
        if self.arch == Arch::Gemma3 {
            let pattern = self.int("attention.sliding_window_pattern")?.unwrap_or(6);
            out["sliding_window_pattern"] = json!(pattern);
            let theta = self.float("rope.freq_base_swa")?.unwrap_or(10_000.0);
            out["rope_local_base_freq"] = json!(theta);
        }
        Ok(())
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn int(&self, name: &str) -> Result<Option<u64>> {
        self.meta.int(&self.key(name))
    }

    fn need(&self, name: &str) -> Result<u64> {
        self.meta.need_int(&self.key(name))
    }

    fn float(&self, name: &str) -> Result<Option<f64>> {
        self.meta.float(&self.key(name))
    }

    fn has(&self, tensor: &str) -> bool {
        self.gguf.info(tensor).is_some()
    }

    fn by_heads(&self) -> u64 {
        self.hidden.checked_div(self.heads).unwrap_or(0)
    }
}

fn architecture(meta: Meta<'_>) -> Result<(&'static str, Arch)> {
    let key = "general.architecture";
    let name = meta.text(key)?.ok_or_else(|| meta.error(key, "missing from the metadata"))?;
    ARCHS.into_iter().find(|(known, _)| *known == name).ok_or_else(|| {
        let known: Vec<_> = ARCHS.iter().map(|(known, _)| *known).collect();
        let why = format!("{} is not supported; known are {}", brief(name), known.join(", "));
        meta.error(key, why)
    })
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
        let rope = Rope { theta, partial_rotary_factor: 1.0, kind };
        rope_freq::inv_freq(&rope, head_dim, original).0
    };
    let plain = frequencies(RopeKind::Default);
    let scaled = frequencies(RopeKind::Llama3 {
        factor: factor.into(),
        low_freq_factor: low,
        high_freq_factor: high,
        original,
    });
    let fits =
        plain.iter().zip(&scaled).zip(factors).all(|((p, s), f)| (p / f - s).abs() <= 1e-4 * s);
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
