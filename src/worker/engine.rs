//! The engine behind the worker's [`Desk`]: with `cli` the only place that calls it.

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use engine::data::template;
use engine::data::{DataError, RunDate};
use engine::error::Error;
use engine::model::hub::HubEnv;
use engine::observer::Observer;
use engine::prepare::Surroundings;
use engine::train::Outcome;
use run::config::Config;
use run::control::Wish;
use run::dir::RunDir;
use run::event::Body;
use run::exit::ExitCode;
use run::runfile::RunFile;
use serde_json::json;

use super::log::Log;
use super::{Desk, Ended, Failure};
use crate::clock::{Clock, SystemClock};
use crate::machine::{self, Usage};

/// Trains as the arguments say.
///
/// # Errors
/// What ended the run before its time.
pub fn train(config: &Config, desk: &mut Desk) -> Result<Ended, Failure> {
    match engine::train::train(config, &surroundings(config), desk)? {
        Outcome::Finished => Ok(Ended::Finished),
        Outcome::Stopped(_) => Ok(Ended::Stopped),
    }
}

/// Prints the encoded rows, one JSON object a line, and nothing else, to stdout.
///
/// # Errors
/// When an input cannot be used or stdout cannot be written.
pub fn rows(config: &Config, limit: Option<usize>) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let stdout = |source| Error::Io { op: "write", path: PathBuf::from("stdout"), source };
    let around = surroundings(config);
    let printed = engine::task::rows(config, &around, limit, &mut Terminal::new(), |row| {
        writeln!(out, "{row}").map_err(stdout)
    });
    match printed.and_then(|()| out.flush().map_err(stdout)) {
        // `tallow data ... | head` has seen enough.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Prints every template's name and what sets it apart.
///
/// # Errors
/// When stdout cannot be written.
pub fn list_templates() -> Result<(), Failure> {
    let lines = template::show::list()
        .into_iter()
        .map(|(name, traits)| format!("{name:<28}{traits}").trim_end().to_owned() + "\n");
    print(&lines.collect::<String>())
}

/// Prints one template: slots, flags, stop words, a sample conversation.
///
/// # Errors
/// When there is none of this name.
pub fn show_template(name: &str) -> Result<(), Failure> {
    let date = RunDate::from_unix(start_given().unwrap_or_else(|| SystemClock.now_ms() / 1000));
    let text = template::show::show(name, date).map_err(DataError::from).map_err(Error::from)?;
    print(&text)
}

/// Writes to stdout; a reader that has seen enough is no error.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Io { op: "write", path: PathBuf::from("stdout"), source: e })?
        }
        _ => Ok(()),
    }
}

/// Prints the loss as one line of JSON.
///
/// # Errors
/// When an input cannot be used.
pub fn eval(config: &Config) -> Result<(), Failure> {
    let found = engine::task::evaluate(config, &surroundings(config), &mut Terminal::new())?;
    let mut line = serde_json::Map::new();
    for (name, losses) in &found {
        let key = if name.is_empty() { "eval".to_owned() } else { format!("eval_{name}") };
        line.insert(format!("{key}_loss"), json!(losses.eval_loss));
        line.insert(format!("{key}_token_loss"), json!(losses.token_loss));
        line.insert(format!("{key}_token_accuracy"), json!(losses.token_accuracy));
        line.insert(format!("{key}_rows"), json!(losses.rows));
        line.insert(format!("{key}_labels"), json!(losses.labels));
    }
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{}", serde_json::Value::Object(line));
    written.map_err(|source| Error::Io { op: "write", path: PathBuf::from("stdout"), source })?;
    Ok(())
}

/// Trains some steps and prints how fast that was; the last line is JSON.
///
/// # Errors
/// When an input cannot be used or stdout cannot be written.
pub fn bench(config: &Config, steps: Option<u64>) -> Result<(), Failure> {
    let steps = steps.unwrap_or(8);
    let (around, mut io) = (surroundings(config), Terminal::new());
    let found = engine::bench::run(config, &around, steps, &mut io)?;
    // before the products are measured alone, which takes memory too
    let peak = peak_memory_mib();
    let ceiling = found.ceiling_flops_per_s(config, &around, &mut io)? / 1e9;
    let rate = found.flops_per_s() / 1e9;
    let mut out = io::stdout().lock();
    let tokens: u64 = found.steps.iter().map(|s| s.tokens).sum();
    let seconds: f64 = found.steps.iter().map(|s| s.seconds).sum();
    let line = json!({
        "tokens_per_s": found.tokens_per_s(),
        "steps": found.steps.len(),
        "tokens": tokens,
        "seconds": seconds,
        "model_gflops_per_s": rate,
        "gemm_gflops_per_s": ceiling,
        "share_of_gemm": rate / ceiling,
        "peak_rss_mib": peak,
        "start_s": found.start_s,
        "threads": found.threads,
        "losses": found.steps.iter().map(|s| s.loss).collect::<Vec<_>>(),
    });
    let text = format!(
        "{} of {} parameters trained, {} threads\n\
         start to the first batch  {:>9.2} s\n\
         {} steps, {tokens} tokens  {seconds:>9.2} s\n\
         speed                     {:>9.1} tokens/s\n\
         model operations          {rate:>9.1} GFLOP/s\n\
         own matrix product alone  {ceiling:>9.1} GFLOP/s at the model's shapes\n\
         share of it               {:>9.1} %\n\
         peak memory               {peak:>9.0} MiB\n{line}\n",
        found.params.0,
        found.params.1,
        found.threads,
        found.start_s,
        found.steps.len(),
        found.tokens_per_s(),
        100.0 * rate / ceiling,
    );
    let written = out.write_all(text.as_bytes());
    written.map_err(|source| Error::Io { op: "write", path: PathBuf::from("stdout"), source })?;
    Ok(())
}

