//! The `run` table: one row a run, what the list and the run page show.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};
use sqlx::{FromRow, Sqlite, Transaction};

use super::webhooks::{self, News};
use super::{Db, DbError, Result};

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Waits for a free worker.
    Queued,
    /// A worker has it.
    Running,
    /// A worker has it and was told to stop.
    Stopping,
    /// The worker ended with success.
    Finished,
    /// Stopped on request; can be resumed.
    Stopped,
    /// Ended by an error, or its worker died too often; can be resumed.
    Failed,
    /// Its folder is gone or unreadable: nobody can say what became of it.
    Lost,
}

impl Status {
    /// All of them, in the order of a run's life.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Stopping,
        Self::Finished,
        Self::Stopped,
        Self::Failed,
        Self::Lost,
    ];

    /// The word in the database and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }

    /// True for running and stopping: a worker is (or should be) alive.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Stopping)
    }

    /// True where nothing happens any more without somebody asking for it.
    #[must_use]
    pub fn is_over(self) -> bool {
        !self.is_active() && self != Self::Queued
    }

    /// True where Resume is offered.
    #[must_use]
    pub fn can_resume(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed | Self::Lost)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = DbError;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|status| status.as_str() == text);
        found.ok_or_else(|| DbError::Unknown(format!("run status `{text}`")))
    }
}

impl TryFrom<String> for Status {
    type Error = DbError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// One run, complete. Times are milliseconds since 1970.
#[derive(Debug, Clone, FromRow)]
pub struct RunRow {
    /// Short key of the event and metric tables.
    pub num: i64,
    /// ULID, as in the URL.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Where it stands.
    #[sqlx(try_from = "String")]
    pub status: Status,
    /// The frozen configuration, a JSON object ([`RunRow::config_map`]).
    pub config: String,
    /// The run directory, absolute.
    pub output_dir: String,
    /// When it was asked for.
    pub created_ms: i64,
    /// When a worker first took it.
    pub started_ms: Option<i64>,
    /// When it was over.
    pub ended_ms: Option<i64>,
    /// Place in the queue; only the order counts.
    pub queue_pos: i64,
    /// Process id of its worker, while one is alive.
    pub worker_pid: Option<i64>,
    /// The present worker's last word; `None` while it lives or where it died without one.
    pub exit_code: Option<i64>,
    /// The reason it gave.
    pub exit_message: Option<String>,
    /// Automatic restarts since the last progress.
    pub restarts: i64,
    /// Highest step at the last restart.
    pub best_step: i64,
    /// `save` or `now` while stopping.
    pub stop_mode: Option<String>,
    /// Why it failed, was stopped or restarted; one line.
    pub reason: Option<String>,
    /// What the worker does: starting, tokenizer, data, model, training, evaluating, saving, finalizing.
    pub phase: Option<String>,
    /// Progress of the phase.
    pub phase_done: Option<i64>,
    /// What `phase_done` runs up to.
    pub phase_total: Option<i64>,
    /// Optimiser steps done.
    pub step: i64,
    /// Optimiser steps in all, once known.
    pub total_steps: Option<i64>,
    /// Epochs done.
    pub epoch: Option<f64>,
    /// Monotonic seconds since training began, as of the last event.
    pub elapsed_s: Option<f64>,
    /// Throughput of the last step that was logged.
    pub tokens_per_s: Option<f64>,
    /// Last training loss.
    pub last_loss: Option<f64>,
    /// Last evaluation loss.
    pub last_eval_loss: Option<f64>,
    /// Step of the newest checkpoint.
    pub checkpoint_step: Option<i64>,
    /// Number of the last event: the cursor to start the SSE stream from.
    pub seq: i64,
    /// Last seq taken from events.jsonl.
    pub worker_seq: i64,
    /// Bytes of events.jsonl taken.
    pub events_offset: i64,
    /// Bytes of worker.log taken.
    pub log_offset: i64,
    /// The model as it was given.
    pub model: String,
    /// Names of the data sets, with commas.
    pub dataset: String,
    /// `finetuning_type`.
    pub method: String,
    /// What a person wrote about it.
    pub notes: String,
    /// The loss in at most 60 values with spaces between them; `x` is not finite.
    pub spark: String,
    /// The step that `spark` was drawn at.
    pub spark_step: i64,
    /// When its worker last wrote something, or its state changed.
    pub heard_ms: i64,
    /// Who started it; empty in runs of the time before there were people.
    pub owner: String,
}

impl RunRow {
    /// The configuration as a map; empty where the stored text is damaged.
    #[must_use]
    pub fn config_map(&self) -> Map<String, Value> {
        serde_json::from_str(&self.config).unwrap_or_default()
    }

