//! /api/v1/webhooks: where news of runs goes. Address and header are taken and never given back.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::error::{Error, Problem, Result};
use super::super::extract::{JsonBody, Nothing, OptionalBody};
use super::super::state::AppState;
use super::team::number;
use crate::db::webhooks::{self, Hook, Sent};
use crate::jobs::webhooks::Wanted;

/// A webhook, without its secrets.
#[derive(Debug, Serialize, ToSchema)]
pub struct HookState {
    /// Its number.
    pub id: i64,
    /// What people call it.
    pub name: String,
    /// The host of its address.
    pub host: String,
    /// json or slack.
    pub shape: String,
    /// What it is told of: finished, failed, nan, stalled.
    pub events: Vec<String>,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// How much waits to be sent.
    pub waiting: i64,
    /// The last delivery.
    pub last: Option<Delivery>,
}

/// A delivery.
#[derive(Debug, Serialize, ToSchema)]
pub struct Delivery {
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// What it told of; `test` for a test.
    pub event: String,
    /// Whether it arrived.
    pub ok: bool,
    /// What came of it.
    pub text: String,
}

impl From<Hook> for HookState {
    fn from(hook: Hook) -> Self {
        let last = hook.last_ms.map(|at_ms| Delivery {
            at_ms,
            event: hook.last_event.unwrap_or_default(),
            ok: hook.last_ok.unwrap_or_default(),
            text: hook.last_text.unwrap_or_default(),
        });
        Self {
            id: hook.id,
            name: hook.name,
            host: hook.host,
            shape: hook.shape,
            events: hook.events.split(',').map(str::to_owned).collect(),
            created_ms: hook.created_ms,
            waiting: hook.waiting,
            last,
        }
    }
}

/// Every webhook.
#[derive(Debug, Serialize, ToSchema)]
pub struct HookList {
    /// The webhooks.
    pub webhooks: Vec<HookState>,
    /// After so many minutes of silence a run counts as stalled.
    pub stalled_minutes: i64,
    /// Whether they may go to this machine's own network, and over http.
    pub private: bool,
}

/// Every webhook, and how its last delivery went.
///
/// # Errors
/// Where the database fails.
#[utoipa::path(get, path = "/api/v1/webhooks", responses((status = 200, body = HookList)))]
pub async fn list(State(state): State<AppState>) -> Result<Json<HookList>> {
    let hooks = webhooks::list(&state.db).await?;
    Ok(Json(HookList {
        webhooks: hooks.into_iter().map(HookState::from).collect(),
        stalled_minutes: webhooks::stalled_minutes(&state.db).await?,
        private: state.config.private_webhooks,
    }))
}

/// A webhook to be. No `Debug`: it has the secrets.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewHook {
    /// What people call it; the host unless given.
    #[serde(default)]
    name: String,
    /// Where it goes: https, and no address of a private network unless the server was started with --private-webhooks.
    url: String,
    /// json (the default) or slack.
    #[serde(default = "json")]
    shape: String,
    /// A header with a secret: `Authorization: Bearer ...`.
    #[serde(default)]
    header: String,
    /// What it is told of: one or more of finished, failed, nan, stalled.
    events: Vec<String>,
}

fn json() -> String {
    "json".to_owned()
}

/// Adds a webhook.
///
/// # Errors
/// 422 where a value is wrong, 409 where there are too many.
#[utoipa::path(post, path = "/api/v1/webhooks", request_body = NewHook,
    responses((status = 201, body = HookState), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn add(
    State(state): State<AppState>,
    JsonBody(NewHook { name, url, shape, header, events }): JsonBody<NewHook>,
) -> Result<(StatusCode, Json<HookState>)> {
    let hook = state.jobs.add_webhook(Wanted { name, url, shape, header, events }).await?;
    Ok((StatusCode::CREATED, Json(hook.into())))
}

/// Sends a test to a webhook and says what came of it.
///
/// # Errors
/// 404 where there is no such webhook.
#[utoipa::path(post, path = "/api/v1/webhooks/{id}/test", params(("id" = String, Path)), request_body = Option<Nothing>,
    responses((status = 200, body = Delivery), (status = 404, body = Problem)))]
pub async fn test(
    State(state): State<AppState>,
    Path(id): Path<String>,
    OptionalBody(Nothing {}): OptionalBody<Nothing>,
) -> Result<Json<Delivery>> {
    let Sent { at_ms, ok, text } = tested(&state, &id).await?;
    Ok(Json(Delivery { at_ms, event: "test".to_owned(), ok, text }))
}

/// Sends a test.
///
/// # Errors
/// 404 where there is no such webhook.
pub async fn tested(state: &AppState, id: &str) -> Result<Sent> {
    let sent = state.jobs.test_webhook(number("webhook", id)?).await?;
    sent.ok_or_else(|| Error::not_found("webhook", id))
}

/// Removes a webhook with all that waits to be sent to it.
///
/// # Errors
/// 404 where there is no such webhook.
#[utoipa::path(post, path = "/api/v1/webhooks/{id}/delete", params(("id" = String, Path)), request_body = Option<Nothing>,
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn remove(
    State(state): State<AppState>,
    Path(id): Path<String>,
    OptionalBody(Nothing {}): OptionalBody<Nothing>,
) -> Result<StatusCode> {
    removed(&state, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a webhook.
///
/// # Errors
/// 404 where there is no such webhook.
pub async fn removed(state: &AppState, id: &str) -> Result<()> {
    if webhooks::remove(&state.db, number("webhook", id)?).await? {
        Ok(())
    } else {
        Err(Error::not_found("webhook", id))
    }
}

/// When a run counts as stalled.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stalled {
    /// After so many minutes of silence.
    #[schema(minimum = 1, maximum = 10080)]
    minutes: i64,
}

/// Sets after how many minutes of silence a running run counts as stalled.
///
/// # Errors
/// 422 where the number is out of range.
#[utoipa::path(post, path = "/api/v1/webhooks/stalled", request_body = Stalled,
    responses((status = 204), (status = 422, body = Problem)))]
pub async fn stalled(
    State(state): State<AppState>,
    JsonBody(Stalled { minutes }): JsonBody<Stalled>,
) -> Result<StatusCode> {
    state.jobs.set_stalled_minutes(minutes).await?;
    Ok(StatusCode::NO_CONTENT)
}
