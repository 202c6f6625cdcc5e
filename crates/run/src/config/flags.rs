//! The command line: `--name value` as transformers reads it, and `name=value` as OmegaConf does.

use serde_json::Value;

use super::error::{ConfigError, FieldError};
use super::read;
use crate::fields::{Argument, Field, Kind};

type Pairs = Vec<(String, Value)>;

/// `--name value`, `--name=value`, `--switch`, `--no_switch`, `--list a b` and `--list a --list b`.
pub(super) fn flags<S: AsRef<str>>(words: &[S]) -> Result<Pairs, ConfigError> {
    let mut pairs = Pairs::new();
    let mut errors = Vec::new();
    let mut words = words.iter().map(AsRef::as_ref).peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").filter(|flag| !flag.is_empty()) else {
            let message = format!("`{word}` belongs to no argument; they look like --name value");
            errors.push(FieldError { field: String::new(), message });
            continue;
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        let name = name.replace('-', "_");
        let mut values: Vec<&str> = inline.into_iter().collect();
        while inline.is_none()
            && let Some(value) = words.next_if(|word| !word.starts_with("--"))
        {
            values.push(value);
        }
        match value_of(&name, &values) {
            Ok((name, value)) => put(&mut pairs, name, value),
            Err(message) => errors.push(FieldError { field: name, message }),
        }
    }
    if errors.is_empty() { Ok(pairs) } else { Err(ConfigError::new(errors)) }
}

/// `name=value` words; the value is text, or YAML where it is quoted, a list or a mapping.
pub(super) fn overrides<S: AsRef<str>>(words: &[S]) -> Result<Pairs, ConfigError> {
    let mut pairs = Pairs::new();
    let mut errors = Vec::new();
    for word in words.iter().map(AsRef::as_ref) {
        let Some((name, text)) = word.split_once('=') else {
            let message = format!("`{word}` is no override; they look like name=value");
            errors.push(FieldError { field: String::new(), message });
            continue;
        };
        let name = name.trim().trim_start_matches("--").to_owned();
        match override_value(text) {
            Ok(value) => pairs.push((name, value)),
            Err(message) => errors.push(FieldError { field: name, message }),
        }
    }
    if errors.is_empty() { Ok(pairs) } else { Err(ConfigError::new(errors)) }
}

fn value_of(name: &str, values: &[&str]) -> Result<(String, Value), String> {
    let field = Field::find(name);
    let is = |kind: Kind| field.is_some_and(|field| field.kind == kind);
    match values {
        [] => {
            let switch =
                |name: &str| Field::find(name).is_some_and(|field| field.kind == Kind::Bool);
            match name.strip_prefix("no_").filter(|rest| field.is_none() && switch(rest)) {
                Some(rest) => Ok((rest.to_owned(), Value::Bool(false))),
                None if field.is_none() || switch(name) || field.is_some_and(takes_true) => {
                    Ok((name.to_owned(), Value::Bool(true)))
                }
                None => Err("it needs a value".to_owned()),
            }
        }
        [value] => Ok((name.to_owned(), Value::from(*value))),
        _ if is(Kind::List) => Ok((name.to_owned(), Value::from(values.to_vec()))),
        _ if field.is_none() => Ok((name.to_owned(), Value::Null)),
        [_, second, ..] => {
            Err(format!("it takes one value, and `{second}` is a second; quote text with spaces"))
        }
    }
}

/// Choices such as `include_num_input_tokens_seen`, where "true" is a value.
fn takes_true(field: &Field) -> bool {
    field.kind == Kind::Choice && field.read(&Value::Bool(true)).is_ok()
}

/// Of a list that is given again the values add up; of anything else the last counts.
fn put(pairs: &mut Pairs, name: String, value: Value) {
    let is_list = Field::find(&name).is_some_and(|field| field.kind == Kind::List);
    if let Some((_, earlier)) = pairs.iter_mut().find(|(known, _)| is_list && *known == name) {
        // What is no list is told when the field reads it.
        let read = |value: Value| Vec::<String>::read(&value).unwrap_or_default();
        let mut items = read(earlier.take());
        items.extend(read(value));
        *earlier = Value::from(items);
        return;
    }
    pairs.push((name, value));
}

fn override_value(text: &str) -> Result<Value, String> {
    if !text.starts_with(['[', '{', '"', '\'']) {
        return Ok(Value::from(text));
    }
    let parsed = serde_yaml_ng::from_str(text).map_err(|error| error.to_string());
    parsed.and_then(read::plain).map_err(|why| format!("`{text}` is not YAML: {why}"))
}
