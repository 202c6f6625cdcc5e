//! config.json to [`ModelConfig`], with transformers' defaults for each architecture.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::{Activation, Arch, Biases, ModelConfig, rope};
use crate::error::{Error, Result};
use crate::model::brief;

const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 12;
const MAX_HEADS: usize = 1 << 14;
const MAX_VOCAB: usize = 1 << 24;
const MAX_POSITIONS: usize = 1 << 31;

/// What transformers assumes where config.json is silent.
struct Defaults {
    /// None: as many as query heads.
    kv_heads: Option<usize>,
    /// None: hidden size / heads.
    head_dim: Option<usize>,
    eps: f64,
    max_positions: usize,
    tied: bool,
    window: Option<usize>,
}

fn defaults(arch: Arch) -> Defaults {
    let (kv_heads, head_dim, max_positions, window) = match arch {
        Arch::Llama => (None, None, 2048, None),
        Arch::Qwen2 => (Some(32), None, 32_768, Some(4096)),
        Arch::Qwen3 => (Some(32), Some(128), 32_768, Some(4096)),
        Arch::Mistral => (Some(8), None, 131_072, Some(4096)),
        Arch::Gemma2 => (Some(4), Some(256), 8192, Some(4096)),
        Arch::Gemma3 => (Some(4), Some(256), 131_072, Some(4096)),
        Arch::Phi3 => (None, None, 4096, None),
    };
    let eps = if arch == Arch::Phi3 { 1e-5 } else { 1e-6 };
    let tied = matches!(arch, Arch::Gemma2 | Arch::Gemma3);
    Defaults { kv_heads, head_dim, eps, max_positions, tied, window }
}

/// Reads and checks a config.
pub(super) fn config(raw: Map<String, Value>, source: &str) -> Result<ModelConfig> {
    let fields = Fields { source, prefix: "", map: &raw };
    let arch = architecture(fields)?;
    let or = defaults(arch);
    let hidden_size = fields.need_size("hidden_size", MAX_WIDTH)?;
    let num_attention_heads = fields.need_size("num_attention_heads", MAX_HEADS)?;
    let num_hidden_layers = fields.need_size("num_hidden_layers", MAX_LAYERS)?;
    let max_position_embeddings =
        fields.size("max_position_embeddings", MAX_POSITIONS)?.unwrap_or(or.max_positions);
    let gemma = matches!(arch, Arch::Gemma2 | Arch::Gemma3);
    let (rope, rope_local) = rope::parse(arch, fields, max_position_embeddings)?;
    let config = ModelConfig {
        arch,
        hidden_size,
        intermediate_size: fields.need_size("intermediate_size", MAX_WIDTH * 4)?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: kv_heads(fields, &or, num_attention_heads)?,
        head_dim: head_dim(fields, &or, hidden_size, num_attention_heads)?,
        vocab_size: fields.need_size("vocab_size", MAX_VOCAB)?,
        max_position_embeddings,
        rms_norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(or.eps),
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(or.tied),
        biases: biases(arch, fields)?,
        qk_norm: matches!(arch, Arch::Qwen3 | Arch::Gemma3),
        norm_plus_one: gemma,
        post_norms: gemma,
        fused: arch == Arch::Phi3,
        embedding_scale: gemma.then(|| (hidden_size as f64).sqrt() as f32),
        activation: activation(arch, fields)?,
        rope,
        rope_local,
        windows: windows(arch, fields, or.window, num_hidden_layers)?,
        attn_logit_softcapping: softcap(fields, "attn_logit_softcapping", arch, 50.0)?,
        final_logit_softcapping: softcap(fields, "final_logit_softcapping", arch, 30.0)?,
        query_pre_attn_scalar: match fields.positive("query_pre_attn_scalar")? {
            given if gemma => Some(given.unwrap_or(256.0)),
            _ => None,
        },
        initializer_range: fields.positive("initializer_range")?.unwrap_or(0.02),
        bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
        eos_token_ids: fields.token_ids("eos_token_id")?,
        pad_token_id: fields.token_ids("pad_token_id")?.first().copied(),
        raw: Map::new(),
    };
    check(&config, fields)?;
    Ok(ModelConfig { raw, ..config })
}

/// The architecture by `model_type`, else by the class in `architectures`.
fn architecture(fields: Fields) -> Result<Arch> {
    let class = match fields.get("architectures") {
        Some(Value::Array(names)) => names.first().and_then(Value::as_str),
        _ => None,
    };
    let model_type = fields.text("model_type")?;
    let found = Arch::ALL.into_iter().find(|arch| match (model_type, class) {
        (Some(name), _) => name == arch.model_type(),
        (None, Some(name)) => name == arch.class_name(),
        (None, None) => false,
    });
    // A class of the right family but with another head (a reward model, a classifier) has
    // parameters that a language model lacks.
    let fits = |arch: Arch| class.is_none_or(|name| name == arch.class_name());
    if let Some(arch) = found.filter(|arch| fits(*arch)) {
        return Ok(arch);
    }
    let known: Vec<_> = Arch::ALL
        .iter()
        .map(|arch| format!("{} ({})", arch.model_type(), arch.class_name()))
        .collect();
    let given = match (model_type, class) {
        (None, None) => "neither model_type nor architectures says what this is".to_owned(),
        (name, class) => {
            format!("{} ({}) is not supported", name.unwrap_or("?"), class.unwrap_or("?"))
        }
    };
    Err(fields.error("model_type", format!("{given}; known are {}", known.join(", "))))
}

fn kv_heads(fields: Fields, or: &Defaults, heads: usize) -> Result<usize> {
    let given = fields.size("num_key_value_heads", MAX_HEADS)?;
    // A null means "as many as query heads" in every architecture; an absent field the default.
    let absent = !fields.map.contains_key("num_key_value_heads");
    Ok(given.or(or.kv_heads.filter(|_| absent)).unwrap_or(heads))
}

