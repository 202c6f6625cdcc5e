//! From pieces to token ids, and the thoughts that reasoning templates add and remove.

use std::borrow::Cow;

use super::super::error::RowError;
use super::super::tools::between;
use super::{Class, Message, Slot, Template};

/// What a template needs of a tokenizer.
pub trait Encoder: Sync {
    /// The ids of a text, without any special token added around it.
    ///
    /// # Errors
    /// When the tokenizer cannot encode the text.
    fn encode(&self, text: &str) -> Result<Vec<u32>, RowError>;
    /// The id of the beginning-of-text token.
    fn bos_id(&self) -> Option<u32>;
    /// The id of the end-of-text token.
    fn eos_id(&self) -> Option<u32>;
    /// The id of the padding token.
    fn pad_id(&self) -> Option<u32>;
    /// The id of one token, or of the unknown token where the vocabulary lacks it.
    fn token_id(&self, token: &str) -> Option<u32>;
}

/// Token ids of a prompt and of the answer to it.
pub type Pair = (Vec<u32>, Vec<u32>);

impl Template {
    /// The conversation as (prompt, answer) pairs. `discard_thoughts` removes the thoughts of all answers but the last.
    ///
    /// # Errors
    /// When a message cannot be rendered or encoded.
    pub fn encode_multiturn(
        &self,
        encoder: &dyn Encoder,
        messages: &[Message],
        system: &str,
        tools: &str,
        discard_thoughts: bool,
    ) -> Result<Vec<Pair>, RowError> {
        let mut messages = Cow::Borrowed(messages);
        let turns = messages.len() / 2;
        if self.is_reasoning() {
            for turn in 0..turns {
                if self.enable_thinking == Some(false) || (discard_thoughts && turn + 1 < turns) {
                    self.remove_thought_of(&mut messages, 2 * turn + 1);
                }
            }
        }
        let mut encoded = self.encode_messages(encoder, &messages, system, tools)?.into_iter();
        let mut pairs = Vec::with_capacity(turns);
        while let (Some(prompt), Some(answer)) = (encoded.next(), encoded.next()) {
            pairs.push((prompt, answer));
        }
        if self.is_reasoning() {
            let first = if discard_thoughts { turns.saturating_sub(1) } else { 0 };
            for (turn, pair) in pairs.iter_mut().enumerate().skip(first) {
                self.add_empty_thought(encoder, &messages[2 * turn + 1].content, pair)?;
            }
        }
        Ok(pairs)
    }

    /// The whole conversation up to the last message as the prompt, and the last message as the answer.
    ///
    /// # Errors
    /// When a message cannot be rendered or encoded.
    pub fn encode_oneturn(
        &self,
        encoder: &dyn Encoder,
        messages: &[Message],
        system: &str,
        tools: &str,
    ) -> Result<Pair, RowError> {
        let mut messages = Cow::Borrowed(messages);
        let count = messages.len();
        if self.is_reasoning() {
            for i in (1..count).step_by(2) {
                let earlier = i + 2 < count && !self.preserve_thinking;
                if earlier || (i + 1 == count && self.enable_thinking == Some(false)) {
                    self.remove_thought_of(&mut messages, i);
                }
            }
        }
        let mut encoded = self.encode_messages(encoder, &messages, system, tools)?;
        let answer = encoded.pop().unwrap_or_default();
        let mut pair = (encoded.concat(), answer);
        if let Some(last) = messages.last().filter(|_| self.is_reasoning()) {
            self.add_empty_thought(encoder, &last.content, &mut pair)?;
        }
        Ok(pair)
    }

    fn encode_messages(
        &self,
        encoder: &dyn Encoder,
        messages: &[Message],
        system: &str,
        tools: &str,
    ) -> Result<Vec<Vec<u32>>, RowError> {
        let rendered = self.render(messages, system, tools)?;
        rendered.iter().map(|pieces| ids(encoder, pieces)).collect()
    }

    fn remove_thought_of(&self, messages: &mut Cow<'_, [Message]>, i: usize) {
        let removed = self.remove_thought(&messages[i].content);
        if removed != messages[i].content {
            messages.to_mut()[i].content = removed;
        }
    }

    /// The text without its thoughts, and without line breaks at its start.
    pub fn remove_thought(&self, text: &str) -> String {
        let mut kept = String::new();
        let mut rest = text;
        while let Some((thought, _)) =
            between(rest, &self.thought_words).filter(|(thought, _)| !thought.is_empty())
        {
            let Some((before, after)) = rest.split_once(thought) else {
                break;
            };
            kept += before;
            rest = after;
        }
        kept += rest;
        kept.trim_start_matches('\n').to_string()
    }

    /// Adds an empty thought to a turn whose answer has none: to the answer where thinking is on, else to the prompt.
    fn add_empty_thought(
        &self,
        encoder: &dyn Encoder,
        answer: &str,
        pair: &mut Pair,
    ) -> Result<(), RowError> {
        let [open, close] = &self.thought_words;
        if answer.contains(open.trim()) || answer.contains(close.trim()) {
            return Ok(());
        }
        let empty =
            if self.class == Class::Glm47 { close.clone() } else { format!("{open}{close}") };
        let thought = encoder.encode(&empty)?;
        if self.enable_thinking == Some(true) {
            pair.1.splice(0..0, thought);
        } else {
            pair.0.extend(thought);
        }
        Ok(())
    }
}

/// The ids of one message's pieces.
fn ids(encoder: &dyn Encoder, pieces: &[Slot]) -> Result<Vec<u32>, RowError> {
    let mut ids = Vec::new();
    for piece in pieces {
        match piece {
            Slot::Text(text) if text.is_empty() => {}
            Slot::Text(text) => ids.extend(encoder.encode(text)?),
            Slot::Bos => ids.extend(encoder.bos_id()),
            Slot::Eos => ids.extend(encoder.eos_id()),
            Slot::Token(token) => ids.push(encoder.token_id(token).ok_or_else(|| {
                format!("the tokenizer has no token `{token}`, which the template needs")
            })?),
        }
    }
    Ok(ids)
}
