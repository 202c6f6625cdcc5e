//! `rope_scaling`: a longer context than the model was made for.
//!
//! LLaMA-Factory's rule: the factor is the cutoff over the model's length, rounded up, and 2 where no
//! cutoff is known; a cutoff within the model's length changes nothing. The config's JSON is what is
//! changed, and read again: a model that is saved says how it was trained.

use run::fields::RopeScaling;
use serde_json::{Map, Value, json};

use super::{ModelConfig, RopeKind};
use crate::error::Result;

/// Where transformers discusses what dynamic scaling does to fine-tuning.
const DYNAMIC: &str = "Dynamic NTK scaling may not work well with fine-tuning. See: \
                       https://github.com/huggingface/transformers/pull/24653";

impl ModelConfig {
    /// The config with its rotary embedding scaled for sequences of `cutoff` tokens (`None`: for twice
    /// the model's length), and what is to be told. Sliding layers with a rotary embedding of their own
    /// keep it.
    ///
    /// # Errors
    /// When the architecture does not know the kind.
    pub fn stretched(
        &self,
        kind: RopeScaling,
        cutoff: Option<usize>,
    ) -> Result<(Self, Vec<String>)> {
        let old = match self.rope.kind {
            RopeKind::Yarn { original, .. } | RopeKind::Llama3 { original, .. } => original,
            _ => self.max_position_embeddings,
        };
        let mut told = Vec::new();
        let times = match cutoff {
            Some(cutoff) if cutoff <= old => {
                let text = "Input length is smaller than max length. Disabling rope scaling.";
                return Ok((self.clone(), vec![text.into()]));
            }
            Some(cutoff) => cutoff.div_ceil(old),
            None => 2,
        };
        if kind == RopeScaling::Dynamic && cutoff.is_some() {
            told.push(DYNAMIC.to_owned());
        }
        let (new, factor) = (old * times, times as f64);
        told.push(format!("Enlarge max model length from {old} to {new}."));
        told.push(format!(
            "Using {kind} scaling strategy and setting scaling factor to {factor:?}."
        ));
        if kind == RopeScaling::Dynamic {
            told.push(format!(
                "Dynamic scaling sets in beyond the enlarged length: up to {new} tokens nothing changes."
            ));
        }
        let mut raw = self.raw.clone();
        raw.insert("max_position_embeddings".into(), json!(new));
        let mut rope = json!({ "rope_type": kind.name(), "factor": factor });
        match kind {
            RopeScaling::Linear => {}
            RopeScaling::Dynamic | RopeScaling::Yarn => {
                rope["original_max_position_embeddings"] = json!(old);
            }
            RopeScaling::Llama3 => {
                rope["original_max_position_embeddings"] = json!(old);
                rope["low_freq_factor"] = json!(1.0);
                rope["high_freq_factor"] = json!(4.0);
            }
        }
        self.put_rope(&mut raw, rope);
        Ok((Self::from_value(Value::Object(raw), "rope_scaling")?, told))
    }

    /// Writes a rotary embedding where the config has its own: the newer `rope_parameters`, of all
    /// layers or of the full ones, or the older `rope_scaling`.
    fn put_rope(&self, raw: &mut Map<String, Value>, mut rope: Value) {
        let parameters = raw.get_mut("rope_parameters").and_then(Value::as_object_mut);
        let Some(parameters) = parameters.filter(|map| !map.is_empty()) else {
            raw.insert("rope_scaling".into(), rope);
            return;
        };
        rope["rope_theta"] = json!(self.rope.theta);
        if self.rope.partial_rotary_factor != 1.0 {
            rope["partial_rotary_factor"] = json!(self.rope.partial_rotary_factor);
        }
        match parameters.contains_key("full_attention") {
            true => drop(parameters.insert("full_attention".into(), rope)),
            false => drop(raw.insert("rope_parameters".into(), rope)),
        }
        // transformers lets the older spelling win.
        raw.remove("rope_scaling");
    }
}
