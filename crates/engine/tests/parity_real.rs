//! SmolLM2-135M-Instruct against what LLaMA-Factory and transformers did with it: forward pass,
//! greedy decoding, ten steps of full and LoRA fine-tuning.
//!
//! Truth: `shared/parity/real`. Tolerances are the issue's. The model comes from the GGUF file that
//! `scripts/fetch_smollm2.sh` fetches.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/shared.rs"]
mod shared;
#[path = "support/smollm2.rs"]
mod smollm2;

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::Device;
use engine::batch::{Batch, IGNORE, Sequence};
use engine::generate::greedy;
use engine::model::decoder::{Decoder, Keep};
use engine::model::gguf::Gguf;
use engine::model::linear::Mode;
use engine::model::lora::{self, LoraConfig};
use engine::model::store::{Grads, Role};
use engine::model::weights::{Dtype, read_safetensors};
use engine::optim::adamw::AdamW;
use engine::optim::badam::Badam;
use engine::optim::lora_plus::Factors;
use engine::optim::rule::{self, Rule};
use engine::step::{self, Optimiser, Updated};
use engine::tensor::view;
use run::config::Config;
use serde_json::Value;

fn decoder() -> Decoder {
    let gguf = Gguf::open(&smollm2::gguf()).unwrap();
    let config = gguf.config().unwrap();
    let weights = gguf.read(&config, Dtype::F32).unwrap().weights;
    Decoder::new(config, weights, &Device::Cpu).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn relative(got: f64, want: f64, tolerance: f64, what: &str) {
    let error = (got - want).abs() / want.abs().max(1e-9);
    assert!(error <= tolerance, "{what}: got {got}, expected {want}, off by {error:.2e}");
}

fn norm_sum_first(values: &[f32]) -> (f64, f64, &[f32]) {
    let norm = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    (norm, values.iter().map(|x| f64::from(*x)).sum(), &values[..4])
}

#[test]
fn forward_and_greedy() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let decoder = decoder();
    let prompt = json(&parity.join("real/logits_prompt.json"));
    let ids: Vec<u32> = serde_json::from_value(prompt["input_ids"].clone()).unwrap();
    let labels: Vec<i32> = ids.iter().map(|i| *i as i32).collect();
    let batch = Batch::new([&Sequence::plain(ids.clone(), labels)]);
    let hidden = decoder.hidden(&batch).unwrap();
    let logits = decoder.logits(&hidden).unwrap();
    let truth = read_safetensors(&parity.join("real/logits_last.safetensors"), Dtype::F32).unwrap();
    let embedded = decoder.embed(&ids).unwrap();
    for (name, tensor) in &truth {
        let engine::model::weights::Data::F32(want) = &tensor.data else { panic!("{name}") };
        let got = match name.as_str() {
            "embed_out" => view(&embedded).unwrap().to_vec(),
            "final_hidden" => view(&hidden).unwrap().to_vec(),
            "logits_last" => view(&logits).unwrap()[(ids.len() - 1) * want.len()..].to_vec(),
            _ => continue,
        };
        let norm = want.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let error = got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        assert!(error <= 1e-4 * norm, "{name}: error {error:.2e} of {norm:.2e}");
    }
    let losses: f64 = decoder.losses(&batch).unwrap().iter().map(|l| l.sum).sum();
    let want = prompt["mean_next_token_ce"].as_f64().unwrap();
    relative(losses / (ids.len() - 1) as f64, want, 2e-4, "mean cross-entropy");

    let case = json(&parity.join("real/greedy.json"));
    let ids: Vec<u32> = serde_json::from_value(case["prompt_ids"].clone()).unwrap();
    let want: Vec<u32> = serde_json::from_value(case["greedy_new_ids"].clone()).unwrap();
    let got = greedy(&decoder, &ids, want.len(), &BTreeSet::new(), || true).unwrap();
    assert_eq!(got, want);
}

/// The micro-batches of each step, rows without padding.
fn steps(trace: &Value) -> Vec<Vec<Vec<Sequence>>> {
    let mut steps: Vec<Vec<Vec<Sequence>>> = Vec::new();
    for batch in trace["batches"].as_array().unwrap() {
        let step = batch["step"].as_u64().unwrap() as usize;
        steps.resize_with(steps.len().max(step + 1), Vec::new);
        let ids: Vec<Vec<u32>> = serde_json::from_value(batch["input_ids"].clone()).unwrap();
        let labels: Vec<Vec<i32>> = serde_json::from_value(batch["labels"].clone()).unwrap();
        let lens: Vec<usize> = serde_json::from_value(batch["attention_mask_sum"].clone()).unwrap();
        let row = |((ids, labels), n): ((&Vec<u32>, &Vec<i32>), &usize)| {
            Sequence::plain(ids[..*n].to_vec(), labels[..*n].to_vec())
        };
        steps[step].push(ids.iter().zip(&labels).zip(&lens).map(row).collect());
    }
    steps
}

