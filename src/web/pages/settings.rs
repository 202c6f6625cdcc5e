//! `/settings`: what a person or the server is set to. The language is a cookie of the browser.

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::{Extension, Form};
use serde::Deserialize;

use super::shell::Shell;
use super::text::{COOKIE, Lang};
use super::webhooks::Webhooks;
use super::{Htmx, go, html};
use crate::db;
use crate::jobs::queue::MOST_SLOTS;
use crate::web::error::{Error, Result};
use crate::web::extract::Caller;
use crate::web::state::AppState;
use crate::web::team::Who;

/// What the keyboard does on every page (static/app.js), and the text that says so.
const KEYS: &[(&str, &str)] = &[
    ("n", "nav.new"),
    ("/", "keys.search"),
    ("g r", "nav.runs"),
    ("g d", "nav.datasets"),
    ("g m", "nav.models"),
    ("g q", "nav.queue"),
    ("g s", "nav.system"),
    ("g e", "nav.settings"),
    ("?", "keys.help"),
];

#[derive(Template)]
#[template(path = "pages/settings.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    slots: usize,
    most: usize,
    paused: bool,
    who: Who,
    keys: &'static [(&'static str, &'static str)],
    /// Whether people log in here.
    login: bool,
    tokens: Vec<db::team::ApiToken>,
    /// A token that was made just now.
    fresh: Option<String>,
    /// Everybody, for those who decide over them.
    people: Option<Vec<db::team::User>>,
    roles: [db::team::Role; 3],
    /// Where news of runs go, for admins.
    webhooks: Option<Webhooks>,
}

/// GET /settings
///
/// # Errors
/// Where the database fails.
pub async fn show(
    State(state): State<AppState>,
    Extension(who): Extension<Who>,
    htmx: Htmx,
    caller: Caller,
) -> Result<Response> {
    page(&state, &who, htmx, &caller, None).await
}

/// The page, with a token that was made just now.
///
/// # Errors
/// Where the database fails.
pub(super) async fn page(
    state: &AppState,
    who: &Who,
    htmx: Htmx,
    caller: &Caller,
    fresh: Option<String>,
) -> Result<Response> {
    let shell = Shell::load(state, caller, "settings").await?;
    let queue = state.jobs.queue().await?;
    let people = match who.role {
        db::team::Role::Admin => Some(db::team::users(&state.db).await?),
        _ => None,
    };
    let webhooks = match who.role {
        db::team::Role::Admin => Some(Webhooks::load(state, shell.lang).await?),
        _ => None,
    };
    let tokens = match who.user {
        Some(user) => db::team::tokens(&state.db, user).await?,
        None => Vec::new(),
    };
    let page = Page {
        slots: queue.slots,
        most: MOST_SLOTS,
        paused: queue.paused,
        who: who.clone(),
        keys: KEYS,
        login: state.config.wants_token(),
        roles: db::team::Role::ALL,
        webhooks,
        shell,
        tokens,
        fresh,
        people,
    };
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

/// The switch between light and dark.
#[derive(Debug, Deserialize)]
pub struct Theme {
    #[serde(default)]
    theme: String,
}

/// POST /settings/theme: `light`, `dark`, or nothing for what the system wants; kept in a cookie.
///
/// # Errors
/// 400 for another word.
pub async fn theme(htmx: Htmx, headers: HeaderMap, Form(wanted): Form<Theme>) -> Result<Response> {
    if !["", "light", "dark"].contains(&wanted.theme.as_str()) {
        return Err(Error::bad_request("theme: light, dark, or nothing."));
    }
    let mut response = go(htmx, back(&headers));
    let cookie = format!("theme={}; Path=/; Max-Age=31536000; SameSite=Lax", wanted.theme);
    if let Ok(value) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    Ok(response)
}

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
