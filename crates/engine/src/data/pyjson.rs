//! JSON and values written as Python writes them, because tool texts are part of the tokens.

use serde_json::{Number, Value};

/// `json.dumps(value, ensure_ascii=False)`: separators `", "` and `": "`, keys in their order.
pub fn dumps(value: &Value) -> String {
    let mut out = String::new();
    write_json(value, None, 0, &mut out);
    out
}

/// `json.dumps(value, ensure_ascii=False, indent=4)`.
pub fn dumps_indented(value: &Value) -> String {
    let mut out = String::new();
    write_json(value, Some(4), 0, &mut out);
    out
}

/// `str(value)`: a string as it is, anything else as Python shows it.
pub fn to_str(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => {
            let mut out = String::new();
            write_repr(other, &mut out);
            out
        }
    }
}

/// Whether Python's `if value:` holds.
pub fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&number(n)),
        Value::String(s) => write_string(s, out),
        Value::Array(items) => {
            let write_item =
                |item: &Value, out: &mut String| write_json(item, indent, depth + 1, out);
            write_list(('[', ']'), items.iter(), indent, depth, out, write_item);
        }
        Value::Object(map) => {
            let write_entry = |(key, value): (&String, &Value), out: &mut String| {
                write_string(key, out);
                out.push_str(": ");
                write_json(value, indent, depth + 1, out);
            };
            write_list(('{', '}'), map.iter(), indent, depth, out, write_entry);
        }
    }
}

fn write_list<T>(
    (open, close): (char, char),
    items: impl ExactSizeIterator<Item = T>,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
    write_item: impl Fn(T, &mut String),
) {
    let empty = items.len() == 0;
    let new_line = |depth: usize, out: &mut String| {
        if let Some(width) = indent.filter(|_| !empty) {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    out.push(open);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        new_line(depth + 1, out);
        write_item(item, out);
    }
    new_line(depth, out);
    out.push(close);
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A number as Python's `repr` has it: integers plainly, floats with a point or an exponent of two digits.
fn number(n: &Number) -> String {
    match n.as_f64() {
        Some(x) if n.is_f64() => float(x),
        _ => n.to_string(),
    }
}

fn float(x: f64) -> String {
    let scientific = format!("{x:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let Ok(exponent) = exponent.parse::<i32>() else {
        return scientific;
    };
    if (-4..16).contains(&exponent) || x == 0.0 {
        let plain = format!("{x}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// `repr(value)`.
fn write_repr(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(b) => out.push_str(if *b { "True" } else { "False" }),
        Value::Number(n) => out.push_str(&number(n)),
        Value::String(s) => write_repr_string(s, out),
        Value::Array(items) => write_list(('[', ']'), items.iter(), None, 0, out, write_repr),
        Value::Object(map) => {
            let write_entry = |(key, value): (&String, &Value), out: &mut String| {
                write_repr_string(key, out);
                out.push_str(": ");
                write_repr(value, out);
            };
            write_list(('{', '}'), map.iter(), None, 0, out, write_entry);
        }
    }
}

fn write_repr_string(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::{dumps, dumps_indented, to_str};

    #[test]
    fn writes_as_python_does() {
        let check = |json: &str, expected: &str| {
            let value: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
            assert_eq!(dumps(&value), expected, "{json}");
        };
        check(r#"{"b":1,"a":[1.0,-0.0,1e5,1e16,1e-5,0.0001,1.5e300]}"#, {
            r#"{"b": 1, "a": [1.0, -0.0, 100000.0, 1e+16, 1e-05, 0.0001, 1.5e+300]}"#
        });
        check(
            r#"["é\u0001\n\"\\/",null,true,{},[],18446744073709551615,-9]"#,
            r#"["é\u0001\n\"\\/", null, true, {}, [], 18446744073709551615, -9]"#,
        );
        let value = serde_json::json!({"a": [1, {}], "b": []});
        assert_eq!(
            dumps_indented(&value),
            "{\n    \"a\": [\n        1,\n        {}\n    ],\n    \"b\": []\n}"
        );
        assert_eq!(
            to_str(&serde_json::json!(["a'b", "c", null, {"k": true}])),
            "[\"a'b\", 'c', None, {'k': True}]"
        );
    }
}
