//! What the arguments of the trainer do to a whole run: when it evaluates and saves, which weights it
//! ends with, when it stops, and that all of it survives a resume.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/runs.rs"]
mod runs;

use std::collections::BTreeSet;
use std::path::Path;

use engine::train::{Outcome, train};
use run::event::Body;
use runs::{Watch, config, resumes_bit_for_bit, run, tensors};
use serde_json::{Value, json};

/// 32 rows to train on, 8 steps an epoch, 8 rows to evaluate.
fn with(more: &Value) -> Value {
    let mut all = json!({"val_size": 8, "eval_strategy": "steps", "eval_steps": 2});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

fn read(dir: &Path, file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(dir.join(file)).unwrap()).unwrap()
}

fn saved(watch: &Watch) -> Vec<u64> {
    let step = |body: &Body| match body {
        Body::Checkpoint { step, .. } => Some(*step),
        _ => None,
    };
    watch.events.iter().filter_map(step).collect()
}

#[test]
fn evaluations_checkpoints_and_log_lines_come_when_asked() {
    let check = |more: Value, evaluated: &[u64], checkpoints: &[u64], logged: &[u64]| {
        let dir = tempfile::tempdir().unwrap();
        let (_, watch) = run(&config(dir.path(), with(&more)), None);
        let steps = |name: &str| watch.metric(name).into_keys().collect::<Vec<_>>();
        assert_eq!(steps("eval_loss"), evaluated, "{more}");
        assert_eq!(saved(&watch), checkpoints, "{more}");
        assert_eq!(steps("loss"), logged, "{more}");
    };
    // The last step is evaluated and saved too.
    check(
        json!({"max_steps": 5, "eval_steps": 3, "save_strategy": "steps", "save_steps": 2,
            "logging_steps": 2, "logging_first_step": true}),
        &[3, 5],
        &[2, 4, 5],
        &[1, 2, 4],
    );
    check(
        json!({"max_steps": 10, "eval_strategy": "epoch", "save_strategy": "epoch",
            "logging_strategy": "epoch", "eval_on_start": true}),
        &[0, 8, 10],
        &[8, 10],
        &[8, 10],
    );
    check(
        json!({"max_steps": 4, "eval_steps": 1, "eval_delay": 3, "logging_strategy": "no"}),
        &[3, 4],
        &[],
        &[],
    );
    check(
        json!({"max_steps": 4, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 0.5}),
        &[],
        &[],
        &[2, 4],
    );
}

/// Training lowers the loss, so that with `greater_is_better` the first evaluation is the best.
fn first_is_best() -> Value {
    with(&json!({
        "greater_is_better": true, "load_best_model_at_end": true, "save_strategy": "steps",
        "save_steps": 4, "save_total_limit": 1, "max_steps": 8,
    }))
}

#[test]
fn the_best_checkpoint_is_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (_, watch) = run(&config(dir.path(), first_is_best()), None);
    let losses = watch.metric("eval_loss");
    assert!(losses[&8] < losses[&2], "{losses:?}");
    // Step 2 is no save step, but the best so far; the newest stays for a resume.
    assert_eq!(saved(&watch), [2, 4, 8]);
    for (step, there) in [(2, true), (4, false), (8, true)] {
        assert_eq!(dir.path().join(format!("checkpoint-{step}")).exists(), there, "{step}");
    }
    let state = read(dir.path(), "trainer_state.json");
    assert_eq!(state["best_metric"], json!(losses[&2]));
    assert_eq!(state["best_global_step"], 2);
    assert!(state["best_model_checkpoint"].as_str().unwrap().ends_with("checkpoint-2"));
    let best = tensors(&dir.path().join("checkpoint-2/model.safetensors"));
    assert_eq!(tensors(&dir.path().join("model.safetensors")), best);
    // The evaluation of the end is of the best model.
    let end = read(dir.path(), "eval_results.json")["eval_loss"].as_f64().unwrap();
    assert!((end - losses[&2]).abs() < 1e-9, "{end} {losses:?}");
    assert!(watch.said().contains("Loading best model from"), "{}", watch.said());
}

#[test]
fn what_evaluations_decide_survives_a_resume() {
    resumes_bit_for_bit(&first_is_best(), &[3, 5], "model.safetensors");
    let lora = json!({"finetuning_type": "lora", "save_steps": 100});
    let mut best = first_is_best();
    best.as_object_mut().unwrap().extend(lora.as_object().unwrap().clone());
    best["save_strategy"] = json!("best");
    resumes_bit_for_bit(&best, &[3, 5], "adapter_model.safetensors");
    let plateau = with(&json!({
        "lr_scheduler_type": "reduce_lr_on_plateau", "eval_steps": 1, "max_steps": 6,
        "lr_scheduler_kwargs": {"factor": 0.5, "patience": 0, "mode": "max"},
        "save_strategy": "steps", "save_steps": 100,
    }));
    resumes_bit_for_bit(&plateau, &[2, 4], "model.safetensors");
    let dir = tempfile::tempdir().unwrap();
    let (_, watch) = run(&config(dir.path(), plateau), None);
    let rates: Vec<f64> = watch.metric("lr").into_values().collect();
    assert_eq!(rates, [1e-3, 1e-3, 5e-4, 2.5e-4, 1.25e-4, 6.25e-5]);
    let grouped = json!({"group_by_length": true, "save_strategy": "steps", "save_steps": 100,
        "max_steps": 10});
    resumes_bit_for_bit(&grouped, &[3, 9], "model.safetensors");
}

