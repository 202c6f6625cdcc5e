//! The tokenizer inside a GGUF file, as `tokenizers` and transformers would have it.
//!
//! llama.cpp keeps tokens, merges or scores, token types and the name of a pre-tokenizer; the rest
//! of tokenizer.json follows from that name. An unknown name is refused: a wrong split gives wrong
//! tokens without any other sign. (candle's own reader splits SmolLM2's numbers wrongly and makes
//! every user-defined token special.)

mod pipeline;
mod spm;

use candle_core::quantized::gguf_file::Value as Meta;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab as Ids};
use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

use super::brief;
use super::gguf::{Gguf, Meta as Metadata, whole};
use crate::error::{Error, Result};
use pipeline::Pipeline;

/// llama.cpp's kinds of token.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;
const BYTE: u64 = 6;

/// The tokenizer of a file and its tokenizer_config.json (bos, eos, pad, unk, chat template).
///
/// # Errors
/// When the file has none, its kind is not known here, or its lists contradict each other.
pub fn tokenizer(gguf: &Gguf) -> Result<(Tokenizer, Value)> {
    let meta = gguf.meta();
    let kind = "tokenizer.ggml.model";
    let text = |value: &'_ Meta| value.to_string().ok().cloned();
    let tokens = meta.list("tokenizer.ggml.tokens", "strings", text)?;
    let tokens =
        tokens.ok_or_else(|| meta.error("tokenizer.ggml.tokens", "missing: no tokenizer"))?;
    let types = meta.list("tokenizer.ggml.token_type", "whole numbers", whole)?;
    if types.as_ref().is_some_and(|types| types.len() != tokens.len()) {
        return Err(meta.error("tokenizer.ggml.token_type", "as many elements as tokens expected"));
    }
    let vocab = Vocab { ids: ids(meta, &tokens, types.as_deref())?, tokens, types };
    let special = |name: &str| -> Result<Option<&str>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = meta.int(&key)? else {
            return Ok(None);
        };
        let token = usize::try_from(id).ok().and_then(|id| vocab.tokens.get(id));
        token.map(|token| Some(token.as_str())).ok_or_else(|| meta.error(&key, "is no token's id"))
    };
    let names = Specials {
        bos: special("bos")?,
        eos: special("eos")?,
        unk: special("unknown")?,
        pad: special("padding")?,
    };
    let (model, pipeline) = match meta.text(kind)? {
        Some("gpt2") => byte_level(meta, &vocab, &names)?,
        Some("llama") => spm::model(meta, &vocab, &names)?,
        other => {
            let why =
                format!("{} is not supported; known are gpt2, llama", brief(other.unwrap_or("?")));
            return Err(meta.error(kind, why));
        }
    };
    let wrong = |e: tokenizers::Error| {
        Error::input(gguf.path().display().to_string(), format!("tokenizer: {}", brief(e)))
    };
    let mut tokenizer = Tokenizer::new(model);
    pipeline.apply(&mut tokenizer).map_err(wrong)?;
    tokenizer.add_tokens(vocab.added(&names)).map_err(wrong)?;
    let config = names.config(meta, &pipeline)?;
    Ok((tokenizer, config))
}

/// A file's tokens.
struct Vocab {
    /// Text by id.
    tokens: Vec<String>,
    /// Kind by id.
    types: Option<Vec<u64>>,
    /// Id by text, without unused tokens.
    ids: Ids,
}

impl Vocab {
    fn kind(&self, id: usize) -> u64 {
        self.types.as_ref().and_then(|types| types.get(id)).copied().unwrap_or(1)
    }

    /// Tokens that are found in a text as they stand, before it is split.
    fn added(&self, names: &Specials) -> Vec<AddedToken> {
        let named = [names.bos, names.eos, names.unk, names.pad];
        let one = |(id, token): (usize, &String)| {
            let special = match self.kind(id) {
                CONTROL | UNKNOWN => true,
                USER_DEFINED => named.contains(&Some(token)),
                UNUSED => return None,
                _ if named.contains(&Some(token)) => true,
                _ => return None,
            };
            Some(AddedToken::from(token.as_str(), special).normalized(false))
        };
        self.tokens.iter().enumerate().filter_map(one).collect()
    }
}

/// The texts of the tokens that have a role.
struct Specials<'a> {
    bos: Option<&'a str>,
    eos: Option<&'a str>,
    unk: Option<&'a str>,
    pad: Option<&'a str>,
}

impl Specials<'_> {
    fn config(&self, meta: Metadata, pipeline: &Pipeline) -> Result<Value> {
        let mut out = json!({ "add_prefix_space": pipeline.prefix_space });
        let roles = [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("unk_token", self.unk),
            ("pad_token", self.pad),
        ];
        for (role, token) in roles {
            if let Some(token) = token {
                out[role] = json!(token);
            }
        }
        out["clean_up_tokenization_spaces"] = json!(false);
        if let Some(arch) = meta.text("general.architecture")?
            && let Some(length) = meta.int(&format!("{arch}.context_length"))?
        {
            out["model_max_length"] = json!(length);
        }
        out["tokenizer_class"] = json!("PreTrainedTokenizerFast");
        if let Some(template) = meta.text("tokenizer.chat_template")? {
            out["chat_template"] = json!(template);
        }
        Ok(out)
    }
}

fn ids(meta: Metadata, tokens: &[String], types: Option<&[u64]>) -> Result<Ids> {
    let mut ids = Ids::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if types.is_some_and(|types| types[id] == UNUSED) {
            continue;
        }
        // A header holds fewer than 2^24 elements.
        if ids.insert(token.clone(), id as u32).is_some() {
            let why = format!("{} is there twice", brief(format!("{token:?}")));
            return Err(meta.error("tokenizer.ggml.tokens", why));
        }
    }
    Ok(ids)
}

/// GPT-2's kind: bytes written as letters, joined by merges.
fn byte_level(meta: Metadata, vocab: &Vocab, names: &Specials) -> Result<(ModelWrapper, Pipeline)> {
    let key = "tokenizer.ggml.merges";
    let pair = |value: &'_ Meta| {
        let (left, right) = value.to_string().ok()?.split_once(' ')?;
        Some((left.to_owned(), right.to_owned()))
    };
    let merges = meta.list(key, "pairs", pair)?.ok_or_else(|| meta.error(key, "missing"))?;
    let pipeline = pipeline::byte_level(meta, names)?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocab.ids.clone(), merges)
        .ignore_merges(pipeline.ignore_merges)
        .build()
        .map_err(|e| meta.error(key, brief(e)))?;
    Ok((bpe.into(), pipeline))
}
