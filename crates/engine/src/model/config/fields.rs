//! Typed access to the fields of a JSON object, with errors that name file and field.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::model::brief;

/// A JSON object and where it came from. JSON null counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    /// The file, for errors.
    pub source: &'a str,
    /// Path of this object inside the file: "" or "rope_parameters.".
    pub prefix: &'a str,
    /// The object.
    pub map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The value of `name`, unless absent or null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// An error about field `name`.
    pub fn error(&self, name: &str, why: impl std::fmt::Display) -> Error {
        Error::input(self.source, format!("{}{name}: {why}", self.prefix))
    }

    /// A whole number from 1 to `max`.
    pub fn size(&self, name: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if n > 0 && n <= max => Ok(Some(n)),
            _ => Err(self.error(
                name,
                format!("expected a whole number from 1 to {max}, found {}", brief(value)),
            )),
        }
    }

    /// As [`Fields::size`], and must be there.
    pub fn need_size(&self, name: &str, max: usize) -> Result<usize> {
        self.size(name, max)?.ok_or_else(|| self.error(name, "missing"))
    }

    /// A finite number above zero.
    pub fn positive(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(x) if x > 0.0 && x.is_finite() => Ok(Some(x)),
            _ => {
                Err(self.error(name, format!("expected a number above 0, found {}", brief(value))))
            }
        }
    }

    /// true or false.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let wrong = || self.error(name, format!("expected true or false, found {}", brief(value)));
        value.as_bool().map(Some).ok_or_else(wrong)
    }

    /// A string.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let wrong = || self.error(name, format!("expected a string, found {}", brief(value)));
        value.as_str().map(Some).ok_or_else(wrong)
    }

    /// A token id, or a list of them.
    pub fn token_ids(&self, name: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| {
            value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| {
                self.error(name, format!("expected a token id, found {}", brief(value)))
            })
        };
        match self.get(name) {
            None => Ok(Vec::new()),
            // transformers writes -1 for "none" in old configs.
            Some(value) if value.as_i64() == Some(-1) => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }
}
