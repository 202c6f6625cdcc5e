//! `/runs`: the list, newest first, with filters in the URL. The rows alone come with `part=rows`.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use super::shell::Shell;
use super::view::RunView;
use super::{Htmx, html};
use crate::db::runs::{self, Filter, Status};
use crate::web::error::{Error, Result};
use crate::web::state::AppState;

/// Rows of a page.
const ROWS: u32 = 50;

/// The URL's query.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    #[serde(default)]
    q: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    before: String,
    #[serde(default)]
    part: String,
}

/// A status to filter by.
struct Tab {
    href: String,
    label: String,
    count: i64,
    on: bool,
}

#[derive(Template)]
#[template(path = "pages/runs.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    rows: Vec<RunView>,
    tabs: Vec<Tab>,
    status: String,
    text: String,
    total: i64,
    live_url: String,
    next: Option<String>,
    start_id: String,
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
    headers: HeaderMap,
    Query(wanted): Query<Wanted>,
) -> Result<Response> {
    let status = match wanted.status.as_str() {
        "" => None,
        word => Some(
            word.parse::<Status>().map_err(|_| Error::bad_request("There is no such status."))?,
        ),
    };
    let before = Some(wanted.before.clone()).filter(|before| !before.is_empty());
    let filter = Filter { status, text: Some(wanted.q.clone()), before, limit: ROWS + 1 };
    let mut found = runs::list(&state.db, &filter).await?;
    let more = found.len() > ROWS as usize;
    found.truncate(ROWS as usize);
    let shell = Shell::load(&state, &headers, "runs").await?;
    let now = state.clock.now_ms();
    let rows: Vec<_> = found.iter().map(|row| RunView::new(row, now, shell.lang)).collect();
    if wanted.part == "rows" {
        return html(StatusCode::OK, &Rows { shell, rows });
    }
    let counts = runs::counts(&state.db).await?;
    let next = found
        .last()
        .filter(|_| more)
        .map(|row| address(&wanted, &wanted.status, Some(&row.id), ""));
    let page = Page {
        tabs: tabs(&shell, &wanted, &counts),
        total: counts.iter().map(|(_, n)| n).sum(),
        live_url: address(
            &wanted,
            &wanted.status,
            Some(&wanted.before).filter(|id| !id.is_empty()),
            "rows",
        ),
        next,
        start_id: ulid::Ulid::new().to_string(),
        status: wanted.status,
        text: wanted.q,
        rows,
        shell,
    };
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

/// All, and each status that some run has.
fn tabs(shell: &Shell, wanted: &Wanted, counts: &[(Status, i64)]) -> Vec<Tab> {
    let all = Tab {
        href: address(wanted, "", None, ""),
        label: shell.t("runs.all").to_owned(),
        count: counts.iter().map(|(_, n)| n).sum(),
        on: wanted.status.is_empty(),
    };
    let one = |status: Status| {
        let word = status.as_str();
        let count = counts.iter().find(|(other, _)| *other == status).map_or(0, |(_, n)| *n);
        let label = shell.t(&format!("status.{word}")).to_owned();
        Tab { href: address(wanted, word, None, ""), label, count, on: wanted.status == word }
    };
    let mut tabs = vec![all];
    tabs.extend(Status::ALL.into_iter().map(one).filter(|tab| tab.count > 0 || tab.on));
    tabs
}

/// The URL of this list with another status, page or part.
fn address(wanted: &Wanted, status: &str, before: Option<&String>, part: &str) -> String {
    let pairs = [
        ("q", wanted.q.as_str()),
        ("status", status),
        ("before", before.map_or("", String::as_str)),
        ("part", part),
    ];
    let query: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    if query.is_empty() { "/runs".to_owned() } else { format!("/runs?{}", query.join("&")) }
}

/// Percent-encodes a query value.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let wanted = |q: &str| Wanted { q: q.to_owned(), ..Wanted::default() };
        for (q, status, part, expected) in [
            ("", "", "", "/runs"),
            ("", "failed", "", "/runs?status=failed"),
            ("a b&c=é\"", "", "rows", "/runs?q=a%20b%26c%3D%C3%A9%22&part=rows"),
        ] {
            assert_eq!(address(&wanted(q), status, None, part), expected);
        }
    }
}
