//! Bad input: one clear line that names the file and the field, an exit code that is not 0, and
//! nothing half-written.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/tiny.rs"]
mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A folder with a tiny model, token rows and text rows; a config that trains on them.
struct Bench {
    root: tempfile::TempDir,
    config: Value,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut config = tiny::run_config(root.path(), 2, 2);
        config["output_dir"] = json!(root.path().join("out"));
        Self { root, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn set(&mut self, key: &str, value: Value) -> &mut Self {
        self.config[key] = value;
        self
    }

    fn command(&self) -> Command {
        let file = self.path("config.json");
        fs::write(&file, self.config.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallow"));
        command.arg("train").arg(file);
        command
    }

    /// Alpaca rows for a model with a tokenizer of five words.
    fn with_text(&mut self, file: &str, rows: &str) -> &mut Self {
        tiny::add_text(self.root.path(), file, rows);
        self.set("dataset", json!("text")).set("template", json!("default"))
    }

    /// A run that must fail with every one of `words` on one line of stderr.
    #[track_caller]
    fn fails(&self, words: &[&str]) -> Output {
        let out = self.command().output().unwrap();
        self.failed(out, words)
    }

    #[track_caller]
    fn failed(&self, out: Output, words: &[&str]) -> Output {
        let log = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success(), "it succeeded: {log}");
        assert!(!log.contains("panicked"), "{log}");
        let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
        assert!(line.is_some(), "no line with {words:?} in:\n{log}");
        let made = |name: &str| self.path("out").join(name).exists();
        assert!(!made("model.safetensors") && !made("config.json"), "a half-written model");
        out
    }
}

/// Writes a real model into the bench by training for no step worth of time.
fn trained(bench: &mut Bench) -> PathBuf {
    let out = bench.command().output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let model = bench.path("model");
    fs::rename(bench.path("out"), &model).unwrap();
    bench.set("model_name_or_path", json!(model)).set("train_from_scratch", json!(false));
    model
}

#[test]
fn missing_and_broken_files() {
    let mut bench = Bench::new();
    bench.set("model_name_or_path", json!("/nowhere/model"));
    bench.fails(&["/nowhere/model", "folder"]);

    let mut bench = Bench::new();
    bench.set("dataset", json!("tinny"));
    bench.fails(&["tinny", "dataset_info.json"]);

    let bench = Bench::new();
    fs::remove_file(bench.path("tiny-data/rows.jsonl")).unwrap();
    bench.fails(&["rows.jsonl"]);

    let bench = Bench::new();
    let rows = "{\"input_ids\": [5], \"labels\": [5]}\n{\"input_ids\": [5,\n";
    bench.write("tiny-data/rows.jsonl", rows);
    bench.fails(&["rows.jsonl:2"]);

    let mut bench = Bench::new();
    bench.with_text(
        "rows.json",
        "[\n{\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"},\n{]",
    );
    bench.fails(&["rows.json:3"]);

    let bench = Bench::new();
    bench.write("tiny-data/rows.jsonl", "");
    bench.fails(&["rows.jsonl"]);
}

/// What has no effect is said first: the result stands last.
#[test]
fn notices_come_before_the_result() {
    let mut bench = Bench::new();
    bench.set("tf32", json!(true)).command();
    for command in ["estimate", "data"] {
        let both = fs::File::create(bench.path("both")).unwrap();
        let out = Command::new(env!("CARGO_BIN_EXE_tallow"))
            .arg(command)
            .arg(bench.path("config.json"))
            .stdout(both.try_clone().unwrap())
            .stderr(both)
            .status()
            .unwrap();
        assert!(out.success(), "{command}");
        let text = fs::read_to_string(bench.path("both")).unwrap();
        let (notice, result) = (text.find("`tf32` has no effect"), text.find('{'));
        assert!(notice.is_some() && notice < result, "{command}: {text}");
    }
}