fn head_dim(fields: Fields, or: &Defaults, hidden: usize, heads: usize) -> Result<usize> {
    if let Some(dim) = fields.size("head_dim", MAX_WIDTH)?.or(or.head_dim) {
        return Ok(dim);
    }
    if !hidden.is_multiple_of(heads) {
        let why = format!(
            "{hidden} is not a multiple of num_attention_heads = {heads}, and there is no head_dim"
        );
        return Err(fields.error("hidden_size", why));
    }
    Ok(hidden / heads)
}

fn biases(arch: Arch, fields: Fields) -> Result<Biases> {
    let attention = match arch {
        Arch::Mistral | Arch::Phi3 | Arch::Qwen2 => false,
        _ => fields.flag("attention_bias")?.unwrap_or(false),
    };
    let mlp = arch == Arch::Llama && fields.flag("mlp_bias")?.unwrap_or(false);
    Ok(Biases { qkv: attention || arch == Arch::Qwen2, output: attention, mlp })
}

fn activation(arch: Arch, fields: Fields) -> Result<Activation> {
    let (field, default) = match arch {
        Arch::Gemma2 | Arch::Gemma3 => ("hidden_activation", "gelu_pytorch_tanh"),
        _ => ("hidden_act", "silu"),
    };
    match fields.text(field)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::Gelu),
        other => Err(fields.error(
            field,
            format!("{} is not known here; known are silu, gelu_pytorch_tanh, gelu", brief(other)),
        )),
    }
}

/// Gemma 2 has caps unless told otherwise; a null switches one off; the others have none.
fn softcap(fields: Fields, name: &str, arch: Arch, gemma2: f32) -> Result<Option<f32>> {
    match arch {
        Arch::Gemma2 if !fields.map.contains_key(name) => Ok(Some(gemma2)),
        Arch::Gemma2 | Arch::Gemma3 => Ok(fields.positive(name)?.map(|cap| cap as f32)),
        _ => Ok(None),
    }
}

/// The sliding window of each layer.
fn windows(
    arch: Arch,
    fields: Fields,
    default: Option<usize>,
    layers: usize,
) -> Result<Vec<Option<usize>>> {
    let given = fields.size("sliding_window", MAX_POSITIONS)?;
    let absent = !fields.map.contains_key("sliding_window");
    let mut window = given.or(default.filter(|_| absent));
    match arch {
        Arch::Llama => return Ok(vec![None; layers]),
        Arch::Mistral | Arch::Phi3 => return Ok(vec![window; layers]),
        Arch::Qwen2 | Arch::Qwen3 => {
            window = window
                .filter(|_| matches!(fields.get("use_sliding_window"), Some(Value::Bool(true))));
        }
        Arch::Gemma2 | Arch::Gemma3 => {}
    }
    if let Some(types) = fields.get("layer_types") {
        return layer_types(fields, types, window, layers);
    }
    let max_window_layers = match fields.get("max_window_layers") {
        None => 28,
        Some(value) => value
            .as_u64()
            .ok_or_else(|| fields.error("max_window_layers", "expected a whole number"))?,
    };
    let pattern = match arch {
        Arch::Gemma3 => fields.size("sliding_window_pattern", MAX_LAYERS)?.unwrap_or(6),
        _ => 2,
    };
    let slides = |layer: usize| match arch {
        Arch::Gemma2 | Arch::Gemma3 => !(layer + 1).is_multiple_of(pattern),
        _ => layer as u64 >= max_window_layers,
    };
    Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect())
}

fn layer_types(
    fields: Fields,
    types: &Value,
    window: Option<usize>,
    layers: usize,
) -> Result<Vec<Option<usize>>> {
    let types = types.as_array().filter(|types| types.len() == layers).ok_or_else(|| {
        fields
            .error("layer_types", format!("expected a list of num_hidden_layers = {layers} names"))
    })?;
    let one = |value: &Value| match value.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") => Ok(window),
        _ => Err(fields.error(
            "layer_types",
            format!(
                "{} is not known here; known are full_attention, sliding_attention",
                brief(value)
            ),
        )),
    };
    types.iter().map(one).collect()
}

/// Checks that span several fields.
fn check(config: &ModelConfig, fields: Fields) -> Result<()> {
    let (heads, kv) = (config.num_attention_heads, config.num_key_value_heads);
    if !heads.is_multiple_of(kv) {
        let why = format!("{kv} does not divide num_attention_heads = {heads}");
        return Err(fields.error("num_key_value_heads", why));
    }
    if config.q_width() > MAX_WIDTH * 4 {
        return Err(fields
            .error("head_dim", format!("{} times {heads} heads is too wide", config.head_dim)));
    }
    for rope in std::iter::once(&config.rope).chain(&config.rope_local) {
        let rotated = super::super::rope_freq::rotated_width(rope, config.head_dim);
        if rotated < 2 || !rotated.is_multiple_of(2) {
            let why = format!("rope needs an even number of rotated dimensions, here {rotated}");
            return Err(fields.error("head_dim", why));
        }
    }
    if fields.flag("use_bidirectional_attention")?.unwrap_or(false) {
        let why = "an encoder, not a language model, and not supported";
        return Err(fields.error("use_bidirectional_attention", why));
    }
    if let Some(quantised) = fields.get("quantization_config") {
        let method = quantised.get("quant_method").and_then(Value::as_str).unwrap_or("?");
        return Err(Error::input(
            fields.source,
            format!(
                "quantization_config: weights packed by {} cannot be trained; use the \
                 unquantised model, or a GGUF file",
                brief(method)
            ),
        ));
    }
    Ok(())
}
