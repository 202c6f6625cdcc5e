//! A config as YAML, as a shell command, and the table of all arguments as Markdown.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

use crate::fields::{Class, FIELDS, Field, Group, python_number, shown};

/// Arguments that count steps, or are a share of them.
const INTERVALS: [&str; 3] = ["logging_steps", "save_steps", "eval_steps"];

/// Words that YAML 1.1 reads as something else than text.
const NOT_TEXT: [&str; 11] = ["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n"];

/// `name: value` lines that both YAML 1.1 and 1.2 read alike.
pub(super) fn yaml(map: &Map<String, Value>) -> String {
    map.iter().fold(String::new(), |mut out, (name, value)| {
        let _ = writeln!(out, "{name}: {}", yaml_value(&counted(name, value)));
        out
    })
}

/// Intervals may be shares of all steps, so they are floats; a whole one reads as a count: `1`, not `1.0`.
fn counted(name: &str, value: &Value) -> Value {
    let number = value.as_f64().filter(|number| *number >= 1.0 && *number < 1e15);
    match number {
        Some(number) if INTERVALS.contains(&name) && number.fract() == 0.0 => {
            Value::from(number as u64)
        }
        _ => value.clone(),
    }
}

fn yaml_value(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::String(text) => quoted(text),
        Value::Number(number) => yaml_number(number),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow_value).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let pair = |(name, value): (&String, &Value)| {
                format!("{}: {}", quoted(name), flow_value(value))
            };
            format!("{{{}}}", map.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Within brackets a comma ends the item.
fn flow_value(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains(',') => quoted(text),
        other => yaml_value(other),
    }
}

/// PyYAML takes `5e-05` for text: a float there has a point and a sign in its exponent.
fn yaml_number(number: &Number) -> String {
    let text = python_number(number);
    match text.split_once('e') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
        _ => text,
    }
}

/// Text that needs no quotes: letters first, no word or sign that means something else.
fn is_plain(text: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_./@+-,".contains(&byte);
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'/');
    first && text.bytes().all(safe) && !NOT_TEXT.contains(&text.to_ascii_lowercase().as_str())
}

/// JSON's quotes are YAML's, but for the characters that YAML takes for line breaks or forbids.
fn quoted(text: &str) -> String {
    let json = Value::from(text).to_string();
    json.chars().fold(String::new(), |mut out, char| {
        let code = u32::from(char);
        if matches!(code, 0x7f..=0x9f | 0x2028 | 0x2029 | 0xfeff | 0xfffe | 0xffff) {
            let _ = write!(out, "\\u{code:04x}");
        } else {
            out.push(char);
        }
        out
    })
}

/// A command that any POSIX shell reads, one argument a line.
pub(super) fn command(map: &Map<String, Value>) -> String {
    map.iter().fold("tallow train".to_owned(), |mut out, (name, value)| {
        let _ = write!(out, " \\\n    {}", argument(name, &counted(name, value)));
        out
    })
}

fn argument(name: &str, value: &Value) -> String {
    let text = if value.is_null() { "null".to_owned() } else { shown(value) };
    if text.starts_with("--") {
        return shell_word(&format!("--{name}={text}"));
    }
    format!("--{name} {}", shell_word(&text))
}

fn shell_word(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_./@+-,:=%".contains(&byte);
    if !text.is_empty() && text.bytes().all(safe) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

const HEAD: &str = "\
# Arguments

Every argument of LLaMA-Factory, and Tallow's own, with what becomes of it. Made from the field
table in `crates/run/src/fields`; a test keeps it equal (`UPDATE=1` rewrites it).

* **done**: it works.
* **no effect**: accepted, and said once in the log why it changes nothing.
* **refused**: an error with this reason, unless the value asks for nothing.
";

pub(super) fn markdown() -> String {
    let mut out = HEAD.to_owned();
    for class in ["done", "no effect", "refused"] {
        let count = FIELDS.iter().filter(|field| class_name(field) == class).count();
        let _ = write!(out, "{}{count} {class}", if class == "done" { "\n" } else { ", " });
    }
    let _ = writeln!(out, ": {} in all.", FIELDS.len());
    for group in Group::ALL {
        let _ = write!(
            out,
            "\n## {}\n\n| argument | class | default | |\n|---|---|---|---|\n",
            group.title()
        );
        for class in ["done", "no effect", "refused"] {
            let of_class = |field: &&Field| field.group == group && class_name(field) == class;
            for field in FIELDS.iter().filter(of_class) {
                let _ = writeln!(
                    out,
                    "| `{}` | {class} | {} | {} |",
                    field.name,
                    default_text(field),
                    explained(field).replace('|', "\\|"),
                );
            }
        }
    }
    out
}

const fn class_name(field: &Field) -> &'static str {
    match field.class {
        Class::Done => "done",
        Class::NoEffect(_) => "no effect",
        Class::Refused(_) => "refused",
    }
}

fn default_text(field: &Field) -> String {
    match shown(&field.default_value()) {
        text if text.is_empty() => "none".to_owned(),
        text => format!("`{text}`"),
    }
}

fn explained(field: &Field) -> String {
    let mut text = match field.class {
        Class::Done => field.help.to_owned(),
        Class::NoEffect(why) | Class::Refused(why) => {
            let mut why = sentence(why);
            if !field.help.is_empty() {
                why = format!("{} ({why})", field.help);
            }
            why
        }
    };
    if matches!(field.class, Class::Done) && !field.choices.is_empty() {
        let _ = write!(text, " One of {}.", field.supported());
        if !field.not_yet.is_empty() {
            let _ = write!(text, " Not yet: {}.", field.not_yet.join(", "));
        }
    }
    text
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|char| char.to_ascii_uppercase());
    first.into_iter().chain(chars).chain(['.']).collect()
}
