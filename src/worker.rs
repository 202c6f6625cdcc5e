//! One run in this process: it takes the run's lock, tells the journal what the engine tells, hears the control file and
//! signals, and ends with the exit code that says how it went.
//!
//! `tallow train` and the server's `tallow worker` are this with another [`Role`].

pub mod engine;
pub mod log;
pub mod signals;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use run::config::{Config, Notice};
use run::control::{Listener, Wish};
use run::dir::RunDir;
use run::event::Body;
use run::exit::ExitCode;
use run::journal::{Journal, JournalError};
use run::lock::{Held, RunLock};
use run::runfile::RunFile;

use crate::clock::{Clock, SystemClock};
use crate::plot;
use log::Log;
use signals::Stop;

/// What is to be done.
#[derive(Debug)]
pub struct Order {
    /// The run directory.
    pub dir: RunDir,
    /// Checked arguments.
    pub config: Config,
    /// What of them has no effect.
    pub notices: Vec<Notice>,
    /// On whose behalf.
    pub role: Role,
}

/// On whose behalf a run is done.
#[derive(Debug, Clone)]
pub enum Role {
    /// Somebody at a terminal; `source` is where the arguments come from.
    Terminal {
        /// `cli`, or the file's path.
        source: String,
    },
    /// The server.
    Server {
        /// Wishes up to this serial are settled.
        after_wish: u64,
        /// It goes on from its own checkpoints, whatever the arguments say of overwriting.
        resume: bool,
    },
}

/// How the engine ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything is done.
    Finished,
    /// A wish ended it.
    Stopped,
}

/// How it did not.
#[derive(Debug)]
pub struct Failure {
    /// The class.
    pub code: ExitCode,
    /// One line: which file or field, what is wrong, what to do.
    pub message: String,
}

impl Failure {
    fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self::new(io_code(&error.source), error.to_string())
    }
}

/// Does the run; `train` is the engine. Gives the exit code.
pub fn work(
    order: Order,
    train: impl FnOnce(&Config, &mut Desk) -> Result<Ended, Failure>,
) -> ExitCode {
    let fresh = !order.dir.path().exists();
    let terminal = matches!(order.role, Role::Terminal { .. });
    let dir = order.dir.clone();
    let (mut desk, config, _lock) = match prepare(order) {
        Ok(prepared) => prepared,
        Err(failure) => {
            warn_line!("{}", failure.message);
            if fresh && terminal && failure.code != ExitCode::Locked {
                leave_nothing(&dir);
            }
            return failure.code;
        }
    };
    let ended = catch_unwind(AssertUnwindSafe(|| train(&config, &mut desk)));
    let ended = ended.unwrap_or_else(|panic| Err(Failure::new(ExitCode::Bug, panic_text(&*panic))));
    let (code, message) = match ended {
        Ok(Ended::Finished) => (ExitCode::Finished, None),
        Ok(Ended::Stopped) => (ExitCode::Stopped, Some("stopped as asked".to_owned())),
        Err(failure) => (failure.code, Some(failure.message)),
    };
    if config.plot_loss
        && matches!(code, ExitCode::Finished | ExitCode::Stopped)
        && let Err(error) = plot::loss_curves(&dir)
    {
        desk.log.line(&format!("warning: no loss curve: {error}"));
    }
    let started = desk.started.is_some();
    if let Err(failure) = desk.tell(Body::Exit { code: code.code(), message }) {
        desk.log.line(&format!("warning: {}", failure.message));
    }
    if code == ExitCode::BadInput && fresh && terminal && !started {
        leave_nothing(&dir);
    }
    code
}

