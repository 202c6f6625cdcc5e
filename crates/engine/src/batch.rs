//! A micro-batch: rows of tokens laid end to end, without padding.

use std::ops::Range;

/// Label of a position that carries no loss.
pub const IGNORE: i32 = -100;

/// One row of a dataset as the engine sees it. Labels are not shifted: position t predicts t + 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// The label of each token, or [`IGNORE`].
    pub labels: Vec<i32>,
    /// Position of each token in its text; restarts inside a pack.
    pub positions: Vec<u32>,
    /// Lengths of the parts that do not attend to each other; one part for a plain row.
    pub parts: Vec<usize>,
}

impl Sequence {
    /// A row that is one text.
    #[must_use]
    pub fn plain(input_ids: Vec<u32>, labels: Vec<i32>) -> Self {
        let positions = (0..input_ids.len() as u32).collect();
        let parts = vec![input_ids.len()];
        Self { input_ids, labels, positions, parts }
    }

    /// Labels that a loss is computed for: all but the first position's and ignored ones.
    #[must_use]
    pub fn label_count(&self) -> usize {
        self.labels.iter().skip(1).filter(|l| **l != IGNORE).count()
    }
}

/// Rows laid end to end: t tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, t.
    pub ids: Vec<u32>,
    /// Rotary positions, t.
    pub positions: Vec<u32>,
    /// Where the parts that do not attend to each other begin, and t.
    pub offsets: Vec<usize>,
    /// Tokens whose next token is a label.
    pub predict: Vec<u32>,
    /// Those labels.
    pub targets: Vec<u32>,
    /// For each row, its share of `predict`.
    pub rows: Vec<Range<usize>>,
    /// For each row, its tokens.
    pub lengths: Vec<usize>,
}

impl Batch {
    /// Lays `rows` end to end.
    #[must_use]
    pub fn new<'a>(rows: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let mut batch = Self { offsets: vec![0], ..Self::default() };
        for row in rows {
            let start = batch.ids.len();
            batch.ids.extend_from_slice(&row.input_ids);
            batch.positions.extend_from_slice(&row.positions);
            for part in &row.parts {
                let last = batch.offsets.last().copied().unwrap_or(0);
                batch.offsets.push(last + part);
            }
            let first = batch.predict.len();
            for (t, label) in row.labels.iter().enumerate().skip(1) {
                if *label != IGNORE {
                    batch.predict.push((start + t - 1) as u32);
                    batch.targets.push(*label as u32);
                }
            }
            batch.rows.push(first..batch.predict.len());
            batch.lengths.push(row.input_ids.len());
        }
        batch
    }

    /// Tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_shift_within_their_row() {
        let a = Sequence::plain(vec![5, 6, 7], vec![IGNORE, 6, 7]);
        let b = Sequence::plain(vec![8, 9], vec![8, IGNORE]);
        let batch = Batch::new([&a, &b]);
        assert_eq!(batch.offsets, [0, 3, 5]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
        assert_eq!(batch.predict, [0, 1]);
        assert_eq!(batch.targets, [6, 7]);
        assert_eq!(batch.rows, [0..2, 2..2]);
        assert_eq!(batch.lengths, [3, 2]);
        assert_eq!((a.label_count(), b.label_count()), (2, 0));
    }
}
