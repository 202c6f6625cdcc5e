//! One row, token by token: where tokens end, which are trained, which are masked, and the prompt as the model sees it.

use engine::data::Tokenizer;
use engine::data::convert::{Converted, convert};
use engine::data::encode::{self, IGNORE, Labelling};

use super::datasets::Opened;
use super::kit::Wanted;
use super::{Library, LibraryError, Patience, Result};

/// Tokens that are shown.
const SHOWN: usize = 4000;

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text; empty where it ends inside a character, which the last of its tokens shows.
    pub text: String,
    /// Whether the model learns it.
    pub trained: bool,
}

/// A row as the model gets it.
#[derive(Debug, Clone)]
pub struct TokenView {
    /// Its place in the data set, from 1.
    pub number: u64,
    /// The tokens, at most so many as are shown.
    pub tokens: Vec<Token>,
    /// How many there are.
    pub count: usize,
    /// How many of them are trained.
    pub trained: usize,
    /// Tokens that the cutoff took away.
    pub cut: usize,
    /// The whole text, as the tokenizer reads it back.
    pub text: String,
    /// The template.
    pub template: String,
    /// What was changed to make tokenizer and template fit.
    pub notices: Vec<String>,
}

impl Library {
    /// A row under a model's tokenizer and a template, number from 1.
    ///
    /// # Errors
    /// Where there is no such row, or it, the model or the template cannot be used.
    pub async fn tokens(
        &self,
        opened: &Opened,
        number: u64,
        wanted: &Wanted,
        cutoff_len: usize,
        patience: Patience,
    ) -> Result<TokenView> {
        let found = self.row(opened, number, patience).await?;
        let kit = self.kit(wanted, patience).await?;
        let (info, wanted) = (opened.info.clone(), wanted.clone());
        self.blocking(move |_| {
            let wrong = |why: String| LibraryError::wrong("row", why);
            let value = found.value.map_err(wrong)?;
            let converted = convert(&info, &value).map_err(|error| wrong(error.to_string()))?;
            let (row, cut) = match converted {
                Converted::Tokens(row) => (row, 0),
                Converted::Example(example) if wanted.pretraining => {
                    let bos = kit.tokenizer.adds_bos();
                    let ids = encode::pretraining(&kit.tokenizer, &kit.template, &example, bos);
                    let mut ids = ids.map_err(|error| wrong(error.to_string()))?;
                    let cut = ids.len().saturating_sub(cutoff_len);
                    ids.truncate(cutoff_len);
                    let labels = ids.iter().map(|_| 0).collect();
                    (encode::Row { input_ids: ids, labels, ..encode::Row::default() }, cut)
                }
                Converted::Example(example) => {
                    let how = Labelling {
                        cutoff_len,
                        train_on_prompt: wanted.train_on_prompt,
                        mask_history: wanted.mask_history,
                    };
                    let encoded = encode::supervised(&kit.tokenizer, &kit.template, &example, how)
                        .map_err(|error| wrong(error.to_string()))?;
                    (encoded.row, encoded.cut_tokens)
                }
            };
            let labels = row.labels.iter().map(|label| *label != IGNORE);
            let trained = labels.clone().filter(|trained| *trained).count();
            let shown = row.input_ids.get(..SHOWN).unwrap_or(&row.input_ids);
            let texts = pieces(&kit.tokenizer, shown);
            let token =
                |((id, text), trained): ((&u32, String), bool)| Token { id: *id, text, trained };
            Ok(TokenView {
                number,
                tokens: shown.iter().zip(texts).zip(labels).map(token).collect(),
                count: row.input_ids.len(),
                trained,
                cut,
                text: kit.tokenizer.decode(shown),
                template: kit.name.clone(),
                notices: kit.notices.clone(),
            })
        })
        .await
    }
}

/// The text that each token adds. A token by itself may lose its space (SentencePiece) or be a part of a character.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    /// No character has more bytes, so none has more tokens.
    const LONGEST: usize = 4;
    let mut texts = Vec::with_capacity(ids.len());
    let (mut start, mut place) = (0_usize, 0_usize);
    while place < ids.len() {
        let context = start.saturating_sub(1);
        let before = tokenizer.decode(ids.get(context..start).unwrap_or_default());
        let all = tokenizer.decode(ids.get(context..=place).unwrap_or_default());
        let own = || tokenizer.decode(ids.get(start..=place).unwrap_or_default());
        let text = all.strip_prefix(&before).map_or_else(own, str::to_owned);
        let unfinished = text.ends_with('\u{fffd}') && place + 1 - start < LONGEST;
        place += 1;
        if unfinished && place < ids.len() {
            texts.push(String::new());
        } else {
            texts.push(text);
            start = place;
        }
    }
    texts
}
