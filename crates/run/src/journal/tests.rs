//! Kills, full logs and resumes, as the files see them.
#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::fs;
use std::io::Write;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::event::{Level, Phase, Tail};

fn rows(path: PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn steps(dir: &RunDir) -> Vec<u64> {
    let step = |row: Value| row["current_steps"].as_u64().unwrap();
    rows(dir.trainer_log()).into_iter().map(step).collect()
}

fn train(journal: &mut Journal, from: u64, to: u64, seconds_a_step: f64) {
    let begun = journal.elapsed_s();
    let body = Body::Started {
        step: from,
        total_steps: 10,
        trainable_params: 1,
        all_params: 2,
        epochs: 1.0,
    };
    journal.append(1, begun, body).unwrap();
    for step in from + 1..=to {
        let values = [("loss", 1.0 / step as f64), ("lr", 5e-5), ("grad_norm", 0.1)];
        let body = Body::metric(step, 10, step as f64 / 10.0, &values);
        journal.append(1, begun + seconds_a_step * (step - from) as f64, body).unwrap();
    }
}

#[test]
fn lines_are_llama_factorys_in_its_order_then_ours() {
    let root = tempfile::tempdir().unwrap();
    let dir = RunDir::new(root.path());
    let mut journal = Journal::open(&dir).unwrap();
    journal.append(1, 0.0, Body::phase(Phase::Training)).unwrap();
    train(&mut journal, 0, 2, 2.0);
    let values = [("eval_loss", 0.1 + 0.2)];
    journal.append(1, 5.0, Body::metric(2, 10, 0.2, &values)).unwrap();
    let values =
        [("loss", f64::INFINITY), ("lr", 1e-4), ("grad_norm", f64::NAN), ("total_tokens", 600.0)];
    journal.append(1, 6.0, Body::metric(3, 10, 0.3, &values)).unwrap();
    journal.append(1, 6.5, Body::metric(3, 10, 0.3, &[("memory", 1.0)])).unwrap();
    let values = [("train_runtime", 7.0), ("train_loss", 0.5)];
    journal.append(1, 90_007.0, Body::metric(10, 10, 1.0, &values)).unwrap();
    let text = fs::read_to_string(dir.trainer_log()).unwrap();
    let expected = [
        r#"{"current_steps":1,"total_steps":10,"loss":1.0,"lr":0.00005,"epoch":0.1,"percentage":10.0,"elapsed_time":"0:00:02","remaining_time":"0:00:18","grad_norm":0.1,"elapsed_s":2.0}"#,
        r#"{"current_steps":2,"total_steps":10,"loss":0.5,"lr":0.00005,"epoch":0.2,"percentage":20.0,"elapsed_time":"0:00:04","remaining_time":"0:00:16","grad_norm":0.1,"elapsed_s":4.0}"#,
        r#"{"current_steps":2,"total_steps":10,"eval_loss":0.30000000000000004,"epoch":0.2,"percentage":20.0,"elapsed_time":"0:00:05","remaining_time":"0:00:20","elapsed_s":5.0}"#,
        r#"{"current_steps":3,"total_steps":10,"loss":null,"lr":0.0001,"epoch":0.3,"percentage":30.0,"elapsed_time":"0:00:06","remaining_time":"0:00:14","throughput":100.0,"total_tokens":600,"grad_norm":null,"elapsed_s":6.0}"#,
        r#"{"current_steps":10,"total_steps":10,"epoch":1.0,"percentage":100.0,"elapsed_time":"1 day, 1:00:07","remaining_time":"0:00:00","elapsed_s":90007.0}"#,
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn after_a_resume_each_step_stands_once_and_the_pace_is_the_new_one() {
    let root = tempfile::tempdir().unwrap();
    let dir = RunDir::new(root.path());
    let mut journal = Journal::open(&dir).unwrap();
    train(&mut journal, 0, 7, 10.0);
    drop(journal);
    let mut journal = Journal::open(&dir).unwrap();
    assert_eq!(journal.elapsed_s(), 70.0);
    let before = journal.seq();
    let event = journal.rewind(2, 4).unwrap();
    assert_eq!((event.seq, event.body), (before + 1, Body::Rewound { to_step: 4 }));
    assert_eq!(steps(&dir), [1, 2, 3, 4]);
    train(&mut journal, 4, 10, 1.0);
    assert_eq!(steps(&dir), (1..=10).collect::<Vec<_>>());
    let rows = rows(dir.trainer_log());
    assert_eq!(rows[4]["elapsed_s"], 71.0);
    assert_eq!(rows[4]["remaining_time"], "0:00:05");
    // A summary is of the whole run: a run that goes on has none.
    journal.append(3, 80.0, Body::metric(10, 10, 1.0, &[("train_runtime", 80.0)])).unwrap();
    assert_eq!(steps(&dir).len(), 11);
    journal.rewind(4, 10).unwrap();
    assert_eq!(steps(&dir), (1..=10).collect::<Vec<_>>());
}

#[test]
fn seq_and_elapsed_go_on_past_damaged_and_torn_lines() {
    let root = tempfile::tempdir().unwrap();
    let dir = RunDir::new(root.path());
    let mut journal = Journal::open(&dir).unwrap();
    // Longer than the block that is looked at first.
    journal.append(1, 3.0, Body::info("x".repeat(200_000))).unwrap();
    drop(journal);
    let mut file = fs::OpenOptions::new().append(true).open(dir.events()).unwrap();
    file.write_all(b"garbage\n{\"seq\":9,\"at_ms\":1,").unwrap();
    let mut journal = Journal::open(&dir).unwrap();
    assert_eq!((journal.seq(), journal.elapsed_s()), (1, 3.0));
    // Time never runs back, and what is not finite is not written.
    let event = journal.append(1, 2.0, Body::info("b")).unwrap();
    assert_eq!((event.seq, event.elapsed_s), (2, 3.0));
    assert_eq!(journal.append(1, f64::NAN, Body::info("c")).unwrap().elapsed_s, 3.0);
    let batch = Tail::new(dir.events(), 0).read().unwrap();
    assert_eq!((batch.events.len(), batch.skipped), (3, 1));
    assert!(matches!(batch.events[2].body, Body::Notice { level: Level::Info, .. }));
}

#[test]
fn what_a_full_disk_refuses_leaves_no_line() {
    let root = tempfile::tempdir().unwrap();
    let dir = RunDir::new(root.path());
    std::os::unix::fs::symlink("/dev/full", dir.events()).unwrap();
    let mut journal = Journal::open(&dir).unwrap();
    for _ in 0..2 {
        let body = Body::metric(1, 10, 0.1, &[("loss", 1.0)]);
        let error = journal.append(1, 1.0, body).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(error.path, dir.events());
        assert_eq!((journal.seq(), steps(&dir)), (0, vec![]));
    }
}

#[test]
fn a_missing_run_directory_is_named() {
    let root = tempfile::tempdir().unwrap();
    let error = Journal::open(&RunDir::new(root.path().join("none"))).unwrap_err();
    assert!(error.to_string().contains("none/events.jsonl: "), "{error}");
}

proptest! {
    /// A kill after any byte: the journal opens, whole lines stay, and the rest is written again.
    #[test]
    fn any_cut_is_repaired(events_cut in 0.0..1.0, log_cut in 0.0..1.0, resume_at in 0_u64..8) {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::new(root.path());
        train(&mut Journal::open(&dir).unwrap(), 0, 8, 1.0);
        for (path, share) in [(dir.events(), events_cut), (dir.trainer_log(), log_cut)] {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..(bytes.len() as f64 * share) as usize]).unwrap();
        }
        let events = rows_before_cut(&dir);
        let mut journal = Journal::open(&dir).unwrap();
        prop_assert_eq!(journal.seq(), events);
        let kept = steps(&dir).len() as u64;
        let from = resume_at.min(kept);
        journal.rewind(2, from).unwrap();
        train(&mut journal, from, 10, 1.0);
        prop_assert_eq!(steps(&dir), (1..=10).collect::<Vec<_>>());
        let seqs: Vec<u64> = rows(dir.events()).iter().map(|row| row["seq"].as_u64().unwrap()).collect();
        prop_assert_eq!(&seqs, &(1..=seqs.len() as u64).collect::<Vec<_>>());
    }
}

fn rows_before_cut(dir: &RunDir) -> u64 {
    fs::read(dir.events()).unwrap().iter().filter(|byte| **byte == b'\n').count() as u64
}
