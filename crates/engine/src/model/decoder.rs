//! The decoder: embedding, layers, final norm, head. One for all architectures.
//!
//! A training pass goes up through the layers, through the head's loss and gradient in one, and
//! down again to the lowest layer that is trained; layers below it keep nothing. A layer keeps its
//! intermediates or only its input, as [`Keep`] says. Shape letters as in `ops`.

use candle_core::{Device, Tensor};
use indexmap::IndexMap;

use super::block::{Block, GateUp, Pass, Qkv, Saved};
use super::config::{Activation, ModelConfig};
use super::embed_lora::EmbedLora;
use super::linear::{Linear, Mode};
use super::neftune;
use super::params::{ParamKind, expected_params, layer_of};
use super::rope_freq::inv_freq_at;
use super::store::{Grads, ParamId, Params, Role};
use super::weights::{Data, Weights};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::memory::layers_again;
use crate::ops::activation::Gate;
use crate::ops::attention::Attention;
use crate::ops::embedding;
use crate::ops::head::{Head, Loss, Objective, WeightGrad, gather_rows, scatter_rows};
use crate::ops::matmul::Precision;
use crate::ops::rms_norm::RmsNorm;
use crate::ops::rope::Angles;
use crate::quant::Packed;
use crate::rng::{Purpose, Stream};

/// What the layers keep between forward and backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything that backward reads.
    Intermediates,
    /// Their inputs; backward computes the rest again.
    Inputs,
    /// Everything in as many layers as fit into so many bytes; in the lowest ones their inputs.
    Within(u64),
}

/// A model in memory.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Its shape and constants.
    pub config: ModelConfig,
    /// All its parameters.
    pub params: Params,
    /// Its layers.
    pub blocks: Vec<Block>,
    /// The adapter beside the embedding.
    pub embed_lora: Option<EmbedLora>,
    /// NEFTune's alpha: noise on the embedded tokens in training.
    pub neftune: Option<f64>,
    embed: ParamId,
    final_norm: ParamId,
    lm_head: ParamId,
    norm: RmsNorm,
    head: Head,
}

/// A layer between forward and backward.
enum Kept {
    Intermediates(Box<Saved>),
    Input(Tensor),
    Nothing,
}

impl Decoder {
    /// A model with the given weights; nothing is trained yet.
    ///
    /// # Errors
    /// When a parameter is missing or the config asks for what the engine does not have.
    pub fn new(config: ModelConfig, weights: Weights, device: &Device) -> Result<Self> {
        Self::with_packed(config, weights, IndexMap::new(), device)
    }

    /// As [`Decoder::new`], with some weights quantised: they stay so, and frozen.
    ///
    /// # Errors
    /// As [`Decoder::new`].
    pub fn with_packed(
        config: ModelConfig,
        mut weights: Weights,
        mut packed: IndexMap<String, Packed>,
        device: &Device,
    ) -> Result<Self> {
        let mut params = Params::default();
        for spec in expected_params(&config) {
            if let Some(packed) = packed.swap_remove(&spec.name) {
                params.push_packed(spec.name, packed, role(spec.kind))?;
                continue;
            }
            let data = weights
                .swap_remove(&spec.name)
                .ok_or_else(|| Error::Internal(format!("weight `{}` was not loaded", spec.name)))?;
            let values = match data.data {
                Data::F32(values) => Tensor::from_vec(values, data.shape, &Device::Cpu)?,
                Data::Bf16(values) => Tensor::from_vec(values, data.shape, &Device::Cpu)?
                    .to_dtype(candle_core::DType::F32)?,
            };
            params.push(spec.name, values.to_device(device)?, role(spec.kind));
        }
        Self::assemble(config, params)
    }

    /// A model with fresh weights: matrices and embeddings normal with the config's
    /// `initializer_range`, norms 1 (Gemma's 0), biases 0, as transformers starts a model.
    ///
    /// # Errors
    /// When the config asks for what the engine does not have.
    pub fn from_scratch(config: ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        let mut params = Params::default();
        for (layer, spec) in expected_params(&config).into_iter().enumerate() {
            let mut values = vec![0f32; spec.shape.iter().product()];
            match spec.kind {
                ParamKind::Matrix | ParamKind::Embedding => {
                    Stream::new(seed, Purpose::InitWeights, 0, layer as u32)
                        .fill_normal(&mut values, config.initializer_range as f32);
                }
                ParamKind::Norm if !config.norm_plus_one => values.fill(1.0),
                ParamKind::Norm | ParamKind::Bias => {}
            }
            let values = Tensor::from_vec(values, spec.shape, device)?;
            params.push(spec.name, values, role(spec.kind));
        }
        Self::assemble(config, params)
    }

