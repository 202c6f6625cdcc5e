//! Whole runs on what the data stage offers: streamed rows, new tokens, kept rows, saved rows; and
//! `tallow template`.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/tiny.rs"]
mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::SafeTensors;
use serde_json::{Value, json};

struct Bench {
    root: tempfile::TempDir,
    config: Value,
}

impl Bench {
    fn new(steps: u64, save_steps: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut config = tiny::run_config(root.path(), steps, save_steps);
        config["output_dir"] = json!(root.path().join("out"));
        Self { root, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn set(&mut self, key: &str, value: Value) -> &mut Self {
        self.config[key] = value;
        self
    }

    /// Alpaca rows, a tokenizer of five words and a model of five rows.
    fn with_text(&mut self) -> &mut Self {
        let model = self.path("tiny-model");
        let mut config: Value =
            serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
        config["vocab_size"] = json!(5);
        fs::write(model.join("config.json"), config.to_string()).unwrap();
        let row = json!({"instruction": "a b", "input": "", "output": "c <x> a"});
        let rows = Value::from(vec![row; 8]).to_string();
        tiny::add_text(self.root.path(), "text.json", &rows);
        self.set("dataset", json!("text")).set("template", json!("empty"))
    }

    /// Trains into `out` and returns what was said.
    #[track_caller]
    fn train(&self, out: &str) -> String {
        let (log, ok) = self.try_train(out);
        assert!(ok, "{log}");
        log
    }

    fn try_train(&self, out: &str) -> (String, bool) {
        let mut config = self.config.clone();
        config["output_dir"] = json!(self.path(out));
        let file = self.path("config.json");
        fs::write(&file, config.to_string()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tallow"))
            .env("TALLOW_CACHE_DIR", self.path("cache"))
            .arg("train")
            .arg(file)
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        (log, output.status.success())
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}

/// The embedding of a saved model: its shape and values.
fn embedding(dir: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor("model.embed_tokens.weight").unwrap();
    let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (tensor.shape().to_vec(), values.collect())
}

#[test]
fn a_streamed_run_resumes_bit_for_bit() {
    let mut bench = Bench::new(24, 12);
    bench.set("streaming", json!(true)).set("buffer_size", json!(10)).set("val_size", json!(4));
    bench.set("eval_strategy", json!("steps")).set("eval_steps", json!(12));
    let log = bench.train("whole");
    assert!(log.contains("eval_loss"), "{log}");
    let whole = bench.file("whole/model.safetensors");
    // the same run from its middle: 24 steps of 4 rows are more than one pass over the 60 rows
    fs::create_dir_all(bench.path("again")).unwrap();
    fs::rename(bench.path("whole/checkpoint-12"), bench.path("again/checkpoint-12")).unwrap();
    bench.train("again");
    assert_eq!(bench.file("again/model.safetensors"), whole);
    bench.set("max_steps", json!(-1));
    let (log, ok) = bench.try_train("refused");
    assert!(!ok && log.contains("Please specify `max_steps` in streaming mode."), "{log}");
}

#[test]
fn new_tokens_have_rows_and_are_saved() {
    let mut bench = Bench::new(2, 2);
    bench.with_text();
    bench.train("base");
    let (shape, old) = embedding(&bench.path("base"));
    assert_eq!(shape, [5, 64]);
    let (base, tokens) = (bench.path("base"), bench.path("tokens.yaml"));
    fs::write(&tokens, "<x>: a b\n<y>: c\n").unwrap();
    bench
        .set("model_name_or_path", json!(base))
        .set("train_from_scratch", json!(false))
        .set("learning_rate", json!(0.0))
        .set("new_special_tokens_config", json!(tokens))
        .set("init_special_tokens", json!("desc_init"));
    let log = bench.train("grown");
    for part in ["changed `resize_vocab` to True", "Resized token embeddings from 5 to 64."] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let (shape, new) = embedding(&bench.path("grown"));
    assert_eq!((shape, &new[..5 * 64]), (vec![64, 64], &old[..]));
    let near = |row: usize, expected: &dyn Fn(usize) -> f32| {
        for k in 0..64 {
            assert!((new[row * 64 + k] - expected(k)).abs() < 1e-6, "row {row}, column {k}");
        }
    };
    near(5, &|k| (old[64 + k] + old[2 * 64 + k]) / 2.0);
    near(6, &|k| old[3 * 64 + k]);
    let config: Value = serde_json::from_slice(&bench.file("grown/config.json")).unwrap();
    assert_eq!(config["vocab_size"], 64);
    let tokenizer = String::from_utf8(bench.file("grown/tokenizer.json")).unwrap();
    assert!(tokenizer.contains("<x>") && tokenizer.contains("<y>"));
    // beside an adapter the new rows are trained and saved
    bench.set("finetuning_type", json!("lora"));
    let log = bench.train("adapter");
    assert!(log.contains("add embed_tokens,lm_head to trainable params"), "{log}");
    let config: Value = serde_json::from_slice(&bench.file("adapter/adapter_config.json")).unwrap();
    assert_eq!(config["modules_to_save"], json!(["embed_tokens", "lm_head"]));
    let bytes = bench.file("adapter/adapter_model.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let saved = tensors.names().into_iter().find(|name| name.ends_with("embed_tokens.weight"));
    assert_eq!(tensors.tensor(saved.unwrap()).unwrap().shape(), [64, 64]);
    bench.set("finetuning_type", json!("full"));
    // the folder trains on as it is
    let grown = bench.path("grown");
    bench.set("model_name_or_path", json!(grown));
    bench.set("new_special_tokens_config", Value::Null);
    let log = bench.train("further");
    assert!(!log.contains("Resized"), "{log}");
}

#[test]
fn encoded_rows_are_kept_and_saved() {
    let mut bench = Bench::new(2, 2);
    bench.with_text();
    assert!(!bench.train("one").contains("Encoded rows were taken from"));
    assert!(bench.train("two").contains("Encoded rows were taken from"));
    assert_eq!(bench.file("one/model.safetensors"), bench.file("two/model.safetensors"));
    bench.set("overwrite_cache", json!(true));
    assert!(!bench.train("three").contains("Encoded rows were taken from"));
    let saved = bench.path("saved");
    bench.set("tokenized_path", json!(saved));
    assert!(bench.train("four").contains("Tokenized dataset is saved at"));
    let log = bench.train("five");
    assert!(log.contains("will ignore other data arguments"), "{log}");
    assert_eq!(bench.file("one/model.safetensors"), bench.file("five/model.safetensors"));
}

#[test]
fn templates_are_listed_and_shown() {
    let tallow = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tallow"))
            .env("SOURCE_DATE_EPOCH", "1764000000")
            .arg("template")
            .args(words)
            .output()
            .unwrap();
        let text =
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
        (text, output.status.success())
    };
    let (list, ok) = tallow(&[]);
    assert!(ok && list.lines().count() >= 125, "{list}");
    for (words, part) in [
        (&["qwen", "--show"][..], "<|im_start|>user\\n{{content}}"),
        (&["llama3"], "24 Nov 2025"),
        (&["qwen@0.8.3"], "You are a helpful assistant."),
    ] {
        let (text, ok) = tallow(words);
        assert!(ok && text.contains(part), "{part}: {text}");
    }
    let (text, ok) = tallow(&["qwenn"]);
    assert!(!ok && text.contains("Did you mean qwen"), "{text}");
}
