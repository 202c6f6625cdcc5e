//! The tokenizer of a model: its vocabulary, its special tokens and the files that it is saved as.

mod folder;

use std::path::PathBuf;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::error::{DataError, RowError};
use super::template::Encoder;

/// A tokenizer with the names of its special tokens.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// tokenizer_config.json as it was read; special tokens are kept apart until it is saved.
    config: Map<String, Value>,
    special: SpecialTokens,
    chat_template: Option<String>,
    /// The chat template came in a file of its own.
    chat_template_file: bool,
    /// Other tokenizer files of the folder, to be saved along.
    other_files: Vec<PathBuf>,
    /// Hash of the vocabulary as it was read.
    digest: [u8; 32],
}

/// Names of special tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SpecialTokens {
    bos: Option<String>,
    eos: Option<String>,
    pad: Option<String>,
    unk: Option<String>,
    additional: Vec<String>,
}

impl Tokenizer {
    /// A tokenizer from its parts: the vocabulary and what tokenizer_config.json says (special tokens by name,
    /// `chat_template`, `add_bos_token`).
    ///
    /// # Errors
    /// When `config` is not an object or a special token cannot be added.
    pub fn from_parts(inner: tokenizers::Tokenizer, config: Value) -> Result<Self, DataError> {
        let Value::Object(config) = config else {
            return Err(DataError::invalid("tokenizer_config.json: must hold a JSON object"));
        };
        let vocabulary = inner.to_string(false).map_err(|e| DataError::invalid(e.to_string()))?;
        let mut tokenizer = folder::assemble(inner, config, Map::new())?;
        tokenizer.digest = *blake3::hash(vocabulary.as_bytes()).as_bytes();
        Ok(tokenizer)
    }

