//! SentencePiece tokenizers (Llama 2, Mistral, Gemma, Phi-3): tokens with scores. Their merges are
//! worked out from the scores, as transformers does when it converts one.

use candle_core::quantized::gguf_file::Value as Meta;
use serde_json::{Value, json};
use tokenizers::ModelWrapper;
use tokenizers::models::bpe::BPE;

use super::pipeline::{Pipeline, template};
use super::{BYTE, CONTROL, Metadata, Specials, UNKNOWN, UNUSED, Vocab};
use crate::error::Result;
use crate::model::brief;

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// The model and what surrounds it.
pub(super) fn model(
    meta: Metadata,
    vocab: &Vocab,
    names: &Specials,
) -> Result<(ModelWrapper, Pipeline)> {
    let key = "tokenizer.ggml.scores";
    let score = |value: &'_ Meta| value.to_f32().ok().filter(|score| score.is_finite());
    let scores =
        meta.list(key, "finite numbers", score)?.ok_or_else(|| meta.error(key, "missing"))?;
    if scores.len() != vocab.tokens.len() {
        return Err(meta.error(key, "as many elements as tokens expected"));
    }
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab.ids.clone(), merges(vocab, &scores))
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unk) = names.unk {
        builder = builder.unk_token(unk.to_owned());
    }
    let bpe = builder.build().map_err(|e| meta.error("tokenizer.ggml.tokens", brief(e)))?;
    Ok((bpe.into(), pipeline(meta, names)?))
}

fn pipeline(meta: Metadata, names: &Specials) -> Result<Pipeline> {
    let prefix_space = meta.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let bos = meta.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(true);
    let eos = meta.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let prepend = json!({ "type": "Prepend", "prepend": SPACE });
    let mut decoders =
        vec![replace(SPACE, " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if prefix_space {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(Pipeline {
        normalizer: match prefix_space {
            true => json!({ "type": "Sequence", "normalizers": [prepend, replace(" ", SPACE)] }),
            false => replace(" ", SPACE),
        },
        pre_tokenizer: Value::Null,
        post_processor: template(meta, names, bos, eos)?.unwrap_or(Value::Null),
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        ignore_merges: false,
        prefix_space,
    })
}

/// Every way to make a token of two others, best token first; among equals the longer left part,
/// then the longer right part.
fn merges(vocab: &Vocab, scores: &[f32]) -> Vec<(String, String)> {
    /// Longest token whose splits are tried: far above any real one.
    const LONGEST: usize = 512;
    struct Merge<'a> {
        left: &'a str,
        right: &'a str,
        score: f32,
        lens: (usize, usize),
    }
    // What stands for no text of its own is neither made by merging nor merged.
    let mergeable = |id: usize| !matches!(vocab.kind(id), UNKNOWN | CONTROL | UNUSED | BYTE);
    let part = |text: &str| vocab.ids.get(text).copied().filter(|id| mergeable(*id as usize));
    let mut all: Vec<Merge> = Vec::new();
    for (id, (token, &score)) in vocab.tokens.iter().zip(scores).enumerate() {
        if token.len() > LONGEST || !mergeable(id) {
            continue;
        }
        let letters = token.chars().count();
        let mut own: Vec<_> = token
            .char_indices()
            .enumerate()
            .skip(1)
            .filter_map(|(n, (at, _))| {
                let (left, right) = token.split_at(at);
                let ids = (part(left)?, part(right)?);
                Some((ids, Merge { left, right, score, lens: (n, letters - n) }))
            })
            .collect();
        own.sort_by_key(|(ids, _)| *ids);
        all.extend(own.into_iter().map(|(_, merge)| merge));
    }
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.lens.cmp(&a.lens)));
    all.into_iter().map(|merge| (merge.left.to_owned(), merge.right.to_owned())).collect()
}
