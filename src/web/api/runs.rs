//! /api/v1/runs: make, list, look, stop, resume.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::super::error::{Error, FieldProblem, Problem, Result};
use super::super::extract::{Id, JsonBody, Nothing, OptionalBody, Params, within};
use super::super::state::AppState;
use crate::db::list::{self, Edit, Filter};
use crate::db::runs::{self, RunRow};
use crate::gpu::Load;
use crate::jobs::{Ask, StopMode};

/// A run.
#[derive(Debug, Serialize, ToSchema)]
pub struct Run {
    /// ULID.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Who started it; `local` at the machine itself.
    pub owner: String,
    /// queued, running, stopping, finished, stopped, failed or lost.
    pub status: &'static str,
    /// Process id of its worker, while there is one.
    pub worker_pid: Option<i64>,
    /// Optimiser steps done.
    pub step: i64,
    /// Optimiser steps in all, once known.
    pub total_steps: Option<i64>,
    /// Epochs done.
    pub epoch: Option<f64>,
    /// What the worker does.
    pub phase: Option<String>,
    /// Seconds left, where it can be told.
    pub eta_s: Option<f64>,
    /// Seconds of training.
    pub elapsed_s: Option<f64>,
    /// Throughput of the last logged step.
    pub tokens_per_s: Option<f64>,
    /// Last training loss.
    pub loss: Option<f64>,
    /// Last evaluation loss.
    pub eval_loss: Option<f64>,
    /// Step of the newest checkpoint.
    pub checkpoint_step: Option<i64>,
    /// Automatic restarts since the last progress.
    pub restarts: i64,
    /// Why it failed, was stopped or restarted.
    pub reason: Option<String>,
    /// The run directory.
    pub output_dir: String,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// Milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// Milliseconds since 1970.
    pub ended_ms: Option<i64>,
    /// Number of the last event: `after` of the event stream.
    pub seq: i64,
    /// What a person wrote about it.
    pub notes: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Cores that its worker keeps busy.
    pub cores: Option<f64>,
    /// Bytes of memory that its worker uses.
    pub memory_bytes: Option<u64>,
    /// What its NVIDIA devices do, where it has a worker and there are some.
    pub gpu: Option<Load>,
    /// The arguments that are not at their defaults.
    #[schema(value_type = Object)]
    pub config: Map<String, Value>,
}

impl Run {
    /// The run as the API shows it.
    #[must_use]
    pub fn new(row: RunRow) -> Self {
        Self {
            status: row.status.as_str(),
            worker_pid: row.worker_pid,
            eta_s: row.eta_s(),
            config: row.config_map(),
            id: row.id,
            name: row.name,
            owner: row.owner,
            step: row.step,
            total_steps: row.total_steps,
            epoch: row.epoch,
            phase: row.phase,
            elapsed_s: row.elapsed_s,
            tokens_per_s: row.tokens_per_s,
            loss: row.last_loss,
            eval_loss: row.last_eval_loss,
            checkpoint_step: row.checkpoint_step,
            restarts: row.restarts,
            reason: row.reason,
            output_dir: row.output_dir,
            created_ms: row.created_ms,
            started_ms: row.started_ms,
            ended_ms: row.ended_ms,
            seq: row.seq,
            notes: row.notes,
            tags: Vec::new(),
            cores: None,
            memory_bytes: None,
            gpu: None,
        }
    }

    /// Runs with their tags.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn tagged(state: &AppState, rows: Vec<RunRow>) -> Result<Vec<Self>> {
        let mut tags = list::tags(&state.db, &rows).await?;
        let run = |row: RunRow| {
            let tags = tags.remove(&row.num).unwrap_or_default();
            Self { tags, ..Self::new(row) }
        };
        Ok(rows.into_iter().map(run).collect())
    }

    /// One run with its tags.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn complete(state: &AppState, row: RunRow) -> Result<Self> {
        let mut tags = list::tags(&state.db, std::slice::from_ref(&row)).await?;
        let tags = tags.remove(&row.num).unwrap_or_default();
        let vitals = state.jobs.vitals(&row.id);
        let (cores, memory_bytes) = (vitals.and_then(|it| it.cores), vitals.map(|it| it.resident));
        let gpu = vitals.and_then(|it| it.gpu);
        Ok(Self { tags, cores, memory_bytes, gpu, ..Self::new(row) })
    }
}

