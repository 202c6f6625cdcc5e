//! What a handler answers when it cannot do what was asked: problem+json for the API, a page for people.
//!
//! The public text and the cause never share a string: a 5xx shows an id that is in one log line, and nothing else.

use std::borrow::Cow;
use std::error::Error as StdError;

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::pages;
use crate::db::DbError;
use crate::jobs::{ActionError, CreateError};
use crate::library::LibraryError;

/// The result of every handler.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request failed.
#[derive(Debug)]
pub struct Error {
    status: StatusCode,
    detail: Cow<'static, str>,
    errors: Vec<FieldProblem>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// One wrong field of a request.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FieldProblem {
    /// The argument's name.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub message: String,
}

impl From<run::config::FieldError> for FieldProblem {
    fn from(error: run::config::FieldError) -> Self {
        Self { field: error.field, message: error.message }
    }
}

/// A problem as RFC 9457 has it, with the wrong fields.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status says it all.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// One line for people.
    pub detail: String,
    /// The first wrong field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// All wrong fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
    /// Of a 5xx: the id of the log line that has the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Error {
    /// A failure with a text for the client.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), errors: Vec::new(), cause: None }
    }

    /// 404 for a thing (`run`, `page`, ...) of that name.
    #[must_use]
    pub fn not_found(what: &str, id: &str) -> Self {
        let shown: String = id.chars().filter(|c| !c.is_control()).take(80).collect();
        Self::new(StatusCode::NOT_FOUND, format!("There is no {what} `{shown}`."))
    }

    /// 400: the request could not be read.
    #[must_use]
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 422 with every wrong field.
    #[must_use]
    pub fn invalid(errors: Vec<FieldProblem>) -> Self {
        let detail = errors.first().map_or_else(
            || "The request is not valid.".to_owned(),
            |first| format!("{}: {}", first.field, first.message),
        );
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// 500; the cause goes to the log alone.
    #[must_use]
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let detail = "Something went wrong in the server; its log has the details.";
        Self { cause: Some(cause.into()), ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail) }
    }

    /// The status it answers with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The wrong fields.
    #[must_use]
    pub fn fields(&self) -> &[FieldProblem] {
        &self.errors
    }
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        if error.is_busy() {
            let detail = "The database is in use by another program; try again in a few seconds.";
            Self { cause: Some(error.into()), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
        } else {
            Self::internal(error)
        }
    }
}

impl From<CreateError> for Error {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Invalid(errors) => {
                Self::invalid(errors.into_iter().map(FieldProblem::from).collect())
            }
            CreateError::Db(error) => error.into(),
            CreateError::Io(error) => Self::internal(error),
        }
    }
}

impl From<ActionError> for Error {
    fn from(error: ActionError) -> Self {
        match error {
            ActionError::NoRun(id) => Self::not_found("run", &id),
            ActionError::Refused(why) => Self::new(StatusCode::CONFLICT, why),
            ActionError::Invalid(field, message) => {
                Self::invalid(vec![FieldProblem { field: field.to_owned(), message }])
            }
            ActionError::Db(error) => error.into(),
            ActionError::Io(error) => Self::internal(error),
        }
    }
}

impl From<LibraryError> for Error {
    fn from(error: LibraryError) -> Self {
        match error {
            LibraryError::Missing { what, name } => Self::not_found(what, &name),
            LibraryError::Wrong { field, message } => {
                Self::invalid(vec![FieldProblem { field: field.to_owned(), message }])
            }
            LibraryError::TooLarge(why) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, why),
            LibraryError::Busy => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, LibraryError::Busy.to_string())
            }
            LibraryError::Io(cause) => Self::internal(cause),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut id = None;
        if self.status.is_server_error() {
            let fresh = ulid::Ulid::new().to_string();
            let cause = self.cause.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::error!(error.id = %fresh, status = self.status.as_u16(), %cause, "request failed");
            id = Some(fresh);
        }
        let problem = Problem {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: self.detail.into_owned(),
            field: self.errors.first().map(|error| error.field.clone()),
            errors: self.errors,
            id,
        };
        let mut response = (self.status, Json(&problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response.extensions_mut().insert(problem);
        response
    }
}

/// Turns a problem into a page where a person asked, that is outside /api and /healthz.
pub async fn for_people(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let api = path.starts_with("/api/") || path == "/healthz" || path.ends_with("/events");
    let headers = request.headers().clone();
    let htmx = headers.contains_key("hx-request");
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) if !api => {
            let (parts, _) = response.into_parts();
            let mut page = pages::error_page(&problem, htmx, &headers).into_response();
            *page.status_mut() = parts.status;
            page
        }
        _ => response,
    }
}
