//! Runs that never ran: rows as a worker's events would leave them, so that every state can be looked at.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::Path;

use run::event::{Batch, Body, Event, Phase};
use serde_json::json;
use tallow::db::Db;
use tallow::db::ingest::{self, Taken};
use tallow::db::runs::{self, Change, NewRun, Status};

/// 2026-11-24 07:43 UTC.
const NOW: i64 = 1_795_506_192_000;

/// The finished run's id.
pub const FINISHED: &str = "01JZ00000000000000000000A1";
/// The failed run's id.
pub const FAILED: &str = "01JZ00000000000000000000A2";

/// A finished run, a failed one and a stopped one.
pub async fn three_states(dir: &Path) {
    let db = Db::open(&dir.join("tallow.db")).await.unwrap();
    run(&db, dir, FINISHED, "Sample run", Status::Finished, 240).await;
    run(&db, dir, FAILED, "smollm2 · support tickets · lora", Status::Failed, 87).await;
    run(
        &db,
        dir,
        "01JZ00000000000000000000A3",
        "<b>qwen3</b> · \"quotes\" & more",
        Status::Stopped,
        120,
    )
    .await;
    db.close().await;
    library(dir);
}

/// A model, one that cannot be trained, and data sets: good, bad and remote.
fn library(dir: &Path) {
    let model = dir.join("models/sample");
    std::fs::create_dir_all(&model).unwrap();
    for entry in std::fs::read_dir("data/demo/model").unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let odd = dir.join("models/odd");
    std::fs::create_dir_all(&odd).unwrap();
    std::fs::write(odd.join("config.json"), r#"{"model_type": "mamba"}"#).unwrap();
    let row = |n: usize| match n % 40 {
        7 => json!({"instruction": 5, "output": "x"}),
        8 => json!({"instruction": "Again?", "output": " "}),
        _ => {
            let length = 1 + n * 7 % 23;
            let said = "why is the sky blue? ".repeat(length);
            json!({"instruction": said, "output": "Because of Rayleigh scattering. ".repeat(1 + length / 3)})
        }
    };
    let rows: Vec<String> = (0..300).map(|n| row(n).to_string()).collect();
    std::fs::write(dir.join("sky.jsonl"), rows.join("\n")).unwrap();
    let info = json!({"sky": {"file_name": "sky.jsonl"}, "gone": {"file_name": "gone.json"},
        "remote": {"hf_hub_url": "owner/rows"}});
    std::fs::write(dir.join("dataset_info.json"), info.to_string()).unwrap();
}

/// Many runs, to fill pages.
pub async fn many(dir: &Path) {
    let db = Db::open(&dir.join("tallow.db")).await.unwrap();
    for number in 0..60 {
        let id = format!("01JZ00000000000000000000{number:02}");
        run(&db, dir, &id, &format!("sweep {number}"), Status::Finished, 0).await;
    }
    db.close().await;
}

async fn run(db: &Db, dir: &Path, id: &str, name: &str, status: Status, steps: u64) {
    let output_dir = dir.join("runs").join(id).display().to_string();
    let config = json!({
        "model_name_or_path": "/models/SmolLM2-135M-Instruct", "dataset": "identity", "template": "chatml", "lora_rank": 16,
        "learning_rate": 1e-3, "logging_steps": 1, "num_train_epochs": 10.0, "output_dir": output_dir, "run_name": name,
    });
    let new = NewRun {
        id: id.to_owned(),
        start_id: None,
        name: name.to_owned(),
        config: config.to_string(),
        output_dir,
        created_ms: NOW,
    };
    runs::insert(db, &new).await.unwrap();
    let change =
        Change { status: Some(Status::Running), started_ms: Some(NOW + 900), ..Change::default() };
    runs::change(db, id, NOW + 900, &change).await.unwrap();
    ingest::apply(db, id, NOW, &story(steps)).await.unwrap();
    let reason = (status == Status::Failed).then(|| {
        "the loss of step 88 is not finite; no update was made. Try a lower learning_rate."
            .to_owned()
    });
    let change = Change {
        status: Some(status),
        ended_ms: Some(Some(NOW + 75_000)),
        reason: Some(reason),
        ..Change::default()
    };
    runs::change(db, id, NOW + 75_000, &change).await.unwrap();
}

/// What a worker says on its way to that step of 240.
fn story(steps: u64) -> Taken {
    let mut bodies = Vec::new();
    let mut lines = vec!["07:43:13 model: 1.2 M parameters, all of them train".to_owned()];
    if steps > 0 {
        bodies.push(Body::Started {
            step: 0,
            total_steps: 240,
            trainable_params: 1_200_000,
            all_params: 1_200_000,
            epochs: 10.0,
        });
        let text = "the of a <script>alert(1)</script> he to and is".to_owned();
        bodies.push(Body::Sample { step: 0, prompt: "Who are you?".to_owned(), text });
        bodies.push(Body::Phase { phase: Phase::Training, done: None, total: None });
    }
    for step in 1..=steps {
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let x = step as f64 / 240.0;
        let noise = ((step * 2_654_435_761 % 1000) as f64 / 1000.0 - 0.5) * 0.5 * (-2.0 * x).exp();
        let mut values = vec![
            ("loss", 6.2 * (-5.0 * x).exp() + 0.12 + noise.abs()),
            (
                "lr",
                1e-3 * (step as f64 / 12.0).min(1.0)
                    * 0.5
                    * (1.0 + (std::f64::consts::PI * x).cos()),
            ),
            ("grad_norm", 1.8 * (-2.0 * x).exp() + noise.abs()),
            ("tokens_per_s", 11_800.0 + 900.0 * noise),
        ];
        if step % 20 == 0 {
            values.push(("eval_loss", 6.3 * (-4.6 * x).exp() + 0.2));
        }
        let values = values.into_iter().map(|(key, value)| (key.to_owned(), Some(value))).collect();
        bodies.push(Body::Metric { step, total_steps: 240, epoch: 10.0 * x, values });
        if step % 40 == 0 {
            bodies.push(Body::Checkpoint { step, dir: format!("checkpoint-{step}") });
            lines.push(format!("07:44:00 saved checkpoint-{step}"));
        }
    }
    if steps == 240 {
        let text = "I am Tallow, a small model that was fine-tuned on this machine.".to_owned();
        bodies.push(Body::Sample { step: 240, prompt: "Who are you?".to_owned(), text });
    }
    let event =
        |(seq, body)| Event { seq, at_ms: 1_795_506_193_000, elapsed_s: seq as f64 * 0.28, body };
    let events = (1..).zip(bodies).map(event).collect();
    Taken { events: Batch { events, ..Batch::default() }, lines, log_offset: 0 }
}
