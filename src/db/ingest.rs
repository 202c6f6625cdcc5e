//! What the ingest writes: events, log lines and metrics of a worker, with the byte offsets in the same transaction.
//!
//! A batch that is applied twice changes nothing the second time: `worker_seq` says what was taken.

use std::collections::{BTreeSet, HashMap};

use run::event::{Batch, Body, Event};
use serde_json::{Value, json};
use sqlx::{Sqlite, Transaction};

use super::events::append;
use super::metrics::BLOCK;
use super::runs::{RunRow, fetch};
use super::webhooks::{News, tell};
use super::{Db, Result};

/// Values of the small curve.
const SPARK: i64 = 60;

/// What was read of a run directory since the last time.
#[derive(Debug, Default)]
pub struct Taken {
    /// Events, and where the next read of events.jsonl starts.
    pub events: Batch,
    /// Log lines, cleaned for display.
    pub lines: Vec<String>,
    /// Where the next read of worker.log starts.
    pub log_offset: u64,
}

/// Stores what was read. Gives the run back as it is then.
///
/// # Errors
/// Where the database fails; nothing is stored then.
pub async fn apply(db: &Db, id: &str, now_ms: i64, taken: &Taken) -> Result<RunRow> {
    let mut tx = db.write().await?;
    let row = fetch(&mut tx, id).await?;
    let mut pen =
        Pen { tx: &mut tx, row, touched: BTreeSet::new(), keys: HashMap::new(), nan: false };
    if taken.events.restarted {
        pen.forget().await?;
    }
    let heard = pen.row.seq;
    let before = (pen.row.phase.clone(), pen.row.total_steps, pen.row.step);
    for event in &taken.events.events {
        // a seq that was taken already comes with a batch that is applied twice
        let number = cut(event.seq);
        if number > pen.row.worker_seq {
            pen.row.worker_seq = number;
            pen.take(event).await?;
        }
    }
    pen.refresh_blocks().await?;
    pen.refresh_spark().await?;
    if !taken.lines.is_empty() {
        let lines: Vec<_> = taken.lines.iter().map(|text| json!({ "text": text })).collect();
        pen.tell(now_ms, "log", &Value::Array(lines)).await?;
    }
    let nan = pen.nan;
    let mut row = pen.row;
    // the step alone is told by the metrics
    if (before.0.as_deref(), before.1) != (row.phase.as_deref(), row.total_steps)
        || row.step < before.2
    {
        append(&mut tx, &mut row, now_ms, "state", None).await?;
    }
    if row.seq > heard {
        row.heard_ms = now_ms;
    }
    if nan {
        tell(&mut tx, &row, News::Nan, Some(0), now_ms).await?;
    }
    row.events_offset = cut(taken.events.offset);
    row.log_offset = cut(taken.log_offset);
    store(&mut tx, &row).await?;
    tx.commit().await?;
    Ok(row)
}

/// The transaction, the row as it becomes, and which metric blocks must be computed anew.
struct Pen<'a> {
    tx: &'a mut Transaction<'static, Sqlite>,
    row: RunRow,
    touched: BTreeSet<(i64, i64)>,
    keys: HashMap<String, i64>,
    /// A loss came that is not finite.
    nan: bool,
}

