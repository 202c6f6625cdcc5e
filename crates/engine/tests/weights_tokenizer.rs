//! Tokenizers inside GGUF files: equal to the recorded ones in every part.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/shared.rs"]
mod shared;
#[path = "support/smollm2.rs"]
mod smollm2;

use std::fs;
use std::io::Cursor;
use std::path::Path;

use candle_core::quantized::gguf_file::{Value as Meta, write};
use engine::model::gguf::Gguf;
use engine::model::gguf_tokenizer::tokenizer;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn smollm2_is_the_recorded_tokenizer_to_the_letter() {
    let gguf = Gguf::open(&smollm2::gguf()).unwrap();
    let (tokenizer, config) = tokenizer(&gguf).unwrap();
    let Some(parity) = shared::parity() else {
        return;
    };
    for case in read(&parity.join("real/tokenizer_cases.json")).as_array().unwrap() {
        let text = case[0].as_str().unwrap();
        let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
        assert_eq!(json!(ids), case[1], "{text:?}");
    }
    let own: Value = serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap();
    let folder = parity.join("tokenizers/smollm2");
    let recorded = read(&folder.join("tokenizer.json"));
    for (part, value) in recorded.as_object().unwrap() {
        assert!(own[part] == *value, "{part} differs");
    }
    assert_eq!(config, read(&folder.join("tokenizer_config.json")));
}

#[test]
fn qwen3_written_as_gguf_gives_the_same_tokens() {
    let Some(parity) = shared::parity() else {
        return;
    };
    let path = parity.join("tokenizers/qwen3/tokenizer.json");
    let json = read(&path);
    let reference = Tokenizer::from_file(&path).unwrap();
    let mut tokens = vec![String::new(); reference.get_vocab_size(true)];
    for (token, id) in reference.get_vocab(true) {
        tokens[id as usize] = token;
    }
    let mut types = vec![1; tokens.len()];
    for added in json["added_tokens"].as_array().unwrap() {
        let special = added["special"] == json!(true);
        types[added["id"].as_u64().unwrap() as usize] = if special { 3 } else { 4 };
    }
    // Converted files fill the embedding's spare rows with unused tokens.
    tokens.extend(["[PAD1]".to_owned(), "[PAD2]".to_owned()]);
    types.extend([5, 5]);
    let pair =
        |merge: &Value| format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
    let merges = json["model"]["merges"].as_array().unwrap().iter().map(pair);
    let (found, config) = through_gguf(&[
        ("tokenizer.ggml.model", Meta::String("gpt2".into())),
        ("tokenizer.ggml.pre", Meta::String("qwen2".into())),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.token_type", Meta::Array(types.into_iter().map(Meta::I32).collect())),
        ("tokenizer.ggml.merges", strings(merges)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(151_645)),
        ("tokenizer.ggml.padding_token_id", Meta::U32(151_643)),
        ("tokenizer.ggml.add_bos_token", Meta::Bool(false)),
    ])
    .unwrap();
    assert_eq!(
        (&config["eos_token"], &config["pad_token"]),
        (&json!("<|im_end|>"), &json!("<|endoftext|>"))
    );
    assert_eq!(found.get_vocab(true), reference.get_vocab(true));
    let own: Value = serde_json::from_str(&found.to_string(false).unwrap()).unwrap();
    for part in ["added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"] {
        assert_eq!(own[part], json[part], "{part}");
    }
    for text in TEXTS {
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
        assert_eq!(ids(&found), ids(&reference), "{text:?}");
        let plain = |tokenizer: &Tokenizer| tokenizer.decode(&ids(tokenizer), false).unwrap();
        assert_eq!(plain(&found), plain(&reference), "{text:?}");
    }
}

const TEXTS: [&str; 8] = [
    "Hello, world! It's 2024, I'LL say 3.14159.",
    "<|im_start|>user\n你好，世界<|im_end|>\n<tool_call>{}</tool_call>",
    "  spaces   and\ttabs\r\n\r\nlines\n",
    "cafe\u{301} café ﬁ",
    "🙂🚀👩‍👩‍👧 emoji",
    "fn main() { println!(\"{}\", 1 << 10); }",
    "<think>\n\n</think>",
    "",
];

/// SentencePiece's algorithm, straight from its description: join the neighbours whose union has
/// the best score, leftmost first, until none is left; what is no token is written in bytes.
fn sentencepiece(tokens: &[(&str, f32, i32)], text: &str) -> Vec<u32> {
    let find =
        |piece: &str| tokens.iter().position(|(token, _, kind)| *token == piece && *kind == 1);
    let mut pieces: Vec<String> =
        format!("\u{2581}{}", text.replace(' ', "\u{2581}")).chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for i in 1..pieces.len() {
            if let Some(id) = find(&format!("{}{}", pieces[i - 1], pieces[i]))
                && best.is_none_or(|(score, _)| tokens[id].1 > score)
            {
                best = Some((tokens[id].1, i));
            }
        }
        let Some((_, i)) = best else { break };
        let right = pieces.remove(i);
        pieces[i - 1].push_str(&right);
    }
    let byte = |byte: u8| {
        tokens.iter().position(|(token, ..)| *token == format!("<0x{byte:02X}>")).unwrap()
    };
    let ids = |piece: &String| match find(piece) {
        Some(id) => vec![id as u32],
        None => piece.bytes().map(|b| byte(b) as u32).collect(),
    };
    pieces.iter().flat_map(ids).collect()
}

