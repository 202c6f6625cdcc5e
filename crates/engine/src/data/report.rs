//! What happened to the rows on the way: what was dropped, what was cut, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many bad rows are described; the rest are only counted.
const DESCRIBED: usize = 20;

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// The file it is in.
    pub file: String,
    /// Its place among the rows of the file, from 1.
    pub row: u64,
    /// The line of the file where it begins, from 1; 0 in a file that has no lines.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: row {}: {}", self.file, self.row, self.reason),
            line => write!(f, "{}: row {} (line {line}): {}", self.file, self.row, self.reason),
        }
    }
}

/// Counts over all rows, and the first rows that were bad.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rows that were read (after `num_samples` and `max_samples`).
    pub rows: u64,
    /// Rows that could not be used.
    pub bad: u64,
    /// The first of them.
    pub bad_rows: Vec<BadRow>,
    /// Rows that `cutoff_len` shortened.
    pub truncated: u64,
    /// Tokens that were cut off.
    pub truncated_tokens: u64,
    /// Turns that did not fit at all.
    pub dropped_turns: u64,
    /// Rows left out of packing because they are longer than a pack.
    pub too_long: u64,
    /// Rows in which no token is trained.
    pub unlabelled: u64,
    /// Tokens at the end of a batch that did not fill a block (`stage: pt` with packing).
    pub remainder_tokens: u64,
    /// What is worth a line in the log besides.
    pub notices: Vec<String>,
}

impl Report {
    /// Counts a bad row, and keeps it if it is among the first.
    pub fn add_bad(&mut self, row: BadRow) {
        self.bad += 1;
        if self.bad_rows.len() < DESCRIBED {
            self.bad_rows.push(row);
        }
    }

    /// Sentences for the log, the worst first; empty where everything was used as it is.
    pub fn lines(&self) -> Vec<String> {
        let counted = |n: u64, text: &str| (n > 0).then(|| format!("{n} {text}"));
        let mut lines: Vec<String> =
            self.bad_rows.iter().map(|row| format!("Dropped {row}")).collect();
        lines.extend(counted(
            self.bad,
            &format!("of {} rows were dropped because they are invalid", self.rows),
        ));
        lines.extend(counted(
            self.truncated,
            &format!("rows were cut to cutoff_len ({} tokens)", self.truncated_tokens),
        ));
        lines.extend(counted(
            self.dropped_turns,
            "turns were dropped because their conversation is too long",
        ));
        lines.extend(counted(
            self.too_long,
            "rows were left out of packing because they are longer than a pack",
        ));
        lines.extend(counted(self.unlabelled, "rows have no trained token"));
        lines.extend(counted(
            self.remainder_tokens,
            "tokens at the end of a batch did not fill a block",
        ));
        lines.extend(self.notices.iter().cloned());
        lines
    }
}
