//! The one page that a stranger sees: nothing of the server but its name. It asks for no file (those want the token too),
//! so its styles stand in it, allowed by their hash in [`CSP`].

use askama::Template;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::html;
use super::shell::Shell;

#[derive(Template)]
#[template(path = "pages/login.html")]
struct Login {
    shell: Shell,
    wrong: bool,
}

/// What the login page may load: nothing but the styles that stand in it.
pub const CSP: &str = "default-src 'none'; style-src 'sha256-STYLE'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

/// The form, after a wrong token with a word about it. The status is 401.
#[must_use]
pub fn page(headers: &HeaderMap, wrong: bool) -> Response {
    let mut response = html(StatusCode::UNAUTHORIZED, &Login { shell: Shell::bare(headers), wrong })
        .unwrap_or_else(IntoResponse::into_response);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
    response
}
