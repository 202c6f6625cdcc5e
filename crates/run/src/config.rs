//! A checked set of arguments: from a form, a file, or the command line.
//!
//! All of them become pairs of name and value first; the field table gives each its type, range
//! and class. Every mistake is reported, not the first alone.

mod check;
mod derived;
mod error;
mod flags;
mod members;
mod nearest;
mod read;
mod text;
mod write;

use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, Value};

pub use check::Purpose;
pub use derived::Half;
pub use error::{ConfigError, FieldError, Notice};
pub use members::Config;

use crate::fields::{Class, FIELDS, Field};

/// The `name: value` pairs of any YAML or JSON file, in its order.
///
/// # Errors
/// Where the file cannot be read or does not hold such pairs.
pub fn read_pairs(path: &Path) -> Result<Vec<(String, Value)>, ConfigError> {
    read::file(path).map_err(|error| error.in_file(path))
}

impl Config {
    /// Reads pairs of name and value; of a name that comes twice, the last counts.
    ///
    /// Every spelling of a value is taken (`"5e-05"`, `True`, `yes`, `1000.0`). Returns a notice for
    /// each argument that has no effect here and was not left at its default.
    ///
    /// # Errors
    /// All mistakes: unknown names, values of the wrong type or out of range, refused arguments.
    pub fn from_pairs(pairs: &[(String, Value)]) -> Result<(Self, Vec<Notice>), ConfigError> {
        let last: IndexMap<&str, &Value> =
            pairs.iter().map(|(name, value)| (name.as_str(), value)).collect();
        let mut config = Self::default();
        let (mut notices, mut errors) = (Vec::new(), Vec::new());
        for (name, value) in last {
            let taken = match Field::find(name) {
                Some(field) => config.take(field, value),
                None => Err(nearest::unknown(name)),
            };
            match taken {
                Ok(notice) => notices.extend(notice),
                Err(message) => errors.push(FieldError { field: name.to_owned(), message }),
            }
        }
        if errors.is_empty() { Ok((config, notices)) } else { Err(ConfigError::new(errors)) }
    }

    /// Reads a map as [`Self::to_map`] gives it, or as it was posted.
    ///
    /// # Errors
    /// As [`Self::from_pairs`].
    pub fn from_map(map: &Map<String, Value>) -> Result<(Self, Vec<Notice>), ConfigError> {
        let pairs: Vec<_> = map.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Self::from_pairs(&pairs)
    }

    /// Reads a `.yaml`, `.yml` or `.json` file.
    ///
    /// # Errors
    /// When the file cannot be read (the error names the line) or as [`Self::from_pairs`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<(Self, Vec<Notice>), ConfigError> {
        Self::load::<&str>(path, &[])
    }

    /// Reads a file, then `key=value` overrides: what they replace need not be valid.
    ///
    /// # Errors
    /// As [`Self::from_file`], and for an override without `=`.
    pub fn load<S: AsRef<str>>(
        path: impl AsRef<Path>,
        overrides: &[S],
    ) -> Result<(Self, Vec<Notice>), ConfigError> {
        let path = path.as_ref();
        let mut pairs = read::file(path).map_err(|error| error.in_file(path))?;
        pairs.extend(flags::overrides(overrides)?);
        Self::from_pairs(&pairs).map_err(|error| error.in_file(path))
    }

    /// Applies `key=value` overrides to this config and returns what has no effect.
    ///
    /// # Errors
    /// As [`Self::from_pairs`], and for an override without `=`; the config is then as it was.
    pub fn apply_overrides<S: AsRef<str>>(
        &mut self,
        overrides: &[S],
    ) -> Result<Vec<Notice>, ConfigError> {
        let mut pairs: Vec<_> = self.to_map().into_iter().collect();
        pairs.extend(flags::overrides(overrides)?);
        let (config, notices) = Self::from_pairs(&pairs)?;
        *self = config;
        Ok(notices)
    }

    /// Reads LLaMA-Factory's flags: `--stage sft --do_train True --plot_loss --seed=1`.
    ///
    /// # Errors
    /// As [`Self::from_pairs`], and for words that belong to no flag.
    pub fn from_flags<S: AsRef<str>>(flags: &[S]) -> Result<(Self, Vec<Notice>), ConfigError> {
        Self::from_pairs(&flags::flags(flags)?)
    }

    /// The arguments that are not at their default, in table order, secrets left out.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        for field in FIELDS {
            let value = self.get(field.name).or_else(|| self.inert.get(field.name).cloned());
            if let Some(value) = value.filter(|value| *value != field.default_value()) {
                map.insert(field.name.to_owned(), value);
            }
        }
        map
    }

    /// The config as a YAML file that LLaMA-Factory reads too.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        write::yaml(&self.to_map())
    }

    /// The config as a command for a shell, one argument a line.
    #[must_use]
    pub fn to_command(&self) -> String {
        write::command(&self.to_map())
    }

    /// The table of every argument, as docs/arguments.md holds it.
    #[must_use]
    pub fn documented_markdown() -> String {
        write::markdown()
    }

    fn take(&mut self, field: &Field, value: &Value) -> Result<Option<Notice>, String> {
        match field.class {
            Class::Refused(_) if field.asks_nothing(value) => Ok(None),
            Class::Refused(why) => Err(why.to_owned()),
            Class::Done => self.set(field.name, &field.read(value)?).map(|()| None),
            Class::NoEffect(why) => {
                let read = if value.is_null() { Value::Null } else { field.read(value)? };
                if read.is_null() || read == field.default_value() {
                    return Ok(None);
                }
                if self.get(field.name).is_some() {
                    self.set(field.name, &read)?;
                } else if !field.secret {
                    self.inert.insert(field.name.to_owned(), read);
                }
                Ok(Some(Notice::no_effect(field.name, why)))
            }
        }
    }
}

#[cfg(test)]
mod tests;