/// Prints a run's memory: a table in MiB, the largest part, and one line of JSON in bytes.
///
/// # Errors
/// When the model cannot be found or read.
pub fn estimate(config: &Config) -> Result<(), Failure> {
    let found = engine::estimate::of_run(config, &surroundings(config))?;
    let mut text = format!("{:<12} {:>9} {:>9} {:>9}  MiB\n", "", "low", "expected", "high");
    let mut line = serde_json::Map::new();
    for part in found.parts.iter().chain([&found.total()]) {
        let mib = [part.low, part.expected, part.high].map(|bytes| bytes / 1_048_576.0);
        text += &format!("{:<12} {:>9.1} {:>9.1} {:>9.1}\n", part.name, mib[0], mib[1], mib[2]);
        let bytes = [part.low, part.expected, part.high].map(|bytes| bytes as u64);
        line.insert(part.name.to_owned(), json!(bytes));
    }
    let (trained, all) = found.params;
    text += &format!("{trained} of {all} parameters are trained");
    if let Some(part) = found.largest() {
        text += &format!("; the largest part is {}", part.name);
    }
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}\n{}", serde_json::Value::Object(line));
    written.map_err(|source| Error::Io { op: "write", path: PathBuf::from("stdout"), source })?;
    Ok(())
}

/// The most memory that this process has had, in MiB; 0 where the system does not say.
fn peak_memory_mib() -> f64 {
    let usage = Usage::of(i64::from(std::process::id()));
    usage.map_or(0.0, |usage| usage.peak as f64) / f64::from(1 << 20)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { code: error.exit_code(), message: error.to_string() }
    }
}

impl Observer for Desk {
    fn event(&mut self, body: Body) -> engine::error::Result<()> {
        self.tell(body).map_err(not_written)
    }

    fn rewind(&mut self, to_step: u64) -> engine::error::Result<()> {
        Desk::rewind(self, to_step).map_err(not_written)
    }

    fn wish(&mut self) -> Wish {
        Desk::wish(self)
    }

    fn elapsed_s(&self) -> f64 {
        Desk::elapsed_s(self)
    }

    fn cache(&self) -> Option<PathBuf> {
        cache_folder()
    }
}

/// A journal that cannot be written ends the run; a full disk keeps its exit code.
fn not_written(failure: Failure) -> Error {
    let kind = match failure.code {
        ExitCode::NoSpace => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    let source = io::Error::new(kind, failure.message);
    Error::Io { op: "write", path: PathBuf::from("the run's journal"), source }
}

/// Watches what has no run directory: notices go to stderr.
struct Terminal {
    log: Log,
    began: Instant,
}

impl Terminal {
    fn new() -> Self {
        Self { log: Log::to_stderr(), began: Instant::now() }
    }
}

impl Observer for Terminal {
    fn event(&mut self, body: Body) -> engine::error::Result<()> {
        if matches!(body, Body::Notice { .. }) {
            self.log.event(&body);
        }
        Ok(())
    }

    fn rewind(&mut self, _to_step: u64) -> engine::error::Result<()> {
        Ok(())
    }

    fn wish(&mut self) -> Wish {
        Wish::Run
    }

    fn elapsed_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn cache(&self) -> Option<PathBuf> {
        cache_folder()
    }
}

/// What the engine must be told of the world.
fn surroundings(config: &Config) -> Surroundings {
    Surroundings {
        hub: hub_caches(),
        started_unix_s: started(config),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory: machine::free_memory(),
    }
}

/// Where encoded rows are kept: what the server says, else the user's cache folder.
fn cache_folder() -> Option<PathBuf> {
    let path = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let users = || {
        let cache = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")))?;
        Some(cache.join("tallow"))
    };
    Some(path("TALLOW_CACHE_DIR").or_else(users)?.join("tokens"))
}

/// The run's start: SOURCE_DATE_EPOCH, else what run.json froze, else now.
fn started(config: &Config) -> i64 {
    let frozen = || {
        let dir = config.output_dir.as_ref()?;
        let file = RunFile::read(&RunDir::new(dir)).ok()?;
        i64::try_from(file.created_at_ms / 1000).ok()
    };
    start_given().or_else(frozen).unwrap_or_else(|| SystemClock.now_ms() / 1000)
}

/// SOURCE_DATE_EPOCH.
pub(super) fn start_given() -> Option<i64> {
    env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse().ok())
}

/// Where the hubs' own tools keep their files.
pub(crate) fn hub_caches() -> HubEnv {
    let path = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = path("HOME").unwrap_or_default();
    let hf_home = || path("HF_HOME").unwrap_or_else(|| home.join(".cache/huggingface"));
    HubEnv {
        hf_cache: path("HF_HUB_CACHE").unwrap_or_else(|| hf_home().join("hub")),
        ms_cache: path("MODELSCOPE_CACHE").unwrap_or_else(|| home.join(".cache/modelscope/hub")),
    }
}