impl Pen<'_> {
    async fn take(&mut self, event: &Event) -> Result<()> {
        let at_ms = cut(event.at_ms);
        self.row.elapsed_s = Some(event.elapsed_s);
        match &event.body {
            Body::Phase { phase, done, total } => {
                self.row.phase = Some(phase.name().to_owned());
                (self.row.phase_done, self.row.phase_total) = (done.map(cut), total.map(cut));
            }
            Body::Started { step, total_steps, .. } => {
                self.row.step = cut(*step);
                self.row.total_steps = Some(cut(*total_steps));
            }
            Body::Metric { .. } => self.metric(event, at_ms).await?,
            Body::Notice { level, text } => {
                self.tell(at_ms, "notice", &json!({ "level": level, "text": text })).await?;
            }
            Body::Checkpoint { step, dir } => {
                self.row.checkpoint_step = Some(cut(*step));
                self.tell(at_ms, "checkpoint", &json!({ "step": step, "dir": dir })).await?;
            }
            Body::Sample { step, prompt, text } => {
                self.tell(
                    at_ms,
                    "sample",
                    &json!({ "step": step, "prompt": prompt, "text": text }),
                )
                .await?;
            }
            Body::Rewound { to_step } => {
                self.rewind(cut(*to_step)).await?;
                self.tell(at_ms, "rewound", &json!({ "to_step": to_step })).await?;
            }
            Body::Exit { code, message } => {
                self.row.exit_code = Some(i64::from(*code));
                self.row.exit_message.clone_from(message);
            }
        }
        Ok(())
    }

    async fn metric(&mut self, event: &Event, at_ms: i64) -> Result<()> {
        let Body::Metric { step, total_steps, epoch, values } = &event.body else {
            return Ok(());
        };
        let step = cut(*step);
        self.row.step = self.row.step.max(step);
        self.row.total_steps = Some(cut(*total_steps));
        self.row.epoch = Some(*epoch);
        let mut point = json!({
            "seq": self.row.seq + 1, "step": step, "total_steps": total_steps, "epoch": epoch,
            "elapsed_s": event.elapsed_s, "at_ms": at_ms,
        });
        // where the step is in time: a curve of its own, beside the total of tokens
        let elapsed = values.contains_key("loss").then_some(("elapsed_s", Some(event.elapsed_s)));
        let values = values.iter().map(|(key, value)| (key.as_str(), *value));
        for (key, value) in values.chain(elapsed) {
            match key {
                "loss" => (self.row.last_loss, self.nan) = (value, self.nan || value.is_none()),
                "eval_loss" => {
                    (self.row.last_eval_loss, self.nan) = (value, self.nan || value.is_none());
                }
                "tokens_per_s" => self.row.tokens_per_s = value,
                _ => {}
            }
            point[key] = json!(value);
            let key = self.key(key).await?;
            sqlx::query(
                "insert or replace into metric (run, key, step, seq, value) values (?, ?, ?, ?, ?)",
            )
            .bind(self.row.num)
            .bind(key)
            .bind(step)
            .bind(self.row.seq + 1)
            .bind(value)
            .execute(&mut **self.tx)
            .await?;
            self.touched.insert((key, step / BLOCK));
        }
        self.tell(at_ms, "metric", &point).await
    }

    /// The number of a curve's name; made where it is new.
    async fn key(&mut self, name: &str) -> Result<i64> {
        if let Some(id) = self.keys.get(name) {
            return Ok(*id);
        }
        sqlx::query("insert or ignore into metric_key (name) values (?)")
            .bind(name)
            .execute(&mut **self.tx)
            .await?;
        let sql = "select id from metric_key where name = ?";
        let id: i64 = sqlx::query_scalar(sql).bind(name).fetch_one(&mut **self.tx).await?;
        self.keys.insert(name.to_owned(), id);
        Ok(id)
    }

    async fn tell(&mut self, at_ms: i64, kind: &str, body: &Value) -> Result<()> {
        append(self.tx, &mut self.row, at_ms, kind, Some(body)).await
    }

    /// What was said of steps after `step` no longer holds.
    async fn rewind(&mut self, step: i64) -> Result<()> {
        for sql in [
            "delete from metric where run = ?1 and step > ?2",
            "delete from metric_block where run = ?1 and block >= ?2 / 256",
            "delete from event where run = ?1 and kind in ('metric', 'sample') and json_extract(body, '$.step') > ?2",
        ] {
            sqlx::query(sql).bind(self.row.num).bind(step).execute(&mut **self.tx).await?;
        }
        self.touched.retain(|(_, block)| *block < step / BLOCK);
        let keys: Vec<i64> =
            sqlx::query_scalar("select id from metric_key").fetch_all(&mut **self.tx).await?;
        self.touched.extend(keys.into_iter().map(|key| (key, step / BLOCK)));
        self.row.step = step;
        Ok(())
    }

    /// events.jsonl began anew: nothing of the old one holds.
    async fn forget(&mut self) -> Result<()> {
        for sql in [
            "delete from metric where run = ?",
            "delete from metric_block where run = ?",
            "delete from event where run = ? and kind in ('metric', 'sample', 'checkpoint', 'notice', 'rewound')",
        ] {
            sqlx::query(sql).bind(self.row.num).execute(&mut **self.tx).await?;
        }
        (self.row.worker_seq, self.row.step, self.row.spark_step) = (0, 0, 0);
        Ok(())
    }

    /// Draws the small curve of the list anew whenever a sixtieth of the run is done, and at its end.
    async fn refresh_spark(&mut self) -> Result<()> {
        let row = &self.row;
        let every = (row.total_steps.unwrap_or(0) / SPARK).max(1);
        let moved = row.step - row.spark_step >= every || row.step < row.spark_step;
        if !moved && (row.exit_code.is_none() || row.step == row.spark_step) {
            return Ok(());
        }
        let sql = if row.step <= SPARK * BLOCK {
            "select avg(value) from metric where run = ?1 \
             and key = (select id from metric_key where name = 'loss') \
             group by step * 60 / (?2 + 1) order by min(step)"
        } else {
            "select sum(total) / nullif(sum(n), 0) from metric_block where run = ?1 \
             and key = (select id from metric_key where name = 'loss') \
             group by block * 60 / (?2 / 256 + 1) order by min(block)"
        };
        let query = sqlx::query_scalar(sql).bind(row.num).bind(row.step);
        let values: Vec<Option<f64>> = query.fetch_all(&mut **self.tx).await?;
        let word = |value: &Option<f64>| match value.filter(|value| value.is_finite()) {
            Some(value) => format!("{value:.4}"),
            None => "x".to_owned(),
        };
        self.row.spark = values.iter().map(word).collect::<Vec<_>>().join(" ");
        self.row.spark_step = self.row.step;
        Ok(())
    }

    async fn refresh_blocks(&mut self) -> Result<()> {
        for (key, block) in std::mem::take(&mut self.touched) {
            sqlx::query(
                "insert or replace into metric_block (run, key, block, n, total, low, high, last_step, bad) \
                 select run, key, ?3, count(value), coalesce(sum(value), 0), coalesce(min(value), 0), \
                 coalesce(max(value), 0), max(step), count(*) - count(value) from metric where run = ?1 and key = ?2 \
                 and step between ?3 * 256 and ?3 * 256 + 255 group by run, key",
            )
            .bind(self.row.num)
            .bind(key)
            .bind(block)
            .execute(&mut **self.tx)
            .await?;
        }
        Ok(())
    }
}