    /// Seconds left at the present pace, where it can be told.
    #[must_use]
    pub fn eta_s(&self) -> Option<f64> {
        let (total, elapsed) = (self.total_steps?, self.elapsed_s?);
        if !self.status.is_active() || self.step <= 0 || elapsed <= 0.0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
        let eta = elapsed / self.step as f64 * (total - self.step).max(0) as f64;
        Some(eta)
    }
}

/// A run about to be queued.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// ULID.
    pub id: String,
    /// The client's key for "the same click".
    pub start_id: Option<String>,
    /// Name for people.
    pub name: String,
    /// The configuration as a JSON object.
    pub config: String,
    /// Absolute run directory.
    pub output_dir: String,
    /// Now.
    pub created_ms: i64,
}

const COLUMNS: &str = "select num, id, name, status, config, output_dir, created_ms, started_ms, \
    ended_ms, queue_pos, worker_pid, exit_code, exit_message, restarts, best_step, stop_mode, reason, phase, \
    phase_done, phase_total, step, total_steps, epoch, elapsed_s, tokens_per_s, last_loss, \
    last_eval_loss, checkpoint_step, seq, worker_seq, events_offset, log_offset, \
    model, dataset, method, notes, spark, spark_step, owner, heard_ms from run ";

pub(super) fn select(tail: &'static str) -> sqlx::AssertSqlSafe<String> {
    // both halves are literals of this folder
    sqlx::AssertSqlSafe(format!("{COLUMNS}{tail}"))
}

/// The run of that id.
///
/// # Errors
/// Where the database fails.
pub async fn get(db: &Db, id: &str) -> Result<Option<RunRow>> {
    Ok(sqlx::query_as(select("where id = ?")).bind(id).fetch_optional(db.read()).await?)
}

/// The run that was made with that `start_id`.
///
/// # Errors
/// Where the database fails.
pub async fn by_start_id(db: &Db, start_id: &str) -> Result<Option<RunRow>> {
    Ok(sqlx::query_as(select("where start_id = ?"))
        .bind(start_id)
        .fetch_optional(db.read())
        .await?)
}

/// Every run of these states, next in the queue first.
///
/// # Errors
/// Where the database fails.
pub async fn in_status(db: &Db, statuses: &[Status]) -> Result<Vec<RunRow>> {
    let words: Vec<&str> = statuses.iter().map(|status| status.as_str()).collect();
    let rows = sqlx::query_as(select(
        "where status in (select value from json_each(?)) order by queue_pos, num",
    ))
    .bind(serde_json::to_string(&words).unwrap_or_default())
    .fetch_all(db.read())
    .await?;
    Ok(rows)
}

/// How many runs there are of each status; states without a run are left out.
///
/// # Errors
/// Where the database fails.
pub async fn counts(db: &Db) -> Result<Vec<(Status, i64)>> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("select status, count(*) from run group by status")
            .fetch_all(db.read())
            .await?;
    rows.into_iter().map(|(status, n)| Ok((status.parse()?, n))).collect()
}

/// How many queued runs are before this one.
///
/// # Errors
/// Where the database fails.
pub async fn queued_ahead(db: &Db, run: &RunRow) -> Result<i64> {
    let sql = "select count(*) from run where status = 'queued' and queue_pos < ?";
    Ok(sqlx::query_scalar(sql).bind(run.queue_pos).fetch_one(db.read()).await?)
}

/// The run that writes to `output_dir` at present or will, if any.
///
/// # Errors
/// Where the database fails.
pub async fn unfinished_in(db: &Db, output_dir: &str) -> Result<Option<RunRow>> {
    let tail = "where output_dir = ? and status in ('queued', 'running', 'stopping') limit 1";
    Ok(sqlx::query_as(select(tail)).bind(output_dir).fetch_optional(db.read()).await?)
}

/// Queues a run. The same `start_id` twice gives the same run: then `false` comes with it.
///
/// # Errors
/// Where the database fails.
pub async fn insert(db: &Db, run: &NewRun) -> Result<(RunRow, bool)> {
    let mut tx = db.write().await?;
    if let Some(start_id) = &run.start_id {
        let old = sqlx::query_as(select("where start_id = ?"))
            .bind(start_id)
            .fetch_optional(&mut *tx)
            .await?;
        if let Some(old) = old {
            return Ok((old, false));
        }
    }
    let of = |name: &str, default: &str| argument(&run.config, name, default);
    let (model, dataset) = (of("model_name_or_path", ""), of("dataset", ""));
    let search = [run.name.as_str(), &run.id, &model, &dataset].join("\n").to_lowercase();
    sqlx::query(
        "insert into run (id, start_id, name, status, config, output_dir, created_ms, model, dataset, method, search, \
         queue_pos) values (?1, ?2, ?3, 'queued', ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
         (select coalesce(max(queue_pos), 0) + 1 from run))",
    )
    .bind(&run.id)
    .bind(&run.start_id)
    .bind(&run.name)
    .bind(&run.config)
    .bind(&run.output_dir)
    .bind(run.created_ms)
    .bind(model)
    .bind(dataset)
    .bind(of("finetuning_type", "lora"))
    .bind(search)
    .execute(&mut *tx)
    .await?;
    let row = fetch(&mut tx, &run.id).await?;
    tx.commit().await?;
    Ok((row, true))
}

