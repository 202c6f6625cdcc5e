//! /api/v1/datasets: what is there; upload, register, edit, remove.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::super::error::{Error, Problem, Result};
use super::super::extract::{Id, JsonBody, Nothing, OptionalBody, Params};
use super::super::state::AppState;
use super::rows::Row;
use crate::library::datasets::Listed;
use crate::library::rows;
use crate::library::{Patience, upload};

/// Which folder's dataset_info.json.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Dir {
    /// The folder, from the data folder on or absolute; the data folder unless told.
    #[serde(default)]
    pub(super) dir: String,
}

/// A data set in the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Dataset {
    /// Its name.
    name: String,
    /// alpaca, sharegpt, openai or tokens; empty where the entry cannot be used.
    formatting: String,
    /// `file_name` of its entry.
    file_name: String,
    /// Bytes of its files.
    size: Option<u64>,
    /// Rows; null where a large file has not been counted yet.
    rows: Option<u64>,
    /// Why it cannot be used.
    problem: Option<String>,
}

impl From<Listed> for Dataset {
    fn from(listed: Listed) -> Self {
        Self {
            name: listed.name,
            formatting: listed.formatting.to_owned(),
            file_name: listed.file,
            size: listed.size,
            rows: listed.rows,
            problem: listed.problem,
        }
    }
}

/// The data sets of a folder.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatasetList {
    /// In the order of dataset_info.json.
    datasets: Vec<Dataset>,
    /// Folders that have a dataset_info.json: values for `dir`.
    dirs: Vec<String>,
}

/// Lists data sets.
///
/// # Errors
/// 422 where the folder or its dataset_info.json cannot be used.
#[utoipa::path(get, path = "/api/v1/datasets", params(Dir),
    responses((status = 200, body = DatasetList), (status = 422, body = Problem)))]
pub async fn list(
    State(state): State<AppState>,
    Params(query): Params<Dir>,
) -> Result<Json<DatasetList>> {
    let home = state.library.home(&query.dir)?;
    let datasets = state.library.list(home).await?;
    let dirs = state.library.homes().into_iter().map(|home| home.key).collect();
    Ok(Json(DatasetList { datasets: datasets.into_iter().map(Dataset::from).collect(), dirs }))
}

/// A file that is on the server's disk already.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// A file or folder, from the data folder on or absolute; below the data folder or an --allow-path folder.
    path: String,
    /// Its name in dataset_info.json; made from the path unless given.
    name: Option<String>,
}

/// A data set that was added.
#[derive(Debug, Serialize, ToSchema)]
pub struct Added {
    /// Its name in dataset_info.json.
    name: String,
    /// What its rows look like: alpaca, sharegpt, openai, text or tokens.
    format: String,
    /// The columns of its rows.
    columns: Vec<String>,
    /// Of an upload: BLAKE3 of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3: Option<String>,
    /// Of an upload: bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

/// Adds a file that is on the server's disk: its format is detected, its entry written to dataset_info.json.
///
/// # Errors
/// 422 where the path is outside, the name is taken, or the rows cannot be read.
#[utoipa::path(post, path = "/api/v1/datasets", request_body = Register,
    responses((status = 201, body = Added), (status = 400, body = Problem), (status = 422, body = Problem)))]
pub async fn register(
    State(state): State<AppState>,
    JsonBody(wanted): JsonBody<Register>,
) -> Result<Response> {
    let (name, found) = state.library.enlist_path(&wanted.path, wanted.name.as_deref()).await?;
    let (format, columns) = (found.format.to_owned(), found.columns);
    let added = Added { name, format, columns, blake3: None, size: None };
    Ok((StatusCode::CREATED, Json(added)).into_response())
}

/// What an upload is called.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// The file's name; its ending says what it is: .json, .jsonl, .csv, .txt or .parquet.
    file: String,
    /// The name in dataset_info.json; made from the file's unless given.
    name: Option<String>,
}

/// Adds a file: the body is the file itself, sent as application/octet-stream. At most 8 GiB.
///
/// # Errors
/// 413 where it is too large, 415 for another type, 422 where its name or its rows cannot be used.
#[utoipa::path(post, path = "/api/v1/uploads", params(UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = Added), (status = 400, body = Problem), (status = 413, body = Problem),
        (status = 415, body = Problem), (status = 422, body = Problem)))]
