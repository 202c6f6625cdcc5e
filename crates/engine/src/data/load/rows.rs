//! One dataset's rows, read and converted, good or bad. Bad rows keep their place until all have been mixed and split,
//! as in the reference, so that one of them does not move the others.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::super::convert::{Converted, convert, expected_columns};
use super::super::error::{DataError, RowError};
use super::super::info::{DatasetInfo, Formatting};
use super::super::order::Sampler;
use super::super::report::BadRow;
use super::super::source::{self, RawRow};
use super::{DataArgs, Stage};

/// A converted row and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Item {
    file: Arc<str>,
    row: u64,
    line: u64,
    /// The row, shared where mixing repeats it.
    pub(super) content: Arc<Result<Converted, RowError>>,
}

impl Item {
    /// The report of this row as a bad one.
    pub(super) fn bad(&self, reason: &RowError) -> BadRow {
        BadRow {
            file: self.file.to_string(),
            row: self.row,
            line: self.line,
            reason: reason.to_string(),
        }
    }
}

/// Whether a dataset's rows can be used in this stage.
pub(super) fn check(args: &DataArgs, info: &DatasetInfo) -> Result<(), DataError> {
    if info.ranking {
        return Err(DataError::invalid(format!(
            "The dataset is not applicable in the current training stage. ({} holds preference rows, `ranking: true`)",
            info.name
        )));
    }
    if args.stage == Stage::Pt && info.formatting == Formatting::Tokens && args.packs() {
        return Err(DataError::invalid(format!(
            "{}: rows of `formatting: tokens` cannot be packed in pretraining; set `packing: false`",
            info.name
        )));
    }
    Ok(())
}

/// Gives every row of a dataset to `sink`, which answers whether to go on.
pub(super) fn each(
    args: &DataArgs,
    info: &DatasetInfo,
    sink: &mut dyn FnMut(Item) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    walk(args, info, &mut |_, item| sink(item))
}

fn walk(
    args: &DataArgs,
    info: &DatasetInfo,
    sink: &mut dyn FnMut(&Value, Item) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    check(args, info)?;
    let mut more = true;
    for path in &source::files(&info.path)? {
        let file: Arc<str> = path.display().to_string().into();
        if !more {
            break;
        }
        source::read(path, &mut |RawRow { value, row, line }| {
            let content = Arc::new(convert(info, &value));
            more = sink(&value, Item { file: Arc::clone(&file), row, line, content })?;
            Ok(more)
        })?;
    }
    Ok(())
}

/// All rows of a dataset that `num_samples` and `max_samples` leave.
pub(super) fn read(
    args: &DataArgs,
    info: &DatasetInfo,
    sampler: &mut Sampler,
) -> Result<Vec<Item>, DataError> {
    let limit = if info.num_samples.is_none() { args.max_samples } else { None };
    let mut unseen: HashSet<&str> = expected_columns(info).into_iter().collect();
    let mut objects = false;
    let mut items = Vec::new();
    walk(args, info, &mut |value, item| {
        unseen.retain(|column| value.get(column).is_none());
        objects |= value.is_object();
        items.push(item);
        Ok(limit.is_none_or(|limit| items.len() < limit))
    })?;
    let Some(first) = items.first() else {
        return Err(DataError::invalid(format!(
            "{}: the dataset {} is empty",
            info.path.display(),
            info.name
        )));
    };
    if let Some(column) = unseen.iter().min().filter(|_| objects) {
        let reason = RowError(format!(
            "column `{column}` is missing; name the columns that the rows have under `columns` of {} in \
             dataset_info.json",
            info.name
        ));
        return Err(DataError::invalid(first.bad(&reason).to_string()));
    }
    if let Some(wanted) = info.num_samples {
        items =
            sampler.draw(items.len(), wanted).into_iter().map(|row| items[row].clone()).collect();
        items.truncate(args.max_samples.unwrap_or(usize::MAX));
    }
    Ok(items)
}