async fn store(tx: &mut Transaction<'static, Sqlite>, row: &RunRow) -> Result<()> {
    sqlx::query(
        "update run set phase = ?2, phase_done = ?3, phase_total = ?4, step = ?5, total_steps = ?6, epoch = ?7, \
         elapsed_s = ?8, tokens_per_s = ?9, last_loss = ?10, last_eval_loss = ?11, checkpoint_step = ?12, \
         worker_seq = ?13, events_offset = ?14, log_offset = ?15, exit_code = ?16, exit_message = ?17, seq = ?18, \
         spark = ?19, spark_step = ?20, heard_ms = ?21 where num = ?1",
    )
    .bind(row.num)
    .bind(&row.phase)
    .bind(row.phase_done)
    .bind(row.phase_total)
    .bind(row.step)
    .bind(row.total_steps)
    .bind(row.epoch)
    .bind(row.elapsed_s)
    .bind(row.tokens_per_s)
    .bind(row.last_loss)
    .bind(row.last_eval_loss)
    .bind(row.checkpoint_step)
    .bind(row.worker_seq)
    .bind(row.events_offset)
    .bind(row.log_offset)
    .bind(row.exit_code)
    .bind(&row.exit_message)
    .bind(row.seq)
    .bind(&row.spark)
    .bind(row.spark_step)
    .bind(row.heard_ms)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// SQLite's integers are signed.
fn cut(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
