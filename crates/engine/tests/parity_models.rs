//! Tiny decoders against transformers and PEFT: logits, loss, gradient norms, five optimiser steps.
//!
//! Truth: `shared/parity/models/<case>/case.json`. Tolerances are the issue's.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/emulator.rs"]
mod emulator;
#[path = "support/shared.rs"]
mod shared;

use std::path::Path;
use std::sync::{Arc, Once};

use candle_core::Device;
use engine::batch::{Batch, IGNORE, Sequence};
use engine::model::config::ModelConfig;
use engine::model::decoder::{Decoder, Keep};
use engine::model::linear::Mode;
use engine::model::lora::{self, LoraConfig, Targets};
use engine::model::store::Grads;
use engine::model::weights::{Dtype, read_folder, read_safetensors};
use engine::optim::adamw::AdamW;
use engine::optim::clip::{clip_factor, grad_norm};
use engine::optim::rule::{Rate, Rule, State};
use engine::tensor::view;
use serde_json::Value;

/// Set in the processes that do it all once more: [`COMPOSED`], or [`EMULATED`].
const AGAIN: &str = "TALLOW_TEST_PLACE";
/// Everything composed of candle's operations.
const COMPOSED: &str = "composed";
/// As on a GPU: its kernels emulated, the rest composed.
const EMULATED: &str = "emulated";

const CASES: [&str; 8] = [
    "llama-gqa",
    "llama-tied",
    "llama3-rope",
    "qwen2-tied",
    "qwen3",
    "mistral-swa",
    "phi3",
    "gemma3",
];

/// Does nothing but in a process of [`again`].
fn choose_place() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| match std::env::var(AGAIN).as_deref() {
        Ok(COMPOSED) => engine::tensor::compose_everything(true),
        Ok(EMULATED) => {
            let machine = emulator::Emulator::start(false).unwrap();
            assert!(engine::tensor::emulate(Arc::new(machine)));
        }
        _ => {}
    });
}

fn decoder(dir: &Path) -> Decoder {
    choose_place();
    let config = ModelConfig::from_file(&dir.join("config.json")).unwrap();
    let weights = read_folder(dir, &config, Dtype::F32).unwrap().weights;
    Decoder::new(config, weights, &Device::Cpu).unwrap()
}

/// The rows of a padded batch, without their padding.
fn rows(batch: &Value) -> Vec<Sequence> {
    let grid = |key: &str| -> Vec<Vec<i64>> { serde_json::from_value(batch[key].clone()).unwrap() };
    let (ids, masks, labels) = (grid("input_ids"), grid("attention_mask"), grid("labels"));
    ids.iter()
        .zip(&masks)
        .zip(&labels)
        .map(|((ids, mask), labels)| {
            let real = |v: &[i64]| -> Vec<i64> {
                v.iter().zip(mask).filter(|(_, m)| **m == 1).map(|(x, _)| *x).collect()
            };
            Sequence::plain(
                real(ids).iter().map(|x| *x as u32).collect(),
                real(labels).iter().map(|x| *x as i32).collect(),
            )
        })
        .collect()
}

fn relative(got: f64, want: f64, tolerance: f64, what: &str) {
    let error = (got - want).abs() / want.abs().max(1e-9);
    assert!(error <= tolerance, "{what}: got {got}, expected {want}, off by {error:.2e}");
}

