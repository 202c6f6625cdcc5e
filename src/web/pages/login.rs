//! The one page that a stranger sees: nothing of the server but its name. It asks for no file (those want the token too),
//! so its styles stand in it, allowed by their hash in a policy of its own.

use askama::Template;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::html;
use super::shell::Shell;
use crate::web::assets::Assets;

/// The file that stands in the page.
const STYLES: &str = "login.css";

#[derive(Template)]
#[template(path = "pages/login.html")]
struct Login {
    shell: Shell,
    styles: String,
    wrong: bool,
}

/// The form, after a wrong token with a word about it. The status is 401. It has its own Content-Security-Policy:
/// whoever adds headers to every answer must leave that one alone.
#[must_use]
pub fn page(headers: &HeaderMap, wrong: bool) -> Response {
    let file = Assets::get(STYLES);
    let styles = file
        .as_ref()
        .map(|file| String::from_utf8_lossy(&file.data).into_owned())
        .unwrap_or_default();
    let hash = file.map(|file| base64(&file.metadata.sha256_hash())).unwrap_or_default();
    let mut response =
        html(StatusCode::UNAUTHORIZED, &Login { shell: Shell::bare(headers), styles, wrong })
            .unwrap_or_else(IntoResponse::into_response);
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) as usize & 63;
            text.push(if place <= three.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn base64s() {
        for (bytes, expected) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn the_page_asks_for_nothing() {
        let response = page(&HeaderMap::new(), true);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("style-src 'sha256-") && !policy.contains("sha256-'"));
        let html =
            Login { shell: Shell::bare(&HeaderMap::new()), styles: String::new(), wrong: true }
                .render()
                .unwrap();
        assert!(html.contains("role=\"alert\"") && !html.contains("/assets/"));
    }
}