pub async fn send(
    State(state): State<AppState>,
    Params(query): Params<UploadQuery>,
    request: Request,
) -> Result<Response> {
    check_upload(request.headers())?;
    let bytes = request.into_body().into_data_stream();
    let received = state.library.receive(&query.file, bytes).await?;
    let (name, found) = state.library.enlist(&received, query.name.as_deref()).await?;
    let added = Added {
        name,
        format: found.format.to_owned(),
        columns: found.columns,
        blake3: Some(received.blake3),
        size: Some(received.size),
    };
    Ok((StatusCode::CREATED, Json(added)).into_response())
}

/// The declared type and length of an upload.
fn check_upload(headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/octet-stream") {
        let detail = "The body must be the file, sent as Content-Type: application/octet-stream.";
        return Err(Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length > upload::LARGEST) {
        return Err(upload::too_large().into());
    }
    Ok(())
}

/// One data set.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatasetDetail {
    /// Its name.
    name: String,
    /// Its entry in dataset_info.json.
    #[schema(value_type = Object)]
    entry: Value,
    /// What its rows look like: alpaca, sharegpt, openai, text or tokens.
    detected: Option<String>,
    /// The columns of its first rows.
    columns: Vec<String>,
    /// Rows in all.
    rows: Option<u64>,
    /// Bytes in all.
    size: Option<u64>,
    /// Why it cannot be used.
    problem: Option<String>,
}

/// One data set: its entry, its columns, its size.
///
/// # Errors
/// 404 where there is none of that name.
#[utoipa::path(get, path = "/api/v1/datasets/{name}", params(("name" = String, Path), Dir),
    responses((status = 200, body = DatasetDetail), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn show(
    State(state): State<AppState>,
    Id(name): Id,
    Params(query): Params<Dir>,
) -> Result<Json<DatasetDetail>> {
    let home = state.library.home(&query.dir)?;
    let looked = state.library.look(home, &name).await?;
    let mut detail = DatasetDetail {
        name,
        entry: looked.raw,
        detected: None,
        columns: Vec::new(),
        rows: None,
        size: None,
        problem: None,
    };
    match looked.opened {
        Err(problem) => detail.problem = Some(problem),
        Ok(opened) => {
            let rows = state.library.rows_of(&opened, Patience::End).await?;
            let found = state.library.detect(&opened, Patience::End).await?;
            (detail.rows, detail.size) = (Some(rows.total), Some(opened.size));
            (detail.detected, detail.columns) = (Some(found.format.to_owned()), found.columns);
            detail.problem = rows.broken;
        }
    }
    Ok(Json(detail))
}

/// Which column plays which role.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Edit {
    /// alpaca, sharegpt, openai or tokens; left as it is where not given.
    formatting: String,
    /// Role and column, as in dataset_info.json; an empty column takes the role away.
    #[schema(value_type = Object)]
    columns: Map<String, Value>,
    /// Tag and name, as in dataset_info.json.
    #[schema(value_type = Object)]
    tags: Map<String, Value>,
    /// Show what the first row would become, and write nothing.
    dry_run: bool,
}

/// An entry and what its first row becomes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Edited {
    /// The entry.
    #[schema(value_type = Object)]
    entry: Value,
    /// The first row.
    first: Option<Row>,
}

/// Changes an entry of the data folder's dataset_info.json; keys that are not named here stay.
///
/// # Errors
/// 404 where there is no such entry, 422 where it could not be used any more.
#[utoipa::path(post, path = "/api/v1/datasets/{name}", params(("name" = String, Path)), request_body = Option<Edit>,
    responses((status = 200, body = Edited), (status = 400, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn edit(
    State(state): State<AppState>,
    Id(name): Id,
    OptionalBody(edit): OptionalBody<Edit>,
) -> Result<Json<Edited>> {
    let home = state.library.home("")?;
    let looked = state.library.look(home.clone(), &name).await?;
    let pairs = |map: &Map<String, Value>| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        map.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    };
    let raw = looked.raw.as_object().cloned().unwrap_or_default();
    let entry = rows::edited(&raw, &edit.formatting, &pairs(&edit.columns), &pairs(&edit.tags));
    let first = state.library.preview(home, &name, entry.clone()).await?;
    if !edit.dry_run {
        state.library.write_entry(&name, entry.clone(), false).await?;
    }
    Ok(Json(Edited { entry, first: first.into_iter().next().map(Row::from) }))
}

/// Takes a data set out of the data folder's dataset_info.json; its files stay.
///
/// # Errors
/// 404 where there is no such entry.
#[utoipa::path(post, path = "/api/v1/datasets/{name}/remove", params(("name" = String, Path)), request_body = Option<Nothing>,
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn remove(
    State(state): State<AppState>,
    Id(name): Id,
    OptionalBody(Nothing {}): OptionalBody<Nothing>,
) -> Result<StatusCode> {
    state.library.remove_entry(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
