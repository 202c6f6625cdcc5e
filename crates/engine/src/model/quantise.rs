//! A model whose frozen matrices are held in fewer bits: what `quantization_bit` (QLoRA), `bf16` and
//! `fp16` ask for.
//!
//! A GGUF file's blocks stay as they are. Weights in floating point are quantised while they are read,
//! some rows at a time: the model is never in memory in full precision. As with bitsandbytes only the
//! linear layers of the blocks are quantised; embedding and head keep the file's precision (halves stay
//! halves), norms and biases are f32. In 16 bits the embedding and the head are held too.

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use run::config::{Config, Half};

use super::config::ModelConfig;
use super::lora::whole;
use super::params::{ParamKind, ParamSpec};
use super::weights::{WeightData, Weights};
use crate::error::{Error, Result};
use crate::quant::{Format, FourBit, FourBitBuilder, HalfBuilder, Packed, Q8Builder};

/// Numbers that are read and quantised at once by one thread.
const CHUNK: usize = 1 << 20;

/// What floating-point weights become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// 4 bits, as bitsandbytes; `double` quantises the scales too.
    FourBit {
        /// The table.
        kind: FourBit,
        /// Double quantisation.
        double: bool,
    },
    /// 8 bits, llama.cpp's Q8_0.
    Eight,
    /// 16 bits.
    Half(Half),
}

/// What is to be quantised, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What floating-point weights of linear layers become.
    pub target: Target,
    /// Parameters that are trained and so stay in full precision.
    pub plain: Vec<String>,
}

impl Target {
    /// What a run's arguments ask for; `None` = full precision.
    ///
    /// # Errors
    /// When they ask for bits or a type that there is not.
    pub fn of(config: &Config) -> Result<Option<Self>> {
        Ok(Some(match (config.quantization_bit, config.quantization_type.as_str()) {
            (None, _) => return Ok(config.frozen_half().map(Self::Half)),
            (Some(8), _) => Self::Eight,
            (Some(4), kind @ ("nf4" | "fp4")) => Self::FourBit {
                kind: if kind == "nf4" { FourBit::Nf4 } else { FourBit::Fp4 },
                double: config.double_quantization,
            },
            (Some(4), kind) => {
                let why = format!("{kind:?} is not known here; known are nf4 and fp4");
                return Err(Error::input("quantization_type", why));
            }
            (Some(bits), _) => {
                let why = format!("{bits} bits: there are 4 and 8");
                return Err(Error::input("quantization_bit", why));
            }
        }))
    }
}

impl Plan {
    /// A plan that leaves the modules `whole` (PEFT's `modules_to_save`) in full precision. Where one
    /// of them is the embedding or a head that is the embedding, that is the table of both.
    ///
    /// # Errors
    /// When a name is no module's.
    pub fn new(target: Target, config: &ModelConfig, whole: &[String]) -> Result<Self> {
        let specs = match whole {
            [] => Vec::new(),
            _ => whole::params(config, whole).map_err(|e| Error::input("additional_target", e))?,
        };
        let mut plain: Vec<String> = specs.into_iter().map(|spec| spec.name).collect();
        if config.tie_word_embeddings && plain.iter().any(|name| name == whole::HEAD) {
            plain.push(whole::EMBED.to_owned());
        }
        Ok(Self { target, plain })
    }

    /// Whether parameter `spec` may be held in blocks: a matrix of the model that stays frozen.
    #[must_use]
    pub fn packs(&self, spec: &ParamSpec) -> bool {
        let matrix = matches!(spec.kind, ParamKind::Matrix | ParamKind::Embedding);
        matrix && !self.plain.contains(&spec.name)
    }

    /// Whether parameter `spec` is to be brought into the target's format where a file has it in
    /// floating point.
    #[must_use]
    pub fn converts(&self, spec: &ParamSpec) -> bool {
        spec.kind == ParamKind::Matrix || matches!(self.target, Target::Half(_))
    }

    /// Bits of each number of a weight that is quantised.
    #[must_use]
    pub fn bits(&self) -> f64 {
        match self.target {
            Target::FourBit { double: true, .. } => 4.127,
            Target::FourBit { double: false, .. } => 4.5,
            Target::Eight => 8.5,
            Target::Half(_) => 16.0,
        }
    }

    /// Whether a weight with rows of `cols` numbers can be quantised.
    #[must_use]
    pub fn divides(&self, cols: usize) -> bool {
        match self.target {
            Target::FourBit { .. } | Target::Half(_) => true,
            Target::Eight => cols.is_multiple_of(Format::Q8_0.block()),
        }
    }

