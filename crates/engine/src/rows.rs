//! Where training rows come from: memory, or a stream that is read while training.

use std::collections::VecDeque;

use crate::batch::Sequence;
use crate::data::load::stream::Stream;
use crate::data::template::Template;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::prepare::sequence;

/// Training rows by number.
#[derive(Debug)]
pub enum Rows {
    /// All of them, in memory.
    Held(Vec<Sequence>),
    /// Those that the step at hand needs.
    Streamed(Box<Streamed>),
}

/// A stream as numbered rows: the first one it gives is row 0.
#[derive(Debug)]
pub struct Streamed {
    stream: Stream,
    /// Rows that the run will read.
    count: usize,
    /// Rows of the embedding.
    vocab_size: usize,
    /// The number of the first row that is held.
    first: usize,
    held: VecDeque<Sequence>,
}

impl Rows {
    /// Rows of a stream, of which the run reads `count`; no id may be outside `vocab_size`.
    #[must_use]
    pub fn streamed(stream: Stream, count: usize, vocab_size: usize) -> Self {
        let held = VecDeque::new();
        Self::Streamed(Box::new(Streamed { stream, count, vocab_size, first: 0, held }))
    }

    /// Rows in an epoch; of a stream, those that the run reads.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Held(rows) => rows.len(),
            Self::Streamed(streamed) => streamed.count,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of each row; of a stream, `most`, which none exceeds.
    #[must_use]
    pub fn lengths(&self, most: usize) -> Vec<usize> {
        match self {
            Self::Held(rows) => rows.iter().map(|row| row.input_ids.len()).collect(),
            Self::Streamed(streamed) => vec![most; streamed.count],
        }
    }

    /// The rows that are in memory: all of them, or those of the step at hand.
    pub fn held(&self) -> impl Iterator<Item = &Sequence> {
        let (held, streamed) = match self {
            Self::Held(rows) => (rows.as_slice(), None),
            Self::Streamed(streamed) => (&[][..], Some(&streamed.held)),
        };
        held.iter().chain(streamed.into_iter().flatten())
    }

    /// Reads the rows of a step, lets go of those before them, and returns what to tell of them. A
    /// resumed run passes over the rows of earlier steps here.
    ///
    /// # Errors
    /// When a file is broken, or a row has an id that the model lacks.
    pub fn fetch(
        &mut self,
        wanted: &[Vec<usize>],
        kit: Option<(&Tokenizer, &Template)>,
    ) -> Result<Vec<String>> {
        let Self::Streamed(rows) = self else {
            return Ok(Vec::new());
        };
        let numbers = || wanted.iter().flatten().copied();
        let (Some(from), Some(to)) = (numbers().min(), numbers().max()) else {
            return Ok(Vec::new());
        };
        if from < rows.first {
            return Err(Error::Internal(format!("row {from} of a stream has gone by")));
        }
        while rows.first + rows.held.len() <= to {
            let row = sequence(rows.stream.next(kit)?);
            check(&row, rows.vocab_size)?;
            rows.held.push_back(row);
            if rows.first < from {
                rows.held.pop_front();
                rows.first += 1;
            }
        }
        while rows.first < from {
            rows.held.pop_front();
            rows.first += 1;
        }
        Ok(rows.stream.take_report().lines())
    }

    /// Rows by their numbers.
    ///
    /// # Errors
    /// When one of them was not fetched: a bug.
    pub fn pick(&self, numbers: &[usize]) -> Result<Vec<&Sequence>> {
        let missing = |number| Error::Internal(format!("row {number} is not in memory"));
        numbers.iter().map(|n| self.get(*n).ok_or_else(|| missing(*n))).collect()
    }

    /// A row by its number, if it is in memory.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<&Sequence> {
        match self {
            Self::Held(rows) => rows.get(number),
            Self::Streamed(rows) => rows.held.get(number.checked_sub(rows.first)?),
        }
    }
}

fn check(row: &Sequence, vocab_size: usize) -> Result<()> {
    match row.input_ids.iter().find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(Error::input(
            "dataset",
            format!("a row has token id {id}, but the model's embedding has {vocab_size} rows"),
        )),
        None => Ok(()),
    }
}
