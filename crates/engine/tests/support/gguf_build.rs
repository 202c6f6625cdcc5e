//! Writes small random models as GGUF with candle's writer, under llama.cpp's names and layout.

use std::io::Cursor;

use candle_core::quantized::gguf_file::{Value as Meta, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use engine::model::config::{ModelConfig, RopeKind};
use engine::model::params::{ParamKind, expected_params};
use engine::model::rope_freq::inv_freq;
use engine::model::weights::{WeightData, Weights};
use serde_json::{Value, json};

/// A small generator of test numbers.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    pub fn float(&mut self) -> f32 {
        self.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0
    }
}

/// A GGUF file of a random model, what reading it must give, and its config.
pub fn build(arch: &str, more: Value, dtype: GgmlDType) -> (Vec<u8>, Weights, ModelConfig) {
    let mut json = json!({
        "model_type": if arch == "gemma3" { "gemma3_text" } else { arch },
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 48,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    });
    for (key, value) in more.as_object().unwrap() {
        json[key] = value.clone();
    }
    let config = ModelConfig::from_value(json, "test").unwrap();
    let mut rng = Rng(1);
    let (mut tensors, mut expected) = (Vec::new(), Weights::new());
    for spec in expected_params(&config) {
        let elements = spec.shape.iter().product();
        let values: Vec<f32> = (0..elements).map(|_| rng.float()).collect();
        let shape = spec.shape.as_slice();
        let rotated =
            arch == "llama" && (spec.name.contains("q_proj") || spec.name.contains("k_proj"));
        let file_order = if rotated { interleave(&values, shape, config.head_dim) } else { values };
        let shift = f32::from(u8::from(arch.starts_with("gemma") && spec.kind == ParamKind::Norm));
        let stored: Vec<f32> = file_order.iter().map(|x| x + shift).collect();
        let tensor = Tensor::from_vec(stored, shape, &Device::Cpu).unwrap();
        let matrix = matches!(spec.kind, ParamKind::Matrix | ParamKind::Embedding);
        let packed =
            QTensor::quantize(&tensor, if matrix { dtype } else { GgmlDType::F32 }).unwrap();
        let unpacked = packed.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
        let unpacked: Vec<f32> =
            unpacked.to_vec1::<f32>().unwrap().iter().map(|x| x - shift).collect();
        let model_order =
            if rotated { separate(&unpacked, shape, config.head_dim) } else { unpacked };
        expected.insert(spec.name.clone(), WeightData::f32(shape.to_vec(), model_order));
        tensors.push((name_in_file(arch, &spec.name), packed));
    }
    if let RopeKind::Llama3 { .. } = config.rope.kind {
        let plain = engine::model::config::Rope { kind: RopeKind::Default, ..config.rope.clone() };
        let (plain, scaled) = (inv_freq(&plain, config.head_dim, 1).0, config.rope_inv_freq(0).0);
        let factors: Vec<f32> = plain.iter().zip(&scaled).map(|(p, s)| p / s).collect();
        let tensor = Tensor::from_vec(factors, config.head_dim / 2, &Device::Cpu).unwrap();
        tensors.push((
            "rope_freqs.weight".into(),
            QTensor::quantize(&tensor, GgmlDType::F32).unwrap(),
        ));
    }
    let meta = metadata(arch, &config);
    let meta: Vec<_> = meta.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut out = Cursor::new(Vec::new());
    write(&mut out, &meta, &tensors).unwrap();
    (out.into_inner(), expected, config)
}

fn metadata(arch: &str, config: &ModelConfig) -> Vec<(String, Meta)> {
    let mut out = vec![("general.architecture".to_owned(), Meta::String(arch.into()))];
    let mut put = |key: &str, value: Meta| out.push((format!("{arch}.{key}"), value));
    let int = |n: usize| Meta::U32(n as u32);
    put("context_length", int(config.max_position_embeddings));
    put("embedding_length", int(config.hidden_size));
    put("block_count", int(config.num_hidden_layers));
    put("feed_forward_length", int(config.intermediate_size));
    put("attention.head_count", int(config.num_attention_heads));
    put("attention.head_count_kv", int(config.num_key_value_heads));
    put("attention.key_length", int(config.head_dim));
    put("attention.value_length", int(config.head_dim));
    put("attention.layer_norm_rms_epsilon", Meta::F32(config.rms_norm_eps as f32));
    put("rope.freq_base", Meta::F32(config.rope.theta as f32));
    put("rope.dimension_count", int(config.head_dim));
    if let Some(window) = config.windows.iter().flatten().next() {
        put("attention.sliding_window", int(*window));
    }
    if let Some(cap) = config.attn_logit_softcapping {
        put("attn_logit_softcapping", Meta::F32(cap));
    }
    if let Some(cap) = config.final_logit_softcapping {
        put("final_logit_softcapping", Meta::F32(cap));
    }
    for (key, id) in [("bos", 1), ("eos", 2), ("padding", 0)] {
        out.push((format!("tokenizer.ggml.{key}_token_id"), Meta::U32(id)));
    }
    out
}

fn name_in_file(arch: &str, name: &str) -> String {
    let gemma = arch.starts_with("gemma");
    let table = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("post_attention_layernorm", if gemma { "post_attention_norm" } else { "ffn_norm" }),
        ("model.layers", "blk"),
    ];
    table.iter().fold(name.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs))
}

/// llama.cpp's order: reshape(heads, 2, dim / 2, cols).swapaxes(1, 2).
fn interleave(values: &[f32], shape: &[usize], dim: usize) -> Vec<f32> {
    swap(values, shape, (2, dim / 2))
}

fn separate(values: &[f32], shape: &[usize], dim: usize) -> Vec<f32> {
    swap(values, shape, (dim / 2, 2))
}

fn swap(values: &[f32], shape: &[usize], (a, b): (usize, usize)) -> Vec<f32> {
    let cols = shape.get(1).copied().unwrap_or(1);
    let heads = shape[0] / (a * b);
    let tensor = Tensor::from_slice(values, (heads, a, b, cols), &Device::Cpu).unwrap();
    let swapped = tensor.transpose(1, 2).unwrap().flatten_all().unwrap();
    swapped.to_vec1().unwrap()
}
