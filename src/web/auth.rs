//! The token: asked for everywhere but on /healthz once the server is bound to anything but loopback.
//!
//! It is made at the first start, kept in DATA/token with mode 0600 and printed once. A script sends it as
//! `Authorization: Bearer TOKEN`; a person gives it to the form, which answers with a cookie derived from it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use axum::Form;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::error::Error;
use super::pages;
use super::state::AppState;

const COOKIE: &str = "tallow_session";

/// Whether a token is wanted, and which.
pub struct Auth {
    /// `None`: bound to loopback, nobody is asked.
    secrets: Option<Secrets>,
    /// The cookie is sent over https only.
    secure: bool,
}

/// Neither of them is ever shown: no `Debug`.
struct Secrets {
    token: String,
    session: String,
}

/// A token file that was read or made.
pub struct TokenFile {
    /// 64 hexadecimal digits.
    pub token: String,
    /// True at the first start: print it now, and never again.
    pub fresh: bool,
}

impl Auth {
    /// Nobody is asked.
    #[must_use]
    pub fn open() -> Self {
        Self { secrets: None, secure: false }
    }

    /// This token is asked for; `secure` where people come over https.
    #[must_use]
    pub fn token(token: String, secure: bool) -> Self {
        let key = blake3::derive_key("tallow 2026 session cookie v1", token.as_bytes());
        let session = blake3::Hash::from(key).to_hex().to_string();
        Self { secrets: Some(Secrets { token, session }), secure }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(secrets) = &self.secrets else {
            return true;
        };
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.split_once(' '));
        if let Some((scheme, token)) = bearer
            && scheme.eq_ignore_ascii_case("bearer")
        {
            return same(token.trim(), &secrets.token);
        }
        let cookies =
            headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        cookies
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .any(|(name, value)| name == COOKIE && same(value, &secrets.session))
    }
}

/// Reads DATA/token, or makes it (256 random bits, mode 0600).
///
/// # Errors
/// Where the file cannot be read or written, or holds something else.
pub fn token_file(path: &Path) -> io::Result<TokenFile> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let token = text.trim().to_owned();
            if token.len() < 32 {
                let why =
                    format!("{}: no token in it; remove the file to get a new one", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            Ok(TokenFile { token, fresh: false })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0_u8; 32];
            fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
            let token = blake3::Hash::from(bytes).to_hex().to_string();
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            writeln!(file, "{token}")?;
            file.sync_all()?;
            Ok(TokenFile { token, fresh: true })
        }
        Err(error) => Err(error),
    }
}

/// Refuses whoever has no token.
pub async fn token(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path == "/healthz" || path == "/login" || state.auth.admits(request.headers()) {
        return next.run(request).await;
    }
    if path.starts_with("/api/") || request.method() != axum::http::Method::GET {
        let detail =
            "This server wants its token: send `Authorization: Bearer TOKEN` (DATA/token has it).";
        let mut response = Error::new(StatusCode::UNAUTHORIZED, detail).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    pages::login::page(request.headers(), false)
}

/// The form's fields.
#[derive(Deserialize)]
pub struct LoginForm {
    token: String,
}

/// Takes the token and gives a cookie; wrong ones get the form again.
pub async fn login(
    State(state): State<AppState>,
    headers: HeaderMap,
    Form(given): Form<LoginForm>,
) -> Response {
    let Some(secrets) = &state.auth.secrets else {
        return Redirect::to("/").into_response();
    };
    if !same(given.token.trim(), &secrets.token) {
        return pages::login::page(&headers, true);
    }
    let secure = if state.auth.secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={}; HttpOnly; SameSite=Strict; Path=/{secure}", secrets.session);
    let mut response = Redirect::to("/").into_response();
    if let Ok(value) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

fn same(given: &str, secret: &str) -> bool {
    given.as_bytes().ct_eq(secret.as_bytes()).into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_token_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let first = token_file(&path).unwrap();
        let second = token_file(&path).unwrap();
        assert!(first.fresh && !second.fresh);
        assert_eq!(first.token, second.token);
        assert_eq!(first.token.len(), 64);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "short\n").unwrap();
        assert!(token_file(&path).is_err());
    }

    #[test]
    fn who_is_let_in() {
        let auth = Auth::token("secret-token".to_owned(), false);
        let session = auth.secrets.as_ref().unwrap().session.clone();
        let check = |name: header::HeaderName, value: &str, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::try_from(value).unwrap());
            assert_eq!(auth.admits(&headers), expected, "{value}");
        };
        check(header::AUTHORIZATION, "Bearer secret-token", true);
        check(header::AUTHORIZATION, "bearer secret-token", true);
        check(header::AUTHORIZATION, "Bearer secret-toke", false);
        check(header::AUTHORIZATION, "Bearer ", false);
        check(header::AUTHORIZATION, "Basic secret-token", false);
        check(header::COOKIE, &format!("a=b; {COOKIE}={session}"), true);
        check(header::COOKIE, &format!("{COOKIE}=secret-token"), false);
        check(header::COOKIE, COOKIE, false);
        assert!(!auth.admits(&HeaderMap::new()));
        assert!(Auth::open().admits(&HeaderMap::new()));
    }
}
