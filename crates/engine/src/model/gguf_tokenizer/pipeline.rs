//! What surrounds a tokenizer's model: normaliser, splitter, post-processor and decoder, in
//! tokenizer.json's own words, for each pre-tokenizer that llama.cpp names.

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::{Metadata, Specials};
use crate::error::Result;
use crate::model::brief;

/// GPT-4's split with numbers in groups of up to three digits, as in Llama 3.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with single digits, as in Qwen2.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The parts of tokenizer.json around the model; null for none.
pub(super) struct Pipeline {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub post_processor: Value,
    pub decoder: Value,
    /// A word that is a token is taken as it is.
    pub ignore_merges: bool,
    /// A space is put before the text.
    pub prefix_space: bool,
}

impl Pipeline {
    /// Puts the parts on a tokenizer.
    pub fn apply(&self, tokenizer: &mut Tokenizer) -> tokenizers::Result<()> {
        fn part<T: serde::de::DeserializeOwned>(value: &Value) -> tokenizers::Result<Option<T>> {
            Ok(serde_json::from_value(value.clone())?)
        }
        tokenizer.with_normalizer(part::<tokenizers::NormalizerWrapper>(&self.normalizer)?)?;
        tokenizer.with_pre_tokenizer(part::<tokenizers::PreTokenizerWrapper>(&self.pre_tokenizer)?);
        tokenizer
            .with_post_processor(part::<tokenizers::PostProcessorWrapper>(&self.post_processor)?);
        tokenizer.with_decoder(part::<tokenizers::DecoderWrapper>(&self.decoder)?);
        Ok(())
    }
}

/// The parts of a byte-level tokenizer, by `tokenizer.ggml.pre`.
pub(super) fn byte_level(meta: Metadata, names: &Specials) -> Result<Pipeline> {
    let key = "tokenizer.ggml.pre";
    let mut out = match meta.text(key)?.unwrap_or("default") {
        "default" | "gpt-2" | "gpt2" => gpt2(false),
        "smollm" | "starcoder" | "refact" => gpt2(true),
        "llama-bpe" | "llama3" | "llama-v3" => {
            Pipeline { ignore_merges: true, ..split(LLAMA3, bytes(true, true, true)) }
        }
        "smaug-bpe" => split(LLAMA3, bytes(true, true, true)),
        "qwen2" | "deepseek-r1-qwen" => Pipeline {
            normalizer: json!({ "type": "NFC" }),
            post_processor: bytes(false, false, false),
            ..split(QWEN2, bytes(false, false, false))
        },
        other => {
            let why = format!(
                "pre-tokenizer {} is not known here; known are gpt-2, smollm, starcoder, refact, \
                 llama-bpe, smaug-bpe, qwen2. Use the model's Hugging Face folder",
                brief(other)
            );
            return Err(meta.error(key, why));
        }
    };
    // Llama 3's begin every text with bos unless told otherwise; the others do if told to.
    let bos = meta.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(out.ignore_merges);
    let eos = meta.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    if let Some(template) = template(meta, names, bos, eos)? {
        out.post_processor = match out.post_processor {
            Value::Null => template,
            first => json!({ "type": "Sequence", "processors": [first, template] }),
        };
    }
    Ok(out)
}

/// The post-processor that puts bos and eos around a text, where the file asks for one.
pub(super) fn template(
    meta: Metadata,
    names: &Specials,
    bos: bool,
    eos: bool,
) -> Result<Option<Value>> {
    let role = |wanted: bool, token: Option<&str>, key: &str| -> Result<Option<(String, u64)>> {
        match token.filter(|_| wanted) {
            None => Ok(None),
            Some(token) => Ok(Some((token.to_owned(), meta.need_int(key)?))),
        }
    };
    let bos = role(bos, names.bos, "tokenizer.ggml.bos_token_id")?;
    let eos = role(eos, names.eos, "tokenizer.ggml.eos_token_id")?;
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let token = |role: &Option<(String, u64)>, of: u8| {
        role.iter()
            .map(|(text, _)| json!({ "SpecialToken": { "id": text, "type_id": of } }))
            .collect::<Vec<_>>()
    };
    let around = |name: &str, of: u8| {
        let text = vec![json!({ "Sequence": { "id": name, "type_id": of } })];
        [token(&bos, of), text, token(&eos, of)].concat()
    };
    let specials: serde_json::Map<_, _> = [&bos, &eos]
        .into_iter()
        .flatten()
        .map(|(text, id)| (text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] })))
        .collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    Ok(Some(json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": specials,
    })))
}

fn bytes(prefix: bool, trim: bool, regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": regex })
}

/// GPT-2's split, with single digits or not.
fn gpt2(digits: bool) -> Pipeline {
    let split = bytes(false, true, true);
    let single = json!({ "type": "Digits", "individual_digits": true });
    Pipeline {
        normalizer: Value::Null,
        pre_tokenizer: match digits {
            true => json!({ "type": "Sequence", "pretokenizers": [single, split] }),
            false => split,
        },
        post_processor: Value::Null,
        decoder: bytes(true, true, true),
        ignore_merges: false,
        prefix_space: false,
    }
}

/// A split by a regular expression, then bytes.
fn split(regex: &str, decoder: Value) -> Pipeline {
    let trim = decoder["trim_offsets"] == json!(true);
    let split = json!({
        "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false,
    });
    Pipeline {
        pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": [split, bytes(false, trim, false)] }),
        decoder,
        ..gpt2(false)
    }
}
