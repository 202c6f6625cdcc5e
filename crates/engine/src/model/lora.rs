//! Adapters: LoRA matrices beside the linear layers, named and initialised as PEFT does.

pub mod targets;
pub mod whole;

use candle_core::{Device, Tensor};
use serde_json::Value;

pub use targets::Targets;

use super::block::Block;
use super::decoder::Decoder;
use super::dora::{self, Dora};
use super::embed_lora::EmbedLora;
use super::linear::{Linear, Lora};
use super::store::{ParamId, Params, Role};
use super::weights::{Data, Weights};
use crate::error::{Error, Result};
use crate::ops::matmul::{self, Into, Precision};
use crate::rng::{Purpose, Stream};

/// How adapters are made.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank r.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Probability of dropping an input element in training.
    pub dropout: f32,
    /// scale = alpha / sqrt(r) rather than alpha / r.
    pub rslora: bool,
    /// The rows' lengths are learnt too.
    pub dora: bool,
    /// Which modules get an adapter.
    pub targets: Targets,
    /// Modules that are trained whole.
    pub whole: Vec<String>,
    /// What the matrices began as.
    pub init: Init,
}

/// How an adapter begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// Without effect: b is zero.
    #[default]
    Usual,
    /// As the principal part of the weight, which loses it ([`super::pissa`]).
    Pissa,
    /// The same by a random range finder with so many rounds.
    PissaFast(u32),
}

impl Init {
    /// PEFT's `init_lora_weights`; `None` for what is not known.
    #[must_use]
    pub fn of_json(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(_) => Some(Self::Usual),
            Value::String(text) if text == "gaussian" => Some(Self::Usual),
            Value::String(text) if text == "pissa" => Some(Self::Pissa),
            Value::String(text) => {
                text.strip_prefix("pissa_niter_")?.parse().ok().map(Self::PissaFast)
            }
            _ => None,
        }
    }

    /// As PEFT writes it.
    #[must_use]
    pub fn to_json(self) -> Value {
        match self {
            Self::Usual => Value::Bool(true),
            Self::Pissa => Value::from("pissa"),
            Self::PissaFast(rounds) => Value::from(format!("pissa_niter_{rounds}")),
        }
    }
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            rslora: false,
            dora: false,
            targets: Targets::All,
            whole: Vec::new(),
            init: Init::Usual,
        }
    }
}

impl LoraConfig {
    /// Factor on the adapter's output.
    #[must_use]
    pub fn scale(&self) -> f32 {
        let r = self.rank as f64;
        (self.alpha / if self.rslora { r.sqrt() } else { r }) as f32
    }
}

/// Which tensor of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// [r, in].
    A,
    /// [out, r].
    B,
    /// DoRA's lengths, [out].
    Magnitude,
    /// The embedding's, [r, v].
    EmbedA,
    /// The embedding's, [d, r].
    EmbedB,
}

impl Part {
    /// PEFT's name of it below the module at `path`.
    #[must_use]
    pub fn file_name(self, path: &str) -> String {
        let part = match self {
            Self::A => "lora_A.weight",
            Self::B => "lora_B.weight",
            Self::Magnitude => "lora_magnitude_vector",
            Self::EmbedA => "lora_embedding_A",
            Self::EmbedB => "lora_embedding_B",
        };
        format!("{PREFIX}{path}.{part}")
    }
}

/// What PEFT puts before a parameter's name.
pub const PREFIX: &str = "base_model.model.";
/// Modules beside the layers that a name may mean.
pub const OUTER: [&str; 2] = ["model.embed_tokens", "lm_head"];

