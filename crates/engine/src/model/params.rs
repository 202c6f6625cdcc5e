//! Which parameters a model has: name, shape and kind, in transformers' order.
//!
//! Readers check files against this list, and training from scratch fills it.

use super::config::ModelConfig;

/// What a parameter is, which decides how it starts and whether weight decay acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// The token embedding, and lm_head where it is not tied.
    Embedding,
    /// A norm's weight.
    Norm,
    /// A linear layer's weight, rows = outputs.
    Matrix,
    /// A linear layer's bias.
    Bias,
}

/// One parameter of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// Hugging Face's name.
    pub name: String,
    /// Its dimensions; of a matrix (outputs, inputs).
    pub shape: Vec<usize>,
    /// What it is.
    pub kind: ParamKind,
}

/// All parameters of a model in the order of transformers' `named_parameters()`. A tied lm_head
/// is no parameter.
#[must_use]
pub fn expected_params(config: &ModelConfig) -> Vec<ParamSpec> {
    let (hidden, vocab) = (config.hidden_size, config.vocab_size);
    let mut out = List(Vec::new());
    out.push("model.embed_tokens.weight".into(), &[vocab, hidden], ParamKind::Embedding);
    for layer in 0..config.num_hidden_layers {
        layer_params(&mut out, config, &format!("model.layers.{layer}"));
    }
    out.norm("model.norm", hidden);
    if !config.tie_word_embeddings {
        out.push("lm_head.weight".into(), &[vocab, hidden], ParamKind::Embedding);
    }
    out.0
}

/// The layer that a parameter, or a part of an adapter, belongs to by its name; `None` outside the
/// layers.
#[must_use]
pub fn layer_of(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}

fn layer_params(out: &mut List, config: &ModelConfig, at: &str) {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.q_width(), config.kv_width());
    let biases = config.biases;
    let attn = format!("{at}.self_attn");
    if config.fused {
        out.linear(&format!("{attn}.o_proj"), hidden, q, biases.output);
        out.linear(&format!("{attn}.qkv_proj"), q + 2 * kv, hidden, biases.qkv);
    } else {
        out.linear(&format!("{attn}.q_proj"), q, hidden, biases.qkv);
        out.linear(&format!("{attn}.k_proj"), kv, hidden, biases.qkv);
        out.linear(&format!("{attn}.v_proj"), kv, hidden, biases.qkv);
        out.linear(&format!("{attn}.o_proj"), hidden, q, biases.output);
    }
    if config.qk_norm {
        out.norm(&format!("{attn}.q_norm"), config.head_dim);
        out.norm(&format!("{attn}.k_norm"), config.head_dim);
    }
    if config.fused {
        out.linear(&format!("{at}.mlp.gate_up_proj"), 2 * inner, hidden, biases.mlp);
    } else {
        out.linear(&format!("{at}.mlp.gate_proj"), inner, hidden, biases.mlp);
        out.linear(&format!("{at}.mlp.up_proj"), inner, hidden, biases.mlp);
    }
    out.linear(&format!("{at}.mlp.down_proj"), hidden, inner, biases.mlp);
    out.norm(&format!("{at}.input_layernorm"), hidden);
    out.norm(&format!("{at}.post_attention_layernorm"), hidden);
    if config.post_norms {
        out.norm(&format!("{at}.pre_feedforward_layernorm"), hidden);
        out.norm(&format!("{at}.post_feedforward_layernorm"), hidden);
    }
}

struct List(Vec<ParamSpec>);

impl List {
    fn push(&mut self, name: String, shape: &[usize], kind: ParamKind) {
        self.0.push(ParamSpec { name, shape: shape.to_vec(), kind });
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) {
        self.push(format!("{name}.weight"), &[outputs, inputs], ParamKind::Matrix);
        if bias {
            self.push(format!("{name}.bias"), &[outputs], ParamKind::Bias);
        }
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.push(format!("{name}.weight"), &[width], ParamKind::Norm);
    }
}
