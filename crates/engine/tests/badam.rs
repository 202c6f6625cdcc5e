//! BAdam: what moves and what does not, and that a run broken off in mid-block goes on as if it had
//! not been; ten steps of the real model against LLaMA-Factory's are in `parity_real`.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/runs.rs"]
mod runs;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use engine::model::entries::Entries;
use engine::model::store::{Grads, Params, Role};
use runs::{config, resumes_bit_for_bit, run, tensors};
use serde_json::{Value, json};

type Weights = BTreeMap<String, Vec<f32>>;

/// Names of the weights that differ.
fn moved(before: &Weights, after: &Weights) -> BTreeSet<String> {
    let differs = |name: &&String| before[*name] != after[*name];
    after.keys().filter(differs).cloned().collect()
}

fn layer(name: &str) -> Option<usize> {
    name.split_once("layers.")?.1.split('.').next()?.parse().ok()
}

fn after_steps(steps: u64, more: &Value) -> (Weights, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut arguments = more.clone();
    arguments["max_steps"] = json!(steps);
    // One constant rate: a shorter run is then the beginning of a longer one.
    arguments["lr_scheduler_type"] = json!("constant");
    let (_, watch) = run(&config(dir.path(), arguments), None);
    (tensors(&dir.path().join("model.safetensors")), watch.said())
}

#[test]
fn only_the_active_layer_moves_and_every_weight_of_it() {
    let check = |mode: &str, interval: i64, expected: &[&[usize]]| {
        let badam = json!({
            "use_badam": true, "badam_switch_mode": mode, "badam_switch_interval": interval,
        });
        let mut before = tensors(&runs::root().join("data/demo/model/model.safetensors"));
        for (i, layers) in expected.iter().enumerate() {
            let (after, _) = after_steps(i as u64 + 1, &badam);
            let got = moved(&before, &after);
            let all = |name: &&String| layer(name).is_some_and(|l| layers.contains(&l));
            let want: BTreeSet<String> = after.keys().filter(all).cloned().collect();
            assert_eq!(got, want, "{mode}, step {}", i + 1);
            before = after;
        }
    };
    // The first block has a step less than the others, as upstream.
    check("ascending", 2, &[&[0], &[1], &[1], &[2], &[2]]);
    check("descending", 2, &[&[3], &[2], &[2], &[1]]);
    check("fixed", 1, &[&[0], &[0], &[0]]);
}

#[test]
fn coverage_and_trainable_parameters_are_said_as_they_are() {
    let (_, said) = after_steps(3, &json!({"use_badam": true, "badam_switch_interval": 2}));
    assert!(said.contains("BAdam: 3 steps reach layers 0-1 of 4"), "{said}");
    let line = said.lines().find(|l| l.starts_with("trainable params:")).unwrap();
    assert!(!line.ends_with("100.0000"), "{line}");
}

#[test]
fn ratio_mode_moves_its_share_and_nothing_else() {
    for mask in ["adjacent", "scatter"] {
        let ratio = json!({
            "use_badam": true, "badam_mode": "ratio", "badam_update_ratio": 0.1,
            "badam_mask_mode": mask,
        });
        let before = tensors(&runs::root().join("data/demo/model/model.safetensors"));
        let (after, _) = after_steps(3, &ratio);
        for (name, values) in &after {
            let pairs = || values.iter().zip(&before[name]);
            let changed = pairs().filter(|(a, b)| a != b).count();
            let expected = match name.contains("embed") || name.contains("lm_head") {
                true => 0,
                false if values.len() < 100 => values.len(),
                false => (values.len() as f64 * 0.1) as usize,
            };
            assert!(changed <= expected, "{mask} {name}: {changed} of {}", values.len());
            assert!(changed * 10 >= expected * 9, "{mask} {name}: {changed}, not {expected}");
            if mask == "adjacent" {
                assert!(pairs().skip(expected).all(|(a, b)| a == b), "{name}");
            }
        }
    }
}

#[test]
fn resumes_in_mid_block() {
    let check = |badam: Value| resumes_bit_for_bit(&badam, &[2, 4, 5], "model.safetensors");
    for mode in ["ascending", "descending", "random", "fixed"] {
        check(json!({
            "use_badam": true, "badam_switch_mode": mode, "badam_switch_interval": 3,
            "save_strategy": "steps", "save_steps": 100,
        }));
    }
    check(json!({
        "use_badam": true, "badam_mode": "ratio", "badam_mask_mode": "scatter",
        "save_strategy": "steps", "save_steps": 100,
    }));
}

/// Adam on the picked values by the package's formula, in f64.
#[test]
fn ratio_mode_is_sparse_adam() {
    use engine::optim::adamw::AdamW;
    use engine::optim::rule::{Rate, Rule, State};
    use std::sync::Arc;

    let device = Device::Cpu;
    let (b1, b2, eps, lr) = (0.9, 0.999, 1e-8, 1e-2);
    let start: Vec<f32> = (0..120).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut params = Params::default();
    let values = Tensor::from_vec(start.clone(), (12, 10), &device).unwrap();
    let id = params.push("layers.0.w".into(), values, Role::Matrix);
    params.set_trainable(|_| true);
    let entries = Arc::new(Entries::scattered(vec![3, 50, 119, 7]));
    let mut grads = Grads::of_entries(&params, |_| entries.clone());
    let rule = Rule::SparseAdam(AdamW { beta1: b1, beta2: b2, eps });
    let mut state = State::new();
    let mut want: Vec<f64> = start.iter().map(|x| f64::from(*x)).collect();
    let (mut m, mut v) = ([0f64; 4], [0f64; 4]);
    for t in 1..=5i32 {
        let gradient: Vec<f32> = (0..120).map(|i| ((i * t) as f32 * 0.11).cos()).collect();
        grads.begin(&params, 2).unwrap();
        // Two micro-batches add up.
        for _ in 0..2 {
            let buffer = grads.summed(id, params.value(id)).unwrap().unwrap();
            *buffer = Tensor::from_vec(gradient.clone(), (12, 10), &device).unwrap();
            grads.sift().unwrap();
        }
        let rate = Rate { lr, weight_decay: 0.5 };
        rule.step(&params, &grads, &mut state, 0.25, |_| rate).unwrap();
        for (j, at) in entries.indices().iter().enumerate() {
            let g = f64::from(gradient[*at as usize]) * 2.0 * 0.25;
            m[j] = b1 * m[j] + (1.0 - b1) * g;
            v[j] = b2 * v[j] + (1.0 - b2) * g * g;
            let size = lr * (1.0 - b2.powi(t)).sqrt() / (1.0 - b1.powi(t));
            want[*at as usize] -= size * m[j] / (v[j].sqrt() + eps);
        }
    }
    let got = params.value(id).flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!((f64::from(*got) - want).abs() < 1e-6, "{i}: {got} {want}");
    }
}