/// Puts fresh adapters on the target layers: a uniform in ±1/sqrt(in) (PEFT's kaiming with
/// a = sqrt 5), b zero, lengths those of the weight; on the embedding a zero and b normal. Returns
/// the module names that got one.
///
/// # Errors
/// When a target names no linear layer of the model.
pub fn attach(decoder: &mut Decoder, lora: &LoraConfig, seed: u64) -> Result<Vec<String>> {
    place(decoder, lora, |layer, _, shape, part| {
        let mut values = vec![0f32; shape.iter().product()];
        let stream = Stream::new(seed, Purpose::InitLora, 0, layer);
        match part {
            Part::A => {
                let bound = 1.0 / (shape[1] as f32).sqrt();
                stream.fill_uniform(&mut values, -bound, bound);
            }
            Part::EmbedB => stream.fill_normal(&mut values, 1.0),
            Part::B | Part::EmbedA => {}
            Part::Magnitude => return Ok(None),
        }
        Ok(Some(values))
    })
}

/// Puts the adapters of a file on the target layers, and its whole modules in the model's place.
///
/// # Errors
/// When a tensor is missing or of another shape, or one belongs to no target layer.
pub fn attach_loaded(
    decoder: &mut Decoder,
    lora: &LoraConfig,
    mut weights: Weights,
    file: &str,
) -> Result<Vec<String>> {
    let mut take = |name: &str, shape: &[usize]| {
        let Some(found) = weights.shift_remove(name) else {
            return Err(Error::input(file, format!("tensor {name} is missing")));
        };
        if found.shape != shape {
            let why = format!("tensor {name} is {:?}, expected {shape:?}", found.shape);
            return Err(Error::input(file, why));
        }
        Ok(match found.data {
            Data::F32(values) => values,
            Data::Bf16(values) => values.into_iter().map(half::bf16::to_f32).collect(),
        })
    };
    let names = place(decoder, lora, |_, name, shape, _| take(name, shape).map(Some))?;
    for id in whole_params(decoder, lora)? {
        let param = decoder.params.get(id);
        let (shape, device) = (param.value.dims(), param.value.device());
        let values = take(&format!("{PREFIX}{}", param.name), shape)?;
        let values = Tensor::from_vec(values, shape, device)?;
        param.value.slice_set(&values, 0, 0)?;
    }
    match weights.keys().next() {
        None => Ok(names),
        Some(name) => Err(Error::input(
            file,
            format!("tensor {name} belongs to no layer that target_modules names"),
        )),
    }
}

/// Folds every adapter into its layer's weight (w += scale * b a, then DoRA's lengths) and removes
/// it.
///
/// # Errors
/// When the model is quantised; when a product fails.
pub fn merge(decoder: &mut Decoder) -> Result<()> {
    if decoder.params.quantised() {
        return Err(Error::input(
            "quantization_bit",
            "Cannot merge adapters to a quantized model. Merge into the model in full precision: \
             leave quantization_bit out",
        ));
    }
    let [embed, ..] = decoder.outer_params();
    let mut table = None;
    if let Some(lora) = decoder.embed_lora.take() {
        let mut merged = decoder.params.value(embed).copy()?;
        lora.merge(&decoder.params, &mut merged)?;
        table = Some(merged);
    }
    for block in &mut decoder.blocks {
        for (_, linear) in block.linears_mut() {
            let Some(lora) = linear.lora.take() else {
                continue;
            };
            let (a, b) = (decoder.params.value(lora.a), decoder.params.value(lora.b));
            let weight = decoder.params.value(linear.weight);
            add_product(weight, lora.scale, a, b)?;
            if let Some(dora) = &lora.dora {
                dora::merge(weight, decoder.params.value(dora.magnitude))?;
            }
        }
    }
    let keep: Vec<_> = decoder
        .params
        .iter()
        .filter(|(_, p)| p.role != Role::Adapter)
        .map(|(_, p)| p.clone())
        .collect();
    // Adapters were appended after the model's own parameters, so their ids stay valid.
    decoder.params = Params::from(keep);
    if let Some(table) = table {
        // A tied head does not see the embedding's adapter.
        decoder.untie_head()?;
        decoder.params.value(embed).slice_set(&table, 0, 0)?;
    }
    Ok(())
}

