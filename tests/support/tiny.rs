//! A run small enough to be killed many times: a two-layer decoder from scratch on token rows.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// A tokenizer of five words, one of them the end.
pub const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
"model":{"type":"WordLevel","vocab":{"<unk>":0,"a":1,"b":2,"c":3,"</s>":4},"unk_token":"<unk>"}}"#;

/// Gives the model of [`run_config`] a tokenizer, and its dataset folder the set `text`: `rows` in `file`.
pub fn add_text(root: &Path, file: &str, rows: &str) {
    let model = root.join("tiny-model");
    fs::write(model.join("tokenizer.json"), TOKENIZER).unwrap();
    fs::write(model.join("tokenizer_config.json"), r#"{"eos_token":"</s>"}"#).unwrap();
    let data = root.join("tiny-data");
    fs::write(data.join(file), rows).unwrap();
    let info = json!({"text": {"file_name": file}});
    fs::write(data.join("dataset_info.json"), info.to_string()).unwrap();
}

/// Makes the model folder and the dataset below `root`; returns the arguments of a run of
/// `steps` steps that saves every `save_steps`.
pub fn run_config(root: &Path, steps: u64, save_steps: u64) -> Value {
    let model = root.join("tiny-model");
    fs::create_dir_all(&model).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 384, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "hidden_act": "silu", "initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": 2
    });
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let data = root.join("tiny-data");
    fs::create_dir_all(&data).unwrap();
    let mut rows = String::new();
    for row in 0..64u32 {
        let ids: Vec<u32> = (0..60 + row).map(|t| (t * t * 7 + row * 31) % 380 + 3).collect();
        rows.push_str(&json!({"input_ids": ids, "labels": ids}).to_string());
        rows.push('\n');
    }
    fs::write(data.join("rows.jsonl"), rows).unwrap();
    let info = json!({"tiny": {"file_name": "rows.jsonl", "formatting": "tokens"}});
    fs::write(data.join("dataset_info.json"), info.to_string()).unwrap();
    json!({
        "model_name_or_path": model, "train_from_scratch": true, "stage": "sft", "do_train": true,
        "finetuning_type": "full", "dataset": "tiny", "dataset_dir": data, "cutoff_len": 128,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
        "max_steps": steps, "save_steps": save_steps, "save_total_limit": 2, "logging_steps": 1,
        "lr_scheduler_type": "cosine", "threads": 1, "seed": 7
    })
}
