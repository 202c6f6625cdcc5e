//! How many tokens the rows of a data set have, and what a cutoff would do to them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use engine::data::convert::{Converted, convert};
use engine::data::encode::{self, IGNORE, Labelling};
use engine::data::info::DatasetInfo;
use engine::data::source;
use serde_json::Value;

use super::datasets::Opened;
use super::kit::{Kit, Wanted};
use super::{Library, LibraryError, Patience, Result};

/// Rows that are tokenised at most; of a larger data set every n-th is.
const MEASURED: u64 = 20_000;
/// No row is cut at this.
const UNCUT: usize = 1 << 40;
/// Bars of the histogram at most.
const BARS: usize = 48;

/// Lengths of rows in tokens.
#[derive(Debug, Clone, Default)]
pub struct Lengths {
    /// Length and how many rows have it.
    pub rows: BTreeMap<usize, u64>,
    /// Rows that were measured.
    pub measured: u64,
    /// Rows of the data set; more than `measured + bad` where only a share was measured.
    pub total: u64,
    /// Rows among those measured that cannot be used.
    pub bad: u64,
    /// Tokens of the measured rows that are trained.
    pub trained: u64,
    /// The template that was used.
    pub template: String,
    /// What was changed to make tokenizer and template fit.
    pub notices: Vec<String>,
}

/// What a cutoff does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Rows that stay whole.
    pub kept: u64,
    /// Rows that are shortened.
    pub truncated: u64,
    /// Rows that are left out: they cannot be used.
    pub dropped: u64,
    /// Tokens that remain.
    pub tokens: u64,
    /// Tokens that are cut off.
    pub lost: u64,
}

/// A bar of the histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Lengths from here ...
    pub from: usize,
    /// ... to here, both included.
    pub to: usize,
    /// Rows of such a length.
    pub count: u64,
}

impl Lengths {
    /// What a cutoff of so many tokens does to the measured rows.
    #[must_use]
    pub fn cut(&self, cutoff: usize) -> Cut {
        let mut cut = Cut { kept: 0, truncated: 0, dropped: self.bad, tokens: 0, lost: 0 };
        for (length, count) in &self.rows {
            let stays = *length.min(&cutoff) as u64;
            cut.tokens += stays * count;
            cut.lost += (*length as u64 - stays) * count;
            *(if *length > cutoff { &mut cut.truncated } else { &mut cut.kept }) += count;
        }
        cut
    }

    /// The longest row.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.rows.last_key_value().map_or(0, |(length, _)| *length)
    }

    /// The length that this share (0 to 1) of the measured rows does not exceed.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of rows are far below 2^52")]
    pub fn quantile(&self, share: f64) -> usize {
        let all: u64 = self.rows.values().sum();
        let mut seen = 0;
        for (length, count) in &self.rows {
            seen += count;
            if seen as f64 >= share * all as f64 {
                return *length;
            }
        }
        self.longest()
    }

    /// The mean length.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^52")]
    pub fn mean(&self) -> f64 {
        let all: u64 = self.rows.values().sum();
        let tokens: u64 = self.rows.iter().map(|(length, count)| *length as u64 * count).sum();
        tokens as f64 / all.max(1) as f64
    }

    /// Bars of one width, a round number, that hold every row.
    #[must_use]
    pub fn bars(&self) -> Vec<Bar> {
        let width = width(self.longest());
        let mut bars: Vec<Bar> = (0..=self.longest() / width)
            .map(|bar| Bar { from: bar * width, to: (bar + 1) * width - 1, count: 0 })
            .collect();
        for (length, count) in &self.rows {
            if let Some(bar) = bars.get_mut(length / width) {
                bar.count += count;
            }
        }
        bars
    }
}

/// 1, 2 or 5 times a power of ten, so that at most [`BARS`] bars reach `longest`.
fn width(longest: usize) -> usize {
    let mut scale = 1;
    loop {
        for step in [1, 2, 5] {
            if longest / (step * scale) < BARS {
                return step * scale;
            }
        }
        scale *= 10;
    }
}

