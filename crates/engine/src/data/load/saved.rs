//! `tokenized_path`: encoded rows as the `datasets` library keeps them (`save_to_disk`), which is what
//! LLaMA-Factory reads and writes.
//!
//! A folder of a `dataset_dict.json` and a folder for each split, of Arrow files and two descriptions.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::super::encode::{IGNORE, Row};
use super::super::error::DataError;
use super::super::source::arrow::{self, Column};
use super::Dataset;

const SPLITS: &str = "dataset_dict.json";
const STATE: &str = "state.json";
const DATA: &str = "data-00000-of-00001.arrow";
/// The name of an evaluation set, or what stands before it.
const VALIDATION: &str = "validation";

/// Whether encoded rows are to be read from `path`: there is something in it.
#[must_use]
pub fn is_saved(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

/// Writes the rows into the folder `path`; packs are padded with `pad`.
///
/// # Errors
/// When the folder cannot be written to; it is then as it was.
pub fn save(path: &Path, dataset: &Dataset, pad: u32) -> Result<(), DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!("{}{name}", run::atomic::TEMPORARY));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(DataError::file(&partial))?;
    }
    let eval_name = |name: &str| match name {
        "" => VALIDATION.to_string(),
        name => format!("{VALIDATION}_{name}"),
    };
    let train = Some(("train".to_string(), &dataset.train)).filter(|(_, rows)| !rows.is_empty());
    let eval = dataset.eval.iter().map(|(name, rows)| (eval_name(name), rows));
    let splits: Vec<_> = train.into_iter().chain(eval).collect();
    for (name, rows) in &splits {
        write_split(&partial.join(name), rows, pad)?;
    }
    let names: Vec<&String> = splits.iter().map(|(name, _)| name).collect();
    write_json(&partial.join(SPLITS), &json!({ "splits": names }))?;
    fs::rename(&partial, path).map_err(DataError::file(path))
}

fn write_split(dir: &Path, rows: &[Row], pad: u32) -> Result<(), DataError> {
    fs::create_dir_all(dir).map_err(DataError::file(dir))?;
    let padding = |row: &Row, with: i64| std::iter::repeat_n(with, row.padding);
    let ids = |i: usize| {
        let ids = rows[i].input_ids.iter().map(|id| i64::from(*id));
        ids.chain(padding(&rows[i], i64::from(pad))).collect()
    };
    let mask = |i: usize| rows[i].attention_mask().into_iter().map(i64::from).collect();
    let labels = |i: usize| {
        let labels = rows[i].labels.iter().map(|label| i64::from(*label));
        labels.chain(padding(&rows[i], i64::from(IGNORE))).collect()
    };
    let positions = |i: usize| rows[i].position_ids().into_iter().map(i64::from).collect();
    let mut columns = vec![
        Column { name: "input_ids", bytes: 4, list: &ids },
        Column { name: "attention_mask", bytes: 1, list: &mask },
        Column { name: "labels", bytes: 8, list: &labels },
    ];
    if rows.iter().any(|row| !row.segments.is_empty()) {
        columns.push(Column { name: "position_ids", bytes: 8, list: &positions });
    }
    let path = dir.join(DATA);
    let file = File::create(&path).map_err(DataError::file(&path))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let written = arrow::write(&mut out, rows.len(), &columns).and_then(|()| out.flush());
    written.and_then(|()| out.get_ref().sync_all()).map_err(DataError::file(&path))?;
    let feature = |column: &Column<'_>| {
        let value = json!({ "dtype": format!("int{}", 8 * column.bytes), "_type": "Value" });
        // Releases before 4 know no `List`; later ones read `Sequence` too.
        (column.name.to_string(), json!({ "feature": value, "_type": "Sequence" }))
    };
    let features: Map<String, Value> = columns.iter().map(feature).collect();
    let info = json!({ "citation": "", "description": "", "features": features, "homepage": "", "license": "" });
    write_json(&dir.join("dataset_info.json"), &info)?;
    let print = blake3::hash(fs::read(&path).map_err(DataError::file(&path))?.as_slice());
    let state = json!({
        "_data_files": [{ "filename": DATA }], "_fingerprint": &print.to_hex()[..16],
        "_format_columns": null, "_format_kwargs": {}, "_format_type": null,
        "_output_all_columns": false, "_split": null,
    });
    write_json(&dir.join(STATE), &state)
}

