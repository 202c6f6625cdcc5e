//! `/compare?runs=a,b`: runs beside each other. Differing settings first, then results, then the curves.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::format::{NONE, count, duration, number, whole};
use super::link;
use super::shell::Shell;
use super::view::{RunView, plain};
use super::{Htmx, html};
use crate::db::list::{self, Filter};
use crate::web::compare::{self, Comparison, MOST};
use crate::web::error::Result;
use crate::web::extract::{Caller, Params};
use crate::web::state::AppState;

/// Runs to choose from where too few are named.
const RECENT: u32 = 12;
/// The curves that are drawn.
const KEYS: [&str; 4] = ["loss", "eval_loss", "lr", "grad_norm"];

/// One line of a table: its name and a cell a run.
struct Line {
    name: String,
    cells: Vec<Cell>,
}

/// One value.
struct Cell {
    text: String,
    note: String,
    best: bool,
}

/// A table of them.
struct Table {
    key: &'static str,
    title: String,
    lines: Vec<Line>,
}

/// A curve.
struct Chart {
    key: &'static str,
    title: String,
    picture: String,
}

#[derive(Template)]
#[template(path = "pages/compare.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    runs: Vec<RunView>,
    recent: Vec<RunView>,
    list: String,
    curl: String,
    most: usize,
    everything: bool,
    hidden: usize,
    tables: Vec<Table>,
    charts: Vec<Chart>,
}

/// GET /compare
///
/// # Errors
/// 404 where a run is not there, 400 where they are more than ten.
pub async fn show(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Params(query): Params<Vec<(String, String)>>,
) -> Result<Response> {
    let named = query.iter().filter(|(name, _)| name == "runs").map(|(_, value)| value.as_str());
    let ids = compare::ids(named);
    let everything = query.iter().any(|(name, value)| name == "all" && value == "1");
    let rows = compare::find(&state, &ids).await?;
    let shell = Shell::load(&state, &caller, "runs").await?;
    let recent = if rows.len() < 2 {
        let filter = Filter { limit: RECENT, ..Filter::default() };
        RunView::tagged(&state, &list::list(&state.db, &filter).await?, shell.lang).await?
    } else {
        Vec::new()
    };
    let comparison = Comparison::load(&state, rows).await?;
    let list = ids.join(",");
    let chart = |key: &'static str| Chart {
        key,
        title: shell.t(&format!("compare.curve.{key}")).to_owned(),
        picture: format!("/api/v1/compare/export?runs={list}&format=svg&keys={key}"),
    };
    let same = comparison.settings.iter().filter(|setting| !setting.differs).count();
    let table = |key: &'static str, lines| {
        let title = if key == "settings" && everything { "all" } else { key };
        let title = shell.t(&format!("compare.{title}")).to_owned();
        Table { key, title, lines }
    };
    let tables = vec![
        table("settings", settings(&comparison, everything)),
        table("results", results(&comparison, &shell)),
    ];
    let page = Page {
        charts: KEYS.map(chart).into(),
        tables,
        runs: RunView::tagged(&state, &comparison.runs, shell.lang).await?,
        hidden: same,
        most: MOST,
        curl: link::curl(&caller, &format!("/api/v1/compare?runs={list}")),
        list,
        recent,
        everything,
        shell,
    };
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

fn settings(comparison: &Comparison, everything: bool) -> Vec<Line> {
    let wanted = comparison.settings.iter().filter(|setting| everything || setting.differs);
    let cell = |value| {
        let text = plain(value);
        let text = if text.is_empty() { NONE.to_owned() } else { text };
        Cell { text, note: String::new(), best: false }
    };
    wanted
        .map(|setting| Line {
            name: setting.name.clone(),
            cells: setting.values.iter().map(cell).collect(),
        })
        .collect()
}

fn results(comparison: &Comparison, shell: &Shell) -> Vec<Line> {
    let line = |outcome: &compare::Outcome| {
        let cell = |(place, (value, step)): (usize, (&Option<f64>, &Option<i64>))| Cell {
            text: match outcome.key {
                "step" => value.map_or(NONE.to_owned(), |value| format!("{value:.0}")),
                "elapsed_s" => duration(*value),
                "tokens_per_s" => count(*value),
                _ => number(*value),
            },
            note: step.map(|step| shell.f("chart.step", whole(step))).unwrap_or_default(),
            best: outcome.best == Some(place),
        };
        let both = outcome.values.iter().zip(&outcome.steps);
        let name = shell.t(&format!("compare.{}", outcome.key)).to_owned();
        Line { name, cells: both.enumerate().map(cell).collect() }
    };
    let known = |outcome: &&compare::Outcome| outcome.values.iter().any(Option::is_some);
    comparison.results.iter().filter(known).map(line).collect()
}
