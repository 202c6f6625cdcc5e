//! What can go wrong in the engine, said once and in full.
//!
//! Each variant's text is one line that a user can act on: it names the file or field, what was
//! found there, and what to do. The mapping to a process exit code is [`Error::exit_code`].

use std::path::PathBuf;

use run::exit::ExitCode;

/// Result of an engine function.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An engine failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that the user gave cannot be used: a file, a field, a row.
    #[error("{what}: {why}")]
    Input {
        /// The file, field or option.
        what: String,
        /// What is wrong with it and how to mend it.
        why: String,
    },
    /// An operation on a file failed.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// "read", "write", ...
        op: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Loss or gradients were not finite in several steps running.
    #[error(
        "step {step}: {what} is not finite; no update was made with it. Lower learning_rate, set \
         max_grad_norm, or look at the rows of this step"
    )]
    NonFinite {
        /// The optimiser step (1-based) that was refused.
        step: u64,
        /// "loss" or "grad_norm".
        what: &'static str,
    },
    /// The data stage found something that cannot be used.
    #[error(transparent)]
    Data(#[from] crate::data::error::DataError),
    /// A tensor operation failed: a bug in the engine or a device fault.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// An invariant of the engine does not hold.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// An [`Error::Input`].
    pub fn input(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Input { what: what.into(), why: why.into() }
    }

    /// An [`Error::Io`] for `path`.
    pub fn io(op: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { op, path: path.into(), source }
    }

    /// The exit code of a process that ends with this error.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Input { .. } => ExitCode::BadInput,
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ExitCode::NoSpace
                }
                std::io::ErrorKind::OutOfMemory => ExitCode::OutOfMemory,
                _ => ExitCode::BadInput,
            },
            Self::Data(_) => ExitCode::BadInput,
            Self::NonFinite { .. } => ExitCode::NonFinite,
            Self::Tensor(_) | Self::Internal(_) => ExitCode::Bug,
        }
    }
}
