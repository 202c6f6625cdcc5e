//! Model folders: every recorded model is read whole, and damaged ones are refused in words.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/shared.rs"]
mod shared;

use std::fs;

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
        let order: Vec<_> = case["grad_norms"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(
            loaded.weights.keys().cloned().collect::<Vec<_>>(),
            order,
            "{name}"
        );
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
        assert!(
            x.iter().zip(y).all(|(x, y)| half::bf16::from_f32(*x) == *y),
            "{name}"
        );
    }
}
