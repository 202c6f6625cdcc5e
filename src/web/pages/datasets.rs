//! `/datasets`: what there is, and a place to add more.

use askama::Template;
use axum::extract::{Multipart, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::format::{bytes, whole};
use super::link::{self, encode, query};
use super::shell::Shell;
use super::text::Lang;
use super::{Htmx, go, html};
use crate::library::LibraryError;
use crate::library::datasets::Listed;
use crate::web::error::{Error, Result};
use crate::web::extract::{Caller, Params};
use crate::web::state::AppState;

/// Fields of a form that are looked at; more are no form of ours.
const MOST_FIELDS: usize = 8;

/// The URL's query.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    /// The folder.
    #[serde(default)]
    dir: String,
    /// Only names that contain this.
    #[serde(default)]
    q: String,
}

/// A data set as the list shows it.
struct Line {
    name: String,
    href: String,
    format: String,
    file: String,
    size: String,
    rows: String,
    problem: Option<String>,
}

/// A folder with data sets.
struct Tab {
    label: String,
    href: String,
    on: bool,
}

/// What was typed into the form that adds one, and why it did not work.
#[derive(Default)]
struct Refused {
    message: String,
    path: String,
    name: String,
}

#[derive(Template)]
#[template(path = "pages/datasets.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    lines: Vec<Line>,
    total: usize,
    tabs: Vec<Tab>,
    dir: String,
    q: String,
    /// The list itself is broken.
    broken: Option<String>,
    refused: Option<Refused>,
    origin: String,
}

/// GET /datasets
///
/// # Errors
/// 422 where the folder is outside, or where the database fails.
pub async fn list(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Params(wanted): Params<Wanted>,
) -> Result<Response> {
    page(&state, htmx, &caller, wanted, None).await
}

async fn page(
    state: &AppState,
    htmx: Htmx,
    caller: &Caller,
    wanted: Wanted,
    refused: Option<Refused>,
) -> Result<Response> {
    let shell = Shell::load(state, caller, "datasets").await?;
    let home = state.library.home(&wanted.dir)?;
    let (listed, broken) = match state.library.list(home.clone()).await {
        Ok(listed) => (listed, None),
        Err(LibraryError::Wrong { message, .. }) => (Vec::new(), Some(message)),
        Err(error) => return Err(error.into()),
    };
    let total = listed.len();
    let needle = wanted.q.trim().to_lowercase();
    let hit = |listed: &Listed| listed.name.to_lowercase().contains(&needle);
    let line = |listed: Listed| Line::new(listed, &home.key, shell.lang);
    let lines = listed.into_iter().filter(hit).map(line).collect();
    let tabs: Vec<Tab> = state
        .library
        .homes()
        .into_iter()
        .map(|other| Tab {
            on: other.key == home.key,
            href: format!("/datasets{}", query(&[("dir", &other.key)])),
            label: match other.key.as_str() {
                "" => shell.t("data.home").to_owned(),
                key => key.to_owned(),
            },
        })
        .collect();
    let status = if refused.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let page = Page {
        lines,
        total,
        tabs,
        dir: home.key,
        q: wanted.q,
        broken,
        refused,
        origin: link::origin(caller),
        shell,
    };
    if htmx.0 { html(status, &page.as_main()) } else { html(status, &page) }
}

/// POST /datasets: a file, or the path of one; 303 to what it became, or 422 with the form.
///
/// # Errors
/// Where the body is no form, or the disk or the database fails.
pub async fn add(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    form: std::result::Result<Multipart, axum::extract::multipart::MultipartRejection>,
) -> Result<Response> {
    let mut form = form.map_err(|_| {
        Error::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The form must be sent as multipart/form-data.",
        )
    })?;
    let mut typed = Refused::default();
    match take(&state, &mut form, &mut typed).await {
        Ok(name) => Ok(go(htmx, &format!("/datasets/{}", encode(&name)))),
        Err(LibraryError::Wrong { message, .. } | LibraryError::TooLarge(message)) => {
            typed.message = message;
            page(&state, htmx, &caller, Wanted::default(), Some(typed)).await
        }
        Err(error) => Err(error.into()),
    }
}

/// The name of the data set that the form's file or path has become.
async fn take(
    state: &AppState,
    form: &mut Multipart,
    typed: &mut Refused,
) -> std::result::Result<String, LibraryError> {
    let broken = |error: axum::extract::multipart::MultipartError| {
        LibraryError::wrong("file", format!("the form could not be read: {error}"))
    };
    let mut received = None;
    for _ in 0..MOST_FIELDS {
        let Some(mut field) = form.next_field().await.map_err(broken)? else {
            break;
        };
        match field.name().unwrap_or_default() {
            "path" => typed.path = short_text(&mut field).await?,
            "name" => typed.name = short_text(&mut field).await?,
            "file" => {
                let name = field.file_name().unwrap_or_default().to_owned();
                if !name.is_empty() {
                    received = Some(state.library.receive(&name, field).await?);
                }
            }
            _ => {}
        }
    }
    let name = Some(typed.name.as_str());
    match received {
        Some(received) => Ok(state.library.enlist(&received, name).await?.0),
        None if typed.path.trim().is_empty() => {
            Err(LibraryError::wrong("file", "choose a file, or name the path of one"))
        }
        None => Ok(state.library.enlist_path(typed.path.trim(), name).await?.0),
    }
}

/// A field that holds a line of text.
async fn short_text(
    field: &mut axum::extract::multipart::Field<'_>,
) -> std::result::Result<String, LibraryError> {
    let mut bytes = Vec::new();
    let broken = || LibraryError::wrong("file", "the form could not be read");
    while let Some(chunk) = field.chunk().await.map_err(|_| broken())? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > 4096 {
            return Err(broken());
        }
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

impl Line {
    fn new(listed: Listed, dir: &str, lang: Lang) -> Self {
        let format = match listed.formatting {
            "" => "–".to_owned(),
            word => lang.text(&format!("format.{word}")).to_owned(),
        };
        Self {
            href: format!("/datasets/{}{}", encode(&listed.name), query(&[("dir", dir)])),
            name: listed.name,
            format,
            file: listed.file,
            size: listed.size.map_or_else(|| "–".to_owned(), bytes),
            rows: listed
                .rows
                .and_then(|rows| i64::try_from(rows).ok())
                .map_or_else(|| "–".to_owned(), whole),
            problem: listed.problem,
        }
    }
}