#[test]
fn unknown_names() {
    let mut bench = Bench::new();
    bench.with_text("rows.json", r#"[{"instruction": "a", "input": "", "output": "b"}]"#);
    bench.set("template", json!("chatmll"));
    bench.fails(&["chatmll", "chatml"]);

    let mut bench = Bench::new();
    bench.set("lerning_rate", json!(1));
    bench.fails(&["lerning_rate", "learning_rate"]);

    let mut bench = Bench::new();
    bench.set("learning_rate", json!("fast"));
    bench.fails(&["learning_rate", "fast"]);

    let mut bench = Bench::new();
    bench.set("finetuning_type", json!("lora")).set("lora_target", json!("q_prj"));
    bench.fails(&["q_prj", "q_proj"]);

    let bench = Bench::new();
    let config = fs::read_to_string(bench.path("tiny-model/config.json")).unwrap();
    bench.write(
        "tiny-model/config.json",
        config.replace("llama", "mamba").replace("Llama", "Mamba"),
    );
    bench.fails(&["mamba", "llama"]);
}

#[test]
fn rows_that_do_not_fit() {
    let mut bench = Bench::new();
    bench.with_text("rows.json", r#"[{"instruction": "a", "input": ""}]"#);
    bench.fails(&["rows.json", "row 1", "output"]);

    let bench = Bench::new();
    bench.write("tiny-data/rows.jsonl", "{\"input_ids\": [5000], \"labels\": [5]}\n");
    bench.fails(&["rows.jsonl", "5000"]);
}

#[test]
fn models_that_do_not_fit() {
    let mut bench = Bench::new();
    let model = trained(&mut bench);
    let file = model.join("model.safetensors");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    bench.fails(&["model.safetensors"]);

    fs::write(&file, &whole).unwrap();
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let wider = config.replace("\"intermediate_size\": 160", "\"intermediate_size\": 176");
    assert_ne!(config, wider);
    fs::write(model.join("config.json"), wider).unwrap();
    bench.fails(&["model.safetensors", "gate_proj", "160", "176"]);

    fs::write(&file, b"\x80\x04\x95pickle").unwrap();
    bench.fails(&["model.safetensors", "pickle"]);

    let mut bench = Bench::new();
    bench.with_text("rows.json", r#"[{"instruction": "a", "input": "", "output": "b"}]"#);
    let words: serde_json::Map<String, Value> =
        (0..400).map(|i| (format!("w{i}"), json!(i))).collect();
    let mut tokenizer: Value = serde_json::from_str(tiny::TOKENIZER).unwrap();
    tokenizer["model"]["vocab"] = Value::Object(words);
    tokenizer["model"]["unk_token"] = json!("w0");
    bench.write("tiny-model/tokenizer.json", tokenizer.to_string());
    bench.fails(&["tiny-model", "401", "384"]);
}

#[test]
fn places_that_cannot_be_written() {
    let mut bench = Bench::new();
    bench.write("file", "");
    bench.set("output_dir", json!(bench.path("file/out")));
    bench.fails(&["output_dir", "file/out"]);
}

/// A file system of 1 MiB: the run says so, and its exit code is the one for a full disk.
#[test]
fn a_full_disk() {
    let mut bench = Bench::new();
    let disk = bench.path("disk");
    fs::create_dir(&disk).unwrap();
    bench.set("output_dir", json!(disk.join("out")));
    let run = bench.command();
    let words: Vec<String> = std::iter::once(run.get_program())
        .chain(run.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mount = format!("mount -t tmpfs -o size=1m tmpfs '{}'", disk.display());
    let probe = Command::new("unshare").args(["-m", "sh", "-c", &mount]).output();
    if !probe.is_ok_and(|out| out.status.success()) {
        eprintln!("left out: this user may not mount a small file system");
        return;
    }
    let script =
        format!("{mount} && {}; code=$?; ls '{}/out'; exit $code", words.join(" "), disk.display());
    let out = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert_eq!(out.status.code(), Some(21), "{}", String::from_utf8_lossy(&out.stderr));
    let listed = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        !listed.contains("model.safetensors") && !listed.contains("checkpoint-2\n"),
        "{listed}"
    );
    bench.failed(out, &["checkpoint-2"]);
    assert!(Path::new(&disk).exists());
}