/// A page of runs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunList {
    /// The runs.
    pub runs: Vec<Run>,
    /// Give it as `before` to get the next page; null on the last one.
    pub next: Option<String>,
}

/// What the list is narrowed to.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only this status.
    status: Option<String>,
    /// Only runs that have each of these words in name, id, model, data set, tags or notes.
    q: Option<String>,
    /// Only this model, as it was given.
    model: Option<String>,
    /// Only runs on this data set.
    dataset: Option<String>,
    /// Only this `finetuning_type`.
    method: Option<String>,
    /// Only runs with this tag.
    tag: Option<String>,
    /// Only runs older than this id.
    before: Option<String>,
    /// At most so many, 50 unless told.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Lists runs, newest first.
///
/// # Errors
/// 400 for an unknown status.
#[utoipa::path(get, path = "/api/v1/runs", params(ListQuery),
    responses((status = 200, body = RunList), (status = 400, body = Problem)))]
pub async fn list(
    State(state): State<AppState>,
    Params(query): Params<ListQuery>,
) -> Result<Json<RunList>> {
    let status = query.status.filter(|status| !status.is_empty());
    let status = status
        .map(|text| text.parse().map_err(|_| Error::bad_request("status: no such status.")))
        .transpose()?;
    let limit = within("limit", query.limit, 50, 1..=1000)?;
    let filter = Filter {
        status,
        text: query.q.unwrap_or_default(),
        model: query.model.unwrap_or_default(),
        dataset: query.dataset.unwrap_or_default(),
        method: query.method.unwrap_or_default(),
        tag: query.tag.unwrap_or_default(),
        before: query.before,
        limit: limit + 1,
    };
    let mut rows = list::list(&state.db, &filter).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| more).map(|row| row.id.clone());
    Ok(Json(RunList { runs: Run::tagged(&state, rows).await?, next }))
}

/// Queues a run. The body is the YAML configuration as JSON; `start_id` (any unique text, a UUID say) may be added, and
/// makes a repetition harmless.
///
/// # Errors
/// 422 with every wrong field, 400 where the body is no JSON object.
#[utoipa::path(post, path = "/api/v1/runs", request_body(content = Object),
    responses((status = 201, body = Run), (status = 200, body = Run, description = "This start_id was there already"),
        (status = 400, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem)))]
pub async fn create(
    State(state): State<AppState>,
    JsonBody(mut config): JsonBody<Map<String, Value>>,
) -> Result<Response> {
    let start_id = match config.shift_remove("start_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if !text.is_empty() && text.len() <= 100 => Some(text),
        Some(_) => {
            let message = "must be a text of 1 to 100 characters".to_owned();
            return Err(Error::invalid(vec![FieldProblem {
                field: "start_id".to_owned(),
                message,
            }]));
        }
    };
    let pairs = config.into_iter().collect();
    let (row, fresh) = state.jobs.create(&pairs, start_id).await?;
    let status = if fresh { StatusCode::CREATED } else { StatusCode::OK };
    let location = [(header::LOCATION, format!("/api/v1/runs/{}", row.id))];
    Ok((status, location, Json(Run::new(row))).into_response())
}

/// One run.
///
/// # Errors
/// 404 where there is none of that id.
#[utoipa::path(get, path = "/api/v1/runs/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Run), (status = 404, body = Problem)))]
pub async fn show(State(state): State<AppState>, Id(id): Id) -> Result<Json<Run>> {
    let row = find(&state, &id).await?;
    Ok(Json(Run::complete(&state, row).await?))
}

