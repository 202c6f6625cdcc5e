//! Each way of training few weights, against five steps that PEFT and torch took on tiny models
//! (`scripts/reference/methods.py`), and broken off and resumed.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/runs.rs"]
mod runs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use engine::model::adapter_file::read_adapter;
use engine::model::config::ModelConfig;
use engine::model::decoder::Decoder;
use engine::model::lora;
use engine::model::weights::{Dtype, read_folder};
use engine::prepare::Surroundings;
use engine::task;
use run::event::Body;
use runs::{Watch, config, resumes_bit_for_bit, run, tensors};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    runs::root().join("crates/engine/tests/fixtures/methods")
}

fn close(got: f64, want: &Value, tolerance: f64, what: &str) {
    let want = want.as_f64().unwrap();
    let error = (got - want).abs() / want.abs().max(1e-9);
    assert!(error <= tolerance, "{what}: got {got}, expected {want}, off by {error:.2e}");
}

/// The arguments of a case's five steps.
fn arguments(name: &str, case: &Value) -> Value {
    let (root, model) = (fixtures(), case["model"].as_str().unwrap());
    let mut more = json!({
        "model_name_or_path": root.join("models").join(model),
        "dataset": "rows", "dataset_dir": root, "disable_shuffling": true,
        "gradient_accumulation_steps": 1, "max_steps": 5, "max_samples": null,
        "learning_rate": 1e-2, "lr_scheduler_type": "constant", "weight_decay": 0.01,
    });
    if root.join(name).is_dir() {
        more["adapter_name_or_path"] = json!(root.join(name));
    }
    for (key, value) in case["arguments"].as_object().unwrap() {
        more[key] = value.clone();
    }
    more
}

fn around() -> Surroundings {
    Surroundings {
        hub: engine::model::hub::HubEnv { hf_cache: PathBuf::new(), ms_cache: PathBuf::new() },
        started_unix_s: 0,
        cores: 2,
        memory: None,
    }
}

/// Mean loss over all labels of the ten rows.
fn evaluated(arguments: &Value) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), arguments.clone());
    let found = task::evaluate(&config, &around(), &mut Watch::default()).unwrap();
    found[0].1.token_loss
}

/// The loss with an adapter merged into the weights.
fn merged(adapter: &Path, case: &Value) -> f64 {
    let dir = fixtures().join("models").join(case["model"].as_str().unwrap());
    let config = ModelConfig::from_file(&dir.join("config.json")).unwrap();
    let weights = read_folder(&dir, &config, Dtype::F32).unwrap().weights;
    let mut decoder = Decoder::new(config, weights, &Device::Cpu).unwrap();
    let file = read_adapter(adapter, &decoder.config).unwrap();
    lora::attach_loaded(&mut decoder, &file.lora, file.weights, "adapter").unwrap();
    let rows = rows();
    let loss = |decoder: &Decoder| {
        let batch = engine::batch::Batch::new(&rows);
        let sum: f64 = decoder.losses(&batch).unwrap().iter().map(|l| l.sum).sum();
        sum / batch.targets.len() as f64
    };
    let before = loss(&decoder);
    lora::merge(&mut decoder).unwrap();
    let after = loss(&decoder);
    assert!((before - after).abs() < 1e-5, "{before} became {after} by merging");
    after
}

fn rows() -> Vec<engine::batch::Sequence> {
    let text = std::fs::read_to_string(fixtures().join("rows.jsonl")).unwrap();
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        let list = |key: &str| serde_json::from_value::<Vec<i32>>(row[key].clone()).unwrap();
        let ids = list("input_ids").into_iter().map(|id| id as u32).collect();
        engine::batch::Sequence::plain(ids, list("labels"))
    };
    text.lines().map(row).collect()
}

fn counts(watch: &Watch) -> Vec<u64> {
    let started = |body: &Body| match body {
        Body::Started { trainable_params, all_params, .. } => {
            Some(vec![*trainable_params, *all_params])
        }
        _ => None,
    };
    watch.events.iter().find_map(started).unwrap()
}

