//! Optimisers against five steps of their original implementations (scripts/reference/optim.py),
//! and that a run broken off goes on as if it had not been, whichever of them it has.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/runs.rs"]
mod runs;

use candle_core::{Device, Tensor};
use engine::model::store::{Grads, Params, Role};
use engine::optim::adamw::AdamW;
use engine::optim::galore::{GaLore, Side};
use engine::optim::lion::Lion;
use engine::optim::rule::{Rate, Rule, State};
use runs::resumes_bit_for_bit;
use serde_json::{Value, json};

/// Numbers in [-1, 1], as the script makes them.
fn values(seed: u64, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let one = |i: u64| {
        let mut h = (i * 2_654_435_761 + seed * 40_503) & 0xffff_ffff;
        for _ in 0..2 {
            h = ((h ^ (h >> 16)) * 0x045d_9f3b) & 0xffff_ffff;
        }
        h ^= h >> 16;
        (((h % 20_001) as f64 - 10_000.0) / 10_000.0) as f32
    };
    let data: Vec<f32> = (0..n as u64).map(one).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

fn rule(name: &str) -> Rule {
    let eps = if name == "galore_adamw_full" { 0.1 } else { 1e-8 };
    let adam = AdamW { beta1: 0.9, beta2: 0.999, eps };
    let lion = Lion { beta1: 0.9, beta2: 0.999 };
    let galore = |inner: Rule, side: &str| {
        Rule::GaLore(Box::new(GaLore {
            inner,
            targets: ["w".to_owned()].into(),
            rank: 4,
            interval: 2,
            scale: 2.0,
            side: match side {
                "std" => Side::Std,
                "reverse_std" => Side::ReverseStd,
                "right" => Side::Right,
                "left" => Side::Left,
                _ => Side::Full,
            },
        }))
    };
    match name {
        "adamw" => Rule::AdamW(adam),
        "adamw_8bit" => Rule::AdamW8(adam),
        "adafactor" => Rule::Adafactor,
        "lion_32bit" => Rule::Lion(lion),
        "lion_8bit" => Rule::Lion8(lion),
        "sgd" => Rule::Sgd,
        "galore_adafactor_std" => galore(Rule::Adafactor, "std"),
        other => galore(Rule::AdamW(adam), other.strip_prefix("galore_adamw_").unwrap()),
    }
}

#[test]
fn five_steps_are_those_of_the_originals() {
    let text = include_str!("fixtures/optim.json");
    let fixture: Value = serde_json::from_str(text).unwrap();
    let number = |name: &str| fixture[name].as_f64().unwrap();
    let rate = Rate { lr: number("lr"), weight_decay: number("weight_decay") };
    for case in fixture["cases"].as_array().unwrap() {
        let name = case["rule"].as_str().unwrap();
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
        let mut params = Params::default();
        let id = params.push("w".into(), values(1, &shape), Role::Matrix);
        params.set_trainable(|_| true);
        let (rule, mut state) = (rule(name), State::new());
        let mut grads = Grads::new(&params);
        for (s, want) in case["steps"].as_array().unwrap().iter().enumerate() {
            grads.begin(&params, 1).unwrap();
            let grad = values(10 + s as u64, &shape);
            let (slot, _) = grads.slot(id, params.value(id)).unwrap().unwrap();
            *slot = grad;
            let clip = number("clip") as f32;
            rule.step(&params, &grads, &mut state, clip, |_| rate).unwrap();
            let at = format!("{name} {shape:?} step {s}");
            same(params.value(id), want, tolerance(name), &at);
        }
    }
}

/// What f32 leaves open: orders of summation, and for 8 bits a value that lies between two codes.
fn tolerance(name: &str) -> f64 {
    if name.ends_with("8bit") { 2e-5 } else { 5e-6 }
}

fn same(got: &Tensor, want: &Value, tolerance: f64, at: &str) {
    let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let number = |name: &str| want[name].as_f64().unwrap();
    let wide = || got.iter().map(|x| f64::from(*x));
    let near = |what: &str, got: f64, want: f64, scale: f64| {
        assert!((got - want).abs() < tolerance * scale, "{at}: {what} {got}, not {want}");
    };
    let length = number("squares").sqrt();
    near("sum", wide().sum(), number("sum"), length);
    near("squares", wide().map(|x| x * x).sum(), number("squares"), number("squares"));
    let every = (got.len() / 8).max(1);
    let picked = want["picked"].as_array().unwrap();
    for (i, (got, want)) in wide().step_by(every).zip(picked).enumerate() {
        near(&format!("element {}", i * every), got, want.as_f64().unwrap(), 1.0);
    }
}

#[test]
fn every_optimiser_resumes_bit_for_bit() {
    let with = |more: Value| {
        let mut all = json!({"save_strategy": "steps", "save_steps": 100, "max_steps": 5});
        for (name, value) in more.as_object().unwrap() {
            all[name] = value.clone();
        }
        resumes_bit_for_bit(&all, &[2, 3], "model.safetensors");
    };
    for optim in ["adamw_8bit", "adafactor", "lion_32bit", "lion_8bit", "sgd"] {
        with(json!({"optim": optim, "weight_decay": 0.1}));
    }
    for (side, optim) in [("std", "adamw_torch"), ("full", "adamw_8bit"), ("left", "adafactor")] {
        with(json!({
            "optim": optim, "use_galore": true, "galore_rank": 4, "galore_update_interval": 2,
            "galore_proj_type": side, "galore_target": "q_proj,mlp",
        }));
    }
}

#[test]
fn another_optimisers_memory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let with = |optim: &str| {
        runs::config(
            dir.path(),
            json!({"save_strategy": "steps", "save_steps": 2, "max_steps": 4,
            "optim": optim}),
        )
    };
    runs::run(&with("lion_32bit"), Some(2));
    let around = runs::around();
    let error = engine::train::train(&with("adamw_torch"), &around, &mut runs::Watch::default());
    let said = error.unwrap_err().to_string();
    assert!(said.contains("saved by another method or optim"), "{said}");
}
