//! What is written: models and adapters that transformers and PEFT would have written, byte for
//! byte where the recorded ones are theirs.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/shared.rs"]
mod shared;
#[path = "support/smollm2.rs"]
mod smollm2;

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use engine::model::adapter_file::{read_adapter, save_adapter};
use engine::model::config::ModelConfig;
use engine::model::gguf::Gguf;
use engine::model::save::{
    MAX_SHARD, SaveOptions, config_json, read_generation_config, save_model,
};
use engine::model::weights::{Data, Dtype, Weights, read_folder};
use serde_json::{Value, json};

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

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn tensors(weights: &Weights) -> Vec<(&str, Tensor)> {
    let one = |(name, weight): (&'_ String, &engine::model::weights::WeightData)| {
        let Data::F32(data) = &weight.data else { panic!("{name} is not f32") };
        Tensor::from_slice(data, weight.shape.as_slice(), &Device::Cpu).unwrap()
    };
    weights.iter().map(|entry| (entry.0.as_str(), one(entry))).collect()
}

fn borrowed<'a>(tensors: &'a [(&'a str, Tensor)]) -> Vec<(&'a str, &'a Tensor)> {
    tensors.iter().map(|(name, tensor)| (*name, tensor)).collect()
}

fn options(max_shard: u64) -> SaveOptions<'static> {
    SaveOptions { dtype: Dtype::F32, max_shard, generation: None, stop_ids: &[] }
}

#[test]
fn models_are_written_as_transformers_wrote_them() {
    let Some(parity) = shared::parity() else {
        return;
    };
    for name in MODELS {
        let source = parity.join("models").join(name);
        let config = ModelConfig::from_file(&source.join("config.json")).unwrap();
        let loaded = read_folder(&source, &config, Dtype::F32).unwrap();
        let tensors = tensors(&loaded.weights);
        let out = tempfile::tempdir().unwrap();
        save_model(out.path(), &config, &borrowed(&tensors), &options(MAX_SHARD)).unwrap();
        let bytes = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
        assert!(bytes(out.path()) == bytes(&source), "{name}: weights differ");
        // Python writes 1e-05 where Rust writes 1e-5: the values are compared, in their order.
        let settings = |dir: &Path| json_of(&dir.join("config.json")).to_string();
        assert_eq!(settings(out.path()), settings(&source), "{name}");
        let files: Vec<_> = fs::read_dir(out.path()).unwrap().collect();
        assert_eq!(files.len(), 3, "nothing else is left");
    }
}

#[test]
fn large_models_go_into_shards_and_back() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let source = parity.join("models/qwen3");
    let config = ModelConfig::from_file(&source.join("config.json")).unwrap();
    let loaded = read_folder(&source, &config, Dtype::F32).unwrap();
    let tensors = tensors(&loaded.weights);
    let out = tempfile::tempdir().unwrap();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(out.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("model"))
            .collect();
        names.sort();
        names
    };
    save_model(out.path(), &config, &borrowed(&tensors), &options(300_000)).unwrap();
    let index = json_of(&out.path().join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], json!(862_720));
    assert_eq!(index["weight_map"].as_object().unwrap().len(), tensors.len());
    let shards = names();
    assert_eq!(shards.len(), 4, "three and the index: {shards:?}");
    for shard in &shards[..3] {
        assert!(fs::metadata(out.path().join(shard)).unwrap().len() < 300_000 + 4096, "{shard}");
    }
    let back = read_folder(out.path(), &config, Dtype::F32).unwrap();
    assert_eq!(back.weights, loaded.weights);
    // Saved whole into the same folder, the shards go: they would be stale.
    save_model(out.path(), &config, &borrowed(&tensors), &options(MAX_SHARD)).unwrap();
    assert_eq!(names(), ["model.safetensors"]);
    // One tensor a file, each larger than the bound.
    save_model(out.path(), &config, &borrowed(&tensors), &options(1)).unwrap();
    assert_eq!(names().len(), tensors.len() + 1);
    assert_eq!(read_folder(out.path(), &config, Dtype::F32).unwrap().weights, loaded.weights);
}

#[test]
fn bf16_is_written_as_the_nearest() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let source = parity.join("models/llama-tied");
    let config = ModelConfig::from_file(&source.join("config.json")).unwrap();
    let loaded = read_folder(&source, &config, Dtype::F32).unwrap();
    let tensors = tensors(&loaded.weights);
    let out = tempfile::tempdir().unwrap();
    let options = SaveOptions { dtype: Dtype::Bf16, ..options(MAX_SHARD) };
    // A tied head that the caller passes along is not written.
    let mut all = borrowed(&tensors);
    all.push(("lm_head.weight", all[0].1));
    save_model(out.path(), &config, &all, &options).unwrap();
    let back = read_folder(out.path(), &config, Dtype::Bf16).unwrap();
    assert_eq!(back.weights, read_folder(&source, &config, Dtype::Bf16).unwrap().weights);
    assert_eq!(json_of(&out.path().join("config.json"))["dtype"], json!("bfloat16"));
}

#[test]
fn a_gguf_model_gets_a_config_of_its_own() {
    let config = Gguf::open(&smollm2::gguf()).unwrap().config().unwrap();
    let saved = config_json(&config, Dtype::F32);
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100_000.0,
        "rope_scaling": null, "tie_word_embeddings": true, "attention_bias": false,
        "mlp_bias": false, "attention_dropout": 0.0, "hidden_act": "silu",
        "initializer_range": 0.02, "use_cache": true, "dtype": "float32", "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 2,
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(saved[field], *value, "{field}");
    }
    assert_eq!(saved.as_object().unwrap().len(), expected.as_object().unwrap().len());
}

