//! Batches twice, rewinds, journals that begin anew, curves that are long.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

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
    let event = |(seq, body)| Event { seq, at_ms: 5, elapsed_s: seq as f64, body };
    let events: Vec<Event> = (first..).zip(bodies).map(event).collect();
    let offset = events.last().map_or(0, |event| event.seq * 10);
    Taken { events: Batch { events, offset, ..Batch::default() }, ..Taken::default() }
}

fn loss(step: u64, value: f64) -> Body {
    Body::metric(step, 100, step as f64 / 10.0, &[("loss", value), ("lr", 0.1)])
}

async fn curve(db: &Db, run: i64, key: &str) -> Vec<(i64, Option<f64>)> {
    let query = Query { keys: vec![key.to_owned()], ..Query::default() };
    let series = metrics::series(db, run, &query).await.unwrap().swap_remove(key).unwrap();
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
            Body::Checkpoint { step: 2, dir: "checkpoint-2".into() },
        ],
    );
    let once = apply(&db, &row.id, 9, &batch).await.unwrap();
    let twice = apply(&db, &row.id, 9, &batch).await.unwrap();
    assert_eq!((once.seq, once.worker_seq, once.events_offset), (twice.seq, 3, 30));
    assert_eq!((twice.step, twice.checkpoint_step, twice.last_loss), (2, Some(2), None));
    assert_eq!(curve(&db, row.num, "loss").await, [(1, Some(3.0)), (2, None)]);
    let kinds: Vec<_> =
        events::after(&db, row.num, 0, 99).await.unwrap().into_iter().map(|e| e.kind).collect();
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
    assert!(curve.iter().all(|(step, value)| *value == Some(if *step > 280 { 2.0 } else { 1.0 })));
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
    apply(&db, &row.id, 9, &taken(1, vec![loss(1, 1.0), loss(2, 1.0)])).await.unwrap();
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
    let mut batch = taken(1, vec![Body::Exit { code, message: Some("no".to_owned()) }]);
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
        let points =
            (first..first + 10_000).map(|step| loss(step, if step == spike { 50.0 } else { 1.0 }));
        apply(&db, &row.id, 9, &taken(first, points.collect())).await.unwrap();
    }
    for points in [1500, 30] {
        let query = Query { keys: vec!["loss".to_owned()], points, ..Query::default() };
        let series =
            metrics::series(&db, row.num, &query).await.unwrap().swap_remove("loss").unwrap();
        let (step, max) = (&series.step, series.max.as_ref().unwrap());
        assert!(
            step.len() <= points as usize + 2 && step.len() * 3 > points as usize,
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
    let series = metrics::series(&db, row.num, &query).await.unwrap().swap_remove("loss").unwrap();
    assert_eq!(series.value, [Some(1.0), Some(50.0), Some(1.0)]);
    assert!(series.min.is_none());
}