impl Library {
    /// The lengths of a data set's rows under a model's tokenizer and a template.
    ///
    /// # Errors
    /// What is wrong with model, template or files; or patience ends.
    pub async fn lengths(
        &self,
        opened: &Opened,
        wanted: &Wanted,
        patience: Patience,
    ) -> Result<Arc<Lengths>> {
        let total = self.rows_of(opened, patience).await?.total;
        let kit = self.kit(wanted, patience).await?;
        let stride = total.div_ceil(MEASURED).max(1);
        let key = format!("{}\0{}\0{wanted:?}", opened.stamp, Arc::as_ptr(&kit).addr());
        let (info, files, wanted) = (opened.info.clone(), opened.files.clone(), wanted.clone());
        let work = move || measure(&info, &files, &kit, &wanted, stride);
        self.0.answers.get(key, patience, work).await
    }
}

fn measure(
    info: &DatasetInfo,
    files: &[PathBuf],
    kit: &Kit,
    wanted: &Wanted,
    stride: u64,
) -> Result<Lengths> {
    let mut lengths =
        Lengths { template: kit.name.clone(), notices: kit.notices.clone(), ..Lengths::default() };
    for path in files {
        let read = source::read(path, &mut |row| {
            lengths.total += 1;
            if (lengths.total - 1).is_multiple_of(stride) {
                match length(info, kit, wanted, &row.value) {
                    Some((all, trained)) => {
                        *lengths.rows.entry(all).or_default() += 1;
                        lengths.trained += trained as u64;
                        lengths.measured += 1;
                    }
                    None => lengths.bad += 1,
                }
            }
            Ok(true)
        });
        read.map_err(|error| LibraryError::wrong("dataset", error.to_string()))?;
    }
    Ok(lengths)
}

/// Tokens of a row, and how many of them are trained; `None` where it cannot be used.
fn length(info: &DatasetInfo, kit: &Kit, wanted: &Wanted, row: &Value) -> Option<(usize, usize)> {
    let example = match convert(info, row).ok()? {
        Converted::Tokens(row) => {
            let trained = row.labels.iter().filter(|label| **label != IGNORE).count();
            return Some((row.input_ids.len(), trained));
        }
        Converted::Example(example) => example,
    };
    if wanted.pretraining {
        let bos = kit.tokenizer.adds_bos();
        let ids = encode::pretraining(&kit.tokenizer, &kit.template, &example, bos).ok()?;
        return Some((ids.len(), ids.len()));
    }
    let how = Labelling {
        cutoff_len: UNCUT,
        train_on_prompt: wanted.train_on_prompt,
        mask_history: wanted.mask_history,
    };
    let encoded = encode::supervised(&kit.tokenizer, &kit.template, &example, how).ok()?;
    let trained = encoded.row.labels.iter().filter(|label| **label != IGNORE).count();
    Some((encoded.row.input_ids.len(), trained))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(rows: &[(usize, u64)]) -> Lengths {
        let measured = rows.iter().map(|(_, count)| count).sum();
        Lengths { rows: rows.iter().copied().collect(), measured, bad: 2, ..Lengths::default() }
    }

    #[test]
    fn cuts_and_quantiles() {
        let some = lengths(&[(10, 3), (20, 1), (100, 1)]);
        let check = |cutoff, kept, truncated, tokens, lost| {
            assert_eq!(some.cut(cutoff), Cut { kept, truncated, dropped: 2, tokens, lost });
        };
        check(100, 5, 0, 150, 0);
        check(20, 4, 1, 70, 80);
        check(1, 0, 5, 5, 145);
        assert_eq!((some.quantile(0.5), some.quantile(0.8), some.quantile(1.0)), (10, 20, 100));
        assert!((some.mean() - 30.0).abs() < 1e-9);
        assert_eq!(lengths(&[]).quantile(0.5), 0);
    }

    #[test]
    fn bars_have_round_widths() {
        for (longest, expected) in [(0, 1), (47, 1), (48, 2), (100, 5), (2047, 50), (131_072, 5000)]
        {
            assert_eq!(width(longest), expected, "{longest}");
        }
        let bars = lengths(&[(0, 1), (7, 2), (99, 1)]).bars();
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), 4);
        assert_eq!(bars.last().map(|bar| (bar.from, bar.to)), Some((95, 99)));
        assert!(bars.len() <= BARS + 1);
    }
}
