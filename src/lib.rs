//! Tallow: LLM fine-tuning as one program. The map of the root package:
//!
//! - [`cli`]: the command line; with [`worker`] and [`library`] the only importer of the engine.
//! - [`worker`]: one run in this process: lock, journal, control file, engine.
//! - [`plot`] draws `training_loss.png`, and several runs over each other.
//! - [`config`]: what `tallow serve` is told, validated once.
//! - [`lifecycle`]: start, signals, shutdown of the server.
//! - [`clock`]: the only caller of the wall clock.
//! - [`files`]: the data folder and the confinement of user-named paths.
//! - [`library`]: data sets and models on disk, as the engine's readers see them.
//! - [`machine`]: what Linux tells of cores, memory and disk; [`gpu`]: what NVIDIA's driver tells of devices.
//! - [`telemetry`]: log set-up.
//! - [`db`]: SQLite; every SQL string of the program.
//! - [`jobs`]: queue, supervisor, adoption, ingest. No HTTP.
//! - [`web`]: routes, guard, JSON API, SSE, pages. No processes, no SQL.

/// A line on stdout. Nobody may be reading any more: a server must not end for that.
macro_rules! say_line {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout().lock(), $($text)*);
    }};
}

/// A line on stderr, by the same rule.
macro_rules! warn_line {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($text)*);
    }};
}

pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod files;
pub mod gpu;
pub mod jobs;
pub mod library;
pub mod lifecycle;
pub mod machine;
pub mod plot;
pub mod telemetry;
pub mod web;
pub mod worker;