fn norm(grads: &Grads, id: engine::model::store::ParamId) -> f64 {
    let Some(grad) = grads.get(id) else {
        return 0.0;
    };
    view(grad).unwrap().iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// Loss and gradients of one batch, split into micro-batches of one row each.
fn step(decoder: &Decoder, rows: &[Sequence], grads: &mut Grads, keep: Keep) -> f64 {
    let labels: usize = rows.iter().map(Sequence::label_count).sum();
    let scale = 1.0 / labels as f32;
    let batch = |row: &Sequence| Batch::new([row]);
    let losses = rows
        .iter()
        .map(|r| decoder.train_step(&batch(r), grads, scale, keep, Mode::Eval).unwrap().sum);
    losses.sum::<f64>() / labels as f64
}

fn check_steps(case: &Value, key: &str, decoder: &Decoder, decay: f64) {
    let rule = Rule::AdamW(AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
    let mut state = State::new();
    let mut grads = Grads::new(&decoder.params);
    for (s, want) in case[key].as_array().unwrap().iter().enumerate() {
        grads.begin(&decoder.params, 1).unwrap();
        let loss = step(decoder, &rows(&case["step_batches"][s]), &mut grads, Keep::Intermediates);
        relative(loss, want["loss"].as_f64().unwrap(), 1e-4, &format!("{key} loss of step {s}"));
        let norm = grad_norm(&decoder.params, &grads).unwrap();
        relative(norm, want["grad_norm"].as_f64().unwrap(), 1e-3, &format!("{key} norm {s}"));
        let rate = |id| {
            let decays = decoder.params.get(id).role.decays();
            Rate { lr: 1e-3, weight_decay: if decays { decay } else { 0.0 } }
        };
        rule.step(&decoder.params, &grads, &mut state, clip_factor(norm, 1.0), rate).unwrap();
    }
}

fn each_case(check: impl Fn(&Path, &Value)) {
    let Some(parity) = shared::parity() else {
        return;
    };
    for name in CASES {
        eprintln!("case {name}");
        let dir = parity.join("models").join(name);
        let case = std::fs::read_to_string(dir.join("case.json")).unwrap();
        check(&dir, &serde_json::from_str(&case).unwrap());
    }
}

#[test]
fn logits_loss_and_gradients() {
    each_case(|dir, case| {
        let mut decoder = decoder(dir);
        decoder.params.set_trainable(|_| true);
        let rows = rows(case);
        let batch = Batch::new(&rows);
        let logits = decoder.logits(&decoder.hidden(&batch).unwrap()).unwrap();
        let starts: Vec<usize> = rows
            .iter()
            .scan(0, |at, r| Some(std::mem::replace(at, *at + r.input_ids.len())))
            .collect();
        for want in case["logits"].as_array().unwrap() {
            let (row, pos) = (want["row"].as_u64().unwrap(), want["pos"].as_u64().unwrap());
            let at = starts[row as usize] + pos as usize;
            let got = logits.narrow(0, at, 1).unwrap();
            let got = view(&got).unwrap();
            let size = want["norm"].as_f64().unwrap();
            let total = got.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            assert!((total - size).abs() <= 1e-4 * size, "norm at {row},{pos}: {total} {size}");
            for (got, want) in got.iter().zip(want["first8"].as_array().unwrap()) {
                let error = (f64::from(*got) - want.as_f64().unwrap()).abs();
                assert!(error <= 1e-4 * size, "logit at {row},{pos} off by {error}");
            }
        }
        for keep in [Keep::Intermediates, Keep::Inputs, Keep::Within(1 << 15)] {
            let mut grads = Grads::new(&decoder.params);
            let loss = step(&decoder, &rows, &mut grads, keep);
            relative(loss, case["loss"].as_f64().unwrap(), 1e-5, "loss");
            for (name, want) in case["grad_norms"].as_object().unwrap() {
                let id = decoder.params.find(name).unwrap();
                relative(norm(&grads, id), want.as_f64().unwrap(), 1e-3, name);
            }
        }
        let mut whole = Grads::new(&decoder.params);
        let scale = 1.0 / batch.targets.len() as f32;
        decoder.train_step(&batch, &mut whole, scale, Keep::Intermediates, Mode::Eval).unwrap();
        for (name, want) in case["grad_norms"].as_object().unwrap() {
            let id = decoder.params.find(name).unwrap();
            relative(norm(&whole, id), want.as_f64().unwrap(), 1e-3, &format!("packed {name}"));
        }
    });
}

#[test]
fn five_full_adamw_steps() {
    each_case(|dir, case| {
        let mut decoder = decoder(dir);
        decoder.params.set_trainable(|_| true);
        check_steps(case, "full_adamw_lr1e-3_wd0.01", &decoder, 0.01);
    });
}

#[test]
fn five_lora_steps_from_a_peft_adapter() {
    each_case(|dir, case| {
        let mut decoder = decoder(dir);
        let file = dir.join("adapter_init/adapter_model.safetensors");
        let weights = read_safetensors(&file, Dtype::F32).unwrap();
        let raw = std::fs::read_to_string(dir.join("adapter_init/adapter_config.json")).unwrap();
        let raw: Value = serde_json::from_str(&raw).unwrap();
        let config = LoraConfig {
            rank: 4,
            alpha: 8.0,
            targets: Targets::of_json(Some(&raw["target_modules"])).unwrap(),
            ..LoraConfig::default()
        };
        lora::attach_loaded(&mut decoder, &config, weights, "adapter").unwrap();
        let rows = rows(case);
        let batch = Batch::new(&rows);
        let loss: f64 = decoder.losses(&batch).unwrap().iter().map(|l| l.sum).sum();
        let mean = loss / batch.targets.len() as f64;
        relative(mean, case["lora_loss_at_init"].as_f64().unwrap(), 1e-5, "loss at init");
        decoder.params.set_trainable(|p| p.role == engine::model::store::Role::Adapter);
        check_steps(case, "lora_adamw_lr1e-3_wd0", &decoder, 0.0);
        // Merged, the model says the same.
        let before: f64 = decoder.losses(&batch).unwrap().iter().map(|l| l.sum).sum();
        lora::merge(&mut decoder).unwrap();
        let after: f64 = decoder.losses(&batch).unwrap().iter().map(|l| l.sum).sum();
        relative(after, before, 1e-5, "merged");
        assert_eq!(rows[0].labels[0], IGNORE);
    });
}

/// The same tests once more, every operation composed of candle's.
#[test]
fn all_of_it_composed() {
    again(COMPOSED);
}

/// And once more with the CUDA kernels, run by `support/emulator.rs`.
#[test]
fn all_of_it_as_a_gpu_would() {
    if emulator::Emulator::start(false).is_some() {
        again(EMULATED);
    }
}

fn again(place: &str) {
    let again = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--skip", "all_of_it"])
        .env(AGAIN, place)
        .output()
        .unwrap();
    assert!(again.status.success(), "{place}: {}", String::from_utf8_lossy(&again.stdout));
}
