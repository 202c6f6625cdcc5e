//! The server from start to stop.
//!
//! Start: the data folder is locked, the database opened, workers adopted, the port bound. SIGTERM or SIGINT: no new
//! connections, streams end, the process is gone within two seconds; workers go on. A second signal ends it at once.

use std::fs::{File, OpenOptions, TryLockError};
use std::future::IntoFuture;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::config::ServerConfig;
use crate::db::{Db, DbError};
use crate::files::Roots;
use crate::jobs::Jobs;
use crate::library::Library;
use crate::web::auth::{self, Auth};
use crate::web::router::router;
use crate::web::state::AppState;

/// How long open requests may take after a signal.
const GRACE: Duration = Duration::from_millis(1500);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another server has the data folder.
    #[error("{}: another server uses this data folder ({holder})", .path.display())]
    Held {
        /// The data folder.
        path: PathBuf,
        /// What the other one wrote of itself: pid and address.
        holder: String,
    },
    /// A file or the port cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// The file, or the address.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// A server that is bound and ready to serve.
pub struct Server {
    listener: TcpListener,
    /// What its handlers see.
    pub state: AppState,
    /// The token, where it was made just now: print it once.
    pub fresh_token: Option<String>,
    _lock: File,
}

impl Server {
    /// Locks the data folder, opens the database and binds the port. Nothing is served yet.
    ///
    /// # Errors
    /// Where another server has the folder, or something cannot be opened.
    pub async fn bind(config: ServerConfig) -> Result<Self, StartError> {
        let named = |what: &dyn std::fmt::Display| {
            let what = what.to_string();
            move |source| StartError::Io { what, source }
        };
        let roots =
            Roots::open(&config.data_dir, &config.allow_paths).map_err(named(&"data folder"))?;
        let data_dir = roots.data_dir().to_owned();
        let mut lock = lock(&data_dir)?;
        let listener =
            TcpListener::bind(config.address()).await.map_err(named(&config.address()))?;
        let address = listener.local_addr().map_err(named(&config.address()))?;
        tell_holder(&mut lock, address).map_err(named(&"server.lock"))?;
        let config = ServerConfig { data_dir: data_dir.clone(), port: address.port(), ..config };
        let (auth, fresh_token) = if config.wants_token() {
            let path = data_dir.join("token");
            let file = auth::token_file(&path).map_err(named(&path.display()))?;
            let secure =
                config.public_url.as_ref().is_some_and(|url| url.origin.starts_with("https:"));
            (Auth::token(file.token.clone(), secure), file.fresh.then_some(file.token))
        } else {
            (Auth::open(), None)
        };
        let db = Db::open(&data_dir.join("tallow.db")).await?;
        let (config, clock, stop) =
            (Arc::new(config), Arc::new(SystemClock), CancellationToken::new());
        let library = Library::new(roots.clone(), clock.clone());
        let jobs = Jobs::new(db.clone(), config.clone(), roots, clock.clone(), stop.clone());
        let started_ms = clock.now_ms();
        let auth = Arc::new(auth);
        let streams = Arc::default();
        let state = AppState { db, jobs, library, config, auth, streams, clock, started_ms, stop };
        Ok(Self { listener, state, fresh_token, _lock: lock })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where the system cannot say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the stop token of [`AppState`] is cancelled.
    ///
    /// # Errors
    /// Where the listener fails.
    pub async fn serve(self) -> io::Result<()> {
        let Self { listener, state, _lock, .. } = self;
        let stop = state.stop.clone();
        let (jobs, db) = (state.jobs.clone(), state.db.clone());
        let supervisor = tokio::spawn(async move { jobs.start().await });
        let graceful = stop.clone();
        // as it is, a router is copied for each connection, with every route: 180 KiB
        let serving = axum::serve(listener, router(state).into_make_service())
            .with_graceful_shutdown(async move { graceful.cancelled().await })
            .into_future();
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let outcome = tokio::select! {
            outcome = serving => outcome,
            () = late => Ok(()),
        };
        stop.cancel();
        supervisor.abort();
        // a checkpoint of the WAL is welcome, not worth waiting for
        let _ = tokio::time::timeout(Duration::from_millis(300), db.close()).await;
        outcome
    }
}

/// Cancels `stop` at the first SIGTERM or SIGINT and ends the process at the second.
///
/// # Errors
/// Where the signals cannot be listened to.
pub fn stop_on_signals(stop: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for count in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if count > 0 {
                std::process::exit(0);
            }
            tracing::info!("stopping; runs go on and are taken up at the next start");
            stop.cancel();
        }
    });
    Ok(())
}

/// One server a data folder. The lock is close-on-exec: a worker that lives on does not keep it.
fn lock(data_dir: &Path) -> Result<File, StartError> {
    let path = data_dir.join("server.lock");
    let io = |source| StartError::Io { what: path.display().to_string(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(source)) => Err(io(source)),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = (&file).take(200).read_to_string(&mut holder);
            let holder = holder.trim().to_owned();
            Err(StartError::Held { path: data_dir.to_owned(), holder })
        }
    }
}

fn tell_holder(lock: &mut File, address: SocketAddr) -> io::Result<()> {
    lock.set_len(0)?;
    write!(lock, "pid {}, http://{address}", std::process::id())
}
