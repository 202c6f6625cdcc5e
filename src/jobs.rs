//! Queue and supervisor: everything that changes a run goes through [`Jobs`].
//!
//! - [`state`]: what may happen to a run, a pure function.
//! - `create`: from arguments to a queued run. `demo`: the sample run. `edit`: name, notes and tags.
//! - [`queue`]: what waits, why, and in which order.
//! - `supervisor`: the queue's loop, and one task for each run that has a worker: it reads what the worker writes,
//!   notices its death within a second, restarts it, adopts it after a restart of the server.
//! - [`webhooks`]: news of runs to other services. [`vitals`]: what the workers use. [`spawn`]: processes. [`ingest`]: files. [`bells`]: who waits for news.

pub mod bells;
mod create;
mod demo;
mod edit;
pub mod ingest;
pub mod queue;
pub mod spawn;
pub mod state;
mod supervisor;
pub mod vitals;
pub mod webhooks;

use std::sync::Arc;

pub use run::config::{Config, FieldError, Notice};
use run::control::{self, Wish};
use run::dir::RunDir;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::ServerConfig;
use crate::db::runs::{self, Change, RunRow, Status};
use crate::db::{Db, DbError};
use crate::files::Roots;
use bells::Bells;
use state::{Effect, Input, State};

/// The handle that handlers hold. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

/// What every task of the supervisor needs.
struct Inner {
    db: Db,
    config: Arc<ServerConfig>,
    roots: Roots,
    clock: Arc<dyn Clock>,
    bells: Bells,
    ward: vitals::Ward,
    /// Wakes the queue.
    nudge: Notify,
    /// Ends every task; workers go on.
    stop: CancellationToken,
    /// One change of a run's state at a time.
    gate: tokio::sync::Mutex<()>,
}

/// How a run is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// At the next step boundary, with a checkpoint.
    Save,
    /// At once; the last checkpoint stays.
    Now,
}

impl StopMode {
    /// The word in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Now => "now",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Save, Self::Now].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// What a run is asked for while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A checkpoint.
    Save,
    /// An answer to its sample prompt.
    Sample,
}

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Arguments are wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<FieldError>),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The run directory could not be made.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Why a run could not be stopped or resumed.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// No such run.
    #[error("there is no run `{0}`")]
    NoRun(String),
    /// Not in this state; the text says why.
    #[error("{0}")]
    Refused(String),
    /// A value is wrong: which, and why.
    #[error("{0} {1}")]
    Invalid(&'static str, String),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The run directory could not be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Name and value of arguments, in the order given.
pub type Pairs = Vec<(String, serde_json::Value)>;

/// A configuration that would run.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The arguments, paths resolved.
    pub config: Config,
    /// Those that are not at their defaults.
    pub map: serde_json::Map<String, serde_json::Value>,
    /// What the list will call it.
    pub name: String,
    /// What to tell the user: arguments without effect, and why.
    pub notices: Vec<Notice>,
    /// Where it will write; `None` = a folder of its own below DATA/runs.
    pub output_dir: Option<String>,
}

