//! What can be wrong with a dataset, a template or a tokenizer.

use std::path::{Path, PathBuf};

use super::template::TemplateError;

/// An error of the data stage. Each is one line that names the file, the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file's contents are not what its name promises.
    #[error("{}:{line}: {reason}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong there.
        reason: String,
    },
    /// No row can be used.
    #[error(
        "Cannot find valid samples, check `data/README.md` for the data format. All {count} rows are unusable: {first}"
    )]
    NoValidRows {
        /// How many rows there are.
        count: u64,
        /// The first few reasons.
        first: String,
    },
    /// The template is not known or cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Anything else that is wrong with the input.
    #[error("{0}")]
    Invalid(String),
}

impl DataError {
    /// An [`DataError::Invalid`] with this text.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// A function that says which file an I/O error belongs to.
    pub(super) fn file(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        |source| Self::File { path: path.to_path_buf(), source }
    }
}

/// The known names nearest to a mistyped one, best first, at most three.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted = name.to_lowercase();
    let limit = wanted.chars().count() / 2 + 1;
    let mut scored: Vec<(usize, &str)> = known
        .map(|k| (distance(&wanted, &k.to_lowercase()), k))
        .filter(|(d, k)| {
            *d <= limit.min(4) || k.to_lowercase().contains(&wanted) && !wanted.is_empty()
        })
        .collect();
    scored.sort();
    scored.into_iter().take(3).map(|(_, k)| k.to_string()).collect()
}

/// Edit distance with insertions, deletions and replacements.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(100).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Why one row cannot be used. The row is dropped and counted; see [`super::report::BadRow`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RowError(pub String);

impl From<String> for RowError {
    fn from(reason: String) -> Self {
        Self(reason)
    }
}

impl From<&str> for RowError {
    fn from(reason: &str) -> Self {
        Self(reason.to_string())
    }
}
