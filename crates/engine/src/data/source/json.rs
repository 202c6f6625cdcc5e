//! JSON rows without holding a whole file: an array is walked element by element, a .jsonl file line by line.

use std::io::BufRead;
use std::path::Path;

use serde_json::Value;

use super::super::error::DataError;
use super::{RawRow, Sink};

/// Rows of a .json file: an array of them, one a line, or a single one.
pub(super) fn read(
    path: &Path,
    reader: &mut impl BufRead,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    let mut walk = Walk { path, reader, line: 1 };
    match walk.next_visible()? {
        None => Ok(()),
        Some(b'[') => {
            walk.skip();
            walk.elements(sink)
        }
        Some(_) => {
            let line = walk.line;
            single_or_lines(path, reader, line, sink)
        }
    }
}

/// Rows of a .jsonl file: one a line; empty lines are passed over.
pub(super) fn read_lines(
    path: &Path,
    reader: &mut impl BufRead,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    lines_from(path, reader, 1, sink)
}

fn lines_from(
    path: &Path,
    reader: &mut impl BufRead,
    first: u64,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    let mut row = 0;
    for line in first.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(DataError::file(path))? == 0 {
            break;
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        row += 1;
        if !sink(RawRow { value: parse(path, &bytes, line)?, row, line })? {
            break;
        }
    }
    Ok(())
}

/// A file that does not begin with `[`: rows one a line where the first line is a whole one, else one row.
fn single_or_lines(
    path: &Path,
    reader: &mut impl BufRead,
    line: u64,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    let mut first = Vec::new();
    reader.read_until(b'\n', &mut first).map_err(DataError::file(path))?;
    if serde_json::from_slice::<serde::de::IgnoredAny>(&first).is_ok() {
        let mut chained = std::io::Read::chain(first.as_slice(), reader);
        return lines_from(path, &mut chained, line, sink);
    }
    reader.read_to_end(&mut first).map_err(DataError::file(path))?;
    sink(RawRow { value: parse(path, &first, line)?, row: 1, line }).map(|_| ())
}

/// Parses one row whose first byte is on `line`.
fn parse(path: &Path, bytes: &[u8], line: u64) -> Result<Value, DataError> {
    serde_json::from_slice(bytes).map_err(|e| DataError::Broken {
        path: path.to_path_buf(),
        // A row that is cut short is wrong where it begins, not on the line after it.
        line: if e.is_eof() { line } else { line + (e.line() as u64).saturating_sub(1) },
        reason: format!("wrong JSON: {}", without_position(&e)),
    })
}

/// The error without serde's own line, which counts from the row's first line.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what} (column {})", error.column()),
        None => text,
    }
}

/// A place in a file of JSON.
struct Walk<'a, R> {
    path: &'a Path,
    reader: &'a mut R,
    line: u64,
}

impl<R: BufRead> Walk<'_, R> {
    /// The elements of an array whose `[` has been read.
    fn elements(&mut self, sink: &mut Sink<'_>) -> Result<(), DataError> {
        let mut element = Vec::new();
        for row in 1.. {
            if self.next_visible()? == Some(b']') {
                // Only an empty array, or a comma that most JSON readers would not take.
                if row > 1 {
                    return Err(self.broken("wrong JSON: a comma before the closing bracket"));
                }
                self.skip();
                return self.nothing_more();
            }
            let line = self.line;
            self.element(&mut element, line)?;
            let value = parse(self.path, &element, line)?;
            if !sink(RawRow { value, row, line })? {
                return Ok(());
            }
            match self.next_visible()? {
                Some(b',') => self.skip(),
                Some(b']') => {
                    self.skip();
                    return self.nothing_more();
                }
                _ => return Err(self.broken("wrong JSON: the array of rows is not closed")),
            }
        }
        Ok(())
    }

    /// Reads one element up to the comma or bracket that ends it, which stays unread.
    fn element(&mut self, element: &mut Vec<u8>, began: u64) -> Result<(), DataError> {
        element.clear();
        let mut depth = 0_usize;
        let (mut in_text, mut escaped) = (false, false);
        loop {
            let buffer = self.reader.fill_buf().map_err(DataError::file(self.path))?;
            if buffer.is_empty() {
                let reason =
                    format!("wrong JSON: the file ends inside the row that begins on line {began}");
                return Err(self.broken(&reason));
            }
            let mut end = None;
            for (i, byte) in buffer.iter().enumerate() {
                match byte {
                    b'\n' => self.line += 1,
                    _ if escaped => escaped = false,
                    b'\\' if in_text => escaped = true,
                    b'"' => in_text = !in_text,
                    _ if in_text => {}
                    b'{' | b'[' => depth += 1,
                    b',' | b']' if depth == 0 => end = Some(i),
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if end.is_some() {
                    break;
                }
            }
            let read = end.unwrap_or(buffer.len());
            element.extend_from_slice(&buffer[..read]);
            self.reader.consume(read);
            if end.is_some() {
                return Ok(());
            }
        }
    }

    /// The next byte that is not white space, unread.
    fn next_visible(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            let buffer = self.reader.fill_buf().map_err(DataError::file(self.path))?;
            let Some(byte) = buffer.first().copied() else {
                return Ok(None);
            };
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            if byte == b'\n' {
                self.line += 1;
            }
            self.reader.consume(1);
        }
    }

    fn skip(&mut self) {
        self.reader.consume(1);
    }

    fn nothing_more(&mut self) -> Result<(), DataError> {
        match self.next_visible()? {
            None => Ok(()),
            Some(_) => Err(self.broken("wrong JSON: there is text after the array of rows")),
        }
    }

    fn broken(&self, reason: &str) -> DataError {
        DataError::Broken {
            path: self.path.to_path_buf(),
            line: self.line,
            reason: reason.to_string(),
        }
    }
}
