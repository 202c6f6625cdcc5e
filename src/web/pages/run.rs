//! The page `run`.

use axum::extract::State;
use axum::response::Html;

use crate::web::error::Result;
use crate::web::state::AppState;

/// Handler `show`.
///
/// # Errors
/// Where the database fails.
pub async fn show(State(_state): State<AppState>) -> Result<Html<String>> {
    Ok(Html(String::new()))
}

/// Handler `stop`.
///
/// # Errors
/// Where the database fails.
pub async fn stop(State(_state): State<AppState>) -> Result<Html<String>> {
    Ok(Html(String::new()))
}

/// Handler `resume`.
///
/// # Errors
/// Where the database fails.
pub async fn resume(State(_state): State<AppState>) -> Result<Html<String>> {
    Ok(Html(String::new()))
}