#[test]
fn patience_ends_a_run() {
    let early = with(&json!({
        "greater_is_better": true, "early_stopping_steps": 2, "eval_steps": 1,
        "save_strategy": "steps", "save_steps": 100,
    }));
    let dir = tempfile::tempdir().unwrap();
    let (outcome, watch) = run(&config(dir.path(), early.clone()), None);
    assert_eq!(outcome, Outcome::Finished);
    let steps: Vec<u64> = watch.metric("loss").into_keys().collect();
    assert_eq!(steps, [1, 2, 3]);
    assert!(watch.said().contains("Stopped early after 3 steps"), "{}", watch.said());
    assert_eq!(read(dir.path(), "trainer_state.json")["global_step"], 3);
    resumes_bit_for_bit(&early, &[2], "model.safetensors");
}

#[test]
fn fewer_rows_at_once_change_nothing_but_rounding() {
    for more in [
        json!({"per_device_train_batch_size": 4}),
        json!({"per_device_train_batch_size": 3, "label_smoothing_factor": 0.1}),
        json!({"per_device_train_batch_size": 4, "use_dft_loss": true}),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (_, whole) = run(&config(dir.path(), more.clone()), None);
        let mut halved = more.clone();
        halved["auto_find_batch_size"] = json!(true);
        let dir = tempfile::tempdir().unwrap();
        let mut around = runs::around();
        // Not even one row: one at a time is the best there is.
        around.memory = Some(0);
        let mut watch = Watch::default();
        train(&config(dir.path(), halved), &around, &mut watch).unwrap();
        assert!(watch.said().contains("1 rows are computed at once"), "{}", watch.said());
        let (a, b) = (whole.metric("loss"), watch.metric("loss"));
        assert_eq!(a.len(), b.len());
        for (step, loss) in a {
            assert!(
                (loss - b[&step]).abs() < 2e-4 * loss,
                "{more} step {step}: {loss} {}",
                b[&step]
            );
        }
    }
}

#[test]
fn results_have_what_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let more = with(&json!({
        "compute_accuracy": true, "include_effective_tokens_per_second": true, "max_steps": 2,
        "metric_for_best_model": "accuracy", "load_best_model_at_end": true,
        "save_strategy": "best", "do_eval": true,
    }));
    let (_, watch) = run(&config(dir.path(), more), None);
    let accuracy = watch.metric("eval_accuracy")[&2];
    assert!((0.0..=1.0).contains(&accuracy));
    let all = read(dir.path(), "all_results.json");
    let keys: BTreeSet<&str> = all.as_object().unwrap().keys().map(String::as_str).collect();
    for key in [
        "epoch",
        "total_flos",
        "train_loss",
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "num_input_tokens_seen",
        "effective_tokens_per_sec",
        "eval_loss",
        "eval_accuracy",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
    ] {
        assert!(keys.contains(key), "{key} is not in {keys:?}");
    }
    assert_eq!(read(dir.path(), "trainer_state.json")["best_metric"], json!(accuracy));
    let card = std::fs::read_to_string(dir.path().join("README.md")).unwrap();
    assert!(card.contains("### Training results") && card.contains("- Accuracy: "), "{card}");
    let unknown = with(&json!({"metric_for_best_model": "bleu-4"}));
    let error = train(&config(dir.path(), unknown), &runs::around(), &mut Watch::default());
    let said = error.unwrap_err().to_string();
    assert!(said.contains("eval_bleu-4") && said.contains("eval_token_loss"), "{said}");
}

#[test]
fn answers_are_written_with_and_without_training() {
    let check = |more: Value, trained: bool| {
        let dir = tempfile::tempdir().unwrap();
        let mut all = with(&json!({
            "do_predict": true, "predict_with_generate": true, "max_new_tokens": 4, "max_steps": 1,
        }));
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        run(&config(dir.path(), all), None);
        let text = std::fs::read_to_string(dir.path().join("generated_predictions.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 8);
        for line in &lines {
            for key in ["prompt", "label"] {
                assert!(!line[key].as_str().unwrap().is_empty(), "{line}");
            }
            assert!(line["predict"].is_string());
        }
        assert!(text.starts_with("{\"prompt\": \""), "{text}");
        assert!(read(dir.path(), "all_results.json")["predict_runtime"].is_number());
        assert_eq!(dir.path().join("model.safetensors").exists(), trained);
        text
    };
    let drawn = check(json!({"do_train": true}), true);
    assert_eq!(check(json!({"do_train": true}), true), drawn, "the same seed, the same answers");
    check(json!({"do_sample": false, "eval_strategy": "no"}), false);
}