fn write_json(path: &Path, value: &Value) -> Result<(), DataError> {
    fs::write(path, format!("{value:#}\n")).map_err(DataError::file(path))
}

/// Reads the rows that [`save`] or LLaMA-Factory wrote: a folder of splits, or one split.
///
/// # Errors
/// When a file is missing or broken, or no training rows are there.
pub fn load(path: &Path) -> Result<Dataset, DataError> {
    let mut dataset = Dataset::default();
    let index = path.join(SPLITS);
    if !index.is_file() {
        dataset.train = read_split(path)?;
        return Ok(dataset);
    }
    let index_value = read_json(&index)?;
    let names = index_value.get("splits").and_then(Value::as_array);
    let names = names
        .ok_or_else(|| DataError::invalid(format!("{}: names no `splits`", index.display())))?;
    for name in names.iter().filter_map(Value::as_str) {
        let plain = Path::new(name).components().count() == 1 && !name.starts_with('.');
        if !plain {
            return Err(DataError::invalid(format!(
                "{}: {name} is no folder here",
                index.display()
            )));
        }
        let rows = read_split(&path.join(name))?;
        match name.strip_prefix(VALIDATION) {
            Some(rest) => dataset.eval.push((rest.trim_start_matches('_').to_string(), rows)),
            None if name == "train" => dataset.train = rows,
            None => dataset.report.notices.push(format!("{}: {name} is not used", path.display())),
        }
    }
    Ok(dataset)
}

fn read_json(path: &Path) -> Result<Value, DataError> {
    let bytes = fs::read(path).map_err(DataError::file(path))?;
    serde_json::from_slice(&bytes).map_err(|e| DataError::Broken {
        path: path.to_path_buf(),
        line: e.line() as u64,
        reason: format!("wrong JSON: {e}"),
    })
}

fn read_split(dir: &Path) -> Result<Vec<Row>, DataError> {
    let state = dir.join(STATE);
    if !state.is_file() {
        return Err(DataError::invalid(format!(
            "tokenized_path: {} is not there, so the folder holds no encoded rows; name an empty or new folder to \
             have them written",
            state.display()
        )));
    }
    let state = read_json(&state)?;
    let listed = state.get("_data_files").and_then(Value::as_array);
    let names = listed.into_iter().flatten().filter_map(|file| file.get("filename")?.as_str());
    let files: Vec<PathBuf> =
        names.filter_map(|name| Some(dir.join(Path::new(name).file_name()?))).collect();
    let mut rows = Vec::new();
    for path in files {
        let file = File::open(&path).map_err(DataError::file(&path))?;
        arrow::read(&path, &file, &mut |raw| {
            let row = row(&raw.value).map_err(|reason| {
                DataError::invalid(format!("{}: row {}: {reason}", path.display(), raw.row))
            })?;
            rows.push(row);
            Ok(true)
        })?;
    }
    Ok(rows)
}

