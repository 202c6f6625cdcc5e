//! What is wrong with a data set: rows that cannot be used, by line and reason, empty answers, rows that come twice.

use std::collections::HashMap;
use std::sync::Arc;

use engine::data::convert::{Converted, Example, convert};
use engine::data::info::DatasetInfo;
use engine::data::source;
use indexmap::IndexMap;

use super::datasets::Opened;
use super::{Library, Patience, Result, shortened};

/// How many rows of a kind are named; the rest are counted.
const NAMED: usize = 50;
/// How many rows are remembered to find those that come again.
const REMEMBERED: usize = 4_000_000;

/// A row that is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its place in the data set, from 1.
    pub number: u64,
    /// The file's name.
    pub file: String,
    /// The line it begins on, from 1.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}

/// Rows with the same thing wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finding {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<Place>,
}

/// What a whole reading found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Rows that were read.
    pub rows: u64,
    /// Rows that a run leaves out, with reasons.
    pub bad: Finding,
    /// The reasons, with how often.
    pub reasons: Vec<(String, u64)>,
    /// Rows with an empty answer.
    pub empty: Finding,
    /// Rows that are the same as one before.
    pub twice: Finding,
    /// Where a file breaks off: a run would not start.
    pub broken: Option<String>,
    /// Rows after these were not held against the others.
    pub compared: Option<u64>,
}

impl Report {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.broken.is_none() && self.bad.count + self.empty.count + self.twice.count == 0
    }
}

impl Finding {
    fn add(&mut self, place: Place) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(place);
        }
    }
}

impl Library {
    /// Reads a data set from end to end.
    ///
    /// # Errors
    /// Where patience ends.
    pub async fn report(&self, opened: &Opened, patience: Patience) -> Result<Arc<Report>> {
        let (info, files) = (opened.info.clone(), opened.files.clone());
        let work = move || {
            let mut reading = Reading::new(&info);
            for path in &files {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let read = source::read(path, &mut |row| {
                    reading.row(&name, row.line, &row.value);
                    Ok(true)
                });
                if let Err(error) = read {
                    // the full path is the server's business
                    let text = error.to_string();
                    let text = text.replace(&path.display().to_string(), &name);
                    reading.report.broken = Some(text);
                    break;
                }
            }
            Ok(reading.finish())
        };
        self.0.answers.get(opened.stamp.clone(), patience, work).await
    }
}

struct Reading<'a> {
    info: &'a DatasetInfo,
    report: Report,
    reasons: IndexMap<String, u64>,
    /// Hash of a row and its number.
    seen: HashMap<u128, u64>,
}

impl<'a> Reading<'a> {
    fn new(info: &'a DatasetInfo) -> Self {
        let (report, reasons, seen) = (Report::default(), IndexMap::new(), HashMap::new());
        Self { info, report, reasons, seen }
    }

    fn row(&mut self, file: &str, line: u64, value: &serde_json::Value) {
        self.report.rows += 1;
        let number = self.report.rows;
        let place = |reason: String| Place { number, file: file.to_owned(), line, reason };
        let checked = convert(self.info, value).and_then(|converted| match converted {
            Converted::Tokens(_) => Ok(None),
            Converted::Example(example) => example.check_turns().map(|()| Some(example)),
        });
        match checked {
            Err(error) => {
                let reason = shortened(&error.to_string(), 300).0;
                *self.reasons.entry(general(&reason)).or_default() += 1;
                self.report.bad.add(place(reason));
            }
            Ok(Some(example)) if is_empty(&example) => {
                self.report.empty.add(place(String::new()));
            }
            Ok(_) => {}
        }
        if self.seen.len() >= REMEMBERED {
            self.report.compared.get_or_insert(number - 1);
            return;
        }
        let hash = blake3::hash(value.to_string().as_bytes());
        let mut short = [0; 16];
        short.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        match self.seen.entry(u128::from_le_bytes(short)) {
            std::collections::hash_map::Entry::Occupied(first) => {
                self.report.twice.add(place(first.get().to_string()));
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(number);
            }
        }
    }

    fn finish(self) -> Report {
        let mut reasons: Vec<(String, u64)> = self.reasons.into_iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        reasons.truncate(20);
        Report { reasons, ..self.report }
    }
}

/// A reason without the numbers that make it one row's own.
fn general(reason: &str) -> String {
    let mut out = String::new();
    for char in reason.chars() {
        let digit = char.is_ascii_digit();
        if !digit {
            out.push(char);
        } else if !out.ends_with('…') {
            out.push('…');
        }
    }
    out
}

/// Nothing to learn: an answer without a visible character.
fn is_empty(example: &Example) -> bool {
    example.response.iter().any(|message| message.content.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_grouped() {
        for (reason, expected) in [
            ("Invalid role tag in message 12: `x`", "Invalid role tag in message …: `x`"),
            ("column `a` is missing", "column `a` is missing"),
        ] {
            assert_eq!(general(reason), expected);
        }
    }
}
