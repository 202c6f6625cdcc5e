//! The part of the settings that is about webhooks. Every change is a plain form; no secret is ever shown again.

use axum::Form;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;

use super::format::{iso, utc};
use super::text::Lang;
use super::{Htmx, go};
use crate::db::webhooks::{self, Hook, News};
use crate::jobs::webhooks::{LONGEST_MINUTES, Wanted};
use crate::web::api::webhooks::{removed, tested};
use crate::web::error::Result;
use crate::web::state::AppState;

/// Where the forms lead back to.
const HERE: &str = "/settings#webhooks";

/// What the page shows of webhooks.
pub struct Webhooks {
    /// All of them.
    pub hooks: Vec<HookView>,
    /// After so many minutes of silence a run is stalled.
    pub minutes: i64,
    /// The most that can be set.
    pub most: i64,
    /// What can be told of, in its words.
    pub news: Vec<(&'static str, String)>,
}

/// One webhook.
pub struct HookView {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The host, the form and what it is told of, in words.
    pub what: String,
    /// The last delivery.
    pub last: Option<Last>,
    /// How much waits.
    pub waiting: i64,
}

/// The last delivery.
pub struct Last {
    /// Whether it arrived.
    pub ok: bool,
    /// What it told of and what came of it.
    pub text: String,
    /// When, for people.
    pub at: String,
    /// When, ISO 8601.
    pub at_iso: String,
}

impl Webhooks {
    /// As they are now.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn load(state: &AppState, lang: Lang) -> Result<Self> {
        let hooks = webhooks::list(&state.db).await?;
        let word = |news: News| lang.text(&format!("webhooks.{}", news.as_str())).to_owned();
        Ok(Self {
            hooks: hooks.into_iter().map(|hook| HookView::new(hook, lang)).collect(),
            minutes: webhooks::stalled_minutes(&state.db).await?,
            most: LONGEST_MINUTES,
            news: News::ALL.into_iter().map(|news| (news.as_str(), word(news))).collect(),
        })
    }
}

impl HookView {
    fn new(hook: Hook, lang: Lang) -> Self {
        let word = |word: &str| lang.text(&format!("webhooks.{word}")).to_owned();
        let events: Vec<String> = hook.events.split(',').map(word).collect();
        let last = hook.last_ms.map(|at_ms| Last {
            ok: hook.last_ok.unwrap_or_default(),
            text: format!(
                "{}: {}",
                word(hook.last_event.as_deref().unwrap_or_default()),
                hook.last_text.unwrap_or_default()
            ),
            at: utc(at_ms),
            at_iso: iso(at_ms),
        });
        Self {
            id: hook.id,
            what: format!("{} · {} · {}", hook.host, word(&hook.shape), events.join(", ")),
            name: hook.name,
            last,
            waiting: hook.waiting,
        }
    }
}

/// A webhook to be. No `Debug`: it has the secrets.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct HookForm {
    name: String,
    url: String,
    shape: String,
    header: String,
    finished: String,
    failed: String,
    nan: String,
    stalled: String,
}

/// POST /settings/webhooks
///
/// # Errors
/// 422 where a value is wrong, 409 where there are too many.
pub async fn add(
    State(state): State<AppState>,
    htmx: Htmx,
    Form(form): Form<HookForm>,
) -> Result<Response> {
    let HookForm { name, url, shape, header, finished, failed, nan, stalled } = form;
    let ticks = [finished, failed, nan, stalled].into_iter().zip(News::ALL);
    let events = ticks.filter(|(tick, _)| !tick.is_empty());
    let events = events.map(|(_, news)| news.as_str().to_owned()).collect();
    state.jobs.add_webhook(Wanted { name, url, shape, header, events }).await?;
    Ok(go(htmx, HERE))
}

/// POST /settings/webhooks/{id}/test: the outcome stands on the page then.
///
/// # Errors
/// 404 where there is no such webhook.
pub async fn test(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
) -> Result<Response> {
    tested(&state, &id).await?;
    Ok(go(htmx, HERE))
}

/// POST /settings/webhooks/{id}/delete
///
/// # Errors
/// 404 where there is no such webhook.
pub async fn remove(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
) -> Result<Response> {
    removed(&state, &id).await?;
    Ok(go(htmx, HERE))
}

/// How long a silence is one.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct StalledForm {
    minutes: i64,
}

/// POST /settings/webhooks/stalled
///
/// # Errors
/// 422 where the number is out of range.
pub async fn stalled(
    State(state): State<AppState>,
    htmx: Htmx,
    Form(form): Form<StalledForm>,
) -> Result<Response> {
    state.jobs.set_stalled_minutes(form.minutes).await?;
    Ok(go(htmx, HERE))
}