    fn assemble(config: ModelConfig, params: Params) -> Result<Self> {
        let norm = RmsNorm {
            eps: config.rms_norm_eps as f32,
            offset: if config.norm_plus_one { 1.0 } else { 0.0 },
        };
        let embed = params.find("model.embed_tokens.weight")?;
        let lm_head = match config.tie_word_embeddings {
            true => embed,
            false => params.find("lm_head.weight")?,
        };
        let final_norm = params.find("model.norm.weight")?;
        let blocks = (0..config.num_hidden_layers)
            .map(|l| block(&config, &params, norm, l))
            .collect::<Result<_>>()?;
        let head = Head { softcap: config.final_logit_softcapping, ..Head::default() };
        let (embed_lora, neftune) = (None, None);
        Ok(Self {
            config,
            params,
            blocks,
            embed_lora,
            neftune,
            embed,
            final_norm,
            lm_head,
            norm,
            head,
        })
    }

    /// The embedding's, the final norm's and the head's parameters (head = embedding when tied).
    #[must_use]
    pub fn outer_params(&self) -> [ParamId; 3] {
        [self.embed, self.final_norm, self.lm_head]
    }

    /// Gives a tied head a parameter of its own, equal to the embedding. Must come before adapters.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn untie_head(&mut self) -> Result<()> {
        if self.lm_head != self.embed {
            return Ok(());
        }
        let embed = self.params.get(self.embed).clone();
        let (name, copy) = ("lm_head.weight".to_owned(), embed.value.copy()?);
        self.lm_head = match embed.packed {
            Some(packed) => self.params.push_packed(name, packed, Role::Embedding)?,
            None => self.params.push(name, copy, Role::Embedding),
        };
        self.config.tie_word_embeddings = false;
        self.config.raw.insert("tie_word_embeddings".into(), false.into());
        Ok(())
    }

    /// Chooses what is minimised.
    pub fn set_objective(&mut self, objective: Objective) {
        self.head.objective = objective;
    }

    /// Trains on a micro-batch: adds the gradients of `scale * sum of cross-entropy`.
    ///
    /// # Errors
    /// When ids lie outside the vocabulary.
    pub fn train_step(
        &self,
        batch: &Batch,
        grads: &mut Grads,
        scale: f32,
        keep: Keep,
        mode: Mode,
    ) -> Result<Loss> {
        if batch.predict.is_empty() {
            return Ok(Loss::default());
        }
        let angles = self.angles(&batch.positions);
        let pass = self.pass(batch, &angles, mode);
        let lowest = self.lowest_trained();
        let (x_td, mut kept) = self.up(batch, pass, keep, lowest)?;
        let (loss, mut dx_td) = self.head_step(batch, grads, scale, x_td)?;
        grads.sift()?;
        let embedding_trained = self.embedding_trained();
        for (l, block) in self.blocks.iter().enumerate().skip(lowest).rev() {
            let saved = match kept.pop() {
                Some(Kept::Intermediates(saved)) => *saved,
                Some(Kept::Input(x)) => block.again(pass, &x)?,
                Some(Kept::Nothing) | None => {
                    return Err(Error::Internal(format!("layer {l} kept nothing")));
                }
            };
            let want_dx = l > lowest || embedding_trained;
            let dx = block.backward(pass, grads, saved, dx_td, want_dx)?;
            grads.sift()?;
            match dx {
                Some(dx) => dx_td = dx,
                None => return Ok(loss),
            }
        }
        let factor = self.embedding_scale();
        if let Some(lora) = &self.embed_lora {
            lora.backward(&self.params, grads, &batch.ids, factor, &dx_td)?;
        }
        if let Some(table) = grads.summed(self.embed, self.params.value(self.embed))? {
            embedding::backward(table, &batch.ids, factor, &dx_td)?;
        }
        Ok(loss)
    }

    /// Decides what products round their operands to.
    pub fn set_precision(&mut self, precision: Precision) {
        self.params.precision = precision;
        self.head.precision = precision;
    }

    /// Loss of a micro-batch, row by row.
    ///
    /// # Errors
    /// When ids lie outside the vocabulary.
    pub fn losses(&self, batch: &Batch) -> Result<Vec<Loss>> {
        let h_td = self.hidden(batch)?;
        let w = self.params.matrix(self.lm_head);
        let loss = |row: &std::ops::Range<usize>| {
            let h = gather_rows(&h_td, &batch.predict[row.clone()])?;
            self.head.loss(&h, w, &batch.targets[row.clone()])
        };
        batch.rows.iter().map(loss).collect()
    }

    /// Last hidden states after the final norm, [t, d].
    ///
    /// # Errors
    /// When ids lie outside the vocabulary.
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        let angles = self.angles(&batch.positions);
        let pass = self.pass(batch, &angles, Mode::Eval);
        let mut x = self.embed(&batch.ids)?;
        for block in &self.blocks {
            x = block.forward(pass, &x)?.0;
        }
        self.final_hidden(&x)
    }

    /// Logits of normed hidden states, [n, v].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn logits(&self, h_nd: &Tensor) -> Result<Tensor> {
        self.head.logits(h_nd, self.params.matrix(self.lm_head))
    }

    /// The embedded tokens, [t, d].
    ///
    /// # Errors
    /// When ids lie outside the vocabulary.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let factor = self.embedding_scale();
        let x = self.params.matrix(self.embed).rows(ids, factor)?;
        match &self.embed_lora {
            Some(lora) => lora.forward(&self.params, ids, factor, x),
            None => Ok(x),
        }
    }

    /// The final norm.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn final_hidden(&self, x_td: &Tensor) -> Result<Tensor> {
        Ok(self.norm.forward(x_td, self.params.value(self.final_norm))?.0)
    }

    /// Rotary tables for tokens at `positions`: full attention's, then the sliding window's where
    /// it differs.
    #[must_use]
    pub fn angles(&self, positions: &[u32]) -> Vec<Angles> {
        let len = positions.iter().max().map_or(0, |p| *p as usize + 1);
        let c = &self.config;
        let table = |rope| {
            let (inv_freq, scaling) = inv_freq_at(rope, c.head_dim, c.max_position_embeddings, len);
            Angles::new(&inv_freq, scaling, positions)
        };
        std::iter::once(&c.rope).chain(c.rope_local.as_ref()).map(table).collect()
    }

    /// What surrounds the layers in one pass over `batch`.
    #[must_use]
    pub fn pass<'a>(&'a self, batch: &'a Batch, angles: &'a [Angles], mode: Mode) -> Pass<'a> {
        Pass { params: &self.params, offsets: &batch.offsets, angles, mode }
    }

    fn up(
        &self,
        batch: &Batch,
        pass: Pass<'_>,
        keep: Keep,
        lowest: usize,
    ) -> Result<(Tensor, Vec<Kept>)> {
        let mut x = self.embed(&batch.ids)?;
        if let Some(alpha) = self.neftune {
            x = neftune::add_noise(x, &batch.lengths, alpha, pass.mode)?;
        }
        let layers = self.layers_trained_through();
        let again = match keep {
            Keep::Intermediates => 0,
            Keep::Inputs => layers,
            Keep::Within(bytes) => layers_again(self, layers, batch.len(), bytes),
        };
        let mut kept = Vec::with_capacity(self.blocks.len());
        for (l, block) in self.blocks.iter().enumerate() {
            let (y, saved) = block.forward(pass, &x)?;
            kept.push(match l {
                _ if l < lowest => Kept::Nothing,
                _ if l < lowest + again => Kept::Input(x),
                _ => Kept::Intermediates(Box::new(saved)),
            });
            x = y;
        }
        Ok((x, kept))
    }

    /// Final norm, head and loss, both ways: the gradient of the last layer's output, [t, d].
    fn head_step(
        &self,
        batch: &Batch,
        grads: &mut Grads,
        scale: f32,
        x_td: Tensor,
    ) -> Result<(Loss, Tensor)> {
        let t = batch.len();
        let x_nd = gather_rows(&x_td, &batch.predict)?;
        drop(x_td);
        let w_norm = self.params.value(self.final_norm);
        let (h_nd, rstd) = self.norm.forward(&x_nd, w_norm)?;
        let w_vd = self.params.matrix(self.lm_head);
        let to = match grads.slot(self.lm_head, self.params.value(self.lm_head))? {
            Some((dw, into)) => WeightGrad::To(dw, into),
            None => WeightGrad::None,
        };
        let (loss, dh) = self.head.loss_and_grad(&h_nd, w_vd, &batch.targets, scale, to)?;
        let dw = grads.summed(self.final_norm, w_norm)?;
        let zero = x_nd.zeros_like()?;
        let dx_nd = self.norm.backward(zero, dw, &dh, &x_nd, w_norm, &rstd)?;
        Ok((loss, scatter_rows(&dx_nd, &batch.predict, t)?))
    }

    /// Index of the lowest layer that backward must reach; the number of layers for none.
    #[must_use]
    pub fn lowest_trained(&self) -> usize {
        if self.embedding_trained() {
            return 0;
        }
        let trained = self.params.iter().filter(|(_, p)| p.trainable);
        trained.filter_map(|(_, p)| layer_of(&p.name)).min().unwrap_or(self.blocks.len())
    }

    /// Layers that backward passes through.
    #[must_use]
    pub fn layers_trained_through(&self) -> usize {
        self.blocks.len() - self.lowest_trained().min(self.blocks.len())
    }

    /// Whether backward must reach the embedded tokens.
    fn embedding_trained(&self) -> bool {
        let adapter = self.embed_lora.as_ref();
        self.params.trainable(self.embed) || adapter.is_some_and(|lora| lora.trained(&self.params))
    }

    fn embedding_scale(&self) -> f32 {
        self.config.embedding_scale.unwrap_or(1.0)
    }
}

