//! /api/v1/runs/{id}/metrics and /log: what a run has told so far.

use std::path::Path as FsPath;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::cache;
use super::super::error::{Error, Problem, Result};
use super::super::extract::{Id, Params, within};
use super::super::state::AppState;
use super::runs::find;
use crate::db::metrics::{self, Series};

/// Which curves.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MetricsQuery {
    /// Names with commas between them: loss, lr, grad_norm, tokens_per_s, eval_loss ...; all of them unless told.
    keys: Option<String>,
    /// At most so many points a curve; longer ones come in buckets with mean, min and max. 1500 unless told.
    #[param(minimum = 3, maximum = 10000)]
    points: Option<u32>,
    /// First step.
    x0: Option<i64>,
    /// Last step.
    x1: Option<i64>,
    /// Only what events up to this number brought.
    upto: Option<i64>,
    /// Adds an exponential mean over every value, whatever is shown: how much of the mean before stays.
    #[param(minimum = 0, maximum = 0.999)]
    smooth: Option<f64>,
}

/// One curve, in columns.
#[derive(Debug, Serialize, ToSchema)]
pub struct Curve {
    /// Steps, rising.
    step: Vec<i64>,
    /// The value, or the mean of the bucket; null = not finite.
    value: Vec<Option<f64>>,
    /// Lowest of the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<Vec<Option<f64>>>,
    /// Highest of the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<Vec<Option<f64>>>,
    /// How many points there are in the window.
    of: i64,
    /// Steps whose value is not finite, or the last steps of buckets with such a one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bad: Vec<i64>,
    /// The smoothed curve at the same steps, where `smooth` was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    smooth: Option<Vec<Option<f64>>>,
}

impl From<Series> for Curve {
    fn from(series: Series) -> Self {
        let Series { step, value, min, max, of, bad, smooth } = series;
        Self { step, value, min, max, of, bad, smooth }
    }
}

/// The curves of a run: `{"loss": {"step": [...], "value": [...]}}`.
///
/// # Errors
/// 404 where there is no such run.
#[utoipa::path(get, path = "/api/v1/runs/{id}/metrics", params(("id" = String, Path), MetricsQuery),
    responses((status = 200, body = std::collections::HashMap<String, Curve>),
        (status = 304, description = "What `If-None-Match` names still holds"), (status = 404, body = Problem)))]
pub async fn metrics(
    State(state): State<AppState>,
    Id(id): Id,
    Params(query): Params<MetricsQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let run = find(&state, &id).await?;
    // every value comes with an event: the same last event is the same curve
    let tag = cache::tag([run.id.as_str(), &run.seq.to_string()]);
    if let Some(same) = cache::same(&headers, &tag) {
        return Ok(same);
    }
    let keys = query.keys.unwrap_or_default();
    let keys: Vec<String> = keys
        .split(',')
        .map(str::trim)
        .filter(|key| !key.is_empty())
        .take(50)
        .map(str::to_owned)
        .collect();
    let wanted = metrics::Query {
        keys,
        points: within("points", query.points, 1500, 3..=10_000)?,
        from: query.x0,
        to: query.x1,
        upto: query.upto,
        smooth: query
            .smooth
            .map(|weight| within("smooth", Some(weight), 0.0, 0.0..=0.999))
            .transpose()?,
    };
    let series = metrics::series(&state.db, run.num, &wanted).await?;
    let curves: indexmap::IndexMap<String, Curve> =
        series.into_iter().map(|(key, series)| (key, series.into())).collect();
    Ok(cache::tagged(&tag, Json(curves)))
}

/// How much of the log.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// The last so many lines; 500 unless told.
    #[param(minimum = 0, maximum = 10000)]
    tail: Option<usize>,
}

/// The end of a log.
#[derive(Debug, Serialize, ToSchema)]
pub struct Log {
    /// Lines, oldest first.
    lines: Vec<String>,
}

/// The end of the worker's log; as text/plain where that is asked for.
///
/// # Errors
/// 404 where there is no such run.
#[utoipa::path(get, path = "/api/v1/runs/{id}/log", params(("id" = String, Path), LogQuery),
    responses((status = 200, content((Log = "application/json"), (String = "text/plain"))),
        (status = 304, description = "Of a run that is over: what `If-None-Match` names still holds"), (status = 404, body = Problem)))]
pub async fn log(
    State(state): State<AppState>,
    Id(id): Id,
    Params(query): Params<LogQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let run = find(&state, &id).await?;
    let accept =
        headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = accept.starts_with("text/plain");
    let kind = if plain { "text" } else { "json" };
    let tag = cache::tag(["log", kind, &run.id, &run.seq.to_string()]);
    let over = run.status.is_over();
    if let Some(same) = cache::same(&headers, &tag).filter(|_| over) {
        return Ok(same);
    }
    let path = FsPath::new(&run.output_dir).join("worker.log");
    let tail = within("tail", query.tail, 500, 0..=10_000)?;
    let lines = tokio::task::spawn_blocking(move || crate::files::tail(&path, tail))
        .await
        .map_err(Error::internal)?;
    let lines = lines.map_err(Error::internal)?;
    let answer = if plain {
        (lines.join("\n") + "\n").into_response()
    } else {
        Json(Log { lines }).into_response()
    };
    Ok(if over { cache::tagged(&tag, answer) } else { answer })
}