/// `w_od += scale * b_or a_rd`, in w's place.
///
/// # Errors
/// When the shapes do not fit, or the product fails.
pub(super) fn add_product(w_od: &Tensor, scale: f32, a_rd: &Tensor, b_or: &Tensor) -> Result<()> {
    let b_ro = b_or.t()?.contiguous()?;
    matmul::weight_grad(Precision::F32, &mut w_od.clone(), Into::Add, scale, &b_ro, a_rd)
}

/// Trains the adapters and the whole modules, and nothing else.
///
/// # Errors
/// When a whole module is none.
pub fn set_trained(decoder: &mut Decoder, lora: &LoraConfig) -> Result<()> {
    let whole = whole_params(decoder, lora)?;
    let names: Vec<String> = whole.iter().map(|id| decoder.params.get(*id).name.clone()).collect();
    decoder.params.set_trainable(|p| p.role == Role::Adapter || names.contains(&p.name));
    Ok(())
}

/// What an adapter's file holds: adapters in order, then whole modules, by PEFT's names.
///
/// # Errors
/// When a whole module is none.
pub fn adapters(decoder: &Decoder, lora: &LoraConfig) -> Result<Vec<(String, ParamId)>> {
    let adapter = |(id, p): (ParamId, &super::store::Param)| {
        (p.role == Role::Adapter).then(|| (p.name.clone(), id))
    };
    let mut out: Vec<_> = decoder.params.iter().filter_map(adapter).collect();
    for id in whole_params(decoder, lora)? {
        out.push((format!("{PREFIX}{}", decoder.params.get(id).name), id));
    }
    Ok(out)
}

/// The parameters of the modules that are trained whole; a tied head among them, or a tied
/// embedding, must have been parted before.
fn whole_params(decoder: &Decoder, lora: &LoraConfig) -> Result<Vec<ParamId>> {
    if lora.whole.is_empty() {
        return Ok(Vec::new());
    }
    let specs = whole::params(&decoder.config, &lora.whole)
        .map_err(|why| Error::input("additional_target", why))?;
    specs.iter().map(|spec| decoder.params.find(&spec.name)).collect()
}

/// The path of a block's linear layer.
fn path(block: usize, name: &str) -> String {
    let part = match name {
        "q_proj" | "k_proj" | "v_proj" | "o_proj" | "qkv_proj" => "self_attn",
        _ => "mlp",
    };
    format!("model.layers.{block}.{part}.{name}")
}

/// Which of the decoder's modules get an adapter: the blocks' linear layers in order, then
/// [`OUTER`].
fn chosen(decoder: &mut Decoder, lora: &LoraConfig) -> Result<Vec<bool>> {
    let names = |(l, block): (usize, &mut Block)| -> Vec<String> {
        block.linears_mut().iter().map(|(name, _)| path(l, name)).collect()
    };
    let paths: Vec<String> = decoder.blocks.iter_mut().enumerate().flat_map(names).collect();
    let borrowed: Vec<&str> = paths.iter().map(String::as_str).collect();
    let wrong = |why: String| Error::input("lora_target", why);
    let mut hits = lora.targets.matched(&borrowed, &OUTER).map_err(wrong)?;
    let all = borrowed.iter().chain(&OUTER);
    for (hit, path) in hits.iter_mut().zip(all) {
        *hit &= !whole::excludes(&lora.whole, path);
    }
    match hits.as_slice() {
        [.., true] => Err(wrong(
            "an adapter on lm_head is not supported; name it in additional_target to train it whole"
                .into(),
        )),
        [.., true, _] if lora.dora => {
            Err(wrong("DoRA on embed_tokens is not supported; name it in additional_target".into()))
        }
        _ => Ok(hits),
    }
}

