//! Who asks: nobody is asked on loopback; once the server is bound to anything else, everywhere but on /healthz.
//!
//! The server's token is made at the first start, kept in DATA/token with mode 0600 and printed once; who has it is an
//! admin, and makes people in the settings. A script sends a token as `Authorization: Bearer TOKEN`, the server's or one
//! of its own; a person gives name and password (or the token alone) to the form, which answers with a cookie: a random
//! one for people, one derived from it for the token. Then each route asks for its role, and what was changed is noted.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Form, RequestExt};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::error::Error;
use super::extract::Id;
use super::pages;
use super::pages::shell::cookie;
use super::router::Route;
use super::state::AppState;
use super::team::{self, Limit, Who, fingerprint};
use crate::db::runs;
use crate::db::team::{self as db, Role};

const COOKIE: &str = "tallow_session";

/// Whether a token is wanted, and which.
pub struct Auth {
    /// `None`: bound to loopback, nobody is asked.
    secrets: Option<Secrets>,
    /// The cookie is sent over https only.
    secure: bool,
    /// Guesses of passwords.
    pub(super) limit: Limit,
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
        Self { secrets: None, secure: false, limit: Limit::default() }
    }

    /// This token is asked for; `secure` where people come over https.
    #[must_use]
    pub fn token(token: String, secure: bool) -> Self {
        let key = blake3::derive_key("tallow 2026 session cookie v1", token.as_bytes());
        let session = blake3::Hash::from(key).to_hex().to_string();
        Self { secrets: Some(Secrets { token, session }), secure, limit: Limit::default() }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(secrets) = &self.secrets else {
            return true;
        };
        match bearer(headers) {
            Some(token) => same(token, &secrets.token),
            None => cookie(headers, COOKIE).is_some_and(|value| same(value, &secrets.session)),
        }
    }
}

/// The token of `Authorization: Bearer TOKEN`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok())?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Who asks; `None` where nobody known does.
///
/// # Errors
/// Where the database fails.
async fn identify(state: &AppState, headers: &HeaderMap) -> crate::db::Result<Option<Who>> {
    if state.auth.secrets.is_none() {
        return Ok(Some(Who::local()));
    }
    if state.auth.admits(headers) {
        return Ok(Some(Who::token()));
    }
    let now = state.clock.now_ms();
    let user = match (bearer(headers), cookie(headers, COOKIE)) {
        (Some(token), _) => db::of_token(&state.db, &fingerprint(token), now).await?,
        (None, Some(session)) => db::of_session(&state.db, &fingerprint(session), now).await?,
        (None, None) => None,
    };
    Ok(user.map(Who::from))
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

/// Refuses whoever is not known; what comes behind finds out who asks.
pub async fn token(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path == "/healthz" || path == "/login" {
        return next.run(request).await;
    }
    match identify(&state, request.headers()).await {
        Ok(None) => {}
        Ok(Some(who)) => {
            request.extensions_mut().insert(who);
            return next.run(request).await;
        }
        Err(error) => return Error::from(error).into_response(),
    }
    if path.starts_with("/api/") || request.method() != axum::http::Method::GET {
        let detail = "This server wants a token: send `Authorization: Bearer TOKEN` (one of your own, or DATA/token's).";
        let mut response = Error::new(StatusCode::UNAUTHORIZED, detail).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    pages::login::page(request.headers(), false)
}

/// Lets a request to that route through where whoever asks may, and notes the change that it made.
pub async fn allowed(
    route: &'static Route,
    state: AppState,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(who) = request.extensions().get::<Who>().cloned() else {
        return next.run(request).await; // /healthz and /login, where nobody is asked
    };
    if who.role < route.least {
        let detail = format!("This is for {}s; {} is a {}.", route.least, who.name, who.role);
        return Error::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    if route.owned
        && let Err(error) = owns(&state, &who, &mut request).await
    {
        return error.into_response();
    }
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let done = response.status().is_success() || response.status().is_redirection();
    if let Some(act) = route.act().filter(|_| done) {
        let run = run_of(&path, &response);
        let now = state.clock.now_ms();
        if let Err(error) = db::note(&state.db, now, &who.name, act, &path, run.as_deref()).await {
            tracing::error!(%error, who = who.name, act, "what was done could not be noted");
        }
    }
    response
}

/// An error where the run that a path names is somebody else's, and who asks is no admin.
async fn owns(state: &AppState, who: &Who, request: &mut Request) -> Result<(), Error> {
    if who.role == Role::Admin {
        return Ok(());
    }
    // decoded as the handler will have it
    let Id(id) = request.extract_parts::<Id>().await?;
    let Some(run) = runs::get(&state.db, &id).await? else {
        return Ok(()); // 404, by the handler
    };
    if who.owns(&run.owner) {
        return Ok(());
    }
    let owner = if run.owner.is_empty() { "the machine's own user" } else { &run.owner };
    let detail = format!("This run is {owner}'s: only {owner} and admins may do that.");
    Err(Error::new(StatusCode::FORBIDDEN, detail))
}

/// The run that a request was about: named in its path, or made by it.
fn run_of(path: &str, response: &Response) -> Option<String> {
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let made = text("location").or_else(|| text("hx-redirect")).unwrap_or_default();
    let ids = [path, made].into_iter().flat_map(|path| path.split('/'));
    ids.map(|part| part.split('?').next().unwrap_or_default())
        .find(|part| part.parse::<ulid::Ulid>().is_ok())
        .map(str::to_owned)
}

/// The form's fields.
#[derive(Deserialize)]
pub struct LoginForm {
    #[serde(default)]
    name: String,
    token: String,
}

/// Takes name and password, or the token alone, and gives a cookie; wrong ones get the form again.
pub async fn login(
    State(state): State<AppState>,
    headers: HeaderMap,
    Form(given): Form<LoginForm>,
) -> Response {
    let Some(secrets) = &state.auth.secrets else {
        return Redirect::to("/").into_response();
    };
    let session = if given.name.trim().is_empty() {
        same(given.token.trim(), &secrets.token).then(|| secrets.session.clone())
    } else {
        match open_session(&state, &given).await {
            Ok(session) => session,
            Err(error) => return error.into_response(),
        }
    };
    let Some(session) = session else {
        return pages::login::page(&headers, true);
    };
    let secure = if state.auth.secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={}; HttpOnly; SameSite=Strict; Path=/{secure}", session);
    let mut response = Redirect::to("/").into_response();
    if let Ok(value) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

async fn open_session(state: &AppState, given: &LoginForm) -> Result<Option<String>, Error> {
    let Some(user) = team::login(state, &given.name, &given.token).await? else {
        return Ok(None);
    };
    let (session, stored) = team::secret("").map_err(Error::internal)?;
    db::open_session(&state.db, user.id, &stored, state.clock.now_ms()).await?;
    Ok(Some(session))
}

/// POST /logout: ends the session here and at the server.
///
/// # Errors
/// Where the database fails.
pub async fn logout(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, Error> {
    if let Some(session) = cookie(&headers, COOKIE) {
        db::close_session(&state.db, &fingerprint(session)).await?;
    }
    let mut response = Redirect::to("/").into_response();
    let gone = format!("{COOKIE}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0");
    if let Ok(value) = HeaderValue::try_from(gone) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    Ok(response)
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