/// A row with its padding taken off.
fn row(value: &Value) -> Result<Row, String> {
    let list = |name: &str| -> Result<Option<Vec<i64>>, String> {
        match value.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(list) => {
                let numbers = list.as_array().map(|list| list.iter().map(Value::as_i64).collect());
                numbers.flatten().map(Some).ok_or_else(|| format!("`{name}` is no list of numbers"))
            }
        }
    };
    let ids = list("input_ids")?.ok_or("column `input_ids` is missing")?;
    let labels = list("labels")?.ok_or("column `labels` is missing")?;
    let mask = list("attention_mask")?.unwrap_or_else(|| vec![1; ids.len()]);
    let positions = list("position_ids")?;
    let lengths = [labels.len(), mask.len(), positions.as_ref().map_or(ids.len(), Vec::len)];
    if lengths.iter().any(|length| *length != ids.len()) {
        return Err(format!("its columns have {} and {lengths:?} entries", ids.len()));
    }
    let mut row = Row {
        input_ids: ids
            .iter()
            .map(|id| u32::try_from(*id))
            .collect::<Result<_, _>>()
            .map_err(|_| "an id is negative")?,
        labels: labels
            .iter()
            .map(|label| i32::try_from(*label))
            .collect::<Result<_, _>>()
            .map_err(|_| "a label is too large")?,
        neat: mask.iter().any(|segment| *segment > 1),
        ..Row::default()
    };
    if row.labels.iter().any(|label| *label < 0 && *label != IGNORE) {
        return Err("a label is negative".into());
    }
    // Padding has mask 0; in a plain pack it has mask 1 and stays at position 0.
    let padded = |i: &usize| {
        mask[*i] == 0
            || (!row.neat
                && labels[*i] == i64::from(IGNORE)
                && *i > 0
                && positions.as_ref().is_some_and(|p| p[*i] == 0))
    };
    row.padding = (0..ids.len()).rev().take_while(padded).count();
    let length = ids.len() - row.padding;
    if let Some(positions) = positions {
        let starts: Vec<usize> = (0..length).filter(|i| positions[*i] == 0).collect();
        let ends = starts.iter().skip(1).copied().chain([length]);
        row.segments = starts.iter().zip(ends).map(|(start, end)| end - start).collect();
    }
    row.input_ids.truncate(length);
    row.labels.truncate(length);
    Ok(row)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn pack(segments: &[usize], neat: bool, padding: usize) -> Row {
        let length: usize = segments.iter().sum();
        Row {
            input_ids: (1..=length as u32).collect(),
            labels: (0..length as i32).map(|i| if i % 2 == 0 { IGNORE } else { i }).collect(),
            segments: segments.to_vec(),
            neat,
            padding,
        }
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let plain = Row { segments: Vec::new(), ..pack(&[3], false, 0) };
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, dataset: &Dataset| {
            let path = folder.path().join(name);
            assert!(!is_saved(&path));
            save(&path, dataset, 0).unwrap();
            assert!(is_saved(&path));
            let read = load(&path).unwrap();
            assert_eq!((&read.train, &read.eval), (&dataset.train, &dataset.eval), "{name}");
        };
        let many = vec![plain.clone(); 2345];
        let eval = vec![(String::new(), vec![plain.clone()])];
        check("plain", &Dataset { train: many, eval, ..Dataset::default() });
        let packs = vec![pack(&[3, 2, 4], true, 5), pack(&[1, 8], true, 0)];
        let eval = vec![("a".to_string(), vec![plain.clone()]), ("b".to_string(), vec![plain])];
        check("neat", &Dataset { train: packs, eval, ..Dataset::default() });
        let packs = vec![pack(&[3, 2, 4], false, 5), pack(&[9], false, 0)];
        check("packed", &Dataset { train: packs, ..Dataset::default() });
    }

    #[test]
    fn what_is_no_row_is_named() {
        let check = |value: Value, part: &str| {
            let error = row(&value).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        check(json!({"labels": [1]}), "`input_ids` is missing");
        check(json!({"input_ids": [1]}), "`labels` is missing");
        check(json!({"input_ids": [1], "labels": [1, 2]}), "entries");
        check(json!({"input_ids": [-1], "labels": [1]}), "negative");
        check(json!({"input_ids": [1], "labels": [-1]}), "negative");
        check(json!({"input_ids": "x", "labels": [-1]}), "no list");
    }
}
