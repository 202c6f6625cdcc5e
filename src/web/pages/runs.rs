//! The page `runs`.

use axum::extract::State;
use axum::response::Html;

use crate::web::error::Result;
use crate::web::state::AppState;

/// Handler `list`.
///
/// # Errors
/// Where the database fails.
pub async fn list(State(_state): State<AppState>) -> Result<Html<String>> {
    Ok(Html(String::new()))
}