    /// A hash of everything that decides how text is encoded.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut added: Vec<_> = self.inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        let split = self.inner.get_encode_special_tokens();
        let mut hash = blake3::Hasher::new();
        hash.update(&self.digest);
        hash.update(format!("{added:?} {:?} {split} {:?}", self.special, self.config).as_bytes());
        *hash.finalize().as_bytes()
    }

    /// The ids of a text, without special tokens around it.
    ///
    /// # Errors
    /// When the vocabulary cannot express the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RowError> {
        Encoder::encode(self, text)
    }

    /// The text of these ids, special tokens included.
    pub fn decode(&self, ids: &[u32]) -> String {
        // A decoder fails on ids outside the vocabulary alone, and those have no text.
        self.inner.decode(ids, false).unwrap_or_default()
    }

    /// The text of these ids without special tokens, as it is shown to a person.
    pub fn decode_clean(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true).unwrap_or_default()
    }

    /// How many ids the vocabulary needs: one more than the largest, added tokens included.
    pub fn vocab_size(&self) -> usize {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder().keys().max();
        self.inner.get_vocab_size(true).max(added.map_or(0, |id| *id as usize + 1))
    }

    /// The name of the beginning-of-text token.
    pub fn bos_token(&self) -> Option<&str> {
        self.special.bos.as_deref()
    }

    /// The name of the end-of-text token.
    pub fn eos_token(&self) -> Option<&str> {
        self.special.eos.as_deref()
    }

    /// The name of the padding token.
    pub fn pad_token(&self) -> Option<&str> {
        self.special.pad.as_deref()
    }

    /// The id of the end-of-text token.
    pub fn eos_id(&self) -> Option<u32> {
        self.id_of(&self.special.eos)
    }

    /// The id of the padding token.
    pub fn pad_id(&self) -> Option<u32> {
        self.id_of(&self.special.pad)
    }

    /// The id of the beginning-of-text token.
    pub fn bos_id(&self) -> Option<u32> {
        self.id_of(&self.special.bos)
    }

    /// The id of a token, if the vocabulary has it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The ids that end a generated answer: eos and the stop words of the template.
    pub fn stop_ids(&self, stop_words: &[String]) -> Vec<u32> {
        let mut ids: Vec<u32> =
            self.eos_id().into_iter().chain(stop_words.iter().filter_map(|w| self.id(w))).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether pretraining texts begin with the bos token.
    pub fn adds_bos(&self) -> bool {
        // These classes add it where the config does not say.
        const ADDING: [&str; 4] =
            ["LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast"];
        match self.config.get("add_bos_token") {
            Some(Value::Bool(adds)) => *adds,
            _ => self
                .config
                .get("tokenizer_class")
                .and_then(Value::as_str)
                .is_some_and(|c| ADDING.contains(&c)),
        }
    }

    /// The Jinja chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Sets the chat template that is saved.
    pub fn set_chat_template(&mut self, jinja: String) {
        self.chat_template = Some(jinja);
    }

    /// With `true`, special tokens that appear in a text are encoded as plain text (`split_special_tokens`).
    pub fn set_split_special_tokens(&mut self, split: bool) {
        self.inner.set_encode_special_tokens(split);
    }

    /// Makes `token` the eos token, adding it to the vocabulary where it is missing.
    ///
    /// # Errors
    /// When the token cannot be added.
    pub fn set_eos(&mut self, token: &str) -> Result<(), DataError> {
        self.add_tokens(&[token.to_string()], true)?;
        self.special.eos = Some(token.to_string());
        Ok(())
    }

    /// Makes `token` the padding token, adding it to the vocabulary where it is missing.
    ///
    /// # Errors
    /// When the token cannot be added.
    pub fn set_pad(&mut self, token: &str) -> Result<(), DataError> {
        if self.id(token).is_none() {
            self.add_tokens(&[token.to_string()], true)?;
        }
        self.special.pad = Some(token.to_string());
        Ok(())
    }

    /// Makes these words special tokens, adding those that the vocabulary lacks.
    ///
    /// # Errors
    /// When a token cannot be added.
    pub fn add_stop_words(&mut self, words: &[String]) -> Result<(), DataError> {
        self.add_tokens(words, true)?;
        for word in words {
            if !self.special.additional.contains(word) {
                self.special.additional.push(word.clone());
            }
        }
        Ok(())
    }

    /// Adds tokens to the vocabulary (`add_tokens`, `add_special_tokens`); returns by how many it has grown.
    ///
    /// # Errors
    /// When a token cannot be added.
    pub fn add_tokens(&mut self, tokens: &[String], special: bool) -> Result<usize, DataError> {
        let before = self.vocab_size();
        let known = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let is_known = |token: &str| {
            self.inner
                .token_to_id(token)
                .and_then(|id| known.get(&id))
                .is_some_and(|t| t.special || !special)
        };
        let new: Vec<AddedToken> = tokens
            .iter()
            .filter(|token| !is_known(token))
            // transformers adds special tokens without normalising them.
            .map(|token| AddedToken::from(token.as_str(), special).normalized(!special))
            .collect();
        if !new.is_empty() {
            self.inner.add_tokens(new).map_err(|e| {
                DataError::invalid(format!("tokenizer: {} cannot be added: {e}", tokens.join(", ")))
            })?;
        }
        Ok(self.vocab_size() - before)
    }

    /// What the tokenizer puts before an empty text, as text.
    pub(super) fn default_prefix(&self) -> Result<String, String> {
        let encoding = self.inner.encode_fast("", true).map_err(|e| e.to_string())?;
        Ok(self.decode(encoding.get_ids()))
    }

    /// The variables that transformers gives to chat templates.
    pub(super) fn chat_variables(&self) -> Vec<(String, String)> {
        let named = [
            ("bos_token", &self.special.bos),
            ("eos_token", &self.special.eos),
            ("pad_token", &self.special.pad),
            ("unk_token", &self.special.unk),
        ];
        named
            .into_iter()
            .filter_map(|(name, token)| Some((name.to_string(), token.clone()?)))
            .collect()
    }

    fn id_of(&self, token: &Option<String>) -> Option<u32> {
        token.as_deref().and_then(|token| self.inner.token_to_id(token))
    }
}

impl Encoder for Tokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, RowError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| RowError(format!("the tokenizer cannot encode it: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn bos_id(&self) -> Option<u32> {
        Tokenizer::bos_id(self)
    }

    fn eos_id(&self) -> Option<u32> {
        Tokenizer::eos_id(self)
    }

    fn pad_id(&self) -> Option<u32> {
        Tokenizer::pad_id(self)
    }

    fn token_id(&self, token: &str) -> Option<u32> {
        self.id(token).or_else(|| self.id_of(&self.special.unk))
    }
}
