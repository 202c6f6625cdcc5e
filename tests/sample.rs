//! The sample run as it ships: the model's size, its rows, and what a person sees before and after.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use run::config::Config;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tokenizers::Tokenizer;

/// The limits: a clone stays small, and nobody waits.
const PARAMETERS: usize = 2_000_000;
const BYTES: u64 = 5 << 20;
const PATIENCE: Duration = Duration::from_secs(120);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&fs::read(root().join(path)).unwrap()).unwrap()
}

#[test]
fn the_model_is_small_and_fits_its_tokenizer() {
    let folder = root().join("data/demo/model");
    let sizes =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(sizes.sum::<u64>() <= BYTES);

    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut parameters = 0;
    for (name, tensor) in tensors.tensors() {
        assert_eq!(tensor.dtype(), Dtype::BF16, "{name}");
        parameters += tensor.shape().iter().product::<usize>();
    }
    assert!((500_000..=PARAMETERS).contains(&parameters), "{parameters} parameters");

    let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    let vocabulary = json("data/demo/model/config.json")["vocab_size"].as_u64().unwrap();
    assert_eq!(tokenizer.get_vocab_size(true) as u64, vocabulary);
    for (id, mark) in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].iter().enumerate() {
        assert_eq!(tokenizer.token_to_id(mark), Some(id as u32), "{mark}");
    }
    for text in ["Who are you?", "你是谁？", "naïve 🙂\n\t{}"] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
    }
}

#[test]
fn the_rows_are_of_one_shape_and_ask_nothing_twice() {
    let rows = json("data/demo/identity.json");
    let rows = rows.as_array().unwrap();
    assert!((100..=200).contains(&rows.len()), "{} rows", rows.len());
    let mut asked = BTreeSet::new();
    for row in rows {
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["instruction", "input", "output"], "{row}");
        let question = (row["instruction"].as_str().unwrap(), row["input"].as_str().unwrap());
        assert!(asked.insert(question), "asked twice: {row}");
        let answer = row["output"].as_str().unwrap().chars().count();
        assert!((1..=120).contains(&answer), "{row}");
    }
    let info = json("data/dataset_info.json");
    assert_eq!(info["demo"]["file_name"], "demo/identity.json");
}

#[test]
fn the_configs_are_read_without_a_notice() {
    for path in ["data/demo/demo.yaml", "data/demo/pretrain/pretrain.yaml"] {
        let (_, notices) = Config::from_file(root().join(path)).unwrap();
        let texts: Vec<String> = notices.iter().map(|notice| format!("{notice:?}")).collect();
        assert_eq!(texts, Vec::<String>::new(), "{path}");
    }
}

/// Runs the sample in `folder` and gives (step, answer) of each sample event.
fn run_sample(folder: &Path) -> Vec<(u64, String)> {
    let output_dir = folder.join("out");
    let output = Command::new(env!("CARGO_BIN_EXE_tallow"))
        .current_dir(root())
        .args(["train", "data/demo/demo.yaml", "--threads", "2"])
        .arg(format!("output_dir={}", output_dir.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events = fs::read_to_string(output_dir.join("events.jsonl")).unwrap();
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let samples = events.filter(|event| event["kind"] == "sample");
    let answer = |event: Value| event["text"].as_str().unwrap().to_owned();
    samples.map(|event| (event["step"].as_u64().unwrap(), answer(event))).collect()
}

#[test]
fn the_model_learns_who_it_is() {
    let rows = json("data/demo/identity.json");
    let rows = rows.as_array().unwrap();
    let taught = rows.iter().find(|row| row["instruction"] == "Who are you?").unwrap();

    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let samples = run_sample(folder.path());
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());

    let [(first, before), .., (last, after)] = &samples[..] else {
        panic!("two answers, not {samples:?}")
    };
    assert!(*first == 0 && last > first);
    assert!(!before.contains("Tallow"), "{before}");
    assert_eq!(after.trim(), taught["output"]);

    let expected = ["model.safetensors", "config.json", "tokenizer.json", "training_loss.png"];
    for name in expected {
        let path: PathBuf = folder.path().join("out").join(name);
        assert!(path.is_file(), "{}", path.display());
    }
}
