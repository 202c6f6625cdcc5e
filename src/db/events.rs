//! The `event` table: what the live page replays, numbered 1, 2, 3 ... a run.

use serde_json::{Value, json};
use sqlx::{FromRow, Sqlite, Transaction};

use super::runs::RunRow;
use super::{Db, Result};

/// One stored event.
#[derive(Debug, Clone, FromRow)]
pub struct EventRow {
    /// Its number in the run: the SSE id.
    pub seq: i64,
    /// metric, log, state, sample, checkpoint, notice or done.
    pub kind: String,
    /// When it happened.
    pub at_ms: i64,
    /// JSON.
    pub body: String,
}

/// The events after `after`, oldest first, at most `limit`.
///
/// # Errors
/// Where the database fails.
pub async fn after(db: &Db, run: i64, after: i64, limit: u32) -> Result<Vec<EventRow>> {
    let sql =
        "select seq, kind, at_ms, body from event where run = ? and seq > ? order by seq limit ?";
    Ok(sqlx::query_as(sql).bind(run).bind(after).bind(limit).fetch_all(db.read()).await?)
}

/// The newest events of one kind that is not `metric`, oldest first, at most `limit`: samples, checkpoints, notices of the run page.
///
/// # Errors
/// Where the database fails.
pub async fn of_kind(db: &Db, run: i64, kind: &str, limit: u32) -> Result<Vec<EventRow>> {
    let sql = "select seq, kind, at_ms, body from (select * from event indexed by event_kind where run = ? and kind = ? and kind != 'metric' \
               order by seq desc limit ?) order by seq";
    Ok(sqlx::query_as(sql).bind(run).bind(kind).bind(limit).fetch_all(db.read()).await?)
}

/// Appends one event and counts `row.seq` up, which the caller stores; without a body, the state of `row` itself.
pub(super) async fn append(
    tx: &mut Transaction<'_, Sqlite>,
    row: &mut RunRow,
    at_ms: i64,
    kind: &str,
    body: Option<&Value>,
) -> Result<()> {
    row.seq += 1;
    let text = match body {
        Some(body) => body.to_string(),
        None => state(row).to_string(),
    };
    sqlx::query("insert into event (run, seq, kind, at_ms, body) values (?, ?, ?, ?, ?)")
        .bind(row.num)
        .bind(row.seq)
        .bind(kind)
        .bind(at_ms)
        .bind(text)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// What a `state` event says of a run.
#[must_use]
pub fn state(row: &RunRow) -> Value {
    json!({
        "status": row.status.as_str(), "phase": row.phase, "phase_done": row.phase_done,
        "phase_total": row.phase_total, "step": row.step, "total_steps": row.total_steps,
        "epoch": row.epoch, "eta_s": row.eta_s(), "elapsed_s": row.elapsed_s,
        "tokens_per_s": row.tokens_per_s, "worker_pid": row.worker_pid, "restarts": row.restarts,
        "reason": row.reason,
    })
}
