//! Makes what the sample model is trained from. Run it through `scripts/make_demo.sh`.
//!
//! `make_demo sources OUT` reads `data/demo/pretrain/grammar.txt` and `data/demo/identity.json`, and
//! writes into OUT: `corpus.jsonl` and `dataset_info.json` (for `stage: pt`), and `model/` with the
//! tokenizer and the untrained model's `config.json`. `make_demo bf16 FROM TO` rounds the trained
//! weights. Same input, same bytes: nothing here draws from the clock or the system's randomness.

mod bf16;
mod corpus;
mod grammar;
mod tokenizer;

use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Documents in the corpus: about 1 MB of text.
const DOCUMENTS: usize = 6000;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sources", out] => sources(Path::new(out)),
        ["bf16", from, to] => bf16::convert(Path::new(from), Path::new(to)),
        _ => bail!("usage: make_demo sources OUT | make_demo bf16 FROM TO"),
    }
}

fn sources(out: &Path) -> Result<()> {
    let model = out.join("model");
    fs::create_dir_all(&model).with_context(|| format!("cannot make {}", model.display()))?;

    let grammar = grammar::Grammar::parse(&read("data/demo/pretrain/grammar.txt")?)?;
    let documents = corpus::documents(&grammar, DOCUMENTS)?;
    write(&out.join("corpus.jsonl"), corpus::to_jsonl(&documents))?;
    write(&out.join("dataset_info.json"), corpus::DATASET_INFO)?;

    let rows: Vec<Value> = serde_json::from_str(&read("data/demo/identity.json")?)
        .context("data/demo/identity.json is not a list of rows")?;
    let tokenizer = tokenizer::train(&documents, &rows)?;
    let size = tokenizer.get_vocab_size(true);
    write(&model.join("tokenizer.json"), tokenizer::to_json(&tokenizer)?)?;
    write(&model.join("tokenizer_config.json"), tokenizer::config_json()?)?;
    let mut config: Value = serde_json::from_str(&read("data/demo/pretrain/config.json")?)
        .context("data/demo/pretrain/config.json is not JSON")?;
    config["vocab_size"] = size.into();
    write(&model.join("config.json"), serde_json::to_string_pretty(&config)? + "\n")?;
    println!(
        "{} documents, {size} tokens in the vocabulary, in {}",
        documents.len(),
        out.display()
    );
    Ok(())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