    /// Quantises a weight [rows, cols] that `read(from, count)` gives row by row. `step` is how many
    /// rows must at least be read together; `file` and `name` are for errors.
    ///
    /// # Errors
    /// What `read` returns; when a number is not finite.
    pub fn pack(
        &self,
        (file, name): (&Path, &str),
        (rows, cols): (usize, usize),
        step: usize,
        mut read: impl FnMut(usize, usize) -> Result<Vec<f32>>,
    ) -> Result<Packed> {
        let step = (CHUNK / cols.max(1)).max(1).next_multiple_of(step.max(1));
        let mut parts = (0..rows).step_by(step).map(|from| (from, step.min(rows - from)));
        let check = |finite: bool| {
            if finite {
                return Ok(());
            }
            let so = match self.target {
                Target::Half(half) => format!(" in {}; use bf16, or fetch it again", half.name()),
                Target::FourBit { .. } | Target::Eight => "; fetch it again".to_owned(),
            };
            let why = format!("tensor {name} has numbers that are not finite{so}");
            Err(Error::input(file.display().to_string(), why))
        };
        let mut fill = |push: &mut dyn FnMut(&[f32]) -> bool| {
            parts.try_for_each(|(from, count)| check(push(&read(from, count)?)))
        };
        match self.target {
            Target::FourBit { kind, double } => {
                let mut builder = FourBitBuilder::new(kind, cols, double).room_for(rows);
                fill(&mut |rows| builder.push(rows))?;
                builder.finish()
            }
            Target::Eight => {
                let mut builder = Q8Builder::new(cols).room_for(rows);
                fill(&mut |rows| builder.push(rows))?;
                builder.finish()
            }
            Target::Half(half) => {
                let mut builder = HalfBuilder::new(half, cols).room_for(rows);
                fill(&mut |rows| builder.push(rows))?;
                builder.finish()
            }
        }
    }
}

/// One parameter as it is held.
#[derive(Debug)]
pub(super) enum Held {
    /// f32.
    Plain(WeightData),
    /// In blocks.
    Packed(Packed),
}

/// A model's parameters, some of them quantised.
#[derive(Debug, Default)]
pub struct Quantised {
    /// Parameters in f32.
    pub weights: Weights,
    /// Parameters in blocks.
    pub packed: IndexMap<String, Packed>,
    /// Tensors in the files that the model has no use for.
    pub unused: Vec<String>,
    /// Linear layers that had to stay in f32, with the reason.
    pub kept: Vec<String>,
}

impl Quantised {
    pub(super) fn from_held(
        held: Vec<(String, Held, Option<String>)>,
        unused: Vec<String>,
    ) -> Self {
        let mut out = Self { unused, ..Self::default() };
        for (name, held, why) in held {
            out.kept.extend(why.map(|why| format!("{name}: {why}")));
            match held {
                Held::Plain(data) => drop(out.weights.insert(name, data)),
                Held::Packed(packed) => drop(out.packed.insert(name, packed)),
            }
        }
        out
    }

    /// What was done, in a line or two for the log.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let mut formats: BTreeMap<&str, usize> = BTreeMap::new();
        for packed in self.packed.values() {
            *formats.entry(packed.format().name()).or_default() += 1;
        }
        let list: Vec<_> = formats.iter().map(|(name, n)| format!("{n} as {name}")).collect();
        let plain: usize = self.weights.values().map(|w| w.data.len() * 4).sum();
        let bytes: usize = plain + self.packed.values().map(Packed::bytes).sum::<usize>();
        let full = plain + self.packed.values().map(|p| p.elements() * 4).sum::<usize>();
        let halves = self.packed.values().all(|p| p.format().block() == 1);
        let mut lines = vec![format!(
            "{} base: {} of {} matrices stay packed ({}); weights take {} MiB, in f32 they \
             would take {} MiB.",
            if halves { "Half-precision" } else { "Quantised" },
            self.packed.len(),
            self.packed.len() + self.weights.values().filter(|w| w.shape.len() == 2).count(),
            list.join(", "),
            bytes >> 20,
            full >> 20,
        )];
        if let Some(first) = self.kept.first() {
            let more = match self.kept.len() {
                1 => String::new(),
                n => format!(" (and {} more)", n - 1),
            };
            lines.push(format!("Not quantised, held in f32: {first}{more}"));
        }
        lines
    }
}
