//! Recomputation (`gradient_checkpointing`) changes memory, not numbers.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/runs.rs"]
mod runs;

use runs::{config, run, tensors};
use serde_json::{Value, json};

#[test]
fn losses_and_weights_are_the_same_to_the_bit() {
    let check = |more: Value, file: &str| {
        let results = [false, true].map(|recompute| {
            let dir = tempfile::tempdir().unwrap();
            let mut more = more.clone();
            more["gradient_checkpointing"] = json!(recompute);
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
