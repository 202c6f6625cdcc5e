//! Rows that are lists of messages: sharegpt and OpenAI.

use serde_json::{Map, Value};

use super::super::error::RowError;
use super::super::info::{DatasetInfo, Tags};
use super::super::pyjson::{dumps, truthy};
use super::super::template::{Message, Role};
use super::{Example, column_error, field, system_text};

/// What stands between the results of several functions that were called at once.
const BETWEEN_RESULTS: &str = "\n</tool_response>\n<tool_response>\n";

/// A message's role, and its text where it has one.
struct Raw<'a> {
    place: usize,
    role: &'a str,
    text: Option<&'a str>,
    map: &'a Map<String, Value>,
}

impl Raw<'_> {
    fn text(&self) -> Result<String, RowError> {
        let text = self.text.ok_or_else(|| format!("message {} has no text", self.place))?;
        Ok(text.to_string())
    }
}

/// Messages with tags, which must take turns exactly.
pub(super) fn sharegpt(info: &DatasetInfo, row: &Map<String, Value>) -> Result<Example, RowError> {
    let tags = &info.tags;
    let (system, messages) = read(info, row)?;
    let mut aligned = Vec::new();
    let mut trouble = None;
    for (i, message) in messages.iter().enumerate() {
        let odd = if i % 2 == 0 {
            [&tags.user, &tags.observation]
        } else {
            [&tags.assistant, &tags.function]
        };
        match role_of(tags, message.role)
            .filter(|_| odd.iter().any(|tag| tag.as_deref() == Some(message.role)))
        {
            Some(role) => aligned.push(Message::new(role, message.text()?)),
            None => {
                trouble = Some(format!(
                    "Invalid role tag in message {}: `{}`",
                    message.place, message.role
                ));
                break;
            }
        }
    }
    Ok(finish(aligned, system, trouble))
}

/// Messages as OpenAI's API has them: tool calls beside the content, results in messages of their own.
pub(super) fn openai(info: &DatasetInfo, row: &Map<String, Value>) -> Result<Example, RowError> {
    let tags = &info.tags;
    let is = |role: &str, tag: &Option<String>| tag.as_deref() == Some(role);
    let (system, messages) = read(info, row)?;
    let mut aligned = Vec::new();
    let mut results: Vec<String> = Vec::new();
    for message in &messages {
        if is(message.role, &tags.observation) {
            results.push(message.text()?);
            continue;
        }
        if !results.is_empty() {
            aligned.push(Message::new(Role::Observation, results.join(BETWEEN_RESULTS)));
            results.clear();
        }
        let speaks = is(message.role, &tags.assistant) || is(message.role, &tags.function);
        if let Some(calls) = message.map.get("tool_calls").filter(|calls| speaks && truthy(calls)) {
            aligned.push(Message::new(Role::Function, function_calls(calls, message.place)?));
            continue;
        }
        let role = role_of(tags, message.role).ok_or_else(|| {
            format!("Invalid role tag in message {}: `{}`", message.place, message.role)
        })?;
        aligned.push(Message::new(role, message.text()?));
    }
    let misplaced = aligned.iter().enumerate().find(|(i, message)| {
        let answers = matches!(message.role, Role::Assistant | Role::Function);
        answers != (i % 2 == 1)
    });
    let trouble = misplaced
        .map(|(i, message)| format!("Invalid role tag in turn {}: {:?}", i + 1, message.role));
    Ok(finish(aligned, system, trouble))
}

fn function_calls(calls: &Value, place: usize) -> Result<String, RowError> {
    let functions = calls.as_array().map(|calls| {
        calls
            .iter()
            .map(|call| call.get("function").cloned())
            .collect::<Option<Vec<_>>>()
            .map(Value::Array)
    });
    match functions {
        Some(Some(functions)) => Ok(dumps(&functions)),
        _ => {
            Err(format!("message {place}: `tool_calls` must be a list of objects with `function`")
                .into())
        }
    }
}

/// The system message and the other messages.
fn read<'a>(
    info: &DatasetInfo,
    row: &'a Map<String, Value>,
) -> Result<(String, Vec<Raw<'a>>), RowError> {
    let column = &info.columns.messages;
    let list = match field(row, column) {
        Some(Value::Array(list)) => list,
        Some(_) => return Err(column_error(column, "is not a list of messages")),
        None if column.is_none() => {
            return Err("dataset_info.json names no `messages` column".into());
        }
        None => return Err(column_error(column, "is missing")),
    };
    let role_tag = info.tags.role.as_deref().unwrap_or("from");
    let content_tag = info.tags.content.as_deref().unwrap_or("value");
    let mut messages = Vec::with_capacity(list.len());
    for (i, message) in list.iter().enumerate() {
        let place = i + 1;
        let map =
            message.as_object().ok_or_else(|| format!("message {place} is not a JSON object"))?;
        let role = map.get(role_tag).and_then(Value::as_str);
        let role = role.ok_or_else(|| format!("message {place} has no `{role_tag}`"))?;
        messages.push(Raw { place, role, text: map.get(content_tag).and_then(Value::as_str), map });
    }
    let leads = |first: &Raw<'_>| info.tags.system.as_deref() == Some(first.role);
    if messages.first().is_some_and(leads) {
        let system = messages.remove(0).text()?;
        return Ok((system, messages));
    }
    Ok((system_text(row, &info.columns.system)?, messages))
}

/// What a tag means. Where one word stands for several, the later meaning holds, as in the reference.
fn role_of(tags: &Tags, word: &str) -> Option<Role> {
    let meanings = [
        (&tags.function, Role::Function),
        (&tags.observation, Role::Observation),
        (&tags.assistant, Role::Assistant),
        (&tags.user, Role::User),
    ];
    meanings.into_iter().find(|(tag, _)| tag.as_deref() == Some(word)).map(|(_, role)| role)
}

/// The example: all but the last message are the prompt. A conversation in trouble keeps none.
fn finish(mut aligned: Vec<Message>, system: String, mut trouble: Option<String>) -> Example {
    if trouble.is_none() && (aligned.is_empty() || !aligned.len().is_multiple_of(2)) {
        let count = aligned.len();
        trouble = Some(format!(
            "Invalid message count: {count} (prompts and answers must come in pairs)"
        ));
    }
    let mut example = Example { system, trouble, ..Example::default() };
    if example.trouble.is_none() {
        example.response = aligned.split_off(aligned.len() - 1);
        example.prompt = aligned;
    }
    example
}
