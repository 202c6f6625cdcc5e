//! What lies on disk for training: data sets and models, and what the engine's own readers say of them.
//!
//! Here, and nowhere else in the server, the engine is asked: how a row is read, converted and tokenised is the same
//! code that a run uses. No tensor is made and no weight is read. Every path that a user names goes through
//! [`Roots`]. What takes long runs on a blocking thread, a few at a time, once for the same question ([`cache`]).
//!
//! - [`datasets`]: dataset_info.json, its folders and its edits; [`upload`]: files that come over HTTP.
//! - [`index`]: where the rows of a file lie; [`rows`]: a page of them; [`detect`]: what their columns are.
//! - [`models`]: what is on disk; [`registry`]: names to choose from; [`kit`]: tokenizers with their templates.
//! - [`plan`]: what a run would be before it starts.
//! - [`report`]: what is wrong with them; [`lengths`]: how long they are; [`tokens`]: one of them, token by token.

pub mod cache;
pub mod datasets;
pub mod detect;
pub mod index;
pub mod kit;
pub mod lengths;
pub mod models;
pub mod plan;
pub mod registry;
pub mod report;
pub mod rows;
pub mod tokens;
pub mod upload;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use engine::model::hub::HubEnv;

use crate::clock::Clock;
use crate::files::Roots;
use cache::Cache;

/// Why something about a data set or a model could not be told or done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LibraryError {
    /// Nothing of that name.
    #[error("There is no {what} `{name}`.")]
    Missing {
        /// `dataset`, `row`, ...
        what: &'static str,
        /// The name.
        name: String,
    },
    /// What was asked for or sent cannot be used.
    #[error("{field}: {message}")]
    Wrong {
        /// The field it is about.
        field: &'static str,
        /// One line for people.
        message: String,
    },
    /// An upload is larger than may be.
    #[error("{0}")]
    TooLarge(String),
    /// It is being worked on; ask again.
    #[error("This is still being worked out; ask again in a few seconds.")]
    Busy,
    /// The system failed; the text is for the log.
    #[error("{0}")]
    Io(String),
}

impl LibraryError {
    /// A [`LibraryError::Wrong`].
    pub fn wrong(field: &'static str, message: impl Into<String>) -> Self {
        Self::Wrong { field, message: message.into() }
    }
}

impl From<io::Error> for LibraryError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// The result of everything here.
pub type Result<T, E = LibraryError> = std::result::Result<T, E>;

/// How long an answer that is not ready yet is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A form that is being typed into: what is there now counts.
    Glance,
    /// A page: after a moment it says that work goes on, and asks again.
    Moment,
    /// A program: until it is done.
    End,
}

impl Patience {
    fn limit(self) -> Option<Duration> {
        match self {
            Self::Glance => Some(Duration::from_millis(120)),
            Self::Moment => Some(Duration::from_millis(1200)),
            Self::End => None,
        }
    }
}

/// The data sets and models of a server. Cheap to clone.
#[derive(Clone)]
pub struct Library(Arc<Inner>);

struct Inner {
    roots: Roots,
    hub: HubEnv,
    clock: Arc<dyn Clock>,
    /// Answers: indexes, reports, lengths.
    answers: Cache,
    /// Tokenizers with their templates: large, so few.
    kits: Cache,
    /// What models' files say of them.
    models: Cache,
    /// One edit of a dataset_info.json at a time.
    edits: tokio::sync::Mutex<()>,
}

impl Library {
    /// The library of a data folder and the folders that may be read besides.
    #[must_use]
    pub fn new(roots: Roots, clock: Arc<dyn Clock>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let gate = Arc::new(tokio::sync::Semaphore::new(cores.div_ceil(2).min(4)));
        Self(Arc::new(Inner {
            roots,
            hub: crate::worker::engine::hub_caches(),
            clock,
            answers: Cache::new(200, gate.clone()),
            kits: Cache::new(3, gate.clone()),
            models: Cache::new(2000, gate),
            edits: tokio::sync::Mutex::new(()),
        }))
    }

    /// The folders that user-named paths must stay in.
    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.0.roots
    }

    /// Runs `work` on a thread that may block.
    ///
    /// # Errors
    /// What `work` returns.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let own = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&own)).await;
        done.map_err(|error| LibraryError::Io(error.to_string()))?
    }
}

/// A text of which at most `most` characters are shown; what is left out is counted.
#[must_use]
pub fn shortened(text: &str, most: usize) -> (String, usize) {
    match text.char_indices().nth(most) {
        None => (text.to_owned(), 0),
        Some((end, _)) => {
            let (head, rest) = text.split_at(end);
            (head.to_owned(), rest.chars().count())
        }
    }
}
