//! What is wrong with a set of arguments, and what is merely without effect.

use std::fmt;
use std::path::{Path, PathBuf};

/// Everything that is wrong with a set of arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file that they came from.
    pub file: Option<PathBuf>,
    /// Each mistake, in the order of the arguments. Never empty.
    pub errors: Vec<FieldError>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The argument's name; empty where the mistake is in no single one.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// An argument that was given and changes nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The argument's name.
    pub field: &'static str,
    /// One line for the log.
    pub text: String,
}

impl ConfigError {
    pub(super) const fn new(errors: Vec<FieldError>) -> Self {
        Self { file: None, errors }
    }

    pub(super) fn one(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(vec![FieldError { field: field.into(), message: message.into() }])
    }

    pub(super) fn in_file(mut self, path: &Path) -> Self {
        self.file = Some(path.to_owned());
        self
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.errors.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            if let Some(file) = &self.file {
                write!(f, "{}: ", file.display())?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A message that names the argument needs no second naming.
        if self.field.is_empty() || self.message.contains(&format!("`{}`", self.field)) {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl Notice {
    pub(super) fn no_effect(field: &'static str, why: &str) -> Self {
        Self { field, text: format!("`{field}` has no effect here: {why}") }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
