//! /api/v1/compare: runs beside each other, and their curves as CSV, SVG or PNG.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::super::cache;
use super::super::compare::{self, Comparison, ids};
use super::super::error::{Error, Problem, Result};
use super::super::extract::Params;
use super::super::state::AppState;
use super::runs::Run;
use crate::plot::overlay;

/// Which runs.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CompareQuery {
    /// Ids with commas between them, at most ten.
    runs: Option<String>,
}

/// Runs beside each other; each list of values has one entry a run, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompareState {
    /// The runs.
    pub runs: Vec<Run>,
    /// Each argument that some run sets; those that differ first.
    pub settings: Vec<SettingState>,
    /// What came of them.
    pub results: Vec<OutcomeState>,
}

/// One argument.
#[derive(Debug, Serialize, ToSchema)]
pub struct SettingState {
    /// Its name.
    pub name: String,
    /// Whether not all runs have the same.
    pub differs: bool,
    /// Its values.
    pub values: Vec<Value>,
}

/// One result.
#[derive(Debug, Serialize, ToSchema)]
pub struct OutcomeState {
    /// `loss.last`, `loss.best`, `eval_loss.last`, `eval_loss.best`, `step`, `elapsed_s` or `tokens_per_s`.
    pub key: &'static str,
    /// Its values.
    pub values: Vec<Option<f64>>,
    /// Of a best value: its step.
    pub steps: Vec<Option<i64>>,
    /// Place of the run with the lowest loss.
    pub best: Option<usize>,
}

/// Runs beside each other.
///
/// # Errors
/// 404 where a run is not there, 400 where they are more than ten.
#[utoipa::path(get, path = "/api/v1/compare", params(CompareQuery),
    responses((status = 200, body = CompareState), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn show(
    State(state): State<AppState>,
    Params(query): Params<CompareQuery>,
) -> Result<Json<CompareState>> {
    let rows = compare::find(&state, &ids(query.runs.as_deref().into_iter())).await?;
    let Comparison { runs, settings, results } = Comparison::load(&state, rows).await?;
    let settings = settings.into_iter().map(|setting| SettingState {
        name: setting.name,
        differs: setting.differs,
        values: setting.values,
    });
    let results = results.into_iter().map(|outcome| OutcomeState {
        key: outcome.key,
        values: outcome.values,
        steps: outcome.steps,
        best: outcome.best,
    });
    Ok(Json(CompareState {
        settings: settings.collect(),
        results: results.collect(),
        runs: Run::tagged(&state, runs).await?,
    }))
}

/// What to take away.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// Ids with commas between them, at most ten.
    runs: Option<String>,
    /// `csv` (the default), `svg` or `png`.
    format: Option<String>,
    /// Names of curves with commas between them; a picture takes the first. `loss` unless told.
    keys: Option<String>,
}

/// The curves of runs as a file. Curves of more than 10000 points (1500 in a picture) come as the means of buckets.
///
/// # Errors
/// 404 where a run is not there, 400 for an unknown format.
#[utoipa::path(get, path = "/api/v1/compare/export", params(ExportQuery), responses(
    (status = 200, content((String = "text/csv"), (String = "image/svg+xml"), (Vec<u8> = "image/png"))),
    (status = 304, description = "What `If-None-Match` names still holds"),
    (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn export(
    State(state): State<AppState>,
    Params(query): Params<ExportQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let rows = compare::find(&state, &ids(query.runs.as_deref().into_iter())).await?;
    let parts = rows.iter().map(|row| format!("{} {} {}", row.id, row.seq, row.name));
    let tag = cache::tag(parts.collect::<Vec<_>>().iter().map(String::as_str));
    if let Some(same) = cache::same(&headers, &tag) {
        return Ok(same);
    }
    let mut keys = ids(query.keys.as_deref().into_iter());
    keys.truncate(50);
    if keys.is_empty() {
        keys.push("loss".to_owned());
    }
    let key = keys.first().cloned().unwrap_or_default();
    let drawn = |drawn: Result<Vec<u8>, String>| drawn.map_err(Error::internal);
    let (kind, name, bytes) = match query.format.as_deref().unwrap_or("csv") {
        "csv" => {
            let text = compare::csv(&state, &rows, &keys).await?;
            ("text/csv; charset=utf-8", "runs.csv", text.into_bytes())
        }
        "svg" => {
            let lines = compare::lines(&state, &rows, &key).await?;
            let bytes =
                blocking(move || overlay::svg(&key, &lines).map(String::into_bytes)).await?;
            ("image/svg+xml", "runs.svg", drawn(bytes)?)
        }
        "png" => {
            let lines = compare::lines(&state, &rows, &key).await?;
            let bytes = blocking(move || overlay::png(&key, &lines)).await?;
            ("image/png", "runs.png", drawn(bytes)?)
        }
        _ => return Err(Error::bad_request("format: csv, svg or png.")),
    };
    let mut response = cache::tagged(&tag, bytes);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(value) = HeaderValue::try_from(format!("inline; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    if kind == "image/svg+xml" {
        // a picture that is opened by itself runs nothing and loads nothing
        let policy = HeaderValue::from_static(
            "default-src 'none'; style-src 'self'; script-src 'self'; object-src 'none'; \
             base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        );
        let _ = headers.insert(HeaderName::from_static("content-security-policy"), policy);
    }
    Ok(response)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)
}
