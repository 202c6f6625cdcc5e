//! Problems as pages: what went wrong, and the way back.

use askama::Template;
use axum::http::HeaderMap;
use axum::response::Html;

use super::shell::Shell;
use crate::web::error::{FieldProblem, Problem};

#[derive(Template)]
#[template(path = "pages/error.html", blocks = ["main"])]
struct Page<'a> {
    shell: Shell,
    status: u16,
    title: &'a str,
    detail: &'a str,
    errors: &'a [FieldProblem],
    id: Option<&'a str>,
}

/// The page (or, for htmx, the fragment) that shows a problem. The status is set by the caller.
pub fn error_page(problem: &Problem, htmx: bool, headers: &HeaderMap) -> Html<String> {
    let shell = Shell::bare(headers);
    let title = if problem.status == 404 { "error.404" } else { "error.other" };
    let title = shell.t(title);
    let page = Page {
        status: problem.status,
        title,
        detail: &problem.detail,
        errors: if problem.errors.len() > 1 { &problem.errors } else { &[] },
        id: problem.id.as_deref(),
        shell,
    };
    let text = if htmx { page.as_main().render() } else { page.render() };
    // a template that fails leaves the one line that matters
    Html(text.unwrap_or_else(|_| problem.title.to_owned()))
}
