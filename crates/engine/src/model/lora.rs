//! Adapters: LoRA matrices beside the linear layers, named and initialised as PEFT does.

use candle_core::{Device, Tensor};

use super::decoder::Decoder;
use super::linear::Lora;
use super::store::{ParamId, Role};
use super::weights::{Data, Weights};
use crate::error::{Error, Result};
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
    /// Module names that get an adapter (`q_proj`, ...); empty = all linear layers.
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// Factor on the adapter's output.
    #[must_use]
    pub fn scale(&self) -> f32 {
        let r = self.rank as f64;
        (self.alpha / if self.rslora { r.sqrt() } else { r }) as f32
    }
}

/// Puts fresh adapters on the target layers: a uniform in ±1/sqrt(in) (PEFT's kaiming with
/// a = sqrt 5), b zero. Returns the module names that got one.
///
/// # Errors
/// When a target names no linear layer of the model.
pub fn attach(decoder: &mut Decoder, lora: &LoraConfig, seed: u64) -> Result<Vec<String>> {
    place(decoder, lora, |layer, name, shape, low| {
        let mut values = vec![0f32; shape.0 * shape.1];
        if low {
            let bound = 1.0 / (shape.1 as f32).sqrt();
            let stream = Stream::new(seed, Purpose::InitLora, 0, layer);
            stream.fill_uniform(&mut values, -bound, bound);
        }
        let _ = name;
        Ok(values)
    })
}

/// Puts the adapters of a file on the target layers.
///
/// # Errors
/// When a matrix is missing or of another shape, or one belongs to no target layer.
pub fn attach_loaded(
    decoder: &mut Decoder,
    lora: &LoraConfig,
    mut weights: Weights,
    file: &str,
) -> Result<Vec<String>> {
    let names = place(decoder, lora, |_, name, shape, _| {
        let Some(found) = weights.shift_remove(name) else {
            return Err(Error::input(file, format!("tensor {name} is missing")));
        };
        if found.shape != [shape.0, shape.1] {
            let why = format!("tensor {name} is {:?}, expected {shape:?}", found.shape);
            return Err(Error::input(file, why));
        }
        Ok(match found.data {
            Data::F32(values) => values,
            Data::Bf16(values) => values.into_iter().map(half::bf16::to_f32).collect(),
        })
    })?;
    match weights.keys().next() {
        None => Ok(names),
        Some(name) => Err(Error::input(
            file,
            format!("tensor {name} belongs to no layer that target_modules names"),
        )),
    }
}

/// Folds every adapter into its layer's weight (w += scale * b a) and removes it.
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
    for block in &mut decoder.blocks {
        for (_, linear) in block.linears_mut() {
            let Some(lora) = linear.lora.take() else {
                continue;
            };
            let (a, b) = (decoder.params.value(lora.a), decoder.params.value(lora.b));
            let mut w = decoder.params.value(linear.weight).clone();
            let b_t = b.t()?.contiguous()?;
            crate::ops::matmul::weight_grad(
                &mut w,
                crate::ops::matmul::Into::Add,
                lora.scale,
                &b_t,
                a,
            )?;
        }
    }
    let keep: Vec<_> = decoder
        .params
        .iter()
        .filter(|(_, p)| p.role != Role::Adapter)
        .map(|(_, p)| p.clone())
        .collect();
    // Adapters were appended after the model's own parameters, so their ids stay valid.
    decoder.params = super::store::Params::from(keep);
    Ok(())
}

/// (b's parameters, a's) of every adapter, with their PEFT names, in order.
#[must_use]
pub fn adapters(decoder: &Decoder) -> Vec<(String, ParamId)> {
    let adapter = |(id, p): (ParamId, &super::store::Param)| {
        (p.role == Role::Adapter).then(|| (p.name.clone(), id))
    };
    decoder.params.iter().filter_map(adapter).collect()
}

fn place(
    decoder: &mut Decoder,
    lora: &LoraConfig,
    mut values: impl FnMut(u32, &str, (usize, usize), bool) -> Result<Vec<f32>>,
) -> Result<Vec<String>> {
    let device =
        decoder.params.iter().next().map_or(Device::Cpu, |(_, p)| p.value.device().clone());
    let mut known: Vec<String> = Vec::new();
    let mut used: Vec<String> = Vec::new();
    let mut index = 0u32;
    for (l, block) in decoder.blocks.iter_mut().enumerate() {
        for (name, linear) in block.linears_mut() {
            if !known.iter().any(|k| k == name) {
                known.push(name.to_owned());
            }
            if !lora.targets.is_empty() && !lora.targets.iter().any(|t| t == name) {
                continue;
            }
            if !used.iter().any(|u| u == name) {
                used.push(name.to_owned());
            }
            let (out, inner) = decoder.params.matrix(linear.weight).dims()?;
            let part =
                if name.ends_with("_proj") && is_attention(name) { "self_attn" } else { "mlp" };
            let at = format!("base_model.model.model.layers.{l}.{part}.{name}");
            let mut push = |which: &str, shape: (usize, usize), low| {
                let full = format!("{at}.lora_{which}.weight");
                let data = values(index, &full, shape, low)?;
                let tensor = Tensor::from_vec(data, shape, &device)?;
                Ok::<_, Error>(decoder.params.push(full, tensor, Role::Adapter))
            };
            let a = push("A", (lora.rank, inner), true)?;
            let b = push("B", (out, lora.rank), false)?;
            let (scale, dropout) = (lora.scale(), lora.dropout);
            linear.lora = Some(Lora { a, b, scale, dropout, layer: index });
            index += 1;
        }
    }
    match lora.targets.iter().find(|t| !known.contains(t)) {
        None => Ok(used),
        Some(target) => Err(Error::input(
            format!("lora_target `{target}`"),
            format!("names no linear layer of this model; known are: {}", known.join(", ")),
        )),
    }
}

fn is_attention(name: &str) -> bool {
    matches!(name, "q_proj" | "k_proj" | "v_proj" | "o_proj" | "qkv_proj")
}
