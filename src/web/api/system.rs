//! /api/v1/system: server and machine.

use axum::Json;
use axum::extract::State;

use super::super::error::Result;
use super::super::state::AppState;
use super::super::system::System;

/// Server and machine: devices, cores, memory, disk, versions, health.
///
/// # Errors
/// Where the database fails.
#[utoipa::path(get, path = "/api/v1/system", responses((status = 200, body = System)))]
pub async fn show(State(state): State<AppState>) -> Result<Json<System>> {
    Ok(Json(System::look(&state).await?))
}