fn check_norms(file: &Path, want: &Value, tolerance: f64, name: &str) {
    let (got, want) = (tensors(file), want.as_object().unwrap());
    assert_eq!(
        got.keys().collect::<Vec<_>>(),
        want.keys().collect::<Vec<_>>(),
        "{name}: names in the file"
    );
    for (tensor, values) in &got {
        let norm = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        close(norm, &want[tensor], tolerance, &format!("{name}: {tensor}"));
    }
}

#[test]
fn five_steps_as_peft_takes_them() {
    let cases = std::fs::read_to_string(fixtures().join("cases.json")).unwrap();
    let cases: BTreeMap<String, Value> = serde_json::from_str(&cases).unwrap();
    for (name, case) in &cases {
        let more = arguments(name, case);
        let adapter = fixtures().join(name).is_dir();
        if adapter {
            close(evaluated(&more), &case["before"], 1e-5, &format!("{name}: before"));
        }
        let dir = tempfile::tempdir().unwrap();
        let (_, watch) = run(&config(dir.path(), more.clone()), None);
        assert_eq!(json!(counts(&watch)), case["params"], "{name}: trainable, all");
        let (losses, norms) = (watch.metric("loss"), watch.metric("grad_norm"));
        for step in 0..5u64 {
            let at = |key: &str| &case[key][step as usize];
            close(losses[&(step + 1)], at("losses"), 1e-4, &format!("{name}: loss {step}"));
            close(norms[&(step + 1)], at("grad_norms"), 1e-3, &format!("{name}: norm {step}"));
        }
        if let Some(start) = case.get("start") {
            let file = dir.path().join("pissa_init/adapter_model.safetensors");
            check_norms(&file, start, 1e-3, name);
        }
        let lora = case["arguments"]["finetuning_type"] == "lora";
        let file = if lora { "adapter_model.safetensors" } else { "model.safetensors" };
        check_norms(&dir.path().join(file), &case["norms"], 1e-3, name);
        // What was written is read again: the trained model, with its adapter beside or within it.
        if adapter {
            let mut again = more.clone();
            again["adapter_name_or_path"] = json!(dir.path());
            close(evaluated(&again), &case["after"], 1e-4, &format!("{name}: read again"));
            close(merged(dir.path(), case), &case["after"], 1e-4, &format!("{name}: merged"));
        }
    }
}

#[test]
fn broken_off_in_mid_epoch_and_resumed() {
    let lora = |more: Value| {
        let mut all = json!({"finetuning_type": "lora", "max_steps": 6, "max_samples": 40});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    };
    let cases = [
        json!({"lora_dropout": 0.1, "use_rslora": true}),
        json!({"use_dora": true, "lora_dropout": 0.1, "loraplus_lr_ratio": 8.0}),
        json!({"additional_target": "embed_tokens,norm", "neftune_noise_alpha": 5.0}),
        json!({"lora_target": "embed_tokens,q_proj", "loraplus_lr_ratio": 2.0}),
        json!({"lora_target": r".*\.[12]\.mlp\..*", "additional_target": "lm_head"}),
    ];
    for case in cases {
        resumes_bit_for_bit(&lora(case), &[3], "adapter_model.safetensors");
    }
    for case in [
        json!({"pissa_init": true, "pissa_iter": 4, "lora_dropout": 0.1}),
        json!({"pissa_init": true, "pissa_iter": -1, "use_dora": true, "pissa_convert": true}),
    ] {
        let file = "adapter_model.safetensors";
        resumes_bit_for_bit(&lora(case), &[3], file);
    }
    for more in [
        json!({"freeze_trainable_layers": 1, "neftune_noise_alpha": 5.0}),
        json!({"freeze_trainable_layers": -2, "freeze_trainable_modules": "mlp"}),
    ] {
        let mut case = lora(more);
        case["finetuning_type"] = json!("freeze");
        resumes_bit_for_bit(&case, &[3], "model.safetensors");
    }
}

