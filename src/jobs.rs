//! Queue and supervisor: everything that changes a run goes through [`Jobs`].

use tokio::sync::watch;

use crate::db::DbError;
use crate::db::runs::RunRow;

/// The handle that handlers hold. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {}

/// How a run is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// At the next step boundary, with a checkpoint.
    Save,
    /// At once; the last checkpoint stays.
    Now,
}

/// One wrong argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The argument's name.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub message: String,
}

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Arguments are wrong.
    #[error("{} wrong arguments", .0.len())]
    Invalid(Vec<FieldError>),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The run directory could not be made.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Why a run could not be stopped or resumed.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// No such run.
    #[error("there is no run `{0}`")]
    NoRun(String),
    /// Not in this state; the text says why.
    #[error("{0}")]
    Refused(String),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The run directory could not be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Name and value of arguments, in the order given.
pub type Pairs = Vec<(String, serde_json::Value)>;

/// A configuration that would run.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Non-default arguments, paths resolved.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// What to tell the user: arguments without effect, and why.
    pub notices: Vec<String>,
    /// Where it will write; `None` = a folder of its own below DATA/runs.
    pub output_dir: Option<String>,
}

impl Jobs {
    /// Checks a configuration without making a run: names, values, paths, whether the folder is free.
    ///
    /// # Errors
    /// With every wrong argument.
    pub async fn check(&self, _pairs: &Pairs) -> Result<Prepared, CreateError> {
        Err(CreateError::Invalid(Vec::new()))
    }

    /// Queues a run. The same `start_id` twice gives the same run, then with `false`.
    ///
    /// # Errors
    /// With every wrong argument, or where the database fails.
    pub async fn create(
        &self,
        pairs: &Pairs,
        _start_id: Option<String>,
    ) -> Result<(RunRow, bool), CreateError> {
        self.check(pairs).await?;
        Err(CreateError::Invalid(Vec::new()))
    }

    /// Queues the sample run.
    ///
    /// # Errors
    /// Where its files cannot be written, or the database fails.
    pub async fn demo(&self, start_id: Option<String>) -> Result<RunRow, CreateError> {
        self.create(&Vec::new(), start_id).await.map(|(row, _)| row)
    }

    /// Asks a run to stop.
    ///
    /// # Errors
    /// Where there is no such run or it is over.
    pub async fn stop(&self, id: &str, _mode: StopMode) -> Result<RunRow, ActionError> {
        Err(ActionError::NoRun(id.to_owned()))
    }

    /// Queues a stopped, failed or lost run again; it goes on from its newest checkpoint.
    ///
    /// # Errors
    /// Where there is no such run or it is not over.
    pub async fn resume(&self, id: &str) -> Result<RunRow, ActionError> {
        Err(ActionError::NoRun(id.to_owned()))
    }

    /// Rings whenever the run has new events.
    #[must_use]
    pub fn doorbell(&self, _id: &str) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}
