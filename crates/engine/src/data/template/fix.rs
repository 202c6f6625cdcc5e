//! Making a tokenizer fit a template: its eos and pad tokens, stop words and chat template.

use super::super::error::DataError;
use super::super::tokenizer::Tokenizer;
use super::{Slot, Template};

impl Template {
    /// Gives `tokenizer` the eos, pad and stop tokens of this template, adding those that the vocabulary lacks, and
    /// its chat template where it has none or where this template replaces it. Returns what was changed, one sentence
    /// each.
    ///
    /// # Errors
    /// When the tokenizer lacks a token that the slots name.
    pub fn fix_tokenizer(&self, tokenizer: &mut Tokenizer) -> Result<Vec<String>, DataError> {
        let mut notices = Vec::new();
        let before = tokenizer.vocab_size();
        let mut stop_words = self.stop_words.as_slice();
        if self.replace_eos {
            let (first, rest) = stop_words.split_first().ok_or_else(|| {
                DataError::invalid(format!(
                    "template {}: Stop words are required to replace the EOS token.",
                    self.name
                ))
            })?;
            set_eos(tokenizer, first, &mut notices)?;
            stop_words = rest;
        }
        if tokenizer.eos_id().is_none() {
            set_eos(tokenizer, "<|endoftext|>", &mut notices)?;
        }
        if tokenizer.pad_id().is_none()
            && let Some(eos) = tokenizer.eos_token().map(str::to_string)
        {
            notices.push(format!("Add pad token: {eos}."));
            tokenizer.set_pad(&eos)?;
        }
        if !stop_words.is_empty() {
            tokenizer.add_stop_words(stop_words)?;
            notices.push(format!("Add {} to stop words.", stop_words.join(",")));
        }
        let added = tokenizer.vocab_size() - before;
        if added > 0 {
            notices.push(format!(
                "{added} new tokens have been added, make sure `resize_vocab` is True."
            ));
        }
        self.check_tokens(tokenizer)?;
        if (tokenizer.chat_template().is_none() || self.replace_jinja)
            && let Some(jinja) = self.to_jinja(tokenizer.bos_token(), tokenizer.eos_token())
        {
            tokenizer.set_chat_template(jinja);
        }
        Ok(notices)
    }

    fn check_tokens(&self, tokenizer: &Tokenizer) -> Result<(), DataError> {
        use super::Encoder;
        let all = [
            &self.prefix,
            &self.system,
            &self.user,
            &self.assistant,
            &self.function,
            &self.observation,
        ];
        for slot in all.into_iter().flatten() {
            if let Slot::Token(token) = slot
                && tokenizer.token_id(token).is_none()
            {
                return Err(DataError::invalid(format!(
                    "template {}: the tokenizer has no token `{token}`; choose the template that belongs to the model",
                    self.name
                )));
            }
        }
        Ok(())
    }
}

fn set_eos(
    tokenizer: &mut Tokenizer,
    token: &str,
    notices: &mut Vec<String>,
) -> Result<(), DataError> {
    if tokenizer.eos_token() == Some(token) {
        return Ok(());
    }
    let verb = if tokenizer.eos_id().is_none() { "Add" } else { "Replace" };
    notices.push(format!("{verb} eos token: {token}."));
    tokenizer.set_eos(token)
}
