//! The pages. One file = one page: its template struct, its handlers, its form.
//!
//! Handlers are named in the table of [`super::router`]. Native form posts need the page to say
//! `<meta name="referrer" content="same-origin">`: under the header `Referrer-Policy: no-referrer` a browser sends
//! `Origin: null` with them, which the guard refuses. (htmx uses fetch and is not affected.)

pub mod home;
pub mod new;
pub mod run;
pub mod runs;

use axum::response::Html;

use super::error::Problem;

/// The page (or, for htmx, the fragment) that shows a problem. The status is set by the caller.
#[must_use]
pub fn error_page(problem: &Problem, _htmx: bool) -> Html<String> {
    Html(format!(
        "<!doctype html><title>{0}</title><h1>{0}</h1>",
        problem.title
    ))
}
