//! Whole sets of method arguments, for a first run that works.

use run::fields::{Class, Field};
use serde_json::Value;

/// A named set of values.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Part of its texts' keys.
    pub key: &'static str,
    values: &'static [(&'static str, &'static str)],
}

/// All of them. Each sets what the others set, so that one replaces another whole.
const PRESETS: &[Preset] = &[
    Preset {
        key: "quick",
        values: &[
            ("finetuning_type", "lora"),
            ("lora_rank", "8"),
            ("learning_rate", "1e-4"),
            ("num_train_epochs", "3"),
            ("per_device_train_batch_size", "1"),
            ("gradient_accumulation_steps", "8"),
            ("lr_scheduler_type", "cosine"),
            ("warmup_ratio", "0.1"),
            ("use_badam", "false"),
            ("quantization_bit", ""),
        ],
    },
    Preset {
        key: "badam",
        values: &[
            ("finetuning_type", "full"),
            ("use_badam", "true"),
            ("badam_mode", "layer"),
            ("badam_switch_mode", "ascending"),
            ("badam_switch_interval", "50"),
            ("learning_rate", "5e-5"),
            ("num_train_epochs", "3"),
            ("cutoff_len", "1024"),
            ("per_device_train_batch_size", "2"),
            ("gradient_accumulation_steps", "8"),
            ("lr_scheduler_type", "cosine"),
            ("warmup_ratio", ""),
            ("val_size", "0.1"),
            ("eval_strategy", "steps"),
            ("eval_steps", "100"),
            ("save_steps", "100"),
            ("quantization_bit", ""),
        ],
    },
    Preset {
        key: "full",
        values: &[
            ("finetuning_type", "full"),
            ("learning_rate", "1e-5"),
            ("num_train_epochs", "3"),
            ("per_device_train_batch_size", "1"),
            ("gradient_accumulation_steps", "8"),
            ("lr_scheduler_type", "cosine"),
            ("warmup_ratio", "0.1"),
            ("use_badam", "false"),
            ("quantization_bit", ""),
        ],
    },
    Preset {
        key: "qlora",
        values: &[
            ("finetuning_type", "lora"),
            ("quantization_bit", "4"),
            ("lora_rank", "8"),
            ("learning_rate", "1e-4"),
            ("num_train_epochs", "3"),
            ("per_device_train_batch_size", "1"),
            ("gradient_accumulation_steps", "8"),
            ("lr_scheduler_type", "cosine"),
            ("warmup_ratio", "0.1"),
            ("use_badam", "false"),
        ],
    },
];

impl Preset {
    /// The presets of which everything works in this build.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        PRESETS.iter().filter(|preset| preset.works())
    }

    /// The one of that key.
    #[must_use]
    pub fn named(key: &str) -> Option<&'static Self> {
        Self::all().find(|preset| preset.key == key)
    }

    /// Its values; those of arguments that do not work yet ask for nothing and are left out.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.values.iter().copied().filter(|(name, _)| done(name).is_some())
    }

    fn works(&self) -> bool {
        self.values.iter().all(|(name, value)| match done(name) {
            Some(field) => field.read(&Value::from(*value)).is_ok(),
            None => matches!(*value, "" | "false"),
        })
    }
}

fn done(name: &str) -> Option<&'static Field> {
    Field::find(name).filter(|field| field.class == Class::Done)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn presets_are_made_of_arguments() {
        for (name, _) in PRESETS.iter().flat_map(|preset| preset.values) {
            assert!(Field::find(name).is_some(), "{name}");
        }
        let keys: Vec<&str> = Preset::all().map(|preset| preset.key).collect();
        assert!(keys.starts_with(&["quick", "badam", "full"]), "{keys:?}");
        let badam: Vec<_> = Preset::named("badam").unwrap().values().collect();
        assert!(badam.contains(&("badam_switch_interval", "50")), "{badam:?}");
        assert!(Preset::named("none").is_none());
    }
}
