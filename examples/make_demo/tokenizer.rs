//! A small byte-level BPE tokenizer, trained on the corpus and on the identity rows.

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper};
use tokenizers::{PreTokenizerWrapper, Tokenizer, TokenizerBuilder, TokenizerImpl};

/// Padding, start of a turn, end of a turn: ids 0, 1, 2.
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// At most; the corpus has fewer words than that, and merging ends there.
const VOCABULARY: usize = 2048;
/// ChatML, as `template: chatml` writes it.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

type Parts = TokenizerImpl<
    BPE,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// Trains the merges; the identity rows are counted as often as the corpus is long.
pub fn train(documents: &[String], rows: &[Value]) -> Result<Tokenizer> {
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer: Parts = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(byte_level)))
        .with_post_processor(None)
        .with_decoder(Some(DecoderWrapper::ByteLevel(byte_level)))
        .build()
        .map_err(|error| anyhow!("cannot build the tokenizer: {error}"))?;
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(VOCABULARY)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(SPECIAL.map(|text| AddedToken::from(text, true)).to_vec())
        .build();
    let repeat = documents.len().div_ceil(rows.len().max(1));
    let answers =
        rows.iter().flat_map(|row| ["instruction", "input", "output"].map(|key| &row[key]));
    let answers: Vec<&str> = answers.filter_map(Value::as_str).collect();
    let lines = documents.iter().map(|text| plain(text));
    let lines = lines.chain((0..repeat).flat_map(|_| answers.iter().map(|text| plain(text))));
    tokenizer
        .train(&mut trainer, lines)
        .map_err(|error| anyhow!("cannot train the tokenizer: {error}"))?;
    tokenizer
        .add_special_tokens(SPECIAL.map(|text| AddedToken::from(text, true)))
        .map_err(|error| anyhow!("cannot add the marks: {error}"))?;
    Ok(tokenizer.into())
}

/// The text of `tokenizer.json`.
pub fn to_json(tokenizer: &Tokenizer) -> Result<String> {
    let json = tokenizer.to_string(true).map_err(|error| anyhow!("cannot write it: {error}"))?;
    Ok(json + "\n")
}

/// The text of `tokenizer_config.json`.
pub fn config_json() -> Result<String> {
    let config = json!({
        "add_prefix_space": false,
        "bos_token": null,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "eos_token": SPECIAL[2],
        "model_max_length": 512,
        "pad_token": SPECIAL[0],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": null,
    });
    Ok(serde_json::to_string_pretty(&config)? + "\n")
}

/// A document without its marks, which are tokens of their own.
fn plain(text: &str) -> String {
    SPECIAL.iter().fold(text.to_owned(), |text, mark| text.replace(mark, ""))
}
