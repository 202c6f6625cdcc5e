//! PiSSA: an adapter that begins as the principal part of its weight.
//!
//! With `w = u diag(s) vᵀ` and the leading r triplets, `b = u √(s/scale)`, `a = √(s/scale) vᵀ`, and
//! the frozen weight becomes the rest, `w - scale * b a`. The trained adapter belongs to that rest.
//! Beside the unchanged weight `[a; a0]`, `[b, -b0]` of rank 2 r and twice alpha say the same: the
//! converted adapter. What was taken away (a0, b0) is kept in a folder of its own, from which a
//! resumed run, or one that reads the adapter, makes the same rest to the bit.
//! Source: Meng et al., "PiSSA: Principal Singular Values and Singular Vectors Adaptation", 2024;
//! PEFT's `pissa_init`, `subtract_mutated_init` and LLaMA-Factory's folders.

use std::path::{Path, PathBuf};

use candle_core::Tensor;

use super::adapter_file::{read_tensors, save_adapter};
use super::decoder::Decoder;
use super::dora::Dora;
use super::linear::Linear;
use super::lora::{Init, LoraConfig, PREFIX, Part, adapters, add_product};
use super::weights::{Data, Dtype};
use crate::error::{Error, Result};
use crate::linalg;
use crate::tensor::from_vec;

/// The folder with the first matrices, in the run's folder.
pub const INITIAL: &str = "pissa_init";
/// The folder with the trained ones.
pub const BACKUP: &str = "pissa_backup";
/// The folder with the adapter of the unchanged model.
pub const CONVERTED: &str = "pissa_converted";

/// What was taken out of each weight, layer by layer.
#[derive(Clone, Debug, Default)]
pub struct Initial(Vec<Matrices>);

/// a0 and b0 of one layer.
#[derive(Clone, Debug)]
struct Matrices {
    name_a: String,
    name_b: String,
    a: Tensor,
    b: Tensor,
}

impl Initial {
    /// The principal part of every weight that has an adapter. `told` hears how many are done.
    ///
    /// # Errors
    /// When the rank is larger than a weight's side, a weight is not finite, and what `told` says.
    pub fn decompose(
        decoder: &mut Decoder,
        lora: &LoraConfig,
        seed: u64,
        told: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Self> {
        let total = linears(decoder).len() as u64;
        let mut out = Vec::new();
        for (path, linear) in linears(decoder) {
            told(out.len() as u64, total)?;
            let (w, layer) = (decoder.params.value(linear.weight), out.len() as u32);
            let (rank, side) = (lora.rank, w.dim(0)?.min(w.dim(1)?));
            if rank > side {
                let why = format!("PiSSA splits {path} into at most {side} parts, not {rank}");
                return Err(Error::input("lora_rank", why));
            }
            let found = match lora.init {
                Init::PissaFast(rounds) => {
                    linalg::svd_lowrank(w, rank, rounds as usize, seed, layer)?
                }
                Init::Usual | Init::Pissa => linalg::svd(w, rank)?,
            };
            let root: Vec<f64> =
                found.s.iter().map(|s| (s / f64::from(lora.scale())).sqrt()).collect();
            let (mut u, mut vt) = (found.u_mk, found.vt_kn);
            for (k, root) in root.iter().enumerate() {
                vt.row_mut(k).iter_mut().for_each(|x| *x *= root);
                (0..u.rows).for_each(|o| *u.at_mut(o, k) *= root);
            }
            let device = w.device();
            out.push(Matrices {
                name_a: Part::A.file_name(&path),
                name_b: Part::B.file_name(&path),
                a: vt.tensor()?.to_device(device)?,
                b: u.tensor()?.to_device(device)?,
            });
        }
        Ok(Self(out))
    }

    /// Reads the first matrices of the adapter in `dir`: from a folder inside it or beside it.
    /// `None` where there is none.
    ///
    /// # Errors
    /// When they are damaged or of another model.
    pub fn find(dir: &Path, decoder: &mut Decoder) -> Result<Option<Self>> {
        let places = [Some(dir.join(INITIAL)), dir.parent().map(|up| up.join(INITIAL))];
        let Some(found) = places.into_iter().flatten().find(|place| place.is_dir()) else {
            return Ok(None);
        };
        let (file, mut tensors) = read_tensors(&found)?;
        let mut out = Vec::new();
        for (path, linear) in linears(decoder) {
            let Some(lora) = &linear.lora else { continue };
            let mut take = |name: &str, like: &Tensor| -> Result<Tensor> {
                let read = tensors.swap_remove(name);
                match read.map(|tensor| (tensor.data, tensor.shape)) {
                    Some((Data::F32(values), shape)) if shape == like.dims() => {
                        Ok(from_vec(values, shape)?.to_device(like.device())?)
                    }
                    _ => {
                        let why = format!("tensor {name} is missing or not {:?}", like.dims());
                        Err(Error::input(file.display().to_string(), why))
                    }
                }
            };
            let (name_a, name_b) = (Part::A.file_name(&path), Part::B.file_name(&path));
            let a = take(&name_a, decoder.params.value(lora.a))?;
            let b = take(&name_b, decoder.params.value(lora.b))?;
            out.push(Matrices { name_a, name_b, a, b });
        }
        Ok(Some(Self(out)))
    }

    /// Sets the adapters to these matrices.
    ///
    /// # Errors
    /// When they are another model's.
    pub fn begin(&self, decoder: &Decoder) -> Result<()> {
        for part in &self.0 {
            for (name, value) in [(&part.name_a, &part.a), (&part.name_b, &part.b)] {
                let id = decoder.params.find(name)?;
                decoder.params.value(id).slice_set(value, 0, 0)?;
            }
        }
        Ok(())
    }

    /// Takes them out of the weights, once.
    ///
    /// # Errors
    /// When a product fails.
    pub fn subtract(&self, decoder: &mut Decoder, lora: &LoraConfig) -> Result<()> {
        let scale = lora.scale();
        let weights: Vec<_> = linears(decoder).into_iter().map(|(_, l)| l.weight).collect();
        for (part, weight) in self.0.iter().zip(weights) {
            add_product(decoder.params.value(weight), -scale, &part.a, &part.b)?;
        }
        for block in &mut decoder.blocks {
            for (_, linear) in block.linears_mut() {
                let weight = decoder.params.matrix(linear.weight);
                if let Some(dora) = linear.lora.as_mut().and_then(|lora| lora.dora.as_mut()) {
                    *dora = Dora::new(dora.magnitude, weight.row_squares()?);
                }
            }
        }
        Ok(())
    }

    /// Writes them into `dir`/pissa_init, so that what is left of the weights can be made again.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, dir: &Path, lora: &LoraConfig, base: &str) -> Result<()> {
        let plain =
            LoraConfig { init: Init::Usual, dora: false, whole: Vec::new(), ..lora.clone() };
        let both =
            |m: &'_ Matrices| [(m.name_a.clone(), m.a.clone()), (m.name_b.clone(), m.b.clone())];
        let tensors: Vec<_> = self.0.iter().flat_map(both).collect();
        write(&dir.join(INITIAL), &plain, base, &tensors)
    }