/// An argument of a configuration as text; lists with commas.
fn argument(config: &str, name: &str, default: &str) -> String {
    let config: Value = serde_json::from_str(config).unwrap_or_default();
    match config.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        _ => default.to_owned(),
    }
}

/// What the supervisor changes of a run, in one statement. `None` leaves a column as it is.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// New status.
    pub status: Option<Status>,
    /// New reason; `Some(None)` clears it.
    pub reason: Option<Option<String>>,
    /// New worker; `Some(None)` clears it.
    pub worker_pid: Option<Option<i64>>,
    /// A new worker was started: the last word of the one before no longer counts.
    pub spawned: bool,
    /// Restarts without progress.
    pub restarts: Option<i64>,
    /// Highest step at the last restart.
    pub best_step: Option<i64>,
    /// How it is to stop; `Some(None)` clears it.
    pub stop_mode: Option<Option<&'static str>>,
    /// Set once, at the first start.
    pub started_ms: Option<i64>,
    /// When it was over; `Some(None)` clears it.
    pub ended_ms: Option<Option<i64>>,
    /// Put it at the end of the queue.
    pub requeue: bool,
}

/// Applies a change and appends the `state` event (or `done`, where the run is over) that tells the live page of it.
///
/// # Errors
/// Where the database fails, or there is no such run.
pub async fn change(db: &Db, id: &str, now_ms: i64, change: &Change) -> Result<RunRow> {
    let mut tx = db.write().await?;
    let before = fetch(&mut tx, id).await?.status;
    sqlx::query(
        "update run set status = coalesce(?2, status), heard_ms = ?16, \
         reason = iif(?3, ?4, reason), worker_pid = iif(?5, ?6, worker_pid), \
         exit_code = iif(?7, null, exit_code), exit_message = iif(?7, null, exit_message), \
         restarts = coalesce(?8, restarts), \
         best_step = coalesce(?9, best_step), stop_mode = iif(?10, ?11, stop_mode), \
         started_ms = coalesce(started_ms, ?12), ended_ms = iif(?13, ?14, ended_ms), \
         queue_pos = iif(?15, (select max(queue_pos) + 1 from run), queue_pos) where id = ?1",
    )
    .bind(id)
    .bind(change.status.map(Status::as_str))
    .bind(change.reason.is_some())
    .bind(change.reason.clone().flatten())
    .bind(change.worker_pid.is_some())
    .bind(change.worker_pid.flatten())
    .bind(change.spawned)
    .bind(change.restarts)
    .bind(change.best_step)
    .bind(change.stop_mode.is_some())
    .bind(change.stop_mode.flatten())
    .bind(change.started_ms)
    .bind(change.ended_ms.is_some())
    .bind(change.ended_ms.flatten())
    .bind(change.requeue)
    .bind(now_ms)
    .execute(&mut *tx)
    .await?;
    let mut row = fetch(&mut tx, id).await?;
    tell(&mut tx, before, &row, now_ms).await?;
    let kind = if row.status.is_over() { "done" } else { "state" };
    super::events::append(&mut tx, &mut row, now_ms, kind, None).await?;
    let stored = sqlx::query("update run set seq = ? where num = ?").bind(row.seq).bind(row.num);
    stored.execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(row)
}

/// Tells of what a run has become.
async fn tell(
    tx: &mut Transaction<'_, Sqlite>,
    before: Status,
    row: &RunRow,
    now_ms: i64,
) -> Result<()> {
    let news = match row.status {
        status if status == before => return Ok(()),
        Status::Finished => News::Finished,
        Status::Failed | Status::Lost => News::Failed,
        Status::Queued => return webhooks::forget(tx, row.num).await,
        _ => return Ok(()),
    };
    webhooks::tell(tx, row, news, None, now_ms).await
}

pub(super) async fn fetch(tx: &mut Transaction<'_, Sqlite>, id: &str) -> Result<RunRow> {
    Ok(sqlx::query_as(select("where id = ?")).bind(id).fetch_one(&mut **tx).await?)
}
