//! From the row shapes of dataset files to one: a prompt of messages, an answer, a system message, tools.

mod messages;
mod tokens;

use serde_json::{Map, Value};

pub use tokens::{check_range, token_row};

use super::encode::Row;
use super::error::RowError;
use super::info::{DatasetInfo, Formatting};
use super::pyjson::{dumps, truthy};
use super::template::{Message, Role};

/// A conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// Messages up to and including the last one of the person or a function's result: an odd number.
    pub prompt: Vec<Message>,
    /// The answer to be learned: one message. Preference rows have two, plain texts none.
    pub response: Vec<Message>,
    /// The system message, or an empty text.
    pub system: String,
    /// The tools as a JSON list, or an empty text.
    pub tools: String,
    /// Why prompt or response are not as they should be, where the conversion knows it.
    pub trouble: Option<String>,
}

impl Example {
    /// Whether this is a conversation that ends with one answer.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check_turns(&self) -> Result<(), RowError> {
        if self.prompt.len() % 2 == 1 && self.response.len() == 1 {
            return Ok(());
        }
        let reason = self.trouble.clone();
        Err(reason
            .unwrap_or_else(|| {
                "prompts and answers must take turns and end with one answer".to_string()
            })
            .into())
    }
}

/// A converted row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Converted {
    /// A conversation or a text, to be tokenised.
    Example(Example),
    /// Token ids, taken as they are.
    Tokens(Row),
}

/// Converts a row as the dataset's entry says.
///
/// # Errors
/// Why the row cannot be used.
pub fn convert(info: &DatasetInfo, row: &Value) -> Result<Converted, RowError> {
    let Value::Object(row) = row else {
        return Err("the row is not a JSON object".into());
    };
    let columns = &info.columns;
    if info.formatting == Formatting::Tokens {
        return token_row(row).map(Converted::Tokens);
    }
    for (kind, column) in
        [("images", &columns.images), ("videos", &columns.videos), ("audios", &columns.audios)]
    {
        if field(row, column).is_some_and(truthy) {
            return Err(
                format!("it has {kind}, and models that read {kind} are not supported").into()
            );
        }
    }
    let mut example = match info.formatting {
        Formatting::Alpaca => alpaca(info, row)?,
        Formatting::Sharegpt => messages::sharegpt(info, row)?,
        _ => messages::openai(info, row)?,
    };
    if columns.kto_tag.is_some() && field(row, &columns.kto_tag).is_some_and(Value::is_boolean) {
        example.response.clear();
        example.trouble = Some(
            "it is a preference row (kto_tag), which supervised fine-tuning cannot use".to_string(),
        );
    }
    example.tools = match field(row, &columns.tools) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(tools)) => tools.clone(),
        Some(tools @ (Value::Array(_) | Value::Object(_))) => dumps(tools),
        Some(_) => {
            return Err(column_error(&columns.tools, "is neither a text nor a list of tools"));
        }
    };
    Ok(Converted::Example(example))
}

/// Columns that the entry names and that at least one row must have. (Prompt, response and messages are checked in
/// every row instead.)
pub(super) fn expected_columns(info: &DatasetInfo) -> Vec<&str> {
    let c = &info.columns;
    let named = match info.formatting {
        Formatting::Alpaca => {
            vec![&c.query, &c.history, &c.system, &c.tools, &c.images, &c.videos, &c.audios]
        }
        Formatting::Sharegpt => vec![&c.system, &c.tools, &c.images, &c.videos, &c.audios],
        Formatting::Openai | Formatting::Tokens => Vec::new(),
    };
    named.into_iter().flatten().map(String::as_str).collect()
}

/// instruction, input and output, with an optional history of pairs.
fn alpaca(info: &DatasetInfo, row: &Map<String, Value>) -> Result<Example, RowError> {
    let columns = &info.columns;
    let mut prompt = Vec::new();
    if let Some(Value::Array(history)) = field(row, &columns.history) {
        for turn in history {
            let pair = turn.as_array().map(Vec::as_slice);
            let Some([Value::String(said), Value::String(answered)]) = pair else {
                return Err(column_error(&columns.history, "must hold pairs of texts"));
            };
            prompt.push(Message::new(Role::User, said));
            prompt.push(Message::new(Role::Assistant, answered));
        }
    }
    let mut query = Vec::new();
    for (column, required) in [(&columns.prompt, true), (&columns.query, false)] {
        match field(row, column) {
            Some(Value::String(text)) if !text.is_empty() => query.push(text.as_str()),
            Some(value) if truthy(value) => return Err(column_error(column, "is not a text")),
            None if required && column.is_some() => return Err(column_error(column, "is missing")),
            _ => {}
        }
    }
    prompt.push(Message::new(Role::User, query.join("\n")));
    let mut example =
        Example { prompt, system: system_text(row, &columns.system)?, ..Example::default() };
    match field(row, &columns.response) {
        Some(Value::String(text)) => example.response.push(Message::new(Role::Assistant, text)),
        _ if columns.response.is_none() => {
            example.trouble = Some("dataset_info.json names no `response` column".to_string());
        }
        None => example.trouble = Some(column_error(&columns.response, "is missing").0),
        Some(_) => example.trouble = Some(column_error(&columns.response, "is not a text").0),
    }
    Ok(example)
}

/// The value of a column; `None` where it is not named or the row does not have it.
fn field<'a>(row: &'a Map<String, Value>, column: &Option<String>) -> Option<&'a Value> {
    row.get(column.as_deref()?)
}

fn column_error(column: &Option<String>, what: &str) -> RowError {
    RowError(format!("column `{}` {what}", column.as_deref().unwrap_or("?")))
}

fn system_text(row: &Map<String, Value>, column: &Option<String>) -> Result<String, RowError> {
    match field(row, column) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(column_error(column, "is not a text")),
    }
}
