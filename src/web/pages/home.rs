//! The page `home`.

use axum::extract::State;
use axum::response::Html;

use crate::web::error::Result;
use crate::web::state::AppState;

/// Handler `home`.
///
/// # Errors
/// Where the database fails.
pub async fn home(State(_state): State<AppState>) -> Result<Html<String>> {
    Ok(Html(String::new()))
}

/// Handler `demo`.
///
/// # Errors
/// Where the database fails.
pub async fn demo(State(_state): State<AppState>) -> Result<Html<String>> {
    Ok(Html(String::new()))
}
