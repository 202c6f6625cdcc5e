//! Addresses: what stands in a path or a query is percent-encoded here.

use axum::http::{HeaderMap, header};

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

#[cfg(test)]
mod tests {
    use super::*;

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