impl Jobs {
    /// A queue on this database. Nothing runs before [`Jobs::start`].
    #[must_use]
    pub fn new(
        db: Db,
        config: Arc<ServerConfig>,
        roots: Roots,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Self {
        let (bells, nudge, gate) = (Bells::default(), Notify::new(), tokio::sync::Mutex::new(()));
        let ward = vitals::Ward::default();
        Self(Arc::new(Inner { db, config, roots, clock, bells, ward, nudge, stop, gate }))
    }

    /// Adopts the workers of the server before this one, then takes runs from the queue, and tells of them, until the
    /// stop token.
    pub async fn start(&self) {
        tokio::join!(supervisor::run(self.clone()), webhooks::run(self.clone()));
    }

    /// Checks a configuration without making a run: names, values, paths, whether the folder is free.
    ///
    /// # Errors
    /// With every wrong argument, or where the database fails.
    pub async fn check(&self, pairs: &Pairs) -> Result<Prepared, CreateError> {
        create::prepare(&self.0, pairs).await
    }

    /// Queues a run. The same `start_id` twice gives the same run, then with `false`.
    ///
    /// # Errors
    /// With every wrong argument, or where the database fails.
    pub async fn create(
        &self,
        pairs: &Pairs,
        start_id: Option<String>,
    ) -> Result<(RunRow, bool), CreateError> {
        if let Some(start_id) = &start_id
            && let Some(row) = runs::by_start_id(&self.0.db, start_id).await?
        {
            return Ok((row, false));
        }
        let prepared = self.check(pairs).await?;
        create::queue(&self.0, prepared, start_id).await
    }

    /// Queues the sample run.
    ///
    /// # Errors
    /// Where its files cannot be written, or the database fails.
    pub async fn demo(&self, start_id: Option<String>) -> Result<RunRow, CreateError> {
        let pairs = demo::prepare(self.0.roots.data_dir()).await?;
        self.create(&pairs, start_id).await.map(|(row, _)| row)
    }

    /// Asks a run to stop. A queued one is stopped at once.
    ///
    /// # Errors
    /// Where there is no such run or it is over.
    pub async fn stop(&self, id: &str, mode: StopMode) -> Result<RunRow, ActionError> {
        let (row, effect) = self.0.step(id, Input::Stop(mode), Change::default()).await?;
        if let Effect::Tell(mode) = effect {
            wish(&RunDir::new(&row.output_dir), mode).await?;
        }
        Ok(row)
    }

    /// Queues a stopped, failed or lost run again; it goes on from its newest checkpoint.
    ///
    /// # Errors
    /// Where there is no such run or it is not over.
    pub async fn resume(&self, id: &str) -> Result<RunRow, ActionError> {
        let found = runs::get(&self.0.db, id).await?;
        let found = found.ok_or_else(|| ActionError::NoRun(id.to_owned()))?;
        if let Some(other) = runs::unfinished_in(&self.0.db, &found.output_dir).await?
            && other.id != found.id
        {
            return Err(ActionError::Refused(format!(
                "The run {} writes to the same folder.",
                other.id
            )));
        }
        let change = Change { reason: Some(None), ended_ms: Some(None), ..Change::default() };
        let (row, _) = self.0.step(id, Input::Resume, change).await?;
        self.0.nudge.notify_one();
        Ok(row)
    }

    /// Asks a running run for a checkpoint or an answer; it goes on then.
    ///
    /// # Errors
    /// Where there is no such run, it does not run, or has no prompt to answer.
    pub async fn ask(&self, id: &str, ask: Ask) -> Result<RunRow, ActionError> {
        let _one_at_a_time = self.0.gate.lock().await;
        let row = runs::get(&self.0.db, id).await?;
        let row = row.ok_or_else(|| ActionError::NoRun(id.to_owned()))?;
        // a wish to stop must not be replaced before it was heard
        if row.status != Status::Running {
            return Err(ActionError::Refused("The run is not running.".to_owned()));
        }
        let wanted = match ask {
            Ask::Save => Wish::SaveNow,
            Ask::Sample if row.config_map().contains_key("sample_prompt") => Wish::SampleNow,
            Ask::Sample => {
                return Err(ActionError::Refused(
                    "The run has no sample_prompt that it could answer.".to_owned(),
                ));
            }
        };
        write_wish(&RunDir::new(&row.output_dir), wanted).await?;
        Ok(row)
    }

    /// What the worker of a run uses, where it has one.
    #[must_use]
    pub fn vitals(&self, id: &str) -> Option<vitals::Vitals> {
        self.0.ward.of(id)
    }

    /// The NVIDIA devices of this machine, now; asks the driver, which may take a moment.
    #[must_use]
    pub fn gpus(&self) -> Vec<crate::gpu::Gpu> {
        self.0.ward.gpus()
    }

    /// Changes whenever the run has new events.
    #[must_use]
    pub fn doorbell(&self, id: &str) -> watch::Receiver<u64> {
        self.0.bells.listen(id)
    }
}

impl Inner {
    /// One input to the state machine, stored. `change` adds what the input itself does not say.
    async fn step(
        &self,
        id: &str,
        input: Input,
        change: Change,
    ) -> Result<(RunRow, Effect), ActionError> {
        let _one_at_a_time = self.gate.lock().await;
        let row =
            runs::get(&self.db, id).await?.ok_or_else(|| ActionError::NoRun(id.to_owned()))?;
        let before = state_of(&row);
        let (after, effect) = state::next(before, input)
            .map_err(|refused| ActionError::Refused(refused.0.to_owned()))?;
        let now = self.clock.now_ms();
        let over = after.status.is_over();
        let change = Change {
            status: Some(after.status),
            restarts: Some(after.restarts),
            best_step: Some(after.best_step),
            stop_mode: Some(after.stop.map(StopMode::as_str)),
            requeue: effect == Effect::Queue,
            ended_ms: if over { Some(Some(now)) } else { change.ended_ms },
            worker_pid: if over { Some(None) } else { change.worker_pid },
            ..change
        };
        let row = runs::change(&self.db, id, now, &change).await?;
        self.bells.ring(id);
        if before.status != row.status {
            tracing::info!(run.id = %id, from = %before.status, to = %row.status, "run changed");
        }
        Ok((row, effect))
    }
}

/// Tells the worker how to stop.
async fn wish(dir: &RunDir, mode: StopMode) -> std::io::Result<()> {
    let wish = match mode {
        StopMode::Save => Wish::StopAndSave,
        StopMode::Now => Wish::StopNow,
    };
    write_wish(dir, wish).await
}

async fn write_wish(dir: &RunDir, wish: Wish) -> std::io::Result<()> {
    let dir = dir.clone();
    let written = tokio::task::spawn_blocking(move || control::write(&dir, wish)).await;
    written.map_err(std::io::Error::other)?.map(|_| ())
}

fn state_of(row: &RunRow) -> State {
    State {
        status: row.status,
        restarts: row.restarts,
        best_step: row.best_step,
        stop: row
            .stop_mode
            .as_deref()
            .and_then(StopMode::parse)
            .filter(|_| row.status == Status::Stopping),
    }
}
