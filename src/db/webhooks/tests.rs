//! What is put into the outbox, once, and how it leaves.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use run::event::{Batch, Body, Event};
use serde_json::Value;

use super::super::ingest::{self, Taken};
use super::super::runs::{self, Change, NewRun, Status};
use super::*;

async fn fixture(events: &[News]) -> (tempfile::TempDir, Db, Hook) {
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
    runs::insert(&db, &new).await.unwrap();
    let hook = NewHook {
        name: "team".to_owned(),
        url: "https://a.test/SECRET".to_owned(),
        host: "a.test".to_owned(),
        shape: "json",
        header: "X-Key: SECRET".to_owned(),
        events: events.to_vec(),
    };
    let hook = add(&db, &hook, 1).await.unwrap();
    assert!(!format!("{hook:?}").contains("SECRET"));
    (dir, db, hook)
}

async fn become_(db: &Db, status: Status, now_ms: i64) {
    let requeue = status == Status::Queued;
    let change = Change { status: Some(status), requeue, ..Change::default() };
    runs::change(db, "01A", now_ms, &change).await.unwrap();
}

async fn losses(db: &Db, first: u64, values: &[f64], now_ms: i64) {
    let body = |value: &f64| Body::metric(1, 9, 0.1, &[("loss", *value)]);
    let events = (first..).zip(values);
    let events =
        events.map(|(seq, value)| Event { seq, at_ms: 5, elapsed_s: 1.0, body: body(value) });
    let events = Batch { events: events.collect(), ..Batch::default() };
    let taken = Taken { events, ..Taken::default() };
    ingest::apply(db, "01A", now_ms, &taken).await.unwrap();
}

/// Takes everything out of the outbox, in order.
async fn told(db: &Db) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let next = due(db, i64::MAX).await.unwrap();
        let Some(one) = next.first() else {
            return all;
        };
        let body: Value = serde_json::from_str(&one.body).unwrap();
        assert_eq!(
            (body["event"].as_str(), &body["run"]["id"]),
            (Some(&*one.event), &json!("01A"))
        );
        all.push(one.event.clone());
        let done = Sent { at_ms: 9, ok: true, text: "200".to_owned() };
        sent(db, one, &done, None).await.unwrap();
    }
}

#[tokio::test]
async fn ends_are_told_each_time_and_nan_once_a_start() {
    let (_dir, db, _) = fixture(&News::ALL).await;
    become_(&db, Status::Running, 2).await;
    losses(&db, 1, &[1.0, f64::NAN, f64::NAN], 3).await;
    losses(&db, 4, &[f64::NAN], 4).await;
    become_(&db, Status::Failed, 5).await;
    become_(&db, Status::Failed, 6).await;
    assert_eq!(told(&db).await, ["nan", "failed"]);
    become_(&db, Status::Queued, 7).await;
    become_(&db, Status::Running, 8).await;
    losses(&db, 5, &[f64::NAN], 9).await;
    become_(&db, Status::Finished, 10).await;
    assert_eq!(told(&db).await, ["nan", "finished"]);
    for quiet in [Status::Queued, Status::Running, Status::Stopping, Status::Stopped] {
        become_(&db, quiet, 11).await;
    }
    assert_eq!(told(&db).await, [""; 0]);
    become_(&db, Status::Lost, 12).await;
    assert_eq!(told(&db).await, ["failed"]);
}

#[tokio::test]
async fn a_silence_is_told_once() {
    let (_dir, db, _) = fixture(&[News::Stalled]).await;
    become_(&db, Status::Running, 1_000).await;
    let look = async |before| tell_stalled(&db, before, 99_000).await.unwrap();
    look(1_000).await;
    assert_eq!(told(&db).await, [""; 0], "heard of at this very moment");
    look(1_001).await;
    look(1_002).await;
    assert_eq!(told(&db).await, ["stalled"]);
    losses(&db, 1, &[2.0], 5_000).await;
    look(5_000).await;
    assert_eq!(told(&db).await, [""; 0]);
    look(6_000).await;
    assert_eq!(told(&db).await, ["stalled"]);
    become_(&db, Status::Stopped, 7_000).await;
    look(90_000).await;
    assert_eq!(told(&db).await, [""; 0]);
}

#[tokio::test]
async fn a_try_that_failed_comes_again_and_keeps_the_order() {
    let (_dir, db, hook) = fixture(&[News::Finished, News::Failed]).await;
    become_(&db, Status::Failed, 1).await;
    become_(&db, Status::Finished, 2).await;
    let first = due(&db, 10).await.unwrap().remove(0);
    let failed = Sent { at_ms: 10, ok: false, text: "answered 500".to_owned() };
    sent(&db, &first, &failed, Some(50)).await.unwrap();
    assert!(due(&db, 49).await.unwrap().is_empty(), "the second waits behind the first");
    let again = due(&db, 50).await.unwrap().remove(0);
    assert_eq!((again.id, again.tries, again.event.as_str()), (first.id, 1, "failed"));
    let seen = list(&db).await.unwrap().remove(0);
    assert_eq!((seen.waiting, seen.last_ok, seen.last_ms), (2, Some(false), Some(10)));
    hurry(&db).await.unwrap();
    assert_eq!(told(&db).await, ["failed", "finished"]);
    assert!(remove(&db, hook.id).await.unwrap() && !remove(&db, hook.id).await.unwrap());
    become_(&db, Status::Failed, 3).await;
    assert_eq!(told(&db).await, [""; 0]);
}

#[tokio::test]
async fn only_what_is_wanted_is_told_and_not_without_end() {
    let (_dir, db, _) = fixture(&[News::Finished]).await;
    become_(&db, Status::Failed, 1).await;
    assert_eq!(told(&db).await, [""; 0]);
    let mut tx = db.write().await.unwrap();
    let sql = "with recursive n (x) as (values (2) union all select x + 1 from n where x < ?) \
               insert into delivery (hook, event, body, next_ms) select 1, 'finished', '{}', 0 from n";
    sqlx::query(sql).bind(MOST).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    for status in [Status::Finished, Status::Queued, Status::Finished] {
        become_(&db, status, 2).await;
    }
    assert_eq!(list(&db).await.unwrap()[0].waiting, MOST);
}