#[test]
fn generation_stops_at_the_stop_words_too() {
    let base = json!({
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "vocab_size": 8, "bos_token_id": 1, "pad_token_id": 0,
    });
    let check = |eos: Value, before: Value, stops: &[u32], expected: Value| {
        let mut config = base.clone();
        config["eos_token_id"] = eos;
        let config = ModelConfig::from_value(config, "test").unwrap();
        let dir = tempfile::tempdir().unwrap();
        if before.is_object() {
            fs::write(dir.path().join("generation_config.json"), before.to_string()).unwrap();
        }
        let generation = read_generation_config(dir.path()).unwrap();
        let options =
            SaveOptions { generation: generation.as_ref(), stop_ids: stops, ..options(MAX_SHARD) };
        save_model(dir.path(), &config, &[], &options).unwrap();
        assert_eq!(json_of(&dir.path().join("generation_config.json")), expected);
    };
    let plain = |eos: Value| json!({ "bos_token_id": 1, "pad_token_id": 0, "eos_token_id": eos });
    check(json!(2), json!(null), &[], plain(json!(2)));
    check(json!(2), json!(null), &[2], plain(json!(2)));
    check(json!([2, 3]), json!(null), &[5], plain(json!([2, 3, 5])));
    check(json!(null), json!(null), &[], json!({ "bos_token_id": 1, "pad_token_id": 0 }));
    let before = json!({
        "_from_model_config": true, "eos_token_id": [4, 2], "temperature": 0.7, "pad_token_id": 4,
    });
    let after = json!({
        "eos_token_id": [4, 2, 5], "temperature": 0.7, "pad_token_id": 4, "bos_token_id": 1,
    });
    check(json!(2), before, &[5], after);
}

#[test]
fn adapters_are_written_as_peft_wrote_them() {
    let Some(parity) = shared::parity() else {
        return;
    };
    for name in MODELS {
        let model = parity.join("models").join(name);
        let config = ModelConfig::from_file(&model.join("config.json")).unwrap();
        let source = model.join("adapter_init");
        let adapter = read_adapter(&source, &config).unwrap();
        assert_eq!((adapter.lora.rank, adapter.lora.alpha), (4, 8.0));
        let tensors = tensors(&adapter.weights);
        let out = tempfile::tempdir().unwrap();
        let base = &adapter.base_model;
        save_adapter(out.path(), &adapter.lora, base, &borrowed(&tensors), Dtype::F32).unwrap();
        let weights = |dir: &Path| fs::read(dir.join("adapter_model.safetensors")).unwrap();
        assert!(weights(out.path()) == weights(&source), "{name}: weights differ");
        // PEFT's order of target_modules is that of a set.
        let settings = |dir: &Path| {
            let mut value = json_of(&dir.join("adapter_config.json"));
            let targets = value["target_modules"].as_array_mut().unwrap();
            targets.sort_by_key(Value::to_string);
            value.to_string()
        };
        assert_eq!(settings(out.path()), settings(&source), "{name}");
    }
}

#[test]
fn adapters_that_are_something_else_are_refused_by_name() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let model = parity.join("models/llama-gqa");
    let config = ModelConfig::from_file(&model.join("config.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let source = model.join("adapter_init");
    let weights = dir.path().join("adapter_model.safetensors");
    fs::copy(source.join("adapter_model.safetensors"), &weights).unwrap();
    let check = |field: &str, value: Value, expected: &str| {
        let mut settings = json_of(&source.join("adapter_config.json"));
        settings[field] = value;
        fs::write(dir.path().join("adapter_config.json"), settings.to_string()).unwrap();
        match read_adapter(dir.path(), &config) {
            Ok(_) => assert_eq!(expected, "", "{field} was let through"),
            Err(error) => {
                let error = error.to_string();
                assert!(!expected.is_empty() && error.contains(expected), "{field}: {error}");
                assert!(error.lines().count() == 1 && error.contains("adapter_"), "{error}");
            }
        }
    };
    check("use_dora", json!(true), "lora_magnitude_vector is missing");
    check("use_dora", json!(1), "use_dora: expected true or false");
    check("modules_to_save", json!(["lm_head"]), "base_model.model.lm_head.weight is missing");
    check("modules_to_save", json!(["head"]), "lm_head.weight is missing");
    check("modules_to_save", json!(["hat"]), "modules_to_save: Module hat is not found");
    check("modules_to_save", json!("lm_head"), "modules_to_save: expected a list");
    check("target_modules", json!(["q_proj", "lm_head"]), "on lm_head is not supported");
    check("rank_pattern", json!({ "q_proj": 8 }), "rank_pattern");
    check("alpha_pattern", json!({ "q_proj": 8 }), "alpha_pattern");
    check("bias", json!("all"), "bias");
    check("peft_type", json!("IA3"), "peft_type");
    check("init_lora_weights", json!("olora"), "init_lora_weights: \"olora\" is not supported");
    check("init_lora_weights", json!("pissa_niter_x"), "init_lora_weights");
    check("init_lora_weights", json!("pissa_niter_16"), "");
    check("layers_to_transform", json!([0]), "layers_to_transform");
    check("r", json!(0), "r: expected a whole number");
    check("r", json!(8), "has shape [4, 64], expected [8, 64]");
    check("lora_alpha", json!("x"), "lora_alpha: expected a number");
    check("target_modules", json!(["q_proj"]), "belongs to no layer");
    check("target_modules", json!(["q_prj"]), "q_prj names no linear layer");
    check("target_modules", json!("all-linear"), "");
    check("target_modules", json!(r".*\.(self_attn|mlp)\..*_proj"), "");
    check("use_rslora", json!(true), "");
    fs::rename(&weights, dir.path().join("adapter_model.bin")).unwrap();
    check("bias", json!("none"), "pickle");
}
