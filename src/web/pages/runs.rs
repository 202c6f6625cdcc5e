//! `/runs`: the list, newest first, with search and filters in the URL. The rows alone come with `part=rows`.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::link;
use super::shell::Shell;
use super::view::RunView;
use super::{Htmx, html};
use crate::db::list::{self, Filter};
use crate::db::runs::{self, Status};
use crate::web::error::{Error, Result};
use crate::web::extract::{Caller, Params};
use crate::web::state::AppState;

/// Rows of a page.
const ROWS: u32 = 50;

/// The URL's query.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Wanted {
    q: String,
    status: String,
    model: String,
    dataset: String,
    method: String,
    tag: String,
    before: String,
    part: String,
}

/// A status to filter by.
struct Tab {
    href: String,
    label: String,
    count: i64,
    on: bool,
}

/// One thing to choose by.
struct Choice {
    name: &'static str,
    label: String,
    value: String,
    options: Vec<(String, String)>,
}

#[derive(Template)]
#[template(path = "pages/runs.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    rows: Vec<RunView>,
    tabs: Vec<Tab>,
    choices: Vec<Choice>,
    narrowed: bool,
    status: String,
    text: String,
    total: i64,
    live_url: String,
    next: Option<String>,
    start_id: String,
    curl: String,
}

#[derive(Template)]
#[template(path = "parts/run_rows.html")]
struct Rows {
    shell: Shell,
    rows: Vec<RunView>,
}

/// GET /runs
///
/// # Errors
/// 400 for an unknown status, or where the database fails.
pub async fn list(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Params(wanted): Params<Wanted>,
) -> Result<Response> {
    let status = match wanted.status.as_str() {
        "" => None,
        word => Some(
            word.parse::<Status>().map_err(|_| Error::bad_request("There is no such status."))?,
        ),
    };
    let filter = Filter {
        status,
        text: wanted.q.clone(),
        model: wanted.model.clone(),
        dataset: wanted.dataset.clone(),
        method: wanted.method.clone(),
        tag: wanted.tag.clone(),
        before: Some(wanted.before.clone()).filter(|before| !before.is_empty()),
        limit: ROWS + 1,
    };
    let mut found = list::list(&state.db, &filter).await?;
    let more = found.len() > ROWS as usize;
    found.truncate(ROWS as usize);
    let shell = Shell::load(&state, &caller, "runs").await?;
    let rows = RunView::tagged(&state, &found, shell.lang).await?;
    if wanted.part == "rows" {
        return html(StatusCode::OK, &Rows { shell, rows });
    }
    let counts = runs::counts(&state.db).await?;
    let older = |row: &runs::RunRow| Wanted { before: row.id.clone(), ..wanted.clone() }.address();
    let page = Page {
        tabs: tabs(&shell, &wanted, &counts),
        choices: choices(&shell, &wanted, list::facets(&state.db).await?),
        narrowed: [&wanted.q, &wanted.model, &wanted.dataset, &wanted.method, &wanted.tag]
            .iter()
            .any(|value| !value.is_empty()),
        total: counts.iter().map(|(_, n)| n).sum(),
        live_url: Wanted { part: "rows".to_owned(), ..wanted.clone() }.address(),
        next: found.last().filter(|_| more).map(older),
        start_id: ulid::Ulid::new().to_string(),
        curl: link::curl(&caller, &format!("/api/v1{}", wanted.address())),
        status: wanted.status,
        text: wanted.q,
        rows,
        shell,
    };
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

/// What there is to choose by; nothing where there is but one.
fn choices(shell: &Shell, wanted: &Wanted, facets: list::Facets) -> Vec<Choice> {
    let one = |name: &'static str, value: &str, options: Vec<String>| {
        let short = |text: &str| text.trim_end_matches('/').rsplit('/').next().map(str::to_owned);
        let mut options: Vec<(String, String)> = options
            .into_iter()
            .map(|option| (short(&option).unwrap_or_default(), option))
            .map(|(label, value)| (value, label))
            .collect();
        if !value.is_empty() && !options.iter().any(|option| option.0 == value) {
            options.push((value.to_owned(), value.to_owned()));
        }
        let label = shell.t(&format!("runs.by.{name}")).to_owned();
        Choice { name, label, value: value.to_owned(), options }
    };
    let all = [
        one("model", &wanted.model, facets.models),
        one("dataset", &wanted.dataset, facets.datasets),
        one("method", &wanted.method, facets.methods),
        one("tag", &wanted.tag, facets.tags),
    ];
    let useful = |choice: &Choice| {
        !choice.value.is_empty() || choice.options.len() > usize::from(choice.name != "tag")
    };
    all.into_iter().filter(useful).collect()
}

/// All, and each status that some run has.
fn tabs(shell: &Shell, wanted: &Wanted, counts: &[(Status, i64)]) -> Vec<Tab> {
    let address = |status: &str| {
        let status = status.to_owned();
        Wanted { status, before: String::new(), part: String::new(), ..wanted.clone() }.address()
    };
    let all = Tab {
        href: address(""),
        label: shell.t("runs.all").to_owned(),
        count: counts.iter().map(|(_, n)| n).sum(),
        on: wanted.status.is_empty(),
    };
    let one = |status: Status| {
        let word = status.as_str();
        let count = counts.iter().find(|(other, _)| *other == status).map_or(0, |(_, n)| *n);
        let label = shell.t(&format!("status.{word}")).to_owned();
        Tab { href: address(word), label, count, on: wanted.status == word }
    };
    let mut tabs = vec![all];
    tabs.extend(Status::ALL.into_iter().map(one).filter(|tab| tab.count > 0 || tab.on));
    tabs
}

impl Wanted {
    /// The URL of this list.
    fn address(&self) -> String {
        let pairs = [
            ("q", self.q.as_str()),
            ("status", self.status.as_str()),
            ("model", self.model.as_str()),
            ("dataset", self.dataset.as_str()),
            ("method", self.method.as_str()),
            ("tag", self.tag.as_str()),
            ("before", self.before.as_str()),
            ("part", self.part.as_str()),
        ];
        format!("/runs{}", link::query(&pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (q, status, part, expected) in [
            ("", "", "", "/runs"),
            ("", "failed", "", "/runs?status=failed"),
            ("a b&c=é\"", "", "rows", "/runs?q=a%20b%26c%3D%C3%A9%22&part=rows"),
        ] {
            let [q, status, part] = [q, status, part].map(str::to_owned);
            assert_eq!(Wanted { q, status, part, ..Wanted::default() }.address(), expected);
        }
    }
}