/// How to stop.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// `save` (a checkpoint first; the default) or `now` (the last checkpoint stays).
    #[serde(default)]
    mode: Mode,
}

/// The two ways to stop.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// At the next step boundary, with a checkpoint.
    #[default]
    Save,
    /// At once.
    Now,
}

/// Asks a run to stop; `status` tells when it has.
///
/// # Errors
/// 404 where there is no such run, 409 where it is over.
#[utoipa::path(post, path = "/api/v1/runs/{id}/stop", params(("id" = String, Path)), request_body = Option<Stop>,
    responses((status = 202, body = Run), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn stop(
    State(state): State<AppState>,
    Id(id): Id,
    OptionalBody(stop): OptionalBody<Stop>,
) -> Result<Response> {
    let mode = match stop.mode {
        Mode::Save => StopMode::Save,
        Mode::Now => StopMode::Now,
    };
    let row = state.jobs.stop(&id, mode).await?;
    Ok((StatusCode::ACCEPTED, Json(Run::new(row))).into_response())
}

/// Queues a stopped, failed or lost run again: it goes on from its newest checkpoint.
///
/// # Errors
/// 404 where there is no such run, 409 where it is not over or has finished.
#[utoipa::path(post, path = "/api/v1/runs/{id}/resume", params(("id" = String, Path)), request_body = Option<Nothing>,
    responses((status = 202, body = Run), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn resume(
    State(state): State<AppState>,
    Id(id): Id,
    OptionalBody(Nothing {}): OptionalBody<Nothing>,
) -> Result<Response> {
    let row = state.jobs.resume(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(Run::new(row))).into_response())
}

/// What a person says of a run; what is left out stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// Its name, 1 to 120 characters.
    #[serde(default)]
    name: Option<String>,
    /// Notes, at most 10000 characters.
    #[serde(default)]
    notes: Option<String>,
    /// All its tags: at most 20 of at most 40 characters, without commas.
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// Renames a run, and writes its notes and tags.
///
/// # Errors
/// 404 where there is no such run, 422 where a text is too long.
#[utoipa::path(post, path = "/api/v1/runs/{id}/edit", params(("id" = String, Path)), request_body = Words,
    responses((status = 200, body = Run), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 422, body = Problem)))]
pub async fn edit(
    State(state): State<AppState>,
    Id(id): Id,
    JsonBody(Words { name, notes, tags }): JsonBody<Words>,
) -> Result<Json<Run>> {
    let row = state.jobs.edit(&id, Edit { name, notes, tags }).await?;
    Ok(Json(Run::complete(&state, row).await?))
}

/// What a run is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WishBody {
    /// `save` for a checkpoint, `sample` for an answer to its `sample_prompt`.
    wish: WishWord,
}

/// What a running run can be asked for.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WishWord {
    /// A checkpoint.
    Save,
    /// An answer.
    Sample,
}

/// Asks a running run for a checkpoint or an answer after its present step; it goes on then.
///
/// # Errors
/// 404 where there is no such run, 409 where it does not run or has no prompt.
#[utoipa::path(post, path = "/api/v1/runs/{id}/wish", params(("id" = String, Path)), request_body = WishBody,
    responses((status = 202, body = Run), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub async fn wish(
    State(state): State<AppState>,
    Id(id): Id,
    JsonBody(body): JsonBody<WishBody>,
) -> Result<Response> {
    let ask = match body.wish {
        WishWord::Save => Ask::Save,
        WishWord::Sample => Ask::Sample,
    };
    let row = state.jobs.ask(&id, ask).await?;
    Ok((StatusCode::ACCEPTED, Json(Run::new(row))).into_response())
}

/// The run of that id.
///
/// # Errors
/// 404 where there is none.
pub(super) async fn find(state: &AppState, id: &str) -> Result<RunRow> {
    runs::get(&state.db, id).await?.ok_or_else(|| Error::not_found("run", id))
}
