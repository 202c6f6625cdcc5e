//! Recomputation (`gradient_checkpointing`) and passes change memory and time, and of numbers the order of sums.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/runs.rs"]
mod runs;

use runs::{config, run, run_in, tensors};
use serde_json::{Value, json};

#[test]
fn losses_and_weights_are_the_same_to_the_bit() {
    let check = |more: Value, file: &str| {
        let results = [false, true].map(|recompute| {
            let dir = tempfile::tempdir().unwrap();
            let mut more = more.clone();
            more["gradient_checkpointing"] = json!(recompute);
            // Memory decides also which rows share a pass, and so the order of sums.
            more["gradient_accumulation_steps"] = json!(1);
            let (_, watch) = run(&config(dir.path(), more), None);
            (watch.metric("loss"), watch.metric("grad_norm"), tensors(&dir.path().join(file)))
        });
        assert_eq!(results[0], results[1], "{more}");
    };
    check(json!({"max_steps": 3}), "model.safetensors");
    check(json!({"max_steps": 3, "use_badam": true}), "model.safetensors");
    let lora = json!({"max_steps": 3, "finetuning_type": "lora", "lora_dropout": 0.2});
    check(lora, "adapter_model.safetensors");
}

/// A step's rows in one pass, whose gradients come into being on the way back, beside one pass a row: rows of one
/// length leave no room for two, and `activation_memory: 0` none for what a single pass keeps more.
#[test]
fn one_pass_is_the_same_but_for_the_order_of_sums() {
    let losses = |more: Value| {
        let dir = tempfile::tempdir().unwrap();
        let mut all = json!({
            "max_steps": 4, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2,
            "cutoff_len": 16,
        });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (_, watch) = run(&config(dir.path(), all), None);
        let values = |name| watch.metric(name).into_values();
        values("loss").chain(values("grad_norm")).collect::<Vec<_>>()
    };
    for method in [json!({}), json!({"use_badam": true}), json!({"finetuning_type": "lora"})] {
        let mut apart = method.clone();
        apart["activation_memory"] = json!(0);
        let (one, each) = (losses(method.clone()), losses(apart));
        let full = method == json!({});
        assert!(!full || one != each, "the sums' order differs, or nothing was merged");
        for (one, each) in one.iter().zip(&each) {
            assert!((one - each).abs() < 1e-5 * each.abs().max(1.0), "{method}: {one} {each}");
        }
    }
}

/// Free memory decides which rows are computed together, and so which masks dropout draws for them: a run goes on as it
/// was begun, however much is free by then, and says so where it cannot.
#[test]
fn a_resumed_run_computes_as_it_was_begun() {
    const LITTLE: Option<u64> = Some(1);
    const MUCH: Option<u64> = Some(1 << 36);
    let losses = |more: &Value, begin: Option<u64>, resume: Option<u64>| {
        let dir = tempfile::tempdir().unwrap();
        let mut all = json!({
            "max_steps": 4, "finetuning_type": "lora", "lora_dropout": 0.5,
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = config(dir.path(), all);
        let (_, first) = run_in(begin, &config, Some(2));
        let (_, then) = run_in(resume, &config, None);
        let all: Vec<f64> =
            [&first, &then].iter().flat_map(|w| w.metric("loss").into_values()).collect();
        (all, then.said().contains("not bit for bit"))
    };
    // Whether all that is missing, where little is free, is less than a run goes on without.
    for (more, goes_on) in
        [(json!({"finetuning_type": "full"}), true), (json!({"auto_find_batch_size": true}), false)]
    {
        let [(little, _), (much, _)] = [LITTLE, MUCH].map(|memory| losses(&more, memory, memory));
        assert_ne!(little, much, "{more}: memory decides nothing here");
        assert_eq!(losses(&more, LITTLE, MUCH), (little.clone(), false), "{more}");
        assert_eq!(losses(&more, LITTLE, None), (little, false), "{more}");
        let (less, told) = losses(&more, MUCH, LITTLE);
        assert_eq!((less == much, told), (goes_on, !goes_on), "{more}: {less:?} {much:?}");
        assert_eq!(less[..2], much[..2], "{more}");
    }
}