type Values<'a> = dyn FnMut(u32, &str, &[usize], Part) -> Result<Option<Vec<f32>>> + 'a;

fn place(
    decoder: &mut Decoder,
    lora: &LoraConfig,
    mut values: impl FnMut(u32, &str, &[usize], Part) -> Result<Option<Vec<f32>>>,
) -> Result<Vec<String>> {
    let hits = chosen(decoder, lora)?;
    if !lora.whole.is_empty() {
        let specs = whole::params(&decoder.config, &lora.whole)
            .map_err(|why| Error::input("additional_target", why))?;
        if specs.iter().any(|spec| [whole::HEAD, whole::EMBED].contains(&spec.name.as_str())) {
            decoder.untie_head()?;
        }
    }
    let mut hits = hits.into_iter();
    let mut used: Vec<String> = Vec::new();
    let mut index = 0u32;
    for (l, block) in decoder.blocks.iter_mut().enumerate() {
        for (name, linear) in block.linears_mut() {
            if hits.next() != Some(true) {
                continue;
            }
            if !used.iter().any(|u| u == name) {
                used.push(name.to_owned());
            }
            let weight = decoder.params.get(linear.weight);
            if lora.whole.iter().any(|module| path(l, name).ends_with(module)) {
                let why = format!("{} would be trained both whole and by an adapter", weight.name);
                return Err(Error::input("additional_target", why));
            }
            let made =
                beside(&mut decoder.params, lora, linear, &path(l, name), index, &mut values)?;
            linear.lora = Some(made);
            index += 1;
        }
    }
    if hits.next() == Some(true) {
        used.push("embed_tokens".to_owned());
        let [embed, ..] = decoder.outer_params();
        let (v, d) = decoder.params.matrix(embed).dims()?;
        let params = &mut decoder.params;
        let shapes = [(Part::EmbedA, [lora.rank, v]), (Part::EmbedB, [d, lora.rank])];
        let [a, b] =
            shapes.map(|(part, shape)| push(params, OUTER[0], index, part, &shape, &mut values));
        decoder.embed_lora = Some(EmbedLora { a: a?, b: b?, scale: lora.scale() });
    }
    Ok(used)
}

/// The adapter beside one linear layer.
fn beside(
    params: &mut Params,
    lora: &LoraConfig,
    linear: &Linear,
    path: &str,
    layer: u32,
    values: &mut Values<'_>,
) -> Result<Lora> {
    let (out, inner) = params.matrix(linear.weight).dims()?;
    let (scale, dropout) = (lora.scale(), lora.dropout);
    let a = push(params, path, layer, Part::A, &[lora.rank, inner], values)?;
    let b = push(params, path, layer, Part::B, &[out, lora.rank], values)?;
    let dora = match lora.dora {
        false => None,
        true => {
            let name = Part::Magnitude.file_name(path);
            let given = values(layer, &name, &[out], Part::Magnitude)?;
            let w = params.matrix(linear.weight);
            let lengths = match given {
                Some(values) => values,
                None => dora::weight_norms(w, params.value(a), params.value(b), scale)?,
            };
            let base = w.row_squares()?;
            let lengths = Tensor::from_vec(lengths, out, params.value(a).device())?;
            Some(Dora::new(params.push(name, lengths, Role::Adapter), base))
        }
    };
    Ok(Lora { a, b, scale, dropout, layer, dora })
}

fn push(
    params: &mut Params,
    path: &str,
    layer: u32,
    part: Part,
    shape: &[usize],
    values: &mut Values<'_>,
) -> Result<ParamId> {
    let device = params.iter().next().map_or(Device::Cpu, |(_, p)| p.value.device().clone());
    let name = part.file_name(path);
    let values = values(layer, &name, shape, part)?
        .ok_or_else(|| Error::Internal(format!("no values for {name}")))?;
    Ok(params.push(name, Tensor::from_vec(values, shape, &device)?, Role::Adapter))
}
