//! The pretraining documents: short stories, and talk in the chat template.

use anyhow::Result;
use serde_json::json;

use crate::grammar::{Drawn, Grammar, Random};

/// `dataset_info.json` beside the corpus.
pub const DATASET_INFO: &str = r#"{
  "demo_corpus": { "file_name": "corpus.jsonl", "columns": { "prompt": "text" } }
}
"#;

/// Writes `count` documents from the grammar: one story for every two talks.
///
/// A document ends without its last end mark: `stage: pt` adds the tokenizer's own.
pub fn documents(grammar: &Grammar, count: usize) -> Result<Vec<String>> {
    let mut random = Random(20);
    (0..count)
        .map(|n| if n % 3 == 0 { story(grammar, &mut random) } else { talk(grammar, &mut random) })
        .collect()
}

/// One JSON object a line: `{"text": ...}`.
pub fn to_jsonl(documents: &[String]) -> String {
    documents.iter().map(|text| json!({ "text": text }).to_string() + "\n").collect()
}

fn story(grammar: &Grammar, random: &mut Random) -> Result<String> {
    let mut drawn = Drawn::new();
    let length = 3 + random.below(3);
    let sentences: Result<Vec<String>> = (0..length)
        .map(|_| {
            let pattern = random.pick(&grammar.story);
            grammar.fill(pattern, &mut drawn, random).map(|text| capitalised(&text))
        })
        .collect();
    Ok(sentences?.join(" "))
}

fn talk(grammar: &Grammar, random: &mut Random) -> Result<String> {
    let turns = if random.below(4) == 0 { 2 } else { 1 };
    let turns: Result<Vec<String>> = (0..turns)
        .map(|_| {
            let mut drawn = Drawn::new();
            let (ask, say) = random.pick(&grammar.talk);
            let ask = capitalised(&grammar.fill(ask, &mut drawn, random)?);
            let say = capitalised(&grammar.fill(say, &mut drawn, random)?);
            Ok(format!("<|im_start|>user\n{ask}<|im_end|>\n<|im_start|>assistant\n{say}"))
        })
        .collect();
    Ok(turns?.join("<|im_end|>\n"))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
