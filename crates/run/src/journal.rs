//! The worker's pen: events.jsonl and trainer_log.jsonl.
//!
//! Both are only appended to, whole lines at a time; a torn last line (a kill, a full disk) is
//! cut when the journal is opened, and `seq` goes on from the last whole one.

mod lines;
mod trainer_log;

use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::dir::RunDir;
use crate::event::{Body, Event, finite};
use lines::Lines;
use trainer_log::TrainerLog;

/// The open journal of a run. Hold the run's lock while you have one.
#[derive(Debug)]
pub struct Journal {
    events: Lines,
    trainer_log: TrainerLog,
    seq: u64,
    elapsed_s: f64,
}

/// What went wrong with which file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub struct JournalError {
    /// The file.
    pub path: PathBuf,
    /// What the system says; `StorageFull` is a full disk.
    pub source: io::Error,
}

impl Journal {
    /// Opens or makes both files of a run directory that exists.
    ///
    /// # Errors
    /// When a file cannot be opened, read or repaired.
    pub fn open(dir: &RunDir) -> Result<Self, JournalError> {
        let mut events = Lines::open(dir.events())?;
        let last = events.last_that(|line| serde_json::from_slice::<Event>(line).ok())?;
        let trainer_log = TrainerLog::open(dir.trainer_log())?;
        let (seq, elapsed_s) = last.map_or((0, 0.0), |event| (event.seq, event.elapsed_s));
        Ok(Self { events, trainer_log, seq, elapsed_s })
    }

    /// The `seq` of the last event; 0 before the first.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// The `elapsed_s` of the last event: a resumed run counts on from here.
    #[must_use]
    pub const fn elapsed_s(&self) -> f64 {
        self.elapsed_s
    }

    /// Appends an event, and its line in trainer_log.jsonl where it is a metric.
    ///
    /// `at_ms` is the wall clock in milliseconds since 1970, `elapsed_s` monotonic seconds since
    /// training began. Events that others rely on (checkpoint, exit ...) are synced to disk, and
    /// with them all lines before.
    ///
    /// # Errors
    /// When a file cannot be written; it then ends with the line before.
    pub fn append(
        &mut self,
        at_ms: u64,
        elapsed_s: f64,
        body: Body,
    ) -> Result<Event, JournalError> {
        let elapsed_s = finite(elapsed_s).unwrap_or(self.elapsed_s).max(self.elapsed_s);
        let event = Event { seq: self.seq + 1, at_ms, elapsed_s, body: sanitised(body) };
        // trainer_log.jsonl first: an event that is told has its line. One that could not be told
        // (a full disk) leaves no line either, so that it can be tried again.
        let before = self.trainer_log.length();
        self.trainer_log.note(&event)?;
        if let Err(error) = self.events.append(&event) {
            self.trainer_log.cut(before)?;
            return Err(error);
        }
        self.seq = event.seq;
        self.elapsed_s = event.elapsed_s;
        if event.body.must_be_durable() {
            self.sync()?;
        }
        Ok(event)
    }

    /// Drops what trainer_log.jsonl says of steps after `step`, in one atomic replacement, and
    /// appends [`Body::Rewound`]. Call it after a resume, before the first step.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn rewind(&mut self, at_ms: u64, step: u64) -> Result<Event, JournalError> {
        self.trainer_log.rewind(step)?;
        self.append(at_ms, self.elapsed_s, Body::Rewound { to_step: step })
    }

    /// Syncs both files to disk.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync(&self) -> Result<(), JournalError> {
        self.trainer_log.sync()?;
        self.events.sync()
    }
}

/// JSON holds no NaN: what is not finite becomes `None`, or 0 where a number must stand.
fn sanitised(body: Body) -> Body {
    let or_zero = |value: f64| finite(value).unwrap_or(0.0);
    match body {
        Body::Metric { step, total_steps, epoch, mut values } => {
            for value in values.values_mut() {
                *value = value.and_then(finite);
            }
            Body::Metric { step, total_steps, epoch: or_zero(epoch), values }
        }
        Body::Started { step, total_steps, trainable_params, all_params, epochs } => {
            Body::Started {
                step,
                total_steps,
                trainable_params,
                all_params,
                epochs: or_zero(epochs),
            }
        }
        other => other,
    }
}

fn sync_file(file: &File, path: &std::path::Path) -> Result<(), JournalError> {
    file.sync_data().map_err(|source| JournalError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
