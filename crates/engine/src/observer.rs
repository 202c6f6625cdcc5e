//! The engine's only way out: what it tells while it works, and what it is asked.

use std::path::PathBuf;

use run::control::Wish;
use run::event::{Body, Phase};

use crate::error::Result;

/// Watches a run. It may watch and wish, never steer: nothing it returns changes a number.
pub trait Observer: Send {
    /// Something happened.
    ///
    /// # Errors
    /// When it cannot be written down: the run then ends.
    fn event(&mut self, body: Body) -> Result<()>;

    /// Training begins at `to_step`: what an earlier attempt told of later steps no longer holds.
    ///
    /// # Errors
    /// When it cannot be written down.
    fn rewind(&mut self, to_step: u64) -> Result<()>;

    /// What the run is asked to do; read at step boundaries.
    fn wish(&mut self) -> Wish;

    /// Monotonic seconds since training began, over all resumes.
    fn elapsed_s(&self) -> f64;

    /// A folder for what the next run of the same data need not make again; `None` keeps nothing.
    fn cache(&self) -> Option<PathBuf> {
        None
    }

    /// A phase without a count.
    ///
    /// # Errors
    /// As [`Observer::event`].
    fn phase(&mut self, phase: Phase) -> Result<()> {
        self.event(Body::Phase { phase, done: None, total: None })
    }

    /// A phase that has come to `done` of `total`.
    ///
    /// # Errors
    /// As [`Observer::event`].
    fn progress(&mut self, phase: Phase, done: u64, total: u64) -> Result<()> {
        self.event(Body::Phase { phase, done: Some(done), total: Some(total) })
    }

    /// A line for the log.
    ///
    /// # Errors
    /// As [`Observer::event`].
    fn say(&mut self, text: String) -> Result<()> {
        self.event(Body::info(text))
    }

    /// A line that a person should not miss.
    ///
    /// # Errors
    /// As [`Observer::event`].
    fn warn(&mut self, text: String) -> Result<()> {
        self.event(Body::warn(text))
    }
}
