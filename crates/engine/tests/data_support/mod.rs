//! Where the recorded truth is and how it is read; tokenizers and datasets of our own.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a broken test may panic")]
#![allow(dead_code, reason = "every test file uses a part of this")]

use std::path::{Path, PathBuf};

use engine::data::load::Dataset;
use engine::data::template::{Message, Role};
use engine::data::{DataArgs, DataError, Tokenizer, load, prepare_template};
use serde_json::{Value, json};

/// A path below the shared folder; says what is left out where it is missing.
pub fn shared(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("TALLOW_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let path = folder.join(path);
    if path.exists() {
        return Some(path);
    }
    println!("left out: {} is not here (set TALLOW_SHARED)", path.display());
    None
}

/// A JSON file of the recorded truth.
pub fn recorded(name: &str) -> Option<Value> {
    let path = shared(&format!("parity/{name}"))?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

/// Messages as the recordings have them.
pub fn messages(value: &Value) -> Vec<Message> {
    let role = |name: &str| match name {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "function" => Role::Function,
        "observation" => Role::Observation,
        other => panic!("role {other}"),
    };
    let message =
        |m: &Value| Message::new(role(m["role"].as_str().unwrap()), m["content"].as_str().unwrap());
    value.as_array().expect("messages").iter().map(message).collect()
}

/// A folder with a tokenizer of single bytes and the special tokens `<s> </s> <|im_start|> <|im_end|>`.
pub fn byte_tokenizer(config: &Value) -> tempfile::TempDir {
    // GPT-2's alphabet: printable bytes stand for themselves, the rest for characters from U+0100.
    let mut next = 256;
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255_u32 {
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let shown = if printable { byte } else { next };
        next += u32::from(!printable);
        vocab.insert(char::from_u32(shown).unwrap().to_string(), byte.into());
    }
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let names = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];
    let added: Vec<Value> =
        names.iter().enumerate().map(|(i, name)| special(256 + i, name)).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": []}
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

/// A dataset directory: dataset_info.json and files by name.
pub fn dataset(info: &Value, files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dataset_info.json"), info.to_string()).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// Loads `x` from files of our own, with a tokenizer of bytes.
pub fn run(
    info: &Value,
    files: &[(&str, &str)],
    change: impl FnOnce(&mut DataArgs),
) -> Result<Dataset, DataError> {
    let folder = dataset(&json!({ "x": info }), files);
    let tokenizer = byte_tokenizer(&json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}}));
    let mut args = DataArgs {
        dataset: vec!["x".to_string()],
        dataset_dir: folder.path().display().to_string(),
        template: Some("empty".to_string()),
        ..DataArgs::default()
    };
    change(&mut args);
    let mut tokenizer = Tokenizer::from_folder(tokenizer.path())?;
    let (template, _) = prepare_template(&args, &mut tokenizer)?;
    load(&args, Some((&tokenizer, &template)), &mut |_, _| {})
}
