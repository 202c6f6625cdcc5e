//! `/datasets/{name}`: its rows, what is wrong with them, how long they are, one of them token by token, its columns.

mod columns;
mod look;

use askama::Template;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use super::format::{bytes, whole};
use super::link::{self, encode, query};
use super::shell::Shell;
use super::view::argument;
use super::{Htmx, go, html};
use crate::db::list::{self, Filter};
use crate::library::datasets::{Looked, Opened};
use crate::library::{LibraryError, Patience};
use crate::web::error::Result;
use crate::web::extract::{Caller, Id, Params};
use crate::web::state::AppState;
use columns::Columns;
use look::{LengthsTab, RowsTab, TokensTab};

/// The URL's query. All of the page's state is here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// The folder.
    dir: String,
    /// `rows` (nothing), `check`, `lengths`, `tokens` or `columns`.
    tab: String,
    /// The first row of the page, or the row that is looked at.
    row: Option<u64>,
    /// The model whose tokenizer counts.
    model: String,
    /// The template; nothing for the tokenizer's own.
    template: String,
    /// Rows are cut to so many tokens.
    cutoff_len: Option<usize>,
    /// `on`: prompts are learnt too.
    train_on_prompt: String,
    /// `on`: only the last answer is learnt.
    mask_history: String,
}

/// What a tab shows.
enum Body {
    Rows(RowsTab),
    Check(look::CheckTab),
    Lengths(LengthsTab),
    Tokens(TokensTab),
    Columns(Columns),
    /// It is being worked out; the page asks again.
    Busy,
    /// It cannot be shown.
    Problem(String),
}

/// A tab.
struct Tab {
    label: String,
    href: String,
    on: bool,
}

#[derive(Template)]
#[template(path = "pages/dataset.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    name: String,
    href: String,
    list_href: String,
    train_href: Option<String>,
    facts: Vec<String>,
    tabs: Vec<Tab>,
    tab: &'static str,
    body: Body,
    again: String,
    models: Vec<String>,
    templates: Vec<&'static str>,
    wanted: Wanted,
    curl: String,
}

impl Page {
    /// Whether it asks again by itself.
    fn is_busy(&self) -> bool {
        matches!(self.body, Body::Busy)
    }

    /// The same tab for another row.
    fn row_href(&self, row: &u64) -> String {
        again(&self.href, &Wanted { row: Some(*row), ..self.wanted.clone() })
    }
}

const TABS: [&str; 5] = ["rows", "check", "lengths", "tokens", "columns"];

/// GET /datasets/{name}
///
/// # Errors
/// 404 where there is none of that name, 422 where the folder is outside, or where the database fails.
pub async fn show(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Id(name): Id,
    Params(wanted): Params<Wanted>,
) -> Result<Response> {
    let page = page(&state, &caller, &name, wanted, None).await?;
    answer(htmx, StatusCode::OK, &page)
}

fn answer(htmx: Htmx, status: StatusCode, page: &Page) -> Result<Response> {
    if htmx.0 { html(status, &page.as_main()) } else { html(status, page) }
}

