//! `/queue`: what runs, what waits and why. Order by drag, by buttons and by keys; everything is a plain form as well.

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::link;
use super::shell::Shell;
use super::text::Lang;
use super::view::RunView;
use super::{Htmx, go, html};
use crate::db::list;
use crate::jobs::queue::{MOST_SLOTS, Why};
use crate::web::api::queue::Move;
use crate::web::error::{Error, Result};
use crate::web::extract::{Caller, Params};
use crate::web::state::AppState;

/// Runs that ended last.
const ENDED: u32 = 5;

/// The URL's query.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wanted {
    part: String,
}

/// A run that waits.
struct Waiting {
    run: RunView,
    position: usize,
    why: String,
    first: bool,
    last: bool,
}

/// What changes while one looks.
struct Body {
    paused: bool,
    slots: usize,
    most: usize,
    active: Vec<RunView>,
    waiting: Vec<Waiting>,
    ended: Vec<RunView>,
}

#[derive(Template)]
#[template(path = "pages/queue.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    queue: Body,
    curl: String,
}

#[derive(Template)]
#[template(path = "parts/queue_body.html")]
struct Part {
    shell: Shell,
    queue: Body,
}

/// GET /queue
///
/// # Errors
/// Where the database fails.
pub async fn show(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Params(wanted): Params<Wanted>,
) -> Result<Response> {
    let shell = Shell::load(&state, &caller, "queue").await?;
    let queue = Body::load(&state, shell.lang).await?;
    if wanted.part == "body" {
        return html(StatusCode::OK, &Part { shell, queue });
    }
    let curl = link::curl(&caller, "/api/v1/queue");
    let page = Page { shell, queue, curl };
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

/// What the queue is set to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Settings {
    paused: String,
    slots: String,
}

/// POST /queue: `paused` is `true` or `false`, `slots` a number; what is left out stays.
///
/// # Errors
/// 400 or 422 where a value makes no sense.
pub async fn set(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Form(settings): Form<Settings>,
) -> Result<Response> {
    if !settings.slots.is_empty() {
        let slots = settings.slots.trim().parse().unwrap_or(0); // out of range: refused with its reason
        state.jobs.set_slots(slots).await?;
    }
    match settings.paused.as_str() {
        "" => {}
        "true" => state.jobs.pause(true).await?,
        "false" => state.jobs.pause(false).await?,
        _ => return Err(Error::bad_request("paused: true or false.")),
    }
    answer(&state, htmx, &caller).await
}

/// POST /queue/{id}/move: `to` is up, down, first or last, or `before` another run.
///
/// # Errors
/// 404 where there is no such run, 409 where it does not wait.
pub async fn shift(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
    caller: Caller,
    Form(wanted): Form<Move>,
) -> Result<Response> {
    state.jobs.shift(&id, &wanted.place()?).await?;
    answer(&state, htmx, &caller).await
}

async fn answer(state: &AppState, htmx: Htmx, caller: &Caller) -> Result<Response> {
    if !htmx.0 {
        return Ok(go(htmx, "/queue"));
    }
    let shell = Shell::load(state, caller, "queue").await?;
    let queue = Body::load(state, shell.lang).await?;
    html(StatusCode::OK, &Part { shell, queue })
}

impl Body {
    async fn load(state: &AppState, lang: Lang) -> Result<Self> {
        let queue = state.jobs.queue().await?;
        let ended = list::just_ended(&state.db, ENDED).await?;
        let why: Vec<Why> = (0..queue.waiting.len()).map(|place| queue.why(place)).collect();
        let views = RunView::tagged(state, &queue.waiting, lang).await?;
        let count = views.len();
        let waiting = views.into_iter().zip(why).zip(1..).map(|((run, why), position)| Waiting {
            run,
            position,
            why: reason(why, lang),
            first: position == 1,
            last: position == count,
        });
        Ok(Self {
            paused: queue.paused,
            slots: queue.slots,
            most: MOST_SLOTS,
            waiting: waiting.collect(),
            active: RunView::tagged(state, &queue.active, lang).await?,
            ended: RunView::tagged(state, &ended, lang).await?,
        })
    }
}

/// Why a run waits, in words.
pub fn reason(why: Why, lang: Lang) -> String {
    match why {
        Why::Behind(ahead) => lang.fill("queue.why.behind", &[&ahead]),
        Why::Paused | Why::Slots | Why::Now => {
            lang.text(&format!("queue.why.{}", why.as_str())).to_owned()
        }
    }
}
