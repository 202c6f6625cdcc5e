//! Where each file of a run lies: the run directory is `output_dir`.
//!
//! Where Hugging Face or LLaMA-Factory have a file for something, it has their name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::manifest::{self, Fault, Manifest};

/// A run's directory. Making the value touches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunDir(pub PathBuf);

/// A `checkpoint-N` folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Optimiser steps it holds.
    pub step: u64,
    /// The folder.
    pub path: PathBuf,
}

/// What a search for the newest complete checkpoint found.
#[derive(Debug, Default)]
pub struct Search {
    /// The newest checkpoint whose manifest verifies, with that manifest.
    pub found: Option<(Checkpoint, Manifest)>,
    /// Newer ones that do not, and why: say so to the user.
    pub rejected: Vec<(Checkpoint, Fault)>,
}

macro_rules! files {
    ($($(#[doc = $doc:literal])+ $method:ident = $name:literal;)*) => {
        $($(#[doc = $doc])+ #[must_use] pub fn $method(&self) -> PathBuf { self.0.join($name) })*
    };
}

impl RunDir {
    /// The directory at this path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes the directory and those above it, durably; no error where it is there already.
    ///
    /// # Errors
    /// When it cannot be made, or a file has its name.
    pub fn create(&self) -> io::Result<()> {
        let missing =
            self.0.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists());
        let missing: Vec<_> = missing.collect();
        fs::create_dir_all(&self.0)?;
        missing.into_iter().try_for_each(|dir| atomic::sync_dir(atomic::parent(dir)))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    files! {
        /// The frozen start of the run.
        run_json = "run.json";
        /// What the worker said, one event a line.
        events = "events.jsonl";
        /// The worker's stdout and stderr.
        worker_log = "worker.log";
        /// Held by the worker for life.
        lock = "lock";
        /// What the server wishes of the worker.
        control = "control.json";
        /// Loss, learning rate, progress: LLaMA-Factory's lines.
        trainer_log = "trainer_log.jsonl";
        /// Hugging Face's state, with the whole log history.
        trainer_state = "trainer_state.json";
        /// Training metrics of the finished run.
        train_results = "train_results.json";
        /// Evaluation metrics of the finished run.
        eval_results = "eval_results.json";
        /// All metrics of the finished run.
        all_results = "all_results.json";
        /// The loss curve as a picture.
        training_loss_png = "training_loss.png";
        /// The evaluation loss curve as a picture.
        training_eval_loss_png = "training_eval_loss.png";
    }

    /// `checkpoint-STEP`, whether it exists or not.
    #[must_use]
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.0.join(format!("checkpoint-{step}"))
    }

    /// True where this is a run directory of ours, complete or not.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.run_json().is_file() || self.events().is_file()
    }

    /// The `checkpoint-N` folders, newest first, complete or not.
    ///
    /// # Errors
    /// When the directory cannot be listed; a missing one has none.
    pub fn checkpoints(&self) -> io::Result<Vec<Checkpoint>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let step = name.to_str().and_then(|name| name.strip_prefix("checkpoint-"));
            let step = step.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            if let Some(step) = step.and_then(|digits| digits.parse().ok())
                && entry.path().is_dir()
            {
                found.push(Checkpoint { step, path: entry.path() });
            }
        }
        found.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.step));
        Ok(found)
    }

    /// The newest checkpoint whose every file has the length and hash of its manifest.
    ///
    /// # Errors
    /// When the directory cannot be listed. Incomplete checkpoints are passed over, not errors.
    pub fn newest_complete_checkpoint(&self) -> io::Result<Search> {
        let mut search = Search::default();
        for checkpoint in self.checkpoints()? {
            match manifest::verify(&checkpoint.path) {
                Ok(manifest) => {
                    search.found = Some((checkpoint, manifest));
                    break;
                }
                Err(fault) => search.rejected.push((checkpoint, fault)),
            }
        }
        Ok(search)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn is_made_with_those_above_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::new(root.path().join("a/b/c"));
        assert!(!dir.is_ours());
        dir.create().unwrap();
        dir.create().unwrap();
        assert!(dir.path().is_dir() && !dir.is_ours());
        fs::write(dir.run_json(), "{}").unwrap();
        assert!(dir.is_ours());
        assert!(RunDir::new(dir.run_json()).create().is_err());
    }
}
