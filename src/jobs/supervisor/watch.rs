//! One run that has a worker: starts it, reads what it writes, ends it, restarts it.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use run::control;
use run::dir::RunDir;
use run::exit::ExitCode;
use run::lock;
use run::runfile::RunFile;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::super::ingest::Reader;
use super::super::state::{Effect, Ending, Input};
use super::super::{ActionError, Inner, StopMode, spawn};
use super::changes::Changes;
use crate::db::ingest;
use crate::db::runs::{self, Change, RunRow, Status};

/// A worker that writes nothing is looked at so often.
const TICK: Duration = Duration::from_millis(500);
/// So often after a failure.
const AGAIN: Duration = Duration::from_millis(200);
/// A worker told to stop now is killed after this.
const GRACE: Duration = Duration::from_secs(10);
/// An adopted run without a lock may have a worker that is just starting.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// A run with a worker, or with one that has just died.
pub(super) struct Watch {
    jobs: Arc<Inner>,
    id: String,
    dir: RunDir,
    /// `None`: no child of this process.
    child: Option<Child>,
    changes: Changes,
    reader: Arc<Mutex<Reader>>,
    /// Its lock was seen held: a free one means death, and not a worker that is just starting.
    seen_alive: bool,
    /// Since when it is to stop now.
    stop_now: Option<Instant>,
}

/// Whether the worker lives.
enum Pulse {
    Alive {
        wrote: bool,
    },
    /// With the exit status, where it was our child.
    Gone(Option<ExitStatus>),
}

impl Watch {
    /// Follows a worker that another server started.
    pub(super) fn adopted(jobs: Arc<Inner>, row: RunRow) -> Self {
        let reader = Arc::new(Mutex::new(Reader::new(&row)));
        let dir = RunDir::new(&row.output_dir);
        Self {
            jobs,
            changes: Changes::of(dir.clone()),
            dir,
            id: row.id,
            child: None,
            reader,
            seen_alive: false,
            stop_now: None,
        }
    }

