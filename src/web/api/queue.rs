//! /api/v1/queue: what runs, what waits and why; order, pause, slots.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::error::{Error, Problem, Result};
use super::super::extract::{Id, JsonBody};
use super::super::state::AppState;
use super::runs::Run;
use crate::db::queue::Place;
use crate::jobs::queue::Queue;

/// The queue.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueState {
    /// Nothing new starts.
    pub paused: bool,
    /// How many runs train at a time.
    pub slots: usize,
    /// What has a worker.
    pub active: Vec<Run>,
    /// What waits, the next one first.
    pub waiting: Vec<Waiting>,
}

/// A run that waits.
#[derive(Debug, Serialize, ToSchema)]
pub struct Waiting {
    /// 1 = the next one.
    pub position: usize,
    /// Why it waits: `paused`, `behind` others, `slots` are taken, or `now`: it starts in this moment.
    pub why: &'static str,
    /// The run.
    pub run: Run,
}

impl From<Queue> for QueueState {
    fn from(queue: Queue) -> Self {
        let why: Vec<_> = (0..queue.waiting.len()).map(|place| queue.why(place)).collect();
        let waiting = queue.waiting.into_iter().zip(why).zip(1..);
        Self {
            paused: queue.paused,
            slots: queue.slots,
            active: queue.active.into_iter().map(Run::new).collect(),
            waiting: waiting
                .map(|((row, why), position)| {
                    let run = Run::new(row);
                    Waiting { position, why: why.as_str(), run }
                })
                .collect(),
        }
    }
}

/// The queue.
///
/// # Errors
/// Where the database fails.
#[utoipa::path(get, path = "/api/v1/queue", responses((status = 200, body = QueueState)))]
pub async fn show(State(state): State<AppState>) -> Result<Json<QueueState>> {
    Ok(Json(state.jobs.queue().await?.into()))
}

/// What the queue is set to; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// True: nothing new starts.
    pub paused: Option<bool>,
    /// How many runs train at a time, 1 to 64.
    pub slots: Option<usize>,
}

/// Pauses the queue or lets it go on, and sets how many runs train at a time.
///
/// # Errors
/// 422 where the number of slots is out of range.
#[utoipa::path(post, path = "/api/v1/queue", request_body = Settings,
    responses((status = 200, body = QueueState), (status = 400, body = Problem), (status = 422, body = Problem)))]
pub async fn set(
    State(state): State<AppState>,
    JsonBody(settings): JsonBody<Settings>,
) -> Result<Json<QueueState>> {
    if let Some(slots) = settings.slots {
        state.jobs.set_slots(slots).await?;
    }
    if let Some(paused) = settings.paused {
        state.jobs.pause(paused).await?;
    }
    Ok(Json(state.jobs.queue().await?.into()))
}

/// Where a run goes: one of the two.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// `up`, `down`, `first` or `last`.
    #[serde(default)]
    pub to: Option<String>,
    /// Before the run of this id.
    #[serde(default)]
    pub before: Option<String>,
}

impl Move {
    /// The place that is meant.
    ///
    /// # Errors
    /// 400 where it says none.
    pub fn place(self) -> Result<Place> {
        let before = self.before.filter(|id| !id.is_empty());
        Ok(match (self.to.as_deref().unwrap_or_default(), before) {
            ("up", None) => Place::Up,
            ("down", None) => Place::Down,
            ("first", None) => Place::First,
            ("last", None) => Place::Last,
            ("", Some(id)) => Place::Before(id),
            _ => {
                let what = "Say where: `to` is up, down, first or last, or `before` another run.";
                return Err(Error::bad_request(what));
            }
        })
    }
}

/// Moves a waiting run.
///
/// # Errors
/// 404 where there is no such run, 409 where it does not wait.
#[utoipa::path(post, path = "/api/v1/queue/{id}/move", params(("id" = String, Path)), request_body = Move,
    responses((status = 200, body = QueueState), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub async fn shift(
    State(state): State<AppState>,
    Id(id): Id,
    JsonBody(wanted): JsonBody<Move>,
) -> Result<Json<QueueState>> {
    state.jobs.shift(&id, &wanted.place()?).await?;
    Ok(Json(state.jobs.queue().await?.into()))
}
