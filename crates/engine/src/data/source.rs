//! Reading the rows of dataset files one by one: .json, .jsonl, .csv, .txt, .parquet and .arrow, alone or as a folder
//! of them.

pub(super) mod arrow;
mod json;
mod parquet;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::DataError;

/// A row as it stands in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct RawRow {
    /// The row, usually a JSON object.
    pub value: Value,
    /// Its place among the rows of its file, from 1.
    pub row: u64,
    /// The line where it begins, from 1; 0 in a file that has no lines.
    pub line: u64,
}

/// Takes a row; `false` ends the reading.
pub type Sink<'a> = dyn FnMut(RawRow) -> Result<bool, DataError> + 'a;

/// The type of a file, by its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    JsonLines,
    Csv,
    Text,
    Parquet,
    Arrow,
}

/// Files that make up a dataset: the file itself, or the files of a directory in the order of their names.
///
/// # Errors
/// When there is none, or the types differ or are not supported.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(DataError::file(path))? {
            let entry = entry.map_err(DataError::file(path))?;
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if !hidden && entry.path().is_file() {
                files.push(entry.path());
            }
        }
        files.sort();
        if files.is_empty() {
            return Err(DataError::invalid(format!(
                "{}: the directory has no files",
                path.display()
            )));
        }
    } else if path.is_file() {
        files.push(path.to_path_buf());
    } else {
        return Err(DataError::invalid(format!("File {} not found.", path.display())));
    }
    let family = |kind: Kind| {
        if kind == Kind::JsonLines { Kind::Json } else { kind }
    };
    let first = kind(&files[0])?;
    for file in &files {
        if family(kind(file)?) != family(first) {
            return Err(DataError::invalid(format!(
                "{}: File types should be identical. ({} differs from {})",
                path.display(),
                file.display(),
                files[0].display()
            )));
        }
    }
    Ok(files)
}

fn kind(path: &Path) -> Result<Kind, DataError> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("json") => Ok(Kind::Json),
        Some("jsonl") => Ok(Kind::JsonLines),
        Some("csv") => Ok(Kind::Csv),
        Some("txt") => Ok(Kind::Text),
        Some("parquet") => Ok(Kind::Parquet),
        Some("arrow") => Ok(Kind::Arrow),
        _ => Err(DataError::invalid(format!(
            "{}: Allowed file types: arrow,csv,json,jsonl,parquet,txt.",
            path.display()
        ))),
    }
}

/// Reads the rows of one file in order and gives each to `sink`.
///
/// # Errors
/// When the file cannot be read or is broken; the error names the line.
pub fn read(path: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let file = File::open(path).map_err(DataError::file(path))?;
    match kind(path)? {
        Kind::Parquet => return parquet::read(path, file, sink),
        Kind::Arrow => return arrow::read(path, &file, sink),
        _ => {}
    }
    let mut reader = BufReader::with_capacity(1 << 20, file);
    skip_byte_order_mark(&mut reader).map_err(DataError::file(path))?;
    match kind(path)? {
        Kind::Json => json::read(path, &mut reader, sink),
        Kind::JsonLines => json::read_lines(path, &mut reader, sink),
        Kind::Csv => read_csv(path, reader, sink),
        Kind::Text | Kind::Parquet | Kind::Arrow => read_text(path, &mut reader, sink),
    }
}

fn skip_byte_order_mark(reader: &mut impl BufRead) -> std::io::Result<()> {
    if reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    Ok(())
}

/// A table with a header; every cell is a text, an empty one null.
fn read_csv(path: &Path, reader: impl BufRead, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let broken = |e: csv::Error| DataError::Broken {
        path: path.to_path_buf(),
        line: e.position().map_or(1, csv::Position::line),
        reason: format!("not valid CSV: {e}"),
    };
    let mut table = csv::Reader::from_reader(reader);
    let header = table.headers().map_err(broken)?.clone();
    for (i, record) in table.records().enumerate() {
        let record = record.map_err(broken)?;
        let cell = |(name, cell): (&str, &str)| {
            let value = if cell.is_empty() { Value::Null } else { Value::from(cell) };
            (name.to_string(), value)
        };
        let value = Value::Object(header.iter().zip(record.iter()).map(cell).collect());
        let line = record.position().map_or(i as u64 + 2, csv::Position::line);
        if !sink(RawRow { value, row: i as u64 + 1, line })? {
            break;
        }
    }
    Ok(())
}

/// Every line is a row with the column `text`.
fn read_text(path: &Path, reader: &mut impl BufRead, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    for row in 1.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(DataError::file(path))? == 0 {
            break;
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| DataError::Broken {
            path: path.to_path_buf(),
            line: row,
            reason: "not valid UTF-8".to_string(),
        })?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let value = Value::Object(Map::from_iter([("text".to_string(), Value::from(text))]));
        if !sink(RawRow { value, row, line: row })? {
            break;
        }
    }
    Ok(())
}
