//! What every handler gets.

use std::sync::Arc;

use axum::extract::FromRef;
use tokio_util::sync::CancellationToken;

use super::auth::Auth;
use super::sse::Streams;
use crate::clock::Clock;
use crate::config::ServerConfig;
use crate::db::Db;
use crate::jobs::Jobs;
use crate::library::Library;

/// The server's shared parts. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The database; reads go to it directly, through the functions of [`crate::db`].
    pub db: Db,
    /// Queue and supervisor; every change of a run goes through it.
    pub jobs: Jobs,
    /// Data sets and models on disk.
    pub library: Library,
    /// The settings; the data folder is `config.data_dir`.
    pub config: Arc<ServerConfig>,
    /// The token, where one is asked for.
    pub auth: Arc<Auth>,
    /// What clients of the same run have together.
    pub streams: Arc<Streams>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// When the server was started, milliseconds since 1970.
    pub started_ms: i64,
    /// Cancelled when the server stops: open streams end.
    pub stop: CancellationToken,
}

impl FromRef<AppState> for Db {
    fn from_ref(state: &AppState) -> Self {
        state.db.clone()
    }
}

impl FromRef<AppState> for Jobs {
    fn from_ref(state: &AppState) -> Self {
        state.jobs.clone()
    }
}
