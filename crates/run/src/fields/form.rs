//! What a form needs of a field: texts for its label, its empty state and its value.

use serde_json::{Number, Value};

use super::{Class, Field, Kind};

impl Field {
    /// The name with spaces, for people: `learning_rate` is "Learning rate".
    #[must_use]
    pub fn label(&self) -> String {
        let special = match self.name {
            "model_name_or_path" => "Model",
            "adapter_name_or_path" => "Adapter",
            "finetuning_type" => "Method",
            "num_train_epochs" => "Epochs",
            "per_device_train_batch_size" => "Batch size",
            "per_device_eval_batch_size" => "Evaluation batch size",
            "cutoff_len" => "Maximum length",
            "val_size" => "Held-out rows",
            "lr_scheduler_type" => "Schedule",
            "optim" => "Optimiser",
            _ => "",
        };
        if !special.is_empty() {
            return special.to_owned();
        }
        let words = self.name.split('_').map(|word| match word {
            "lora" => "LoRA",
            "rslora" => "rsLoRA",
            "dora" => "DoRA",
            "badam" => "BAdam",
            "galore" => "GaLore",
            "pissa" => "PiSSA",
            "neftune" => "NEFTune",
            "dft" => "DFT",
            "lr" => "LR",
            "dir" => "folder",
            "eval" => "evaluation",
            other => other,
        });
        let label = words.collect::<Vec<_>>().join(" ");
        let mut chars = label.chars();
        let first = chars.next().map(|char| char.to_ascii_uppercase());
        first.into_iter().chain(chars).collect()
    }

    /// What stands greyed in an empty input: the default, or nothing.
    #[must_use]
    pub fn placeholder(&self) -> String {
        shown(&self.default_value())
    }

    /// The choices that can be chosen, in order.
    pub fn open_choices(&self) -> impl Iterator<Item = &'static str> {
        self.choices.iter().copied().filter(|choice| !self.not_yet.contains(choice))
    }

    /// The `step` attribute of a number input.
    #[must_use]
    pub const fn step(&self) -> &'static str {
        if matches!(self.kind, Kind::Int) { "1" } else { "any" }
    }

    /// Why the argument does nothing, or is refused; `None` where it works.
    #[must_use]
    pub const fn reason(&self) -> Option<&'static str> {
        match self.class {
            Class::Done => None,
            Class::NoEffect(why) | Class::Refused(why) => Some(why),
        }
    }
}

/// A value as the text of an input, which reads back as the same value; null is empty.
#[must_use]
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => python_number(number),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A number as Python prints it: `5e-05`, `0.1`, `3.0`.
pub(crate) fn python_number(number: &Number) -> String {
    let Some(value) = number.as_f64().filter(|_| number.is_f64()) else {
        return number.to_string();
    };
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}
