//! `/`: a welcome until there is a run, the list of runs from then on.

use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::shell::Shell;
use super::{Htmx, go, html};
use crate::db::runs;
use crate::web::error::Result;
use crate::web::extract::Caller;
use crate::web::state::AppState;

/// The welcome page.
#[derive(Template)]
#[template(path = "pages/home.html", blocks = ["main"])]
struct Home {
    shell: Shell,
    data_dir: String,
    start_id: String,
}

/// The hidden field of a start button.
#[derive(Debug, Default, Deserialize)]
pub struct Start {
    start_id: Option<String>,
}

/// GET /
///
/// # Errors
/// Where the database fails.
pub async fn home(State(state): State<AppState>, htmx: Htmx, caller: Caller) -> Result<Response> {
    if !runs::counts(&state.db).await?.is_empty() {
        return Ok(go(htmx, "/runs"));
    }
    let page = Home {
        shell: Shell::load(&state, &caller, "home").await?,
        data_dir: state.config.data_dir.display().to_string(),
        start_id: ulid::Ulid::new().to_string(),
    };
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

/// POST /demo: queues the sample run; the same `start_id` twice makes one run.
///
/// # Errors
/// Where its files cannot be written, or the database fails.
pub async fn demo(
    State(state): State<AppState>,
    htmx: Htmx,
    Form(start): Form<Start>,
) -> Result<Response> {
    let start_id = start.start_id.filter(|id| !id.is_empty() && id.len() <= 100);
    let row = state.jobs.demo(start_id).await?;
    Ok(go(htmx, &format!("/runs/{}", row.id)))
}
