//! Hugging Face's parameter names in llama.cpp's words, and where the layouts differ.

use crate::model::config::{Arch, ModelConfig};

/// Llama 3's rope scaling, as a divisor for each frequency.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// How the rows of a matrix are ordered in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As in Hugging Face's files.
    Same,
    /// llama.cpp's for arch llama: within each head the two halves are interleaved, since its
    /// rope turns neighbours rather than halves.
    Rope {
        /// Rows of a head.
        head_dim: usize,
    },
}

/// The file's name for parameter `name`.
pub(super) fn gguf_name(config: &ModelConfig, name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, ending) = rest.rsplit_once('.')?;
    let block = match module {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if config.post_norms => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        _ => return None,
    };
    Some(format!("blk.{layer}.{block}.{ending}"))
}

/// The order of a parameter's rows in the file.
pub(super) fn row_order(config: &ModelConfig, name: &str) -> RowOrder {
    let turned = name.contains(".self_attn.q_proj.") || name.contains(".self_attn.k_proj.");
    match turned && config.arch == Arch::Llama {
        true => RowOrder::Rope { head_dim: config.head_dim },
        false => RowOrder::Same,
    }
}

/// Whether a parameter is a norm's weight.
pub(super) fn is_norm(name: &str) -> bool {
    name.ends_with("norm.weight")
}
