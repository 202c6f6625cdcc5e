//! THE table: every argument of LLaMA-Factory and of ours, in one of three classes.
//!
//! The files below it hold the rows, by group; each is a macro that adds its rows and passes them
//! on, so that [`FIELDS`] and [`crate::config::Config`] come from the same lines. A row reads
//!
//! ```text
//! class name: Type = "default", Level, "help" { more: properties };
//! ```
//!
//! where the class is `done`, `later` (refused until someone makes it `done`), `idle("why")` (no
//! effect here) or `never("why")`. Rows that [`Config`](crate::config::Config) has no member for
//! stand behind them, under the reason they share.

#[macro_use]
mod model;
#[macro_use]
mod data;
#[macro_use]
mod method;
#[macro_use]
mod training;
#[macro_use]
mod output;
#[macro_use]
mod runtime;
#[macro_use]
mod table;
mod choices;
mod form;
mod value;

pub use choices::*;
pub(crate) use form::python_number;
pub use form::shown;
pub use table::FIELDS;
pub use value::Argument;

use serde_json::Value;

/// One argument.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// As it is written in a config.
    pub name: &'static str,
    /// The part of a form or page it belongs to.
    pub group: Group,
    /// What a form shows.
    pub kind: Kind,
    /// The default as text; `null` where there is none.
    pub default: &'static str,
    /// Whether it works here.
    pub class: Class,
    /// Whether a beginner should see it.
    pub level: Level,
    /// One sentence for people; empty where the class says it all.
    pub help: &'static str,
    /// All values, where they can be listed.
    pub choices: &'static [&'static str],
    /// Those of `choices` that are refused so far.
    pub not_yet: &'static [&'static str],
    /// The smallest value allowed.
    pub min: Option<f64>,
    /// The largest value allowed.
    pub max: Option<f64>,
    /// What a number counts: `tokens`, `steps`; may be empty.
    pub unit: &'static str,
    /// True where `null` is a value of its own.
    pub optional: bool,
    /// True where empty text differs from no text.
    pub keep_empty: bool,
    /// True where the value must not be stored or shown.
    pub secret: bool,
    /// The choice or switch that makes it matter: `("finetuning_type", "lora")`.
    pub needs: Option<(&'static str, &'static str)>,
    canonical: fn(&Value) -> Result<Value, String>,
}

/// What a form shows for a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A check box.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// A line of text.
    Text,
    /// One of [`Field::choices`].
    Choice,
    /// Items separated by commas.
    List,
    /// A file or folder.
    Path,
    /// A JSON object.
    Json,
}

/// Whether an argument works here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The engine does it.
    Done,
    /// Accepted, and said once in the log why it changes nothing.
    NoEffect(&'static str),
    /// An error with this reason, unless its value asks for nothing.
    Refused(&'static str),
}

/// Who should see a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Everybody.
    Basic,
    /// Those who look for it.
    Advanced,
}

/// The part of a form that a field belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Which model, and how it is read.
    Model,
    /// Which rows, and how they become tokens.
    Data,
    /// Which weights learn, and how.
    Method,
    /// Batches and the optimiser.
    Optim,
    /// How long, and how the learning rate goes.
    Schedule,
    /// Files, checkpoints and logs.
    Output,
    /// The loss on held-out rows, and generated text.
    Eval,
    /// Seeds, threads, precision.
    Runtime,
}

impl Group {
    /// All groups, in the order of a form.
    pub const ALL: [Self; 8] = [
        Self::Model,
        Self::Data,
        Self::Method,
        Self::Optim,
        Self::Schedule,
        Self::Output,
        Self::Eval,
        Self::Runtime,
    ];

    /// A heading.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Model => "Model",
            Self::Data => "Data",
            Self::Method => "Method",
            Self::Optim => "Optimisation",
            Self::Schedule => "Schedule",
            Self::Output => "Checkpoints and output",
            Self::Eval => "Evaluation",
            Self::Runtime => "Runtime",
        }
    }
}

impl Field {
    /// The field of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        FIELDS.iter().find(|field| field.name == name)
    }

    /// The default as JSON.
    #[must_use]
    pub fn default_value(&self) -> Value {
        (self.canonical)(&Value::from(self.default)).unwrap_or(Value::Null)
    }

    /// Any spelling of a value as the one JSON value it means, checked against type and range.
    ///
    /// # Errors
    /// What is wrong with it, without the field's name.
    pub fn read(&self, value: &Value) -> Result<Value, String> {
        let mut read = (self.canonical)(&self.cleaned(value))?;
        if self.kind == Kind::List && read == "" {
            // A list of nothing is a list that was not given.
            read = self.default_value();
        }
        self.check_range(&read)?;
        if let Some(choice) = read.as_str().filter(|choice| self.not_yet.contains(choice)) {
            return Err(format!(
                "`{choice}` is not supported yet; choose one of {}",
                self.supported()
            ));
        }
        Ok(read)
    }

    /// The choices that work, separated by commas.
    #[must_use]
    pub fn supported(&self) -> String {
        let works = |choice: &&&str| !self.not_yet.contains(*choice);
        self.choices.iter().filter(works).copied().collect::<Vec<_>>().join(", ")
    }

    /// True where the value asks for nothing: the default, null, or a word for "off".
    pub(crate) fn asks_nothing(&self, value: &Value) -> bool {
        let default = self.default_value();
        if value.is_null()
            || (self.canonical)(&self.cleaned(value)).is_ok_and(|read| read == default)
        {
            return true;
        }
        let off_by_default = match &default {
            Value::Null => true,
            Value::String(text) => matches!(text.as_str(), "" | "none"),
            _ => false,
        };
        let off = match value {
            Value::Bool(yes) => !yes,
            Value::String(text) => {
                matches!(
                    text.to_ascii_lowercase().as_str(),
                    "" | "none" | "null" | "no" | "off" | "false"
                )
            }
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        off_by_default && off
    }

    /// Empty text in a form means "not given"; `false` for an optional path means none.
    fn cleaned(&self, value: &Value) -> Value {
        match value {
            Value::String(text) if text.trim().is_empty() && !self.keep_empty => {
                if self.optional {
                    Value::Null
                } else {
                    Value::from(self.default)
                }
            }
            Value::Bool(false) if self.optional && self.kind == Kind::Path => Value::Null,
            Value::String(text)
                if self.optional
                    && self.kind == Kind::Path
                    && text.eq_ignore_ascii_case("false") =>
            {
                Value::Null
            }
            other => other.clone(),
        }
    }

    fn check_range(&self, read: &Value) -> Result<(), String> {
        let Some(number) = read.as_f64() else {
            return Ok(());
        };
        match (self.min, self.max) {
            (Some(min), Some(max)) if number < min || number > max => {
                Err(format!("{number} is not between {min} and {max}"))
            }
            (Some(min), None) if number < min => Err(format!("{number} is below {min}")),
            (None, Some(max)) if number > max => Err(format!("{number} is above {max}")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