#[test]
fn scored_tokens_are_joined_as_sentencepiece_does() {
    let bytes: Vec<String> = (0..=255u8).map(|b| format!("<0x{b:02X}>")).collect();
    let mut tokens: Vec<(&str, f32, i32)> =
        vec![("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)];
    tokens.extend(bytes.iter().map(|token| (token.as_str(), 0.0, 6)));
    let pieces = [
        "\u{2581}t",
        "he",
        "in",
        "\u{2581}the",
        "er",
        "\u{2581}a",
        "the",
        "\u{2581}in",
        "re",
        "here",
        "\u{2581}there",
        "th",
        "\u{2581}",
        "t",
        "h",
        "e",
        "r",
        "i",
        "n",
        "a",
        "<",
        "s",
        ">",
        "s>",
    ];
    tokens.extend(pieces.iter().enumerate().map(|(rank, piece)| (*piece, -(rank as f32), 1)));
    let (found, config) = through_gguf(&[
        ("tokenizer.ggml.model", Meta::String("llama".into())),
        ("tokenizer.ggml.tokens", strings(tokens.iter().map(|(token, ..)| (*token).to_owned()))),
        ("tokenizer.ggml.scores", Meta::Array(tokens.iter().map(|t| Meta::F32(t.1)).collect())),
        ("tokenizer.ggml.token_type", Meta::Array(tokens.iter().map(|t| Meta::I32(t.2)).collect())),
        ("tokenizer.ggml.unknown_token_id", Meta::U32(0)),
        ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
    ])
    .unwrap();
    assert_eq!(config["bos_token"], json!("<s>"));
    for text in
        ["the there", "in a there", "her rein é", "hererer  the", "<sa s>", "thethe", "中 t"]
    {
        let expected = sentencepiece(&tokens, text);
        let ids = found.encode(text, false).unwrap().get_ids().to_vec();
        assert_eq!(ids, expected, "{text:?}");
        assert_eq!(found.decode(&ids, false).unwrap(), text);
        let whole = found.encode(text, true).unwrap().get_ids().to_vec();
        assert_eq!((whole[0], &whole[1..]), (1, &expected[..]), "{text:?}");
    }
    assert_eq!(found.encode("<s>the", false).unwrap().get_ids()[0], 1, "control tokens are seen");
}

#[test]
fn what_cannot_be_right_is_refused_in_words() {
    let tokens = || ("tokenizer.ggml.tokens", strings(["a".to_owned(), "b".to_owned()]));
    let model = |name: &str| ("tokenizer.ggml.model", Meta::String(name.into()));
    let cases: Vec<(Vec<(&str, Meta)>, &str)> = vec![
        (vec![], "tokenizer.ggml.tokens: missing"),
        (vec![tokens(), model("bert")], "bert is not supported"),
        (vec![tokens(), model("gpt2")], "tokenizer.ggml.merges: missing"),
        (
            vec![tokens(), model("gpt2"), ("tokenizer.ggml.merges", strings(["ab".to_owned()]))],
            "element 0 is not one of pairs",
        ),
        (
            vec![tokens(), model("gpt2"), ("tokenizer.ggml.merges", strings(["a c".to_owned()]))],
            "tokenizer.ggml.merges",
        ),
        (
            vec![
                tokens(),
                model("gpt2"),
                ("tokenizer.ggml.merges", strings([])),
                ("tokenizer.ggml.pre", Meta::String("new\nstyle".into())),
            ],
            "pre-tokenizer new\\nstyle is not known",
        ),
        (vec![tokens(), model("llama")], "tokenizer.ggml.scores: missing"),
        (
            vec![tokens(), model("gpt2"), ("tokenizer.ggml.eos_token_id", Meta::U32(2))],
            "eos_token_id: is no token's id",
        ),
        (
            vec![
                ("tokenizer.ggml.tokens", strings(["a".to_owned(), "a".to_owned()])),
                model("gpt2"),
            ],
            "\"a\" is there twice",
        ),
    ];
    for (entries, expected) in cases {
        let error = through_gguf(&entries).unwrap_err();
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
    }
}

fn strings(values: impl IntoIterator<Item = String>) -> Meta {
    Meta::Array(values.into_iter().map(Meta::String).collect())
}

fn through_gguf(entries: &[(&str, Meta)]) -> Result<(Tokenizer, Value), String> {
    let entries: Vec<_> = entries.iter().map(|(key, value)| (*key, value)).collect();
    let mut out = Cursor::new(Vec::new());
    write(&mut out, &entries, &[]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.gguf");
    fs::write(&path, out.into_inner()).unwrap();
    tokenizer(&Gguf::open(&path).map_err(|e| e.to_string())?).map_err(|e| e.to_string())
}
