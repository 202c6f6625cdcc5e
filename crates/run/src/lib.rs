//! What the server and a worker process agree on. No async runtime, no tensors, no clock.
//!
//! * [`fields`] - the table of every argument: type, default, class, help.
//! * [`config`] - a checked set of arguments, from a form, a file or the command line.
//! * [`event`] - what a worker says, one JSON object a line, and the reader that follows it.
//! * [`journal`] - the writer of events.jsonl and trainer_log.jsonl.
//! * [`dir`] - where each file of a run lies.
//! * [`checkpoint`] - a checkpoint is staged beside its place and appears whole or not at all.
//! * [`manifest`] - the length and hash of each file of a checkpoint.
//! * [`atomic`] - files that are replaced whole and survive a power cut.
//! * [`lock`] - who works on a run; free the moment its holder dies.
//! * [`control`] - what the server wishes of the worker.
//! * [`runfile`] - run.json, the frozen start of a run.
//! * [`exit`] - what a worker's exit code means.

#[macro_use]
pub mod fields;

pub mod atomic;
pub mod checkpoint;
pub mod config;
pub mod control;
pub mod dir;
pub mod estimate;
pub mod event;
pub mod exit;
pub mod journal;
pub mod lock;
pub mod manifest;
pub mod runfile;
