//! Rows that are token ids already.

use serde_json::{Map, Value};

use super::super::encode::{IGNORE, Row};
use super::super::error::RowError;

/// A row of {"input_ids", "labels"}, as they are. Whether the ids are in a vocabulary is checked by [`check_range`].
///
/// # Errors
/// When a column is missing or not a list of ids, or the lengths differ.
pub fn token_row(row: &Map<String, Value>) -> Result<Row, RowError> {
    let input_ids = numbers(row, "input_ids", 0)?;
    let labels = numbers(row, "labels", i64::from(IGNORE))?;
    if input_ids.len() != labels.len() {
        return Err(format!(
            "`input_ids` has {} entries and `labels` {}",
            input_ids.len(),
            labels.len()
        )
        .into());
    }
    if input_ids.is_empty() {
        return Err("`input_ids` is empty".into());
    }
    Ok(Row {
        input_ids: input_ids.into_iter().map(|id| id as u32).collect(),
        labels: labels.into_iter().map(|id| id as i32).collect(),
        ..Row::default()
    })
}

/// Whether all ids are below `vocab_size`.
///
/// # Errors
/// The first id that is not.
pub fn check_range(row: &Row, vocab_size: usize) -> Result<(), RowError> {
    let labels = row.labels.iter().filter(|label| **label != IGNORE).map(|label| *label as u32);
    match row.input_ids.iter().copied().chain(labels).find(|id| *id as usize >= vocab_size) {
        Some(id) => Err(format!("id {id} is outside the vocabulary of {vocab_size}").into()),
        None => Ok(()),
    }
}

/// A list of ids from 0, or exactly `also` where that is below 0.
fn numbers(row: &Map<String, Value>, column: &str, also: i64) -> Result<Vec<i64>, RowError> {
    let list = match row.get(column) {
        Some(Value::Array(list)) => list,
        Some(_) => return Err(format!("column `{column}` is not a list of ids").into()),
        None => return Err(format!("column `{column}` is missing").into()),
    };
    let id = |(i, value): (usize, &Value)| {
        let id = value.as_i64().filter(|id| (0..=i64::from(i32::MAX)).contains(id) || *id == also);
        id.ok_or_else(|| RowError(format!("`{column}`[{i}] is {value}, not an id")))
    };
    list.iter().enumerate().map(id).collect()
}
