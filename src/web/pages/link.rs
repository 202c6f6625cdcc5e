//! Addresses: what stands in a path or a query is percent-encoded here.

use axum::http::{HeaderMap, header};
use serde_json::{Map, Value};

/// Percent-encodes a part of a path or a value of a query.
#[must_use]
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// `?a=b&c=d` of those that are not empty.
#[must_use]
pub fn query(pairs: &[(&str, &str)]) -> String {
    let given = pairs.iter().filter(|(_, value)| !value.is_empty());
    let text: Vec<String> =
        given.map(|(name, value)| format!("{name}={}", encode(value))).collect();
    if text.is_empty() { String::new() } else { format!("?{}", text.join("&")) }
}

/// Where the browser says that it is, for commands to copy: `http://localhost:7860`.
#[must_use]
pub fn origin(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    format!("http://{}", host.unwrap_or("localhost:7860"))
}

/// What a page shows, from a terminal.
#[must_use]
pub fn curl(headers: &HeaderMap, path: &str) -> String {
    format!("curl '{}{path}'", origin(headers))
}

/// A start of that configuration through the API, for a shell. Where it wrote is left out: a copy gets a folder of its own.
#[must_use]
pub fn start_by_curl(headers: &HeaderMap, mut config: Map<String, Value>) -> String {
    config.shift_remove("output_dir");
    let body = config.into_iter().map(|(name, value)| (name, tidy(value))).collect();
    let body = serde_json::to_string_pretty(&Value::Object(body)).unwrap_or_default();
    // within single quotes a shell reads nothing but the closing one
    let body = body.replace('\'', "'\\''");
    let origin = origin(headers);
    format!("curl {origin}/api/v1/runs \\\n  -H 'Content-Type: application/json' -d '{body}'")
}

/// A number without the fraction that it does not have: `logging_steps` is 1 and not 1.0.
fn tidy(value: Value) -> Value {
    match value.as_f64() {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small")]
        Some(number) if number.fract() == 0.0 && number.abs() < 1e15 => Value::from(number as i64),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_start_can_be_copied() {
        let config = json!({"logging_steps": 1.0, "learning_rate": 5e-5, "run_name": "it's", "output_dir": "/x"});
        let text =
            start_by_curl(&HeaderMap::new(), config.as_object().cloned().unwrap_or_default());
        assert!(text.contains("\"logging_steps\": 1,") && text.contains("0.00005"), "{text}");
        assert!(text.contains("it'\\''s") && !text.contains("/x"), "{text}");
    }

    #[test]
    fn queries() {
        for (pairs, expected) in [
            (&[("q", ""), ("dir", "")][..], ""),
            (&[("q", "a b&c=é\""), ("dir", "x/y")], "?q=a%20b%26c%3D%C3%A9%22&dir=x%2Fy"),
        ] {
            assert_eq!(query(pairs), expected);
        }
    }
}
