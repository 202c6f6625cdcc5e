//! `/runs/{id}`: one run, live. The page holds everything up to event number `seq`; the stream goes on from there.

mod live;
mod outcome;

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use run::config::Config;
use run::fields::Field;
use serde::Deserialize;
use serde_json::Value;

use super::link;
use super::shell::Shell;
use super::text::Lang;
use super::view::{RunView, plain};
use super::{Htmx, go, html};
use crate::db::list::Edit;
use crate::db::runs::{self, RunRow};
use crate::jobs::{Ask, StopMode};
use crate::web::error::{Error, Result};
use crate::web::extract::Caller;
use crate::web::state::AppState;
use live::Live;
use outcome::Outcome;

/// The URL's query.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    #[serde(default)]
    tab: String,
    #[serde(default)]
    part: String,
}

struct Setting {
    name: String,
    value: String,
    default: String,
}

#[derive(Template)]
#[template(path = "pages/run.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    run: RunView,
    tab: &'static str,
    live: Option<Live>,
    config: Option<Settings>,
}

/// The config tab.
struct Settings {
    rows: Vec<Setting>,
    yaml: String,
    cli: String,
    curl: String,
}

/// What changes with the status: pill, buttons, the card that says how it ended.
#[derive(Template)]
#[template(path = "parts/run_head.html")]
struct Head {
    shell: Shell,
    run: RunView,
    outcome: Option<Outcome>,
}

/// GET /runs/{id}
///
/// # Errors
/// 404 where there is no such run, or where the database fails.
pub async fn show(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> Result<Response> {
    let row = runs::get(&state.db, &id).await?.ok_or_else(|| Error::not_found("run", &id))?;
    if wanted.part == "head" {
        return head(&state, &caller, row).await;
    }
    let mut shell = Shell::load(&state, &caller, "runs").await?;
    shell.current.clone_from(&row.id);
    let run = view(&state, &row, shell.lang).await?;
    let config = wanted.tab == "config";
    let page = Page {
        tab: if config { "config" } else { "overview" },
        live: if config { None } else { Some(Live::load(&state, &row, shell.lang).await?) },
        config: config.then(|| Settings::new(&row, &caller)),
        run,
        shell,
    };
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

/// How to stop.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Stop {
    mode: String,
    back: String,
}

/// POST /runs/{id}/stop: `mode` is `save` (the default) or `now`.
///
/// # Errors
/// 404 where there is no such run, 409 where it is over.
pub async fn stop(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
    caller: Caller,
    Form(stop): Form<Stop>,
) -> Result<Response> {
    let mode = if stop.mode == "now" { StopMode::Now } else { StopMode::Save };
    let row = state.jobs.stop(&id, mode).await?;
    if htmx.0 {
        return head(&state, &caller, row).await;
    }
    let queue = stop.back == "/queue";
    Ok(if queue { go(htmx, "/queue") } else { go(htmx, &format!("/runs/{id}")) })
}

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WishForm {
    wish: String,
}

/// POST /runs/{id}/wish: `wish` is `save` or `sample`.
///
/// # Errors
/// 404 where there is no such run, 409 where it does not run.
pub async fn wish(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
    caller: Caller,
    Form(form): Form<WishForm>,
) -> Result<Response> {
    let ask = match form.wish.as_str() {
        "save" => Ask::Save,
        "sample" => Ask::Sample,
        _ => return Err(Error::bad_request("wish: save or sample.")),
    };
    let row = state.jobs.ask(&id, ask).await?;
    if htmx.0 { head(&state, &caller, row).await } else { Ok(go(htmx, &format!("/runs/{id}"))) }
}

/// Name, notes, and tags with commas between them.
#[derive(Debug, Deserialize)]
pub struct Words {
    name: Option<String>,
    notes: Option<String>,
    tags: Option<String>,
}

/// POST /runs/{id}/edit
///
/// # Errors
/// 404 where there is no such run, 422 where a text is too long.
pub async fn edit(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
    Form(words): Form<Words>,
) -> Result<Response> {
    let tags = words.tags.map(|tags| tags.split([',', '，']).map(str::to_owned).collect());
    let edit = Edit { name: words.name, notes: words.notes, tags };
    let row = state.jobs.edit(&id, edit).await?;
    Ok(go(htmx, &format!("/runs/{}", row.id)))
}

/// POST /runs/{id}/resume
///
/// # Errors
/// 404 where there is no such run, 409 where it is not over.
pub async fn resume(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
) -> Result<Response> {
    let row = state.jobs.resume(&id).await?;
    Ok(go(htmx, &format!("/runs/{}", row.id)))
}

async fn view(state: &AppState, row: &RunRow, lang: Lang) -> Result<RunView> {
    let mut views = RunView::tagged(state, std::slice::from_ref(row), lang).await?;
    views.pop().ok_or_else(|| Error::not_found("run", &row.id))
}

async fn head(state: &AppState, caller: &Caller, row: RunRow) -> Result<Response> {
    let mut shell = Shell::load(state, caller, "runs").await?;
    shell.current.clone_from(&row.id);
    let outcome = Outcome::load(state, &row, shell.lang).await?;
    let run = view(state, &row, shell.lang).await?;
    html(StatusCode::OK, &Head { shell, run, outcome })
}

impl Settings {
    fn new(row: &RunRow, headers: &HeaderMap) -> Self {
        let default = |name: &str| {
            Field::find(name).map(|field| plain(&field.default_value())).unwrap_or_default()
        };
        let setting = |(name, value): (String, Value)| Setting {
            default: default(&name),
            value: plain(&value),
            name,
        };
        let (yaml, cli) = written(row);
        let curl = link::start_by_curl(headers, row.config_map());
        Self { rows: row.config_map().into_iter().map(setting).collect(), yaml, cli, curl }
    }
}

/// The configuration as YAML and as a command.
fn written(row: &RunRow) -> (String, String) {
    Config::from_map(&row.config_map())
        .map(|(config, _)| (config.to_yaml(), config.to_command()))
        .unwrap_or_default()
}
