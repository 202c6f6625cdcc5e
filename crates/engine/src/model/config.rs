//! What a decoder looks like, read from Hugging Face's config.json.
//!
//! One struct describes every architecture the engine knows; a field that an architecture does
//! not have holds the value that switches it off. The raw JSON is kept, so that a model is saved
//! with the config it came with. Field names, defaults and precedences are transformers' own.

mod fields;
mod parse;
mod rope;
mod stretch;

use std::path::Path;

use serde_json::{Map, Value};

pub use rope::{Rope, RopeKind};

use crate::error::{Error, Result};

/// Largest JSON file that is read as a config or index: far above any real one.
pub(crate) const MAX_JSON: u64 = 256 << 20;

/// The decoder architectures that the engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Llama 2 and 3, SmolLM2, and what shares their code.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3 (dense).
    Qwen3,
    /// Mistral 7B and its like.
    Mistral,
    /// Gemma 2.
    Gemma2,
    /// The text decoder of Gemma 3.
    Gemma3,
    /// Phi-3 and Phi-4-mini.
    Phi3,
}

impl Arch {
    /// All of them, in the order in which messages list them.
    pub const ALL: [Self; 7] = [
        Self::Llama,
        Self::Qwen2,
        Self::Qwen3,
        Self::Mistral,
        Self::Gemma2,
        Self::Gemma3,
        Self::Phi3,
    ];

    /// `model_type` in config.json.
    #[must_use]
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Mistral => "mistral",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Phi3 => "phi3",
        }
    }

    /// The class in `architectures` of config.json.
    #[must_use]
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
            Self::Phi3 => "Phi3ForCausalLM",
        }
    }
}

/// The gate's activation function in the feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// GELU in the tanh approximation.
    GeluTanh,
    /// GELU by the error function.
    Gelu,
}

/// Which linear layers have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Biases {
    /// q_proj, k_proj and v_proj.
    pub qkv: bool,
    /// o_proj.
    pub output: bool,
    /// gate_proj, up_proj and down_proj.
    pub mlp: bool,
}

/// A decoder's shape and constants.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// The architecture.
    pub arch: Arch,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; need not be hidden size / heads.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// The norms' epsilon.
    pub rms_norm_eps: f64,
    /// Whether lm_head is the embedding.
    pub tie_word_embeddings: bool,
    /// Which linear layers have a bias.
    pub biases: Biases,
    /// RMSNorm over the head dimension of q and k, before rope.
    pub qk_norm: bool,
    /// Norms multiply by (1 + weight).
    pub norm_plus_one: bool,
    /// Norms after attention and after the feed-forward block too (Gemma's four norms a layer).
    pub post_norms: bool,
    /// q, k, v are one matrix `qkv_proj`, gate and up one matrix `gate_up_proj`.
    pub fused: bool,
    /// The embedding's output is multiplied by this.
    pub embedding_scale: Option<f32>,
    /// The gate's activation.
    pub activation: Activation,
    /// Rotary embedding of layers with full attention.
    pub rope: Rope,
    /// Rotary embedding of layers with a sliding window, where it differs.
    pub rope_local: Option<Rope>,
    /// One entry a layer: with `Some(w)`, a position sees itself and the w - 1 before it.
    pub windows: Vec<Option<usize>>,
    /// Attention scores pass through cap * tanh(score / cap).
    pub attn_logit_softcapping: Option<f32>,
    /// Logits pass through cap * tanh(logit / cap).
    pub final_logit_softcapping: Option<f32>,
    /// Attention scores are multiplied by this to the power -1/2; the head's width where absent.
    pub query_pre_attn_scalar: Option<f64>,
    /// Standard deviation of freshly made weights.
    pub initializer_range: f64,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills up a batch.
    pub pad_token_id: Option<u32>,
    /// config.json as it was read.
    pub raw: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// When the file cannot be read, is no JSON object, names an unknown architecture, or a field
    /// is missing, of the wrong type or out of bounds. The text names file and field.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_value(read_json(path)?, &path.display().to_string())
    }

    /// Makes a config from parsed JSON; `source` names it in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::from_file`].
    pub fn from_value(value: Value, source: &str) -> Result<Self> {
        match value {
            Value::Object(raw) => parse::config(raw, source),
            _ => Err(Error::input(source, "expected a JSON object")),
        }
    }

    /// Factor on attention scores before the soft-cap and softmax.
    #[must_use]
    pub fn attention_scale(&self) -> f32 {
        let scalar = self.query_pre_attn_scalar.unwrap_or(self.head_dim as f64);
        scalar.powf(-0.5) as f32
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn q_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Rotary embedding of layer `layer`.
    #[must_use]
    pub fn rope_of(&self, layer: usize) -> &Rope {
        match (&self.rope_local, self.windows.get(layer)) {
            (Some(local), Some(Some(_))) => local,
            _ => &self.rope,
        }
    }

    /// Inverse frequencies of layer `layer`'s rotary embedding (half the rotated width of them)
    /// and the factor on its cos and sin.
    #[must_use]
    pub fn rope_inv_freq(&self, layer: usize) -> (Vec<f32>, f32) {
        super::rope_freq::inv_freq(self.rope_of(layer), self.head_dim, self.max_position_embeddings)
    }
}

/// Checks that a tokenizer's ids fit the embedding.
///
/// # Errors
/// When `tokenizer_len` (largest id + 1) is more than the embedding's rows.
pub fn check_vocab(config: &ModelConfig, tokenizer_len: usize, source: &str) -> Result<()> {
    if tokenizer_len <= config.vocab_size {
        return Ok(());
    }
    Err(Error::input(
        source,
        format!(
            "the tokenizer has {tokenizer_len} tokens, but the model's embedding only \
             {} rows (vocab_size); use the tokenizer that belongs to the model, or set \
             resize_vocab: true",
            config.vocab_size
        ),
    ))
}

/// Reads a JSON file of bounded size; errors name the file and the place.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let len = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
    if len > MAX_JSON {
        let why = format!("{len} bytes is too large for a JSON file of a model");
        return Err(Error::input(path.display().to_string(), why));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Error::input(path.display().to_string(), format!("not valid JSON: {}", super::brief(e)))
    })
}
