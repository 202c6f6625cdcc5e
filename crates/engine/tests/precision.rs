//! `bf16`: a run whose products have bf16 operands learns as the f32 run does.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/runs.rs"]
mod runs;

use engine::ops::bf16;
use runs::{config, run};
use serde_json::{Value, json};

const STEPS: u64 = 100;

#[test]
fn after_a_hundred_steps_the_loss_is_the_f32_one() {
    let check = |more: Value| {
        let [exact, rounded] = [false, true].map(|on| {
            let dir = tempfile::tempdir().unwrap();
            let mut more = more.clone();
            more["bf16"] = json!(on);
            more["max_steps"] = json!(STEPS);
            let (_, watch) = run(&config(dir.path(), more), None);
            let said = watch.said();
            let unit = format!("products of bf16 operands ({})", bf16::unit_name());
            assert_eq!(said.contains(&unit), on && bf16::available(), "{said}");
            watch.metric("loss")
        });
        let last = |losses: &std::collections::BTreeMap<u64, f64>| {
            losses.range(STEPS - 9..=STEPS).map(|(_, loss)| loss).sum::<f64>() / 10.0
        };
        let (exact, rounded) = (last(&exact), last(&rounded));
        assert!((rounded / exact - 1.0).abs() < 0.01, "{more}: {rounded}, in f32 {exact}");
    };
    if !bf16::available() {
        println!("left out: this CPU has no unit for bf16, and both runs compute in f32");
    }
    check(json!({}));
    check(json!({"finetuning_type": "lora", "lora_rank": 8, "lora_target": "all"}));
}
