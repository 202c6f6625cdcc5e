//! `/settings`: what a person or the server is set to. The language is a cookie of the browser.

use axum::Form;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde::Deserialize;

use super::text::{COOKIE, Lang};
use super::{Htmx, go};
use crate::web::error::{Error, Result};

/// The switch in the rail.
#[derive(Debug, Deserialize)]
pub struct Language {
    #[serde(default)]
    lang: String,
}

/// POST /settings/language: keeps the language in a cookie and goes back to where it was chosen.
///
/// # Errors
/// 400 for a language that the pages do not speak.
pub async fn language(
    htmx: Htmx,
    headers: HeaderMap,
    Form(wanted): Form<Language>,
) -> Result<Response> {
    let lang = Lang::named(&wanted.lang)
        .ok_or_else(|| Error::bad_request("The pages do not speak that language."))?;
    let mut response = go(htmx, back(&headers));
    let cookie = format!("{COOKIE}={}; Path=/; Max-Age=31536000; SameSite=Lax", lang.code());
    if let Ok(value) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    Ok(response)
}

/// The path of the page that asked; never another host's.
fn back(headers: &HeaderMap) -> &str {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let from = text(header::REFERER).and_then(|url| url.split_once("://")).map(|(_, rest)| rest);
    let path = from.and_then(|rest| rest.strip_prefix(host)).unwrap_or("/");
    let local = path.starts_with('/') && !path.starts_with("//") && !path.contains('\\');
    if local { path } else { "/" }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn back_to_where_it_was_chosen() {
        for (referer, expected) in [
            ("http://localhost:7860/runs?q=a", "/runs?q=a"),
            ("https://localhost:7860/", "/"),
            ("http://evil.test/runs", "/"),
            ("http://localhost:7860.evil.test/", "/"),
            ("http://localhost:7860//evil.test", "/"),
            ("http://localhost:7860/\\evil.test", "/"),
            ("http://localhost:7860", "/"),
            ("runs", "/"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("localhost:7860"));
            headers.insert(header::REFERER, referer.parse().unwrap());
            assert_eq!(back(&headers), expected, "{referer}");
        }
    }
}