    /// Starts the worker of a queued run. `None` where there is nothing to watch: it could not be started (and is
    /// failed now), or was stopped in this very moment.
    pub(super) async fn start(jobs: Arc<Inner>, row: RunRow) -> crate::db::Result<Option<Self>> {
        let mut watch = Self::adopted(jobs, row.clone());
        let resumed = row.started_ms.is_some();
        let pid = match watch.spawn(&row, resumed).await {
            Ok(pid) => pid,
            Err(error) => {
                let reason = format!("the worker could not be started: {error}");
                tracing::error!(run.id = %row.id, reason, "run failed");
                let now = watch.jobs.clock.now_ms();
                let change = Change {
                    status: Some(Status::Failed),
                    reason: Some(Some(reason)),
                    ended_ms: Some(Some(now)),
                    ..Change::default()
                };
                runs::change(&watch.jobs.db, &row.id, now, &change).await?;
                watch.jobs.bells.ring(&row.id);
                return Ok(None);
            }
        };
        let change = Change {
            worker_pid: Some(pid),
            spawned: true,
            started_ms: Some(watch.jobs.clock.now_ms()),
            ..Change::default()
        };
        loop {
            match watch.jobs.step(&row.id, Input::Start, change.clone()).await {
                Ok(_) => return Ok(Some(watch)),
                Err(ActionError::Db(error)) if !watch.jobs.stop.is_cancelled() => {
                    tracing::warn!(run.id = %row.id, %error, "a start could not be stored; trying again");
                    sleep(AGAIN).await;
                }
                Err(_) => {
                    if let Some(mut child) = watch.child.take() {
                        // it was stopped, or the run is gone: nobody waits for this worker
                        child
                            .kill()
                            .await
                            .unwrap_or_else(|error| tracing::warn!(%error, "a worker stays"));
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Watches until the run is over, or the server stops (the worker goes on then).
    pub(super) async fn until_over(mut self) {
        let stop = self.jobs.stop.clone();
        let mut gone = None;
        while !stop.is_cancelled() {
            let mut fresh = false;
            if gone.is_none() {
                gone = tokio::select! {
                    () = stop.cancelled() => return,
                    pulse = self.pulse() => match pulse {
                        Pulse::Alive { wrote } => {
                            fresh = self.look(!wrote).await;
                            None
                        }
                        Pulse::Gone(status) => Some(status),
                    },
                };
            } else {
                sleep(AGAIN).await;
            }
            let (all_told, rang) = self.drain().await;
            if fresh && !rang {
                self.jobs.bells.ring(&self.id);
            }
            match gone {
                None => self.enforce().await,
                // its last word must be stored before anything is decided
                Some(_) if !all_told => {}
                Some(status) => match self.ended(status).await {
                    Ok(true) => {
                        self.jobs.ward.forget(&self.id);
                        return;
                    }
                    Ok(false) => gone = None,
                    Err(error) => {
                        tracing::warn!(run.id = %self.id, %error, "the end of a worker could not be stored yet");
                    }
                },
            }
        }
    }

    /// Waits until the worker has written or is gone, and at most a tick.
    async fn pulse(&mut self) -> Pulse {
        if let Some(child) = &mut self.child {
            return tokio::select! {
                status = child.wait() => {
                    self.child = None;
                    Pulse::Gone(status.ok())
                }
                wrote = self.changes.wait(TICK) => Pulse::Alive { wrote },
            };
        }
        let wrote = self.changes.wait(TICK).await;
        for _ in 0..2 {
            if self.is_held().await {
                self.seen_alive = true;
                return Pulse::Alive { wrote };
            }
            if self.seen_alive {
                break;
            }
            sleep(SECOND_LOOK).await;
        }
        self.seen_alive = false;
        Pulse::Gone(None)
    }

    /// Looks at what the worker uses, less often where it is `quiet`. True where there is something new.
    async fn look(&self, quiet: bool) -> bool {
        let (jobs, id, dir) = (self.jobs.clone(), self.id.clone(), self.dir.clone());
        let own = self.child.as_ref().and_then(Child::id);
        let looked = tokio::task::spawn_blocking(move || {
            jobs.ward.look(&id, quiet, || own.or_else(|| lock::holder(&dir)).map(i64::from))
        });
        looked.await.unwrap_or_else(|error| {
            tracing::debug!(%error, "a worker could not be looked at");
            false
        })
    }

    async fn is_held(&self) -> bool {
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || lock::is_held(&dir).unwrap_or(false))
            .await
            .unwrap_or(false)
    }

    /// Stores everything new that the worker wrote: whether the database took all of it, and whether the bell rang.
    async fn drain(&mut self) -> (bool, bool) {
        let mut rang = false;
        loop {
            let reader = self.reader.clone();
            let read = move || reader.lock().unwrap_or_else(PoisonError::into_inner).read();
            let taken = match tokio::task::spawn_blocking(read).await {
                Ok(Ok(Some(taken))) => taken,
                Ok(Ok(None)) | Err(_) => return (true, rang),
                Ok(Err(error)) => {
                    tracing::warn!(run.id = %self.id, %error, "the run's files cannot be read");
                    return (true, rang);
                }
            };
            let now = self.jobs.clock.now_ms();
            let stored = ingest::apply(&self.jobs.db, &self.id, now, &taken).await;
            match stored {
                Ok(_) => {
                    self.jobs.bells.ring(&self.id);
                    rang = true;
                }
                Err(error) => {
                    tracing::warn!(run.id = %self.id, %error, "events could not be stored; trying again");
                    // the database knows what it has; read again from there
                    if let Ok(Some(row)) = runs::get(&self.jobs.db, &self.id).await {
                        self.reader = Arc::new(Mutex::new(Reader::new(&row)));
                    }
                    return (false, rang);
                }
            }
        }
    }

    /// Kills a worker that was told to stop now and did not.
    async fn enforce(&mut self) {
        let Ok(Some(row)) = runs::get(&self.jobs.db, &self.id).await else {
            return;
        };
        if row.status != Status::Stopping
            || row.stop_mode.as_deref() != Some(StopMode::Now.as_str())
        {
            self.stop_now = None;
            return;
        }
        let since = *self.stop_now.get_or_insert_with(Instant::now);
        if since.elapsed() < GRACE {
            return;
        }
        self.stop_now = Some(Instant::now()); // once a grace time
        tracing::warn!(run.id = %self.id, "the worker did not stop in time; it is killed");
        let killed = match &mut self.child {
            Some(child) => child.start_kill().is_ok(),
            None => {
                let dir = self.dir.clone();
                tokio::task::spawn_blocking(move || spawn::kill_holder(&dir)).await.unwrap_or(false)
            }
        };
        if !killed {
            tracing::warn!(run.id = %self.id, "the worker could not be killed: who holds the lock is unknown");
        }
    }

    /// The worker is gone: what becomes of the run? True where it is over.
    async fn ended(&mut self, status: Option<ExitStatus>) -> Result<bool, ActionError> {
        let Some(row) = runs::get(&self.jobs.db, &self.id).await? else {
            return Ok(true);
        };
        if !row.status.is_active() {
            return Ok(true);
        }
        if !Path::new(&row.output_dir).is_dir() {
            let change =
                Change { reason: Some(Some("its folder is gone".to_owned())), ..Change::default() };
            self.jobs.step(&self.id, Input::Vanished, change).await?;
            return Ok(true);
        }
        let how = ending(&row, status);
        let reason = reason(&row, how, status);
        let pid = if how == Ending::Exit(ExitCode::Locked) {
            lock::holder(&self.dir).map(i64::from)
        } else {
            None
        };
        let change = Change { reason: Some(reason), worker_pid: Some(pid), ..Change::default() };
        let (row, effect) =
            self.jobs.step(&self.id, Input::Ended { how, step: row.step }, change).await?;
        match effect {
            Effect::Spawn(pause) => self.restart(row, pause).await,
            Effect::Follow => Ok(false),
            _ => Ok(true),
        }
    }

    /// Starts the worker again after a pause. True where the run is over instead.
    async fn restart(&mut self, row: RunRow, pause: Duration) -> Result<bool, ActionError> {
        tracing::warn!(run.id = %self.id, restarts = row.restarts, ?pause, "the worker died; it is started again");
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if self.jobs.stop.is_cancelled() {
                return Ok(true);
            }
            if runs::get(&self.jobs.db, &self.id)
                .await?
                .is_none_or(|row| row.status != Status::Running)
            {
                return Ok(false); // stopped meanwhile: without a lock the next round ends it
            }
            sleep(AGAIN).await;
        }
        match self.spawn(&row, true).await {
            Ok(pid) => {
                self.note(Change { worker_pid: Some(pid), spawned: true, ..Change::default() })
                    .await
            }
            // without a child and a lock the next round counts it as another death
            Err(error) => {
                tracing::error!(run.id = %self.id, %error, "the worker could not be started")
            }
        }
        Ok(false)
    }

    /// Stores a restart, however long it takes; a server that stops gives up.
    async fn note(&self, change: Change) {
        while !self.jobs.stop.is_cancelled() {
            match runs::change(&self.jobs.db, &self.id, self.jobs.clock.now_ms(), &change).await {
                Ok(row) => {
                    self.jobs.bells.ring(&self.id);
                    // a stop that came while the worker was started was settled before it could hear it
                    if let Some(mode) = super::super::state_of(&row).stop
                        && let Err(error) = super::super::wish(&self.dir, mode).await
                    {
                        tracing::warn!(run.id = %self.id, %error, "the worker cannot be told to stop");
                    }
                    return;
                }
                Err(error) => {
                    tracing::warn!(run.id = %self.id, %error, "a restart could not be stored yet")
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// Starts a worker and gives its pid.
    async fn spawn(&mut self, row: &RunRow, resume: bool) -> io::Result<Option<i64>> {
        // whatever an earlier worker said is told before the new one speaks
        while !self.drain().await.0 {
            sleep(AGAIN).await;
        }
        let (dir, file) = (self.dir.clone(), run_file(row));
        let settled = tokio::task::spawn_blocking(move || {
            fs::create_dir_all(dir.path())?;
            let same = RunFile::read(&dir).is_ok_and(|old| old == file);
            if !same {
                file.write(&dir).map_err(io::Error::other)?;
            }
            Ok::<u64, io::Error>(control::read(&dir).serial)
        });
        let serial = settled.await.map_err(io::Error::other)??;
        let config = &self.jobs.config;
        let child = spawn::worker(
            &config.worker_bin,
            self.jobs.roots.data_dir(),
            &self.dir,
            serial,
            resume,
        )?;
        let pid = child.id().map(i64::from);
        tracing::info!(run.id = %row.id, worker.pid = pid, resume, "worker started");
        self.child = Some(child);
        Ok(pid)
    }
}

fn run_file(row: &RunRow) -> RunFile {
    let created = u64::try_from(row.created_ms).unwrap_or_default();
    let mut file = RunFile::new(&row.id, created, row.config_map());
    file.source = "server".to_owned();
    file
}

/// Its own word first; then its exit status; else it died.
fn ending(row: &RunRow, status: Option<ExitStatus>) -> Ending {
    let said = row.exit_code.and_then(|code| i32::try_from(code).ok());
    let code = said.or_else(|| status.and_then(|status| status.code()));
    code.and_then(ExitCode::from_code).map_or(Ending::Died, Ending::Exit)
}

fn reason(row: &RunRow, how: Ending, status: Option<ExitStatus>) -> Option<String> {
    match how {
        Ending::Exit(ExitCode::Finished | ExitCode::Stopped) => None,
        Ending::Exit(ExitCode::Locked) => {
            Some("another process works on this run; it is followed".to_owned())
        }
        Ending::Exit(code) => {
            Some(row.exit_message.clone().unwrap_or_else(|| code.describe().to_owned()))
        }
        Ending::Died if row.status == Status::Stopping => None,
        Ending::Died => {
            let signal = status
                .and_then(|status| status.signal())
                .map(|signal| format!(" (signal {signal})"));
            let code = status
                .and_then(|status| status.code())
                .map(|code| format!(" (exit status {code})"));
            let how = signal.or(code).unwrap_or_default();
            Some(format!("the worker died{how} at step {}; its log may say why", row.step))
        }
    }
}
