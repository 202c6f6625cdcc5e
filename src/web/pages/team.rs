//! The part of the settings that is about people, and the page of who did what. Every change is a plain form.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Form};
use serde::Deserialize;

use super::format::{iso, utc};
use super::shell::Shell;
use super::{Htmx, go, html, settings};
use crate::db;
use crate::web::api::team::number;
use crate::web::error::Result;
use crate::web::extract::{Caller, Params};
use crate::web::state::AppState;
use crate::web::team::{self, Who};

/// Lines of the audit.
const LINES: u32 = 100;

/// A line of who did what.
struct Line {
    who: String,
    act: String,
    run: Option<String>,
    path: String,
    at: String,
    at_iso: String,
}

#[derive(Template)]
#[template(path = "pages/audit.html", blocks = ["main"])]
struct Audit {
    shell: Shell,
    lines: Vec<Line>,
    next: Option<i64>,
}

/// The URL's query.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    before: Option<i64>,
}

/// GET /settings/audit
///
/// # Errors
/// Where the database fails.
pub async fn audit(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Params(wanted): Params<Wanted>,
) -> Result<Response> {
    let shell = Shell::load(&state, &caller, "settings").await?;
    let acts = db::team::acts(&state.db, wanted.before, LINES).await?;
    let full = acts.len() == LINES as usize;
    let next = acts.last().filter(|_| full).map(|act| act.id);
    let line = |act: db::team::Act| Line {
        act: shell.t(&format!("audit.{}", act.act)).to_owned(),
        who: act.who,
        run: act.run,
        path: act.path,
        at: utc(act.at_ms),
        at_iso: iso(act.at_ms),
    };
    let page = Audit { lines: acts.into_iter().map(line).collect(), next, shell };
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

/// A person to be, or what changes of one.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct UserForm {
    name: String,
    role: String,
    password: String,
}

/// POST /settings/users
///
/// # Errors
/// 422 where name, role or password will not do.
pub async fn add(
    State(state): State<AppState>,
    htmx: Htmx,
    Form(new): Form<UserForm>,
) -> Result<Response> {
    team::add(&state, &new.name, &new.role, &new.password).await?;
    Ok(go(htmx, "/settings#people"))
}

/// POST /settings/users/{id}: what is left empty stays.
///
/// # Errors
/// 404 where there is no such person, 422 where role or password will not do.
pub async fn change(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
    Form(change): Form<UserForm>,
) -> Result<Response> {
    team::change(&state, number("user", &id)?, &change.role, &change.password).await?;
    Ok(go(htmx, "/settings#people"))
}

/// POST /settings/users/{id}/delete
///
/// # Errors
/// 404 where there is no such person.
pub async fn remove(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
) -> Result<Response> {
    team::remove(&state, number("user", &id)?).await?;
    Ok(go(htmx, "/settings#people"))
}

/// POST /settings/password: the own one; it ends every session.
///
/// # Errors
/// 409 where nobody in particular asks, 422 where the password will not do.
pub async fn password(
    State(state): State<AppState>,
    Extension(who): Extension<Who>,
    htmx: Htmx,
    Form(change): Form<UserForm>,
) -> Result<Response> {
    let id = team::person(&who)?;
    team::change(&state, id, "", &change.password).await?;
    Ok(go(htmx, "/"))
}

/// POST /settings/tokens: the page with the token on it, this once.
///
/// # Errors
/// 409 where nobody in particular asks, 422 where the name will not do.
pub async fn add_token(
    State(state): State<AppState>,
    Extension(who): Extension<Who>,
    htmx: Htmx,
    caller: Caller,
    Form(new): Form<UserForm>,
) -> Result<Response> {
    let (_, token) = team::add_token(&state, &who, &new.name).await?;
    settings::page(&state, &who, htmx, &caller, Some(token)).await
}

/// POST /settings/tokens/{id}/delete
///
/// # Errors
/// 404 where there is none.
pub async fn remove_token(
    State(state): State<AppState>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    htmx: Htmx,
) -> Result<Response> {
    team::remove_token(&state, &who, number("token", &id)?).await?;
    Ok(go(htmx, "/settings#account"))
}
