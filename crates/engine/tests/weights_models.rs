//! Model folders: every recorded model is read whole, and damaged ones are refused in words.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/shared.rs"]
mod shared;

use std::fs;
use std::path::Path;

use engine::model::config::ModelConfig;
use engine::model::params::expected_params;
use engine::model::weights::{Data, Dtype, read_folder, read_safetensors};
use serde_json::Value;

const MODELS: [&str; 8] = [
    "gemma3",
    "llama-gqa",
    "llama-tied",
    "llama3-rope",
    "mistral-swa",
    "phi3",
    "qwen2-tied",
    "qwen3",
];

#[test]
fn recorded_models_are_read_whole_and_in_order() {
    let Some(parity) = shared::parity() else {
        return;
    };
    for name in MODELS {
        let dir = parity.join("models").join(name);
        let config = ModelConfig::from_file(&dir.join("config.json")).unwrap();
        let loaded = read_folder(&dir, &config, Dtype::F32).unwrap();
        assert_eq!(loaded.unused, Vec::<String>::new(), "{name}");
        let case: Value =
            serde_json::from_slice(&fs::read(dir.join("case.json")).unwrap()).unwrap();
        let order: Vec<_> = case["grad_norms"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(loaded.weights.keys().cloned().collect::<Vec<_>>(), order, "{name}");
        // Nothing in the file is left over: the file has the same tensors.
        let whole = read_safetensors(&dir.join("model.safetensors"), Dtype::F32).unwrap();
        assert_eq!(whole.len(), expected_params(&config).len(), "{name}");
        for (key, value) in &whole {
            assert_eq!(Some(value), loaded.weights.get(key), "{name} {key}");
        }
    }
}

#[test]
fn bf16_is_the_nearest_of_f32() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let file = parity.join("models/llama-tied/model.safetensors");
    let (full, half) = (
        read_safetensors(&file, Dtype::F32).unwrap(),
        read_safetensors(&file, Dtype::Bf16).unwrap(),
    );
    for (name, tensor) in &full {
        let (Data::F32(x), Data::Bf16(y)) = (&tensor.data, &half[name].data) else {
            panic!("{name}: formats")
        };
        assert!(x.iter().zip(y).all(|(x, y)| half::bf16::from_f32(*x) == *y), "{name}");
    }
}

/// A copy of a recorded model's folder that a test may damage.
fn copy(parity: &Path, name: &str) -> (tempfile::TempDir, ModelConfig) {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(parity.join("models").join(name).join(file), dir.path().join(file)).unwrap();
    }
    let config = ModelConfig::from_file(&dir.path().join("config.json")).unwrap();
    (dir, config)
}

/// Reading must fail with one line that has `expected`.
fn refused(dir: &Path, config: &ModelConfig, expected: &str) {
    let error = read_folder(dir, config, Dtype::F32).unwrap_err().to_string();
    assert!(error.contains(expected), "expected {expected:?}, found {error}");
    assert!(error.lines().count() == 1 && error.contains(&*dir.to_string_lossy()), "{error}");
}

#[test]
fn damaged_weights_are_refused_and_never_panic() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let (dir, config) = copy(&parity, "llama-tied");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for cut in [0, 1, 7, 8, 9, 100, 2000, 2991, 2992, 3000, 400_000, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        refused(dir.path(), &config, "fetch it again");
    }
    let longer = [&whole[..], b"x"].concat();
    fs::write(&path, longer).unwrap();
    refused(dir.path(), &config, "something after the last tensor");
    // Every bit of the header's length and first names, and of the rest a bit here and there.
    let flips =
        (0..8 * 40).map(|i| (i / 8, i % 8)).chain((40..2992).step_by(9).map(|at| (at, at % 7)));
    for (at, bit) in flips {
        let mut copy = whole.clone();
        copy[at] ^= 1 << bit;
        fs::write(&path, &copy).unwrap();
        if let Err(error) = read_folder(dir.path(), &config, Dtype::F32) {
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }
}

