//! run.json: the frozen start of a run. The worker reads its config from here and nowhere else.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::atomic;
use crate::dir::RunDir;

/// The only schema there is so far.
pub const SCHEMA: u32 = 1;

/// The content of run.json.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The run's name for the server; the folder's name where there is none.
    pub id: String,
    /// When the run was made, milliseconds since 1970; dates in templates come from it.
    pub created_at_ms: u64,
    /// The arguments that are not defaults, as [`crate::config::Config::to_map`] gives them.
    pub config: Map<String, Value>,
    /// Where they came from: `form`, `api`, `cli`, or a file's path.
    pub source: String,
}

/// Why run.json could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", .path.display())]
pub struct RunFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub why: String,
    /// What the system says, where it does.
    #[source]
    pub source: Option<io::Error>,
}

impl RunFile {
    /// A run of these arguments.
    #[must_use]
    pub fn new(id: impl Into<String>, created_at_ms: u64, config: Map<String, Value>) -> Self {
        Self { schema: SCHEMA, id: id.into(), created_at_ms, config, source: String::new() }
    }

    /// Writes run.json, durably.
    ///
    /// # Errors
    /// When the run directory cannot be written to.
    pub fn write(&self, dir: &RunDir) -> Result<(), RunFileError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        bytes.and_then(|bytes| atomic::write(dir.run_json(), &bytes)).map_err(|source| {
            RunFileError { path: dir.run_json(), why: source.to_string(), source: Some(source) }
        })
    }

    /// Reads run.json.
    ///
    /// # Errors
    /// When it is missing, is not JSON, or another version wrote it.
    pub fn read(dir: &RunDir) -> Result<Self, RunFileError> {
        let path = dir.run_json();
        let bytes = fs::read(&path).map_err(|source| RunFileError {
            path: path.clone(),
            why: source.to_string(),
            source: Some(source),
        })?;
        let fault = |why| RunFileError { path: path.clone(), why, source: None };
        let run: Self = serde_json::from_slice(&bytes)
            .map_err(|error| fault(format!("not a run file: {error}")))?;
        if run.schema != SCHEMA {
            return Err(fault(format!(
                "schema {} is not {SCHEMA}; another version wrote it",
                run.schema
            )));
        }
        Ok(run)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_names_what_is_wrong() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::new(root.path());
        let mut run = RunFile::new("01J", 5, Map::from_iter([("stage".into(), "sft".into())]));
        run.source = "form".into();
        run.write(&dir).unwrap();
        assert_eq!(RunFile::read(&dir).unwrap(), run);
        for (bytes, part) in [
            ("{", "not a run file"),
            (r#"{"schema":9,"id":"","created_at_ms":0,"config":{},"source":""}"#, "schema 9"),
        ] {
            fs::write(dir.run_json(), bytes).unwrap();
            let text = RunFile::read(&dir).unwrap_err().to_string();
            assert!(text.contains("run.json: ") && text.contains(part), "{text}");
        }
    }
}
