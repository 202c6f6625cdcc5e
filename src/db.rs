//! SQLite: one file, WAL, one writer and four readers. Every SQL string of the program lives below this module.
//!
//! Writers run in `begin immediate` transactions on a pool of one connection, so that two of them queue in the pool
//! instead of failing with "database is locked". Readers are `query_only`.

pub mod events;
pub mod ingest;
pub mod kv;
pub mod list;
pub mod metrics;
pub mod queue;
pub mod runs;
pub mod speed;
pub mod team;
pub mod webhooks;

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::pool::PoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};

/// How long a statement waits for a lock that another process holds.
const BUSY: Duration = Duration::from_secs(5);

/// The database of one data folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Db {
    reader: SqlitePool,
    writer: SqlitePool,
}

/// What can go wrong in the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// SQLite refused a statement, or the pool gave no connection in time.
    #[error("the database failed: {0}")]
    Sqlite(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database could not be migrated: {0}")]
    Migrate(#[from] MigrateError),
    /// A stored value is not what this version writes.
    #[error("the database holds a value that this version does not know: {0}")]
    Unknown(String),
}

impl DbError {
    /// True where waiting and trying again may help (another process holds the lock).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Sqlite(sqlx::Error::PoolTimedOut) => true,
            Self::Sqlite(sqlx::Error::Database(error)) => {
                // 5 is SQLITE_BUSY, 6 SQLITE_LOCKED; extended codes keep them in the low byte
                error
                    .code()
                    .and_then(|code| code.parse::<i32>().ok())
                    .is_some_and(|code| matches!(code & 0xff, 5 | 6))
            }
            _ => false,
        }
    }
}

/// The result of every function here.
pub type Result<T, E = DbError> = std::result::Result<T, E>;

impl Db {
    /// Opens (or makes) the database at `path` and brings its schema up to date.
    ///
    /// # Errors
    /// Where the file cannot be opened, or a migration fails.
    pub async fn open(path: &Path) -> Result<Self> {
        let base = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .busy_timeout(BUSY)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let writer = PoolOptions::new()
            .max_connections(1)
            .acquire_timeout(BUSY * 2)
            .test_before_acquire(false)
            .connect_with(base.clone())
            .await?;
        sqlx::migrate!("./migrations").run(&writer).await?;
        let reader = PoolOptions::new()
            .max_connections(4)
            .acquire_timeout(BUSY)
            .test_before_acquire(false)
            .connect_lazy_with(base.pragma("query_only", "on"));
        Ok(Self { reader, writer })
    }

    /// Starts a writing transaction; it holds SQLite's write lock until it is committed or dropped.
    ///
    /// # Errors
    /// Where the lock does not come free in time.
    pub async fn write(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.writer.begin_with("begin immediate").await?)
    }

    /// The readers.
    #[must_use]
    pub fn read(&self) -> &SqlitePool {
        &self.reader
    }

    /// Closes every connection; writes the WAL back.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// SQLite's own version.
///
/// # Errors
/// Where the database fails.
pub async fn version(db: &Db) -> Result<String> {
    Ok(sqlx::query_scalar("select sqlite_version()").fetch_one(db.read()).await?)
}