/// POST /datasets/{name}: saves the columns, shows what they would do, or takes the entry out of the list.
///
/// # Errors
/// 404 where there is none of that name, or where the disk or the database fails.
pub async fn edit(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Id(name): Id,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response> {
    let sent = columns::Sent::new(pairs);
    if sent.action == "remove" {
        state.library.remove_entry(&name).await?;
        return Ok(go(htmx, "/datasets"));
    }
    let home = state.library.home("")?;
    let looked = state.library.look(home.clone(), &name).await?;
    let entry = sent.entry(&looked.raw);
    let tried = state.library.preview(home, &name, entry.clone()).await;
    let saved = match &tried {
        Err(error) => Err(error.clone()),
        Ok(_) if sent.action == "save" => {
            state.library.write_entry(&name, entry.clone(), false).await
        }
        Ok(_) => Ok(()),
    };
    let refused = match saved {
        Ok(()) if sent.action == "save" => {
            return Ok(go(htmx, &format!("/datasets/{}", encode(&name))));
        }
        Ok(()) => None,
        Err(LibraryError::Wrong { message, .. }) => Some(message),
        Err(error) => return Err(error.into()),
    };
    let status = match refused {
        Some(_) if sent.action == "save" => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::OK,
    };
    let wanted = Wanted { tab: "columns".to_owned(), ..Wanted::default() };
    let first = tried.ok().and_then(|rows| rows.into_iter().next());
    let trial = columns::Trial { sent, entry, first, refused };
    let page = page(&state, &caller, &name, wanted, Some(trial)).await?;
    answer(htmx, status, &page)
}

async fn page(
    state: &AppState,
    caller: &Caller,
    name: &str,
    mut wanted: Wanted,
    trial: Option<columns::Trial>,
) -> Result<Page> {
    let shell = Shell::load(state, caller, "datasets").await?;
    let home = state.library.home(&wanted.dir)?;
    let looked = state.library.look(home, name).await?;
    let tab = TABS.into_iter().find(|tab| *tab == wanted.tab).unwrap_or("rows");
    let models = models(state, name).await?;
    if wanted.model.is_empty() {
        wanted.model = models.first().cloned().unwrap_or_default();
    }
    let body = match body(state, &shell, &looked, tab, &wanted, trial).await {
        Ok(body) => body,
        Err(LibraryError::Busy) => Body::Busy,
        Err(LibraryError::Wrong { message, .. }) => Body::Problem(message),
        Err(error) => return Err(error.into()),
    };
    let path = format!("/datasets/{}", encode(name));
    let dir = looked.home.key.clone();
    let href = |tab: &str| {
        let tab = if tab == "rows" { "" } else { tab };
        let keep = matches!(tab, "lengths" | "tokens");
        let given = |value: &str| if keep { value.to_owned() } else { String::new() };
        let (model, template) = (given(&wanted.model), given(&wanted.template));
        let pairs =
            [("dir", dir.as_str()), ("tab", tab), ("model", &model), ("template", &template)];
        format!("{path}{}", query(&pairs))
    };
    let tabs =
        TABS.into_iter().filter(|tab| *tab != "columns" || looked.home.editable).map(|key| {
            let label = shell.t(&format!("data.tab.{key}")).to_owned();
            Tab { label, href: href(key), on: key == tab }
        });
    let train = looked.opened.is_ok().then(|| {
        let folder = if looked.home.key.is_empty() { "" } else { looked.home.key.as_str() };
        format!("/runs/new{}", query(&[("dataset", name), ("dataset_dir", folder)]))
    });
    Ok(Page {
        facts: facts(state, &shell, &looked).await,
        tabs: tabs.collect(),
        again: again(&path, &wanted),
        href: path.clone(),
        list_href: format!("/datasets{}", query(&[("dir", &dir)])),
        train_href: train,
        templates: crate::library::kit::template_names(),
        curl: curl(caller, name, tab, &wanted),
        name: name.to_owned(),
        tab,
        body,
        models,
        wanted,
        shell,
    })
}

async fn body(
    state: &AppState,
    shell: &Shell,
    looked: &Looked,
    tab: &str,
    wanted: &Wanted,
    trial: Option<columns::Trial>,
) -> std::result::Result<Body, LibraryError> {
    let opened = match &looked.opened {
        Ok(opened) => opened,
        Err(problem) => return Ok(Body::Problem(problem.clone())),
    };
    Ok(match tab {
        "check" => Body::Check(look::check(state, opened, wanted, shell.lang).await?),
        "lengths" => Body::Lengths(look::lengths(state, opened, wanted, shell.lang).await?),
        "tokens" => Body::Tokens(look::tokens(state, opened, wanted, shell.lang).await?),
        "columns" => Body::Columns(columns::of(state, opened, trial, shell.lang).await?),
        _ => Body::Rows(look::rows(state, opened, wanted, shell.lang).await?),
    })
}

/// Format, rows, size and file of a data set.
async fn facts(state: &AppState, shell: &Shell, looked: &Looked) -> Vec<String> {
    let Ok(opened) = &looked.opened else {
        return Vec::new();
    };
    let mut facts = vec![shell.t(&format!("format.{}", opened.formatting())).to_owned()];
    if let Ok(rows) = state.library.rows_of(opened, Patience::Moment).await {
        facts.push(shell.f("data.rows", whole(i64::try_from(rows.total).unwrap_or(i64::MAX))));
    }
    facts.push(bytes(opened.size));
    facts.extend(file_name(opened));
    facts
}

fn file_name(opened: &Opened) -> Option<String> {
    opened.raw.get("file_name").and_then(|name| name.as_str()).map(str::to_owned)
}

/// The same page once more, with everything that is in its URL.
fn again(path: &str, wanted: &Wanted) -> String {
    let (row, cutoff) = (number(wanted.row), number(wanted.cutoff_len.map(|n| n as u64)));
    let pairs = [
        ("dir", wanted.dir.as_str()),
        ("tab", &wanted.tab),
        ("row", &row),
        ("model", &wanted.model),
        ("template", &wanted.template),
        ("cutoff_len", &cutoff),
        ("train_on_prompt", &wanted.train_on_prompt),
        ("mask_history", &wanted.mask_history),
    ];
    format!("{path}{}", query(&pairs))
}

fn number(value: Option<u64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The same from a terminal.
fn curl(headers: &HeaderMap, name: &str, tab: &str, wanted: &Wanted) -> String {
    let (row, cutoff) = (number(wanted.row), number(wanted.cutoff_len.map(|n| n as u64)));
    let dir = ("dir", wanted.dir.as_str());
    let (model, template) =
        (("model", wanted.model.as_str()), ("template", wanted.template.as_str()));
    let (tail, pairs) = match tab {
        "check" => ("/report", vec![dir]),
        "lengths" => ("/lengths", vec![dir, model, template, ("cutoff_len", cutoff.as_str())]),
        "tokens" => ("/tokens", vec![dir, ("row", row.as_str()), model, template]),
        "columns" => ("", vec![dir]),
        _ => ("/rows", vec![dir, ("from", row.as_str())]),
    };
    let path = format!("/api/v1/datasets/{}{tail}{}", encode(name), query(&pairs));
    link::curl(headers, &path)
}

/// Models to count with: those of runs on this data set first.
async fn models(state: &AppState, name: &str) -> Result<Vec<String>> {
    let rows = list::list(&state.db, &Filter { limit: 50, ..Filter::default() }).await?;
    let mut found: Vec<(bool, String)> = Vec::new();
    for row in rows {
        let config = row.config_map();
        let model = argument(&config, "model_name_or_path");
        let here = argument(&config, "dataset").split(',').any(|part| part == name);
        if !model.is_empty() && found.iter().all(|(_, known)| *known != model) {
            found.push((!here, model));
        }
    }
    found.sort_by_key(|(elsewhere, _)| *elsewhere);
    Ok(found.into_iter().map(|(_, model)| model).collect())
}