fn role(kind: ParamKind) -> Role {
    match kind {
        ParamKind::Embedding => Role::Embedding,
        ParamKind::Matrix => Role::Matrix,
        ParamKind::Norm => Role::Norm,
        ParamKind::Bias => Role::Bias,
    }
}

fn block(config: &ModelConfig, params: &Params, norm: RmsNorm, layer: usize) -> Result<Block> {
    let at = format!("model.layers.{layer}");
    let find = |name: &str| params.find(&format!("{at}.{name}.weight"));
    let linear = |name: &str| {
        let bias = params.find(&format!("{at}.{name}.bias")).ok();
        Ok::<_, Error>(Linear { weight: find(name)?, bias, lora: None })
    };
    let gate = match config.activation {
        Activation::Silu => Gate::Silu,
        Activation::GeluTanh => Gate::GeluTanh,
        Activation::Gelu => {
            return Err(Error::input(
                "hidden_act `gelu`",
                "is not supported; known are silu and gelu_pytorch_tanh",
            ));
        }
    };
    let (qkv, gate_up) = if config.fused {
        let gate_up = GateUp::Fused(linear("mlp.gate_up_proj")?);
        (Qkv::Fused(linear("self_attn.qkv_proj")?), gate_up)
    } else {
        let attn = |name| linear(&format!("self_attn.{name}"));
        let qkv = Qkv::Split([attn("q_proj")?, attn("k_proj")?, attn("v_proj")?]);
        (qkv, GateUp::Split([linear("mlp.gate_proj")?, linear("mlp.up_proj")?]))
    };
    let mlp_norm = match config.post_norms {
        true => find("pre_feedforward_layernorm")?,
        false => find("post_attention_layernorm")?,
    };
    let post_norms = match config.post_norms {
        true => Some([find("post_attention_layernorm")?, find("post_feedforward_layernorm")?]),
        false => None,
    };
    let qk_norms = match config.qk_norm {
        true => Some([find("self_attn.q_norm")?, find("self_attn.k_norm")?]),
        false => None,
    };
    let window = config.windows.get(layer).copied().flatten();
    Ok(Block {
        input_norm: find("input_layernorm")?,
        mlp_norm,
        post_norms,
        qk_norms,
        qkv,
        o: linear("self_attn.o_proj")?,
        gate_up,
        down: linear("mlp.down_proj")?,
        attention: Attention {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale(),
            window,
            softcap: config.attn_logit_softcapping,
        },
        norm,
        gate,
        rope: usize::from(window.is_some() && config.rope_local.is_some()),
    })
}