#[test]
fn pickles_are_refused_by_name_and_by_content() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let (dir, config) = copy(&parity, "llama-tied");
    let path = dir.path().join("model.safetensors");
    for magic in [&b"PK\x03\x04\0\0\0\0\0\0"[..], b"\x80\x02\x8a\x0alF\xf9j\xa8P\x19"] {
        fs::write(&path, magic).unwrap();
        refused(dir.path(), &config, "Convert it to safetensors");
    }
    fs::remove_file(&path).unwrap();
    refused(dir.path(), &config, "no weights here");
    for name in ["pytorch_model.bin", "model.pt", "a.ckpt", "b.PTH"] {
        fs::write(dir.path().join(name), "x").unwrap();
        refused(dir.path(), &config, "is a pickle (PyTorch) file");
        fs::remove_file(dir.path().join(name)).unwrap();
    }
}

#[test]
fn weights_of_another_model_are_refused() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let (dir, config) = copy(&parity, "llama-gqa");
    let change = |field: &str, value: Value| {
        let mut raw = config.raw.clone();
        raw.insert(field.into(), value);
        ModelConfig::from_value(Value::Object(raw), "test").unwrap()
    };
    refused(
        dir.path(),
        &change("vocab_size", 400.into()),
        "model.embed_tokens.weight has shape [384, 64]",
    );
    refused(
        dir.path(),
        &change("num_hidden_layers", 4.into()),
        "model.layers.3.self_attn.q_proj.weight is missing",
    );
    refused(dir.path(), &change("attention_bias", true.into()), "self_attn.q_proj.bias is missing");
    let fewer =
        read_folder(dir.path(), &change("num_hidden_layers", 2.into()), Dtype::F32).unwrap();
    assert_eq!(fewer.unused.len(), 9);
    let tied =
        read_folder(dir.path(), &change("tie_word_embeddings", true.into()), Dtype::F32).unwrap();
    assert_eq!(tied.unused, Vec::<String>::new());
    let (dir, config) = copy(&parity, "llama-tied");
    let mut raw = config.raw.clone();
    raw.insert("tie_word_embeddings".into(), false.into());
    let untied = ModelConfig::from_value(Value::Object(raw), "test").unwrap();
    refused(dir.path(), &untied, "does not say tie_word_embeddings");
}

#[test]
fn shard_lists_that_lie_are_refused() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let (dir, config) = copy(&parity, "llama-tied");
    let at = |name: &str| dir.path().join(name);
    fs::rename(at("model.safetensors"), at("a.safetensors")).unwrap();
    let names: Vec<_> = expected_params(&config).into_iter().map(|spec| spec.name).collect();
    let list = |file: &dyn Fn(usize) -> &'static str| {
        let map: serde_json::Map<_, _> =
            names.iter().enumerate().map(|(i, name)| (name.clone(), file(i).into())).collect();
        let json = serde_json::json!({ "metadata": {}, "weight_map": map });
        fs::write(at("model.safetensors.index.json"), json.to_string()).unwrap();
    };
    list(&|_| "a.safetensors");
    read_folder(dir.path(), &config, Dtype::F32).unwrap();
    list(&|i| {
        if i == 3 { "b.safetensors" } else { "a.safetensors" }
    });
    refused(dir.path(), &config, "b.safetensors");
    fs::copy(at("a.safetensors"), at("b.safetensors")).unwrap();
    refused(dir.path(), &config, "each may be there once");
    for outside in ["../a.safetensors", "/etc/passwd", "x/a.safetensors", "..", "", "a\\b"] {
        let outside: &'static str = outside.to_owned().leak();
        list(&|_| outside);
        refused(dir.path(), &config, "is not a file name in this folder");
    }
    list(&|_| "pytorch_model.bin");
    refused(dir.path(), &config, "is not a .safetensors file");
    fs::write(at("model.safetensors.index.json"), "{\"weight_map\": 3}").unwrap();
    refused(dir.path(), &config, "weight_map: expected an object");
    fs::write(at("model.safetensors.index.json"), "{").unwrap();
    refused(dir.path(), &config, "not valid JSON");
}