/// Everything before the engine: folder, lock, frozen arguments, journal.
fn prepare(order: Order) -> Result<(Desk, Config, RunLock), Failure> {
    let Order { dir, mut config, notices, role } = order;
    let named = |error: std::io::Error| {
        Failure::new(io_code(&error), format!("output_dir: {}: {error}", dir.path().display()))
    };
    fs::create_dir_all(dir.path()).map_err(named)?;
    let lock = RunLock::take(&dir).map_err(|held| match &held {
        Held::ByAnother { .. } => Failure::new(ExitCode::Locked, held.to_string()),
        Held::Io { source, .. } => Failure::new(io_code(source), format!("output_dir: {held}")),
    })?;
    run::atomic::sweep(dir.path()).map_err(named)?;
    let (mut log, listener) = match &role {
        Role::Terminal { source } => {
            // A resumed run keeps its first start: dates in templates come from it.
            let earlier = RunFile::read(&dir).ok().filter(|_| !config.overwrite_output_dir);
            let start = || engine::start_given().and_then(|s| u64::try_from(s).ok());
            let first = || start().map_or_else(now_ms, |seconds| seconds * 1000);
            let created = earlier.map_or_else(first, |file| file.created_at_ms);
            let mut file = RunFile::new(id_of(dir.path()), created, config.to_map());
            file.source.clone_from(source);
            file.write(&dir).map_err(|error| {
                Failure::new(ExitCode::BadInput, format!("output_dir: {error}"))
            })?;
            (Log::to_both(&dir).map_err(named)?, Listener::from_now(dir.clone()))
        }
        Role::Server { after_wish, .. } => {
            (Log::to_stderr(), Listener::after(dir.clone(), *after_wish))
        }
    };
    match &role {
        Role::Server { resume: true, .. } => {
            let own = dir.newest_complete_checkpoint().map_err(named)?.found.is_some();
            if own {
                config.resume_from_checkpoint = None;
            }
        }
        _ if config.overwrite_output_dir => forget_checkpoints(&dir).map_err(named)?,
        _ => {}
    }
    let stop = Stop::on_signals().unwrap_or_else(|error| {
        log.line(&format!("warning: signals will end this process at once: {error}"));
        Stop::default()
    });
    let journal = Journal::open(&dir)?;
    let base_s = journal.elapsed_s();
    let mut desk = Desk {
        has_history: journal.seq() > 0,
        journal,
        log,
        listener,
        stop,
        base_s,
        origin: Instant::now(),
        started: None,
    };
    desk.tell(Body::phase(run::event::Phase::Starting))?;
    for notice in notices {
        desk.tell(Body::info(notice.text))?;
    }
    Ok((desk, config, lock))
}

/// The engine's window to the world.
#[derive(Debug)]
pub struct Desk {
    journal: Journal,
    log: Log,
    listener: Listener,
    stop: Stop,
    /// Whether an earlier attempt wrote to this journal.
    has_history: bool,
    /// Seconds of training before this process.
    base_s: f64,
    origin: Instant,
    /// When training began in this process.
    started: Option<Instant>,
}

impl Desk {
    /// Writes an event down, and what it says to people into the log.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub fn tell(&mut self, body: Body) -> Result<(), Failure> {
        if matches!(body, Body::Started { .. }) {
            self.started.get_or_insert_with(Instant::now);
        }
        self.log.event(&body);
        let elapsed_s = self.base_s + self.started.map_or(0.0, |at| at.elapsed().as_secs_f64());
        self.journal.append(now_ms(), elapsed_s, body)?;
        Ok(())
    }

    /// What an earlier attempt told of steps after `to_step` no longer holds.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub fn rewind(&mut self, to_step: u64) -> Result<(), Failure> {
        if to_step == 0 && !self.has_history {
            return Ok(());
        }
        self.journal.rewind(now_ms(), to_step)?;
        Ok(())
    }

    /// What the run is asked to do: a signal first, then control.json.
    pub fn wish(&mut self) -> Wish {
        if self.stop.asked() { Wish::StopAndSave } else { self.listener.wish() }
    }

    /// Monotonic seconds since training began, over all resumes; before it began, since this process did.
    #[must_use]
    pub fn elapsed_s(&self) -> f64 {
        self.base_s + self.started.unwrap_or(self.origin).elapsed().as_secs_f64()
    }
}

/// `overwrite_output_dir`: what an earlier run could be resumed from must not be found.
fn forget_checkpoints(dir: &RunDir) -> std::io::Result<()> {
    for checkpoint in dir.checkpoints()? {
        let trash =
            dir.path().join(format!("{}checkpoint-{}", run::atomic::TRASH, checkpoint.step));
        fs::rename(&checkpoint.path, &trash)?;
        fs::remove_dir_all(trash)?;
    }
    Ok(())
}

/// A folder that was made for a run with wrong input goes again, if nothing but our first files is in it.
fn leave_nothing(dir: &RunDir) {
    for file in [dir.run_json(), dir.events(), dir.worker_log(), dir.trainer_log(), dir.lock()] {
        let _ = fs::remove_file(file);
    }
    let _ = fs::remove_dir(dir.path());
}

fn id_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn io_code(error: &std::io::Error) -> ExitCode {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ExitCode::NoSpace,
        _ => ExitCode::BadInput,
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemClock.now_ms()).unwrap_or_default()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a bug in this program: {}", text.unwrap_or("a panic without text"))
}