    /// Writes `dir`/pissa_backup, the adapter as it is trained, and `dir`/pissa_converted, the
    /// adapter of the unchanged model.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn convert(
        &self,
        dir: &Path,
        decoder: &Decoder,
        lora: &LoraConfig,
        base: &str,
    ) -> Result<()> {
        let value = |(name, id)| (name, decoder.params.value(id).clone());
        let trained: Vec<_> = adapters(decoder, lora)?.into_iter().map(value).collect();
        let plain = LoraConfig { init: Init::Usual, ..lora.clone() };
        write(&dir.join(BACKUP), &plain, base, &trained)?;
        let wide = LoraConfig {
            rank: 2 * lora.rank,
            alpha: lora.alpha * if lora.rslora { std::f64::consts::SQRT_2 } else { 2.0 },
            ..plain
        };
        let mut tensors = Vec::with_capacity(trained.len());
        for (name, tensor) in &trained {
            tensors.push((name.clone(), self.widened(name, tensor)?));
        }
        write(&dir.join(CONVERTED), &wide, base, &tensors)
    }

    /// One tensor of the converted adapter. The embedding's matrices began at nothing that the table
    /// lost, and are filled up with zeros.
    fn widened(&self, name: &str, tensor: &Tensor) -> Result<Tensor> {
        let embed = [Part::EmbedA, Part::EmbedB]
            .map(|part| part.file_name("model.embed_tokens"))
            .iter()
            .position(|n| n == name);
        if let Some(dim) = embed {
            return Ok(Tensor::cat(&[tensor, &tensor.zeros_like()?], dim)?);
        }
        for part in &self.0 {
            if part.name_a == name {
                return Ok(Tensor::cat(&[tensor, &part.a], 0)?);
            }
            if part.name_b == name {
                return Ok(Tensor::cat(&[tensor, &part.b.neg()?], 1)?.contiguous()?);
            }
        }
        Ok(tensor.clone())
    }
}

fn write(dir: &PathBuf, lora: &LoraConfig, base: &str, tensors: &[(String, Tensor)]) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let tensors: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    save_adapter(dir, lora, base, &tensors, Dtype::F32)
}

/// The blocks' linear layers that have an adapter, with their paths, in order.
fn linears(decoder: &mut Decoder) -> Vec<(String, Linear)> {
    let params = &decoder.params;
    let mut out = Vec::new();
    for block in &mut decoder.blocks {
        for (_, linear) in block.linears_mut() {
            let Some(lora) = &linear.lora else { continue };
            let name = &params.get(lora.a).name;
            let path = name.strip_prefix(PREFIX).unwrap_or(name);
            let path = path.strip_suffix(".lora_A.weight").unwrap_or(path);
            out.push((path.to_owned(), linear.clone()));
        }
    }
    out
}
