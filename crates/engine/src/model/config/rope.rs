//! Rotary embedding settings, in the old spelling (`rope_theta`, `rope_scaling`) and the new one
//! (`rope_parameters`, plain or one object per layer type).

use serde_json::{Map, Value};

use super::Arch;
use super::fields::Fields;
use crate::error::Result;
use crate::model::brief;

/// A rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Share of the head's width that is rotated, from 0 (exclusive) to 1.
    pub partial_rotary_factor: f64,
    /// How frequencies are changed for longer texts.
    pub kind: RopeKind,
}

/// How the frequencies of a rotary embedding are changed; names and meanings are transformers'.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeKind {
    /// Unchanged.
    Default,
    /// All divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with sequences longer than `max_position_embeddings`.
    Dynamic {
        /// Growth.
        factor: f64,
    },
    /// Long wavelengths divided by `factor`, short ones kept, a ramp between.
    Yarn {
        /// The divisor.
        factor: f64,
        /// Length the model was first trained for.
        original: usize,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
        /// Factor on cos and sin; from `factor` where absent.
        attention_factor: Option<f64>,
        /// With `mscale_all_dim`: another way to say the attention factor.
        mscale: Option<f64>,
        /// See `mscale`.
        mscale_all_dim: Option<f64>,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// Llama 3.1's.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above original / this are divided.
        low_freq_factor: f64,
        /// Wavelengths below original / this are kept.
        high_freq_factor: f64,
        /// Length the model was first trained for.
        original: usize,
    },
}

const MAX_POSITIONS: usize = 1 << 31;

/// The rotary embeddings of full layers and, where it differs, of sliding ones.
pub(super) fn parse(arch: Arch, top: Fields, max_positions: usize) -> Result<(Rope, Option<Rope>)> {
    let gemma3 = arch == Arch::Gemma3;
    let (default_theta, local_theta) = if gemma3 { (1e6, 1e4) } else { (1e4, 1e4) };
    let theta = top.positive("rope_theta")?.unwrap_or(default_theta);
    let object = |name: &str| match top.get(name) {
        Some(Value::Object(map)) if !map.is_empty() => Ok(Some(map)),
        Some(Value::Object(_)) | None => Ok(None),
        Some(_) => Err(top.error(name, "expected an object")),
    };
    let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
    let nested = parameters
        .filter(|map| map.contains_key("full_attention") || map.contains_key("sliding_attention"));
    let empty = Map::new();
    let read = |map: &Map<String, Value>, prefix: &str, theta: f64| {
        one(arch, top, Fields { source: top.source, prefix, map }, theta, max_positions)
    };
    if !gemma3 && nested.is_none() {
        // transformers lets rope_scaling win over rope_parameters.
        let (map, prefix) = match (scaling, parameters) {
            (Some(map), _) => (map, "rope_scaling."),
            (None, Some(map)) => (map, "rope_parameters."),
            (None, None) => (&empty, "rope_parameters."),
        };
        return Ok((read(map, prefix, theta)?, None));
    }
    let part = |name: &str| nested.and_then(|map| map.get(name)).and_then(Value::as_object);
    // rope_scaling is about the full layers alone; so is a plain rope_parameters.
    let full =
        scaling.or_else(|| part("full_attention")).or(parameters.filter(|_| nested.is_none()));
    let full = read(full.unwrap_or(&empty), "rope_parameters.full_attention.", theta)?;
    let local_theta = top.positive("rope_local_base_freq")?.unwrap_or(local_theta);
    let local = part("sliding_attention").unwrap_or(&empty);
    let local = read(local, "rope_parameters.sliding_attention.", local_theta)?;
    Ok((full.clone(), Some(local).filter(|local| *local != full)))
}

/// One rotary embedding from its object; `theta` is what holds if the object does not say.
fn one(arch: Arch, top: Fields, own: Fields, theta: f64, max_positions: usize) -> Result<Rope> {
    let partial = match own.positive("partial_rotary_factor")? {
        Some(factor) => Some(factor),
        None => top.positive("partial_rotary_factor")?,
    };
    let partial_rotary_factor = partial.unwrap_or(1.0);
    if partial_rotary_factor > 1.0 {
        return Err(own.error("partial_rotary_factor", "must not be above 1"));
    }
    if partial_rotary_factor != 1.0 && arch != Arch::Phi3 {
        // transformers' code for these architectures rotates the whole head whatever this says.
        let why = format!("{} models rotate the whole head", arch.model_type());
        return Err(own.error("partial_rotary_factor", why));
    }
    let theta = own.positive("rope_theta")?.unwrap_or(theta);
    let name = match own.text("rope_type")? {
        Some(name) => name,
        None => own.text("type")?.unwrap_or("default"),
    };
    let need = |field: &str| {
        own.positive(field)?
            .ok_or_else(|| own.error(field, format!("missing for rope type {}", brief(name))))
    };
    let original = || -> Result<usize> {
        let field = "original_max_position_embeddings";
        let outer = top.size(field, MAX_POSITIONS)?;
        let inner = own.size(field, MAX_POSITIONS)?;
        Ok(outer.or(inner).unwrap_or(max_positions))
    };
    let kind = match name {
        "default" => RopeKind::Default,
        "linear" => RopeKind::Linear { factor: need("factor")? },
        "dynamic" => RopeKind::Dynamic { factor: need("factor")? },
        "yarn" if arch != Arch::Phi3 => RopeKind::Yarn {
            original: original()?,
            factor: match own.positive("factor")? {
                Some(factor) => factor,
                None => max_positions as f64 / original()? as f64,
            },
            beta_fast: own.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: own.positive("beta_slow")?.unwrap_or(1.0),
            attention_factor: own.positive("attention_factor")?,
            mscale: own.positive("mscale")?,
            mscale_all_dim: own.positive("mscale_all_dim")?,
            truncate: own.flag("truncate")?.unwrap_or(true),
        },
        "llama3" => RopeKind::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original: original()?,
        },
        other => {
            let why = format!(
                "rope type {} is not known here; known are default, linear, dynamic, yarn, llama3",
                brief(other)
            );
            return Err(own.error("rope_type", why));
        }
    };
    Ok(Rope { theta, partial_rotary_factor, kind })
}
