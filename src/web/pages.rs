//! The pages. One file = one page: its template struct and its handlers, named in the table of [`super::router`].
//!
//! Every page reads without JavaScript. A request with `HX-Request: true` gets the page's main block alone, so each
//! answer says `Vary: HX-Request`. Texts come from static/locales by key ([`text`]), numbers and times through [`format`].

pub mod compare;
pub mod curve;
pub mod dataset;
pub mod datasets;
pub mod format;
pub mod home;
pub mod link;
pub mod login;
pub mod models;
pub mod new;
pub mod problem;
pub mod queue;
pub mod run;
pub mod runs;
pub mod settings;
pub mod shell;
pub mod system;
pub mod team;
pub mod text;
pub mod view;
pub mod webhooks;

pub use problem::error_page;

use askama::Template;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use super::error::{Error, Result};

/// Whether htmx asks: then a fragment is wanted and not a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Htmx(pub bool);

impl<S: Sync> FromRequestParts<S> for Htmx {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.headers.get("hx-request").is_some_and(|value| value.as_bytes() == b"true")))
    }
}

/// A rendered template as an answer.
///
/// # Errors
/// 500 where the template fails.
fn html(status: StatusCode, template: &impl Template) -> Result<Response> {
    let text = template.render().map_err(Error::internal)?;
    let mut response = (status, Html(text)).into_response();
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("HX-Request, Cookie, Accept-Language"));
    Ok(response)
}

/// Sends the browser on: 303 for a plain form, a header for htmx.
fn go(htmx: Htmx, path: &str) -> Response {
    if htmx.0 {
        let mut response = StatusCode::NO_CONTENT.into_response();
        if let Ok(value) = HeaderValue::try_from(path) {
            response.headers_mut().insert("hx-redirect", value);
        }
        return response;
    }
    axum::response::Redirect::to(path).into_response()
}
