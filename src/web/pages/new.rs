//! The page `new`.

use axum::extract::State;
use axum::response::Html;

use crate::web::error::Result;
use crate::web::state::AppState;

/// Handler `form`.
///
/// # Errors
/// Where the database fails.
pub async fn form(State(_state): State<AppState>) -> Result<Html<String>> {
    Ok(Html(String::new()))
}

/// Handler `create`.
///
/// # Errors
/// Where the database fails.
pub async fn create(State(_state): State<AppState>) -> Result<Html<String>> {
    Ok(Html(String::new()))
}

/// Handler `check`.
///
/// # Errors
/// Where the database fails.
pub async fn check(State(_state): State<AppState>) -> Result<Html<String>> {
    Ok(Html(String::new()))
}
