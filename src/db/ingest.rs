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
use super::{Db, Result};

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
    let mut pen = Pen {
        tx: &mut tx,
        row,
        touched: BTreeSet::new(),
        keys: HashMap::new(),
    };
    if taken.events.restarted {
        pen.forget().await?;
    }
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
    if !taken.lines.is_empty() {
        let lines: Vec<_> = taken
            .lines
            .iter()
            .map(|text| json!({ "text": text }))
            .collect();
        pen.tell(now_ms, "log", &Value::Array(lines)).await?;
    }
    let mut row = pen.row;
    // the step alone is told by the metrics
    if (before.0.as_deref(), before.1) != (row.phase.as_deref(), row.total_steps)
        || row.step < before.2
    {
        append(&mut tx, &mut row, now_ms, "state", None).await?;
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
            Body::Started {
                step, total_steps, ..
            } => {
                self.row.step = cut(*step);
                self.row.total_steps = Some(cut(*total_steps));
            }
            Body::Metric { .. } => self.metric(event, at_ms).await?,
            Body::Notice { level, text } => {
                self.tell(at_ms, "notice", &json!({ "level": level, "text": text }))
                    .await?;
            }
            Body::Checkpoint { step, dir } => {
                self.row.checkpoint_step = Some(cut(*step));
                self.tell(at_ms, "checkpoint", &json!({ "step": step, "dir": dir }))
                    .await?;
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
                self.tell(at_ms, "rewound", &json!({ "to_step": to_step }))
                    .await?;
            }
            Body::Exit { code, message } => {
                self.row.exit_code = Some(i64::from(*code));
                self.row.exit_message.clone_from(message);
            }
        }
        Ok(())
    }

    async fn metric(&mut self, event: &Event, at_ms: i64) -> Result<()> {
        let Body::Metric {
            step,
            total_steps,
            epoch,
            values,
        } = &event.body
        else {
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
        for (key, value) in values {
            match key.as_str() {
                "loss" => self.row.last_loss = *value,
                "eval_loss" => self.row.last_eval_loss = *value,
                "tokens_per_s" => self.row.tokens_per_s = *value,
                _ => {}
            }
            point[key.as_str()] = json!(value);
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
        let id: i64 = sqlx::query_scalar(sql)
            .bind(name)
            .fetch_one(&mut **self.tx)
            .await?;
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
            sqlx::query(sql)
                .bind(self.row.num)
                .bind(step)
                .execute(&mut **self.tx)
                .await?;
        }
        self.touched.retain(|(_, block)| *block < step / BLOCK);
        let keys: Vec<i64> = sqlx::query_scalar("select id from metric_key")
            .fetch_all(&mut **self.tx)
            .await?;
        self.touched
            .extend(keys.into_iter().map(|key| (key, step / BLOCK)));
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
            sqlx::query(sql)
                .bind(self.row.num)
                .execute(&mut **self.tx)
                .await?;
        }
        (self.row.worker_seq, self.row.step) = (0, 0);
        Ok(())
    }

    async fn refresh_blocks(&mut self) -> Result<()> {
        for (key, block) in std::mem::take(&mut self.touched) {
            sqlx::query(
                "insert or replace into metric_block (run, key, block, n, total, low, high, last_step) \
                 select run, key, ?3, count(value), coalesce(sum(value), 0), coalesce(min(value), 0), \
                 coalesce(max(value), 0), max(step) from metric where run = ?1 and key = ?2 \
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
         worker_seq = ?13, events_offset = ?14, log_offset = ?15, exit_code = ?16, exit_message = ?17, seq = ?18 where num = ?1",
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
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// SQLite's integers are signed.
fn cut(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use run::exit::ExitCode;

    use super::super::metrics::{self, Query};
    use super::super::runs::{self, NewRun};
    use super::super::{Db, events};
    use super::*;

    async fn fixture() -> (tempfile::TempDir, Db, RunRow) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("t.db")).await.unwrap();
        let new = NewRun {
            id: "01A".to_owned(),
            start_id: None,
            name: "a".to_owned(),
            config: "{}".to_owned(),
            output_dir: "/x".to_owned(),
            created_ms: 1,
        };
        let (row, fresh) = runs::insert(&db, &new).await.unwrap();
        assert!(fresh);
        (dir, db, row)
    }

    fn taken(first: u64, bodies: Vec<Body>) -> Taken {
        let event = |(seq, body)| Event {
            seq,
            at_ms: 5,
            elapsed_s: seq as f64,
            body,
        };
        let events: Vec<Event> = (first..).zip(bodies).map(event).collect();
        let offset = events.last().map_or(0, |event| event.seq * 10);
        Taken {
            events: Batch {
                events,
                offset,
                ..Batch::default()
            },
            ..Taken::default()
        }
    }

    fn loss(step: u64, value: f64) -> Body {
        Body::metric(
            step,
            100,
            step as f64 / 10.0,
            &[("loss", value), ("lr", 0.1)],
        )
    }

    async fn curve(db: &Db, run: i64, key: &str) -> Vec<(i64, Option<f64>)> {
        let query = Query {
            keys: vec![key.to_owned()],
            ..Query::default()
        };
        let series = metrics::series(db, run, &query)
            .await
            .unwrap()
            .swap_remove(key)
            .unwrap();
        series.step.into_iter().zip(series.value).collect()
    }

    #[tokio::test]
    async fn a_batch_twice_is_a_batch_once() {
        let (_dir, db, row) = fixture().await;
        let batch = taken(
            1,
            vec![
                loss(1, 3.0),
                loss(2, f64::NAN),
                Body::Checkpoint {
                    step: 2,
                    dir: "checkpoint-2".into(),
                },
            ],
        );
        let once = apply(&db, &row.id, 9, &batch).await.unwrap();
        let twice = apply(&db, &row.id, 9, &batch).await.unwrap();
        assert_eq!(
            (once.seq, once.worker_seq, once.events_offset),
            (twice.seq, 3, 30)
        );
        assert_eq!(
            (twice.step, twice.checkpoint_step, twice.last_loss),
            (2, Some(2), None)
        );
        assert_eq!(
            curve(&db, row.num, "loss").await,
            [(1, Some(3.0)), (2, None)]
        );
        let kinds: Vec<_> = events::after(&db, row.num, 0, 99)
            .await
            .unwrap()
            .into_iter()
            .map(|e| e.kind)
            .collect();
        assert_eq!(kinds, ["metric", "metric", "checkpoint", "state"]);
    }

    #[tokio::test]
    async fn a_rewind_leaves_one_value_a_step() {
        let (_dir, db, row) = fixture().await;
        let first = (1..=300).map(|step| loss(step, 1.0)).collect();
        apply(&db, &row.id, 9, &taken(1, first)).await.unwrap();
        let mut second = vec![Body::Rewound { to_step: 280 }];
        second.extend((281..=290).map(|step| loss(step, 2.0)));
        let row = apply(&db, &row.id, 9, &taken(301, second)).await.unwrap();
        assert_eq!(row.step, 290);
        let curve = curve(&db, row.num, "loss").await;
        assert_eq!(curve.len(), 290);
        assert!(
            curve
                .iter()
                .all(|(step, value)| *value == Some(if *step > 280 { 2.0 } else { 1.0 }))
        );
        // the blocks agree with the points
        let blocks: Vec<(i64, i64, f64, i64)> = sqlx::query_as(
            "select block, n, total, last_step from metric_block b join metric_key k on k.id = b.key \
             where k.name = 'loss' order by block",
        )
        .fetch_all(db.read())
        .await
        .unwrap();
        assert_eq!(blocks, [(0, 255, 255.0, 255), (1, 35, 25.0 + 20.0, 290)]);
        let stream = events::after(&db, row.num, 0, 9999).await.unwrap();
        let steps = stream.iter().filter(|event| event.kind == "metric").count();
        assert_eq!(steps, 290, "the stream tells each step once");
    }

    #[tokio::test]
    async fn a_journal_that_begins_anew_replaces_the_old_one() {
        let (_dir, db, row) = fixture().await;
        apply(&db, &row.id, 9, &taken(1, vec![loss(1, 1.0), loss(2, 1.0)]))
            .await
            .unwrap();
        let mut batch = taken(1, vec![loss(1, 7.0)]);
        batch.events.restarted = true;
        let row = apply(&db, &row.id, 9, &batch).await.unwrap();
        assert_eq!((row.worker_seq, row.step), (1, 1));
        assert_eq!(curve(&db, row.num, "loss").await, [(1, Some(7.0))]);
    }

    #[tokio::test]
    async fn last_words_and_log_lines() {
        let (_dir, db, row) = fixture().await;
        let code = ExitCode::BadInput.code();
        let mut batch = taken(
            1,
            vec![Body::Exit {
                code,
                message: Some("no".to_owned()),
            }],
        );
        (batch.lines, batch.log_offset) = (vec!["one".to_owned(), "two".to_owned()], 8);
        let row = apply(&db, &row.id, 9, &batch).await.unwrap();
        assert_eq!(
            (row.exit_code, row.exit_message.as_deref(), row.log_offset),
            (Some(20), Some("no"), 8)
        );
        let log = events::of_kind(&db, row.num, "log", 9).await.unwrap();
        assert_eq!(log[0].body, r#"[{"text":"one"},{"text":"two"}]"#);
    }

    #[tokio::test]
    async fn long_curves_come_in_buckets() {
        let (_dir, db, row) = fixture().await;
        let spike = 33_333;
        for first in (1..=60_000_u64).step_by(10_000) {
            let points = (first..first + 10_000)
                .map(|step| loss(step, if step == spike { 50.0 } else { 1.0 }));
            apply(&db, &row.id, 9, &taken(first, points.collect()))
                .await
                .unwrap();
        }
        for points in [1500, 30] {
            let query = Query {
                keys: vec!["loss".to_owned()],
                points,
                ..Query::default()
            };
            let series = metrics::series(&db, row.num, &query)
                .await
                .unwrap()
                .swap_remove("loss")
                .unwrap();
            let (step, max) = (&series.step, series.max.as_ref().unwrap());
            assert!(
                step.len() <= points as usize + 1 && step.len() * 3 > points as usize,
                "{}",
                step.len()
            );
            assert!(step.is_sorted() && step.first() == Some(&1) && step.last() == Some(&60_000));
            assert!(max.contains(&Some(50.0)), "the spike is kept");
            assert!(series.min.unwrap().iter().all(|low| *low == Some(1.0)));
            assert_eq!(series.of, 60_000);
        }
        let query = Query {
            keys: vec!["loss".to_owned()],
            from: Some(spike as i64 - 1),
            to: Some(spike as i64 + 1),
            ..Query::default()
        };
        let series = metrics::series(&db, row.num, &query)
            .await
            .unwrap()
            .swap_remove("loss")
            .unwrap();
        assert_eq!(series.value, [Some(1.0), Some(50.0), Some(1.0)]);
        assert!(series.min.is_none());
    }
}
