//! Answers that a browser may keep and asks about: the tag changes with what they are made of.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A tag for what is made of these parts, by this version of the program.
#[must_use]
pub fn tag<'p>(parts: impl IntoIterator<Item = &'p str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [env!("CARGO_PKG_VERSION")].into_iter().chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    // weak: with and without compression it is the same
    let hash = hasher.finalize().to_hex();
    format!("W/\"{}\"", hash.get(..24).unwrap_or(&hash))
}

/// 304, where whoever asks has what the tag stands for.
#[must_use]
pub fn same(headers: &HeaderMap, tag: &str) -> Option<Response> {
    let known =
        headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|line| line.split(',')).map(str::trim);
    let plain = tag.trim_start_matches("W/");
    let same = known.any(|one| one == "*" || one.trim_start_matches("W/") == plain);
    same.then(|| tagged(tag, StatusCode::NOT_MODIFIED))
}

/// An answer with its tag: kept by the browser alone, and asked about each time.
pub fn tagged(tag: &str, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        assert_eq!(tag(["a", "b"]), tag(["a", "b"]));
        assert_ne!(tag(["a", "b"]), tag(["ab", ""]));
        let tag = tag(["a"]);
        let plain = tag.trim_start_matches("W/");
        for (given, expected) in [
            ("", false),
            ("\"x\"", false),
            ("*", true),
            (tag.as_str(), true),
            (plain, true),
            (&format!("\"x\", {tag}"), true),
            (&tag[..10], false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, given.parse().unwrap());
            let answer = same(&headers, &tag);
            assert_eq!(answer.is_some(), expected, "{given}");
            if let Some(answer) = answer {
                assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
                assert_eq!(answer.headers()[header::ETAG], *tag);
            }
        }
    }
}