fn replay(decoder: &mut Decoder, trace: &Value, badam: Option<&Badam>) {
    let mut block = None;
    let adamw = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let mut optimiser = Optimiser {
        rule: Rule::AdamW(adamw),
        slots: rule::State::new(),
        max_grad_norm: 1.0,
        weight_decay: 0.0,
        factors: Factors::default(),
        grads: Grads::new(&decoder.params),
    };
    for (s, micro_batches) in steps(trace).iter().enumerate() {
        let rows: Vec<Vec<&Sequence>> = micro_batches.iter().map(|m| m.iter().collect()).collect();
        let ordinal = badam.map(|badam| badam.ordinal(s as u64));
        if let Some(badam) = badam.filter(|_| ordinal != block) {
            optimiser.slots.clear();
            optimiser.grads = badam.activate(ordinal.unwrap(), &mut decoder.params);
            block = ordinal;
        }
        let lr = trace["lrs"][s].as_f64().unwrap();
        let keep = if s % 2 == 0 { Keep::Intermediates } else { Keep::Inputs };
        let got = step::run(decoder, &mut optimiser, &rows, lr, keep, |_| Mode::Eval).unwrap();
        assert_eq!(got.outcome, Updated::Yes);
        eprintln!("step {s}: loss {} grad_norm {}", got.loss, got.grad_norm);
        relative(got.loss, trace["losses"][s].as_f64().unwrap(), 2e-4, &format!("loss {s}"));
        let norm = trace["grad_norms"][s].as_f64().unwrap();
        relative(got.grad_norm, norm, 5e-3, &format!("grad_norm {s}"));
        if s == 0 {
            compare_params(decoder, &trace["param_l2_after_step1"]);
        }
    }
    for last in ["param_l2_after_step8", "param_l2_after_step10"] {
        if !trace[last].is_null() {
            compare_params(decoder, &trace[last]);
        }
    }
}

fn compare_params(decoder: &Decoder, want: &Value) {
    for (name, numbers) in want.as_object().unwrap() {
        let name = name.replace(".default.", ".");
        let Ok(id) = decoder.params.find(&name) else {
            continue;
        };
        let values = view(decoder.params.value(id)).unwrap();
        let (norm, _, first) = norm_sum_first(&values);
        let want_norm = numbers[0].as_f64().unwrap();
        relative(norm, want_norm, 1e-3, &name);
        for (i, x) in first.iter().enumerate() {
            let want = numbers[2][i].as_f64().unwrap();
            assert!((f64::from(*x) - want).abs() < 2e-4, "{name}[{i}]: {x} {want}");
        }
    }
}

#[test]
fn ten_full_steps() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let mut decoder = decoder();
    decoder.params.set_trainable(|_| true);
    replay(&mut decoder, &json(&parity.join("real/full_f32/trace.json")), None);
}

#[test]
fn eight_badam_steps() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let trace = json(&parity.join("real/badam_f32/trace.json"));
    let config = Config {
        use_badam: true,
        badam_switch_interval: trace["config"]["badam_switch_interval"].as_i64(),
        ..Config::default()
    };
    let mut decoder = decoder();
    decoder.params.set_trainable(|_| true);
    let badam = Badam::new(&config, &decoder.params).unwrap();
    replay(&mut decoder, &trace, badam.as_ref());
}

#[test]
fn ten_lora_steps() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let dir = parity.join("real/lora_f32");
    let mut decoder = decoder();
    let weights = |which: &str| {
        read_safetensors(&dir.join(which).join("adapter_model.safetensors"), Dtype::F32).unwrap()
    };
    let config = LoraConfig { rank: 8, alpha: 16.0, ..LoraConfig::default() };
    lora::attach_loaded(&mut decoder, &config, weights("lora_init"), "lora_init").unwrap();
    decoder.params.set_trainable(|p| p.role == Role::Adapter);
    replay(&mut decoder, &json(&dir.join("trace.json")), None);
    for (name, want) in weights("lora_final") {
        let id = decoder.params.find(&name).unwrap();
        let engine::model::weights::Data::F32(want) = want.data else { panic!("{name}") };
        let got = view(decoder.params.value(id)).unwrap();
        let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        relative(norm(&got), norm(&want), 1e-3, &name);
    }
    assert_eq!(IGNORE, -100);
}
