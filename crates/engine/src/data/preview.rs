//! A row as a person or a test looks at it: ids, labels and the text of each.

use serde_json::{Map, Value, json};

use super::encode::{IGNORE, Row};
use super::tokenizer::Tokenizer;

/// A row as one JSON object: `input_ids` and `labels`; `attention_mask` and `position_ids` where it is a pack; `text`
/// and `label_text` where there is a tokenizer. Packs are padded as LLaMA-Factory pads them.
pub fn preview_row(row: &Row, tokenizer: Option<&Tokenizer>) -> Value {
    let mut ids = row.input_ids.clone();
    let mut labels = row.labels.clone();
    let pad = tokenizer.and_then(Tokenizer::pad_id).unwrap_or(0);
    ids.resize(ids.len() + row.padding, pad);
    labels.resize(labels.len() + row.padding, IGNORE);
    let mut object = Map::new();
    object.insert("input_ids".to_string(), json!(ids));
    object.insert("labels".to_string(), json!(labels));
    if !row.segments.is_empty() {
        object.insert("attention_mask".to_string(), json!(row.attention_mask()));
        object.insert("position_ids".to_string(), json!(row.position_ids()));
    }
    if let Some(tokenizer) = tokenizer {
        let trained: Vec<u32> =
            labels.iter().filter(|label| **label != IGNORE).map(|label| *label as u32).collect();
        object.insert("text".to_string(), json!(tokenizer.decode(&ids)));
        object.insert("label_text".to_string(), json!(tokenizer.decode(&trained)));
    }
    Value::Object(object)
}

impl Row {
    /// The reference's mask of a pack, padding included: with neat packing the number of the segment from 1 and 0 for
    /// padding, otherwise ones.
    pub fn attention_mask(&self) -> Vec<u32> {
        if !self.neat {
            return vec![1; self.input_ids.len() + self.padding];
        }
        let numbered = self
            .segments
            .iter()
            .enumerate()
            .flat_map(|(i, n)| std::iter::repeat_n(i as u32 + 1, *n));
        numbered.chain(std::iter::repeat_n(0, self.padding)).collect()
    }

    /// The position of each token, padding included (0): from 0 in each segment, or in the whole row.
    pub fn position_ids(&self) -> Vec<u32> {
        let whole = [self.input_ids.len()];
        let segments = if self.segments.is_empty() { &whole } else { self.segments.as_slice() };
        let counted = segments.iter().flat_map(|n| 0..*n as u32);
        counted.chain(std::iter::repeat_n(0, self.padding)).collect()
    }
}
