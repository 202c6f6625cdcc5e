//! Typed access to GGUF metadata, with errors that name file and key.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use crate::error::{Error, Result};

/// A file's metadata. It is looked up by key, never iterated.
#[derive(Clone, Copy)]
pub(crate) struct Meta<'a> {
    /// The file, for errors.
    pub source: &'a Path,
    /// Its entries.
    pub map: &'a HashMap<String, Value>,
}

impl<'a> Meta<'a> {
    /// An error about entry `key`.
    pub fn error(&self, key: &str, why: impl std::fmt::Display) -> Error {
        Error::input(self.source.display().to_string(), format!("{key}: {why}"))
    }

    /// A whole number, 0 or more.
    pub fn int(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.map.get(key) else {
            return Ok(None);
        };
        whole(value).map(Some).ok_or_else(|| self.error(key, "expected a whole number"))
    }

    /// As [`Meta::int`], and must be there.
    pub fn need_int(&self, key: &str) -> Result<u64> {
        self.int(key)?.ok_or_else(|| self.error(key, "missing from the metadata"))
    }

    /// A number. What was stored as f32 is read as the shortest decimal that means it: 1e-5
    /// rather than 0.00000999999974.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::F64(x)) => Ok(Some(*x)),
            Some(Value::F32(x)) => {
                x.to_string().parse().map(Some).map_err(|_| self.error(key, "expected a number"))
            }
            Some(value) => {
                let x = whole(value).map(|x| x as f64);
                x.map(Some).ok_or_else(|| self.error(key, "expected a number"))
            }
        }
    }

    /// true or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.error(key, "expected true or false")),
        }
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(key, "expected a string")),
        }
    }

    /// A list, each element read by `read`.
    pub fn list<T>(
        &self,
        key: &str,
        what: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(value) = self.map.get(key) else {
            return Ok(None);
        };
        let Value::Array(values) = value else {
            return Err(self.error(key, format!("expected a list of {what}")));
        };
        let one = |(i, value)| {
            read(value).ok_or_else(|| self.error(key, format!("element {i} is not one of {what}")))
        };
        values.iter().enumerate().map(one).collect::<Result<_>>().map(Some)
    }
}

/// Any integer type's value, unless negative.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(x) => Some(x.into()),
        Value::U16(x) => Some(x.into()),
        Value::U32(x) => Some(x.into()),
        Value::U64(x) => Some(x),
        Value::I8(x) => x.try_into().ok(),
        Value::I16(x) => x.try_into().ok(),
        Value::I32(x) => x.try_into().ok(),
        Value::I64(x) => x.try_into().ok(),
        _ => None,
    }
}