#[test]
fn a_pissa_adapter_and_its_converted_form_say_the_same() {
    for more in [
        json!({"pissa_iter": -1}),
        json!({"pissa_iter": 3, "use_rslora": true, "use_dora": true, "additional_target": "norm"}),
        json!({"pissa_iter": 0, "lora_target": "embed_tokens,down_proj"}),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut all = json!({
            "finetuning_type": "lora", "pissa_init": true, "pissa_convert": true, "max_steps": 3,
        });
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        let (_, watch) = run(&config(dir.path(), all), None);
        assert!(watch.said().contains("Using PiSSA initialization"), "{}", watch.said());
        let loss = |folder: &str| {
            let path = dir.path().join(folder);
            evaluated(&json!({"finetuning_type": "lora", "adapter_name_or_path": path}))
        };
        let plain = evaluated(&json!({"finetuning_type": "full"}));
        let (trained, converted) = (loss(""), loss("pissa_converted"));
        assert!((trained - plain).abs() > 1e-3, "{more}: nothing learnt, {trained}");
        assert!((trained - converted).abs() < 1e-5 * plain, "{more}: {trained} {converted}");
        let file = "adapter_model.safetensors";
        let [root, backup] = [dir.path().join(file), dir.path().join("pissa_backup").join(file)];
        assert_eq!(tensors(&root), tensors(&backup));
        std::fs::remove_dir_all(dir.path().join("pissa_init")).unwrap();
        let config = config(
            dir.path(),
            json!({"adapter_name_or_path": dir.path(), "finetuning_type": "lora"}),
        );
        let around = around();
        let found = task::evaluate(&config, &around, &mut Watch::default());
        match more["pissa_iter"] == json!(-1) {
            // The exact form has one answer, up to rounding.
            true => assert!((found.unwrap()[0].1.token_loss - trained).abs() < 1e-5 * plain),
            false => assert!(found.unwrap_err().to_string().contains("use the converted adapter")),
        }
    }
}

#[test]
fn adapters_on_adapters() {
    let dir = tempfile::tempdir().unwrap();
    let train = |name: &str, more: Value| {
        let out = dir.path().join(name);
        std::fs::create_dir_all(&out).unwrap();
        let mut all = json!({"finetuning_type": "lora", "max_steps": 2, "learning_rate": 1e-2});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        let (_, watch) = run(&config(&out, all), None);
        (out, watch)
    };
    let (a, _) = train("a", json!({"use_dora": true, "additional_target": "embed_tokens"}));
    let (b, watch) = train("b", json!({"adapter_name_or_path": a, "create_new_adapter": true}));
    assert!(
        watch.said().contains("Merged 1 adapter(s).\nFine-tuning method: LoRA"),
        "{}",
        watch.said()
    );
    let both = format!("{},{}", a.display(), b.display());
    let loss = |adapters: &str| {
        evaluated(&json!({"finetuning_type": "lora", "adapter_name_or_path": adapters}))
    };
    let (one, two) = (loss(&a.display().to_string()), loss(&both));
    assert!(two < one, "the second adapter has learnt more: {two} {one}");
    // The last is trained on from where it was.
    let (c, watch) = train("c", json!({"adapter_name_or_path": both, "learning_rate": 0.0}));
    assert!(watch.said().contains("Merged 1 adapter(s).\nLoaded adapter(s): "), "{}", watch.said());
    let file = "adapter_model.safetensors";
    assert_eq!(tensors(&c.join(file)), tensors(&b.join(file)));
    // The same from folders in folders.
    let deep = dir.path().join("x");
    for (name, from) in [("a", &a), ("b", &b)] {
        let to = deep.join(name).join("sub");
        std::fs::create_dir_all(&to).unwrap();
        for file in [file, "adapter_config.json"] {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }
    let deep = format!("{0}/a,{0}/b", deep.display());
    let more = json!({
        "finetuning_type": "lora", "adapter_name_or_path": deep, "adapter_folder": "sub",
    });
    assert_eq!(evaluated(&more).to_bits(), two.to_bits());
    // A run that made a new adapter on others is resumed on them too.
    let more = json!({
        "finetuning_type": "lora", "adapter_name_or_path": both, "create_new_adapter": true,
        "max_steps": 6,
    });
    resumes_bit_for_bit(&more, &[3], file);
}
