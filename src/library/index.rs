//! Where the rows of a file lie: a mark every so many rows, so that any page is read without what stands before it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use engine::data::source;
use serde_json::{Map, Value};

/// Rows from one mark to the next.
const STRIDE: u64 = 64;

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    offset: u64,
    /// From 1.
    line: u64,
}

/// How rows follow each other in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// Elements of one JSON array.
    Array,
    /// One JSON value a line; empty lines are passed over.
    Lines,
    /// One row a line, of text.
    Text,
    /// One JSON value in all.
    Single,
    /// A table with these columns.
    Csv(Vec<String>),
    /// Read by the engine from its beginning.
    Other,
}

/// The rows of a file.
#[derive(Debug, Clone)]
pub struct FileIndex {
    layout: Layout,
    marks: Vec<Mark>,
    /// How many there are, up to where the file is broken.
    pub rows: u64,
    /// Why the rest cannot be read, with its line.
    pub broken: Option<String>,
}

/// One row as it stands in its file.
#[derive(Debug, Clone)]
pub struct Found {
    /// From 1.
    pub row: u64,
    /// The line it begins on, from 1.
    pub line: u64,
    /// The row, or why it is none.
    pub value: Result<Value, String>,
    /// Its bytes as text where it is none.
    pub text: String,
}

/// Finds the rows of a file.
///
/// # Errors
/// Where the file cannot be read.
pub fn build(path: &Path) -> io::Result<FileIndex> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let mut scan = Scan::open(path, Mark { offset: 0, line: 1 })?;
    match ending {
        "jsonl" => scan.lines(true),
        "txt" => scan.lines(false),
        "json" => scan.json(),
        "csv" => csv_rows(path),
        _ => Ok(other(path)),
    }
}

/// Rows `from` (from 0) and the `count - 1` after it.
///
/// # Errors
/// Where the file cannot be read.
pub fn read(path: &Path, index: &FileIndex, from: u64, count: usize) -> io::Result<Vec<Found>> {
    if from >= index.rows || count == 0 {
        return Ok(Vec::new());
    }
    let first = from / STRIDE;
    let mark = usize::try_from(first).ok().and_then(|at| index.marks.get(at)).copied();
    let Some(mark) = mark else {
        return Ok(read_other(path, from, count));
    };
    let skip = usize::try_from(from - first * STRIDE).unwrap_or(usize::MAX);
    let left = usize::try_from(index.rows - from).unwrap_or(usize::MAX);
    let (count, start) = (count.min(left), first * STRIDE);
    if let Layout::Csv(columns) = &index.layout {
        return read_csv(path, columns, mark, start, skip, count);
    }
    let mut scan = Scan::open(path, mark)?;
    let mut found = Vec::with_capacity(count);
    let mut bytes = Vec::new();
    for place in 0..skip + count {
        bytes.clear();
        let Some(line) = scan.next_row(&index.layout, Some(&mut bytes))? else {
            break;
        };
        if place < skip {
            continue;
        }
        let value = match index.layout {
            Layout::Text => text_row(&bytes),
            _ => serde_json::from_slice(&bytes).map_err(|error| format!("wrong JSON: {error}")),
        };
        let text = match &value {
            Ok(_) => String::new(),
            Err(_) => String::from_utf8_lossy(bytes.get(..2000).unwrap_or(&bytes)).into_owned(),
        };
        found.push(Found { row: start + place as u64 + 1, line, value, text });
    }
    Ok(found)
}

fn text_row(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not valid UTF-8".to_owned())?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    Ok(Value::Object(Map::from_iter([("text".to_owned(), Value::from(text))])))
}

/// A walk over a file's bytes that knows where it is.
struct Scan {
    reader: BufReader<File>,
    at: Mark,
}

impl Scan {
    fn open(path: &Path, at: Mark) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(at.offset))?;
        let mut scan = Self { reader: BufReader::with_capacity(1 << 18, file), at };
        if at.offset == 0 && scan.reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
            scan.reader.consume(3);
            scan.at.offset = 3;
        }
        Ok(scan)
    }

    fn json(&mut self) -> io::Result<FileIndex> {
        match self.blank()? {
            None => Ok(self.finish(Layout::Array, Vec::new(), 0, None)),
            Some(b'[') => {
                self.skip();
                self.walk(Layout::Array)
            }
            Some(_) => {
                let start = self.at;
                let mut first = Vec::new();
                self.line(Some(&mut first))?;
                let whole = serde_json::from_slice::<serde::de::IgnoredAny>(&first).is_ok();
                self.reader.seek(SeekFrom::Start(start.offset))?;
                self.at = start;
                if whole {
                    return self.walk(Layout::Lines);
                }
                Ok(self.finish(Layout::Single, vec![start], 1, None))
            }
        }
    }

    fn lines(&mut self, json: bool) -> io::Result<FileIndex> {
        self.walk(if json { Layout::Lines } else { Layout::Text })
    }

    /// Every row from here on, marked.
    fn walk(&mut self, layout: Layout) -> io::Result<FileIndex> {
        let (mut marks, mut rows) = (Vec::new(), 0);
        loop {
            let before = self.at;
            match self.next_row(&layout, None) {
                Ok(Some(_)) => {
                    if rows % STRIDE == 0 {
                        marks.push(before);
                    }
                    rows += 1;
                }
                Ok(None) => return Ok(self.finish(layout, marks, rows, None)),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Ok(self.finish(layout, marks, rows, Some(error.to_string())));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn finish(
        &self,
        layout: Layout,
        marks: Vec<Mark>,
        rows: u64,
        broken: Option<String>,
    ) -> FileIndex {
        FileIndex { layout, marks, rows, broken }
    }

    /// Passes the next row, keeps its bytes where asked to, and gives the line that it begins on; `None` at the end.
    fn next_row(&mut self, layout: &Layout, keep: Option<&mut Vec<u8>>) -> io::Result<Option<u64>> {
        match layout {
            Layout::Text => {
                let line = self.at.line;
                Ok((self.line(keep)? > 0).then_some(line))
            }
            Layout::Lines => {
                if self.blank()?.is_none() {
                    return Ok(None);
                }
                let line = self.at.line;
                self.line(keep)?;
                Ok(Some(line))
            }
            Layout::Array => {
                if self.blank()? == Some(b',') {
                    self.skip();
                }
                match self.blank()? {
                    Some(b']') => return Ok(None),
                    None => return Err(self.broken("the array of rows is not closed")),
                    Some(_) => {}
                }
                let line = self.at.line;
                self.element(keep)?;
                Ok(Some(line))
            }
            Layout::Single => {
                let line = self.at.line;
                let mut rest = Vec::new();
                let read = self.reader.read_to_end(keep.unwrap_or(&mut rest))?;
                self.at.offset += read as u64;
                Ok((read > 0).then_some(line))
            }
            Layout::Csv(_) | Layout::Other => Ok(None),
        }
    }

    /// The next byte that is no white space, unread.
    fn blank(&mut self) -> io::Result<Option<u8>> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let Some(byte) = buffer.first().copied() else {
                return Ok(None);
            };
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            if byte == b'\n' {
                self.at.line += 1;
            }
            self.skip();
        }
    }

    fn skip(&mut self) {
        self.reader.consume(1);
        self.at.offset += 1;
    }

    /// Up to and with the next line break; how many bytes that were.
    fn line(&mut self, mut keep: Option<&mut Vec<u8>>) -> io::Result<usize> {
        let mut read = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(read);
            }
            let end = buffer.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
            let used = end.unwrap_or(buffer.len());
            if let (Some(keep), Some(part)) = (keep.as_deref_mut(), buffer.get(..used)) {
                keep.extend_from_slice(part);
            }
            self.reader.consume(used);
            self.at.offset += used as u64;
            read += used;
            if end.is_some() {
                self.at.line += 1;
                return Ok(read);
            }
        }
    }

    /// One element of an array, up to the comma or bracket that ends it.
    fn element(&mut self, mut keep: Option<&mut Vec<u8>>) -> io::Result<()> {
        let mut depth = 0_usize;
        let (mut in_text, mut escaped) = (false, false);
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Err(self.broken("the file ends inside a row"));
            }
            let mut end = None;
            for (place, byte) in buffer.iter().enumerate() {
                match byte {
                    b'\n' => self.at.line += 1,
                    _ if escaped => escaped = false,
                    b'\\' if in_text => escaped = true,
                    b'"' => in_text = !in_text,
                    _ if in_text => {}
                    b'{' | b'[' => depth += 1,
                    b',' | b']' if depth == 0 => {
                        end = Some(place);
                        break;
                    }
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            let used = end.unwrap_or(buffer.len());
            if let (Some(keep), Some(part)) = (keep.as_deref_mut(), buffer.get(..used)) {
                keep.extend_from_slice(part);
            }
            self.reader.consume(used);
            self.at.offset += used as u64;
            if end.is_some() {
                return Ok(());
            }
        }
    }

    fn broken(&self, what: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {what}", self.at.line))
    }
}

fn csv_rows(path: &Path) -> io::Result<FileIndex> {
    let mut table = csv::Reader::from_path(path).map_err(io::Error::other)?;
    let header = match table.headers() {
        Ok(header) => header.iter().map(str::to_owned).collect(),
        Err(error) => {
            let broken = Some(format!("line 1: not valid CSV: {error}"));
            return Ok(FileIndex { layout: Layout::Other, marks: Vec::new(), rows: 0, broken });
        }
    };
    let mut index =
        FileIndex { layout: Layout::Csv(header), marks: Vec::new(), rows: 0, broken: None };
    let mut record = csv::StringRecord::new();
    loop {
        match table.read_record(&mut record) {
            Ok(true) => {
                let place = record.position().map(|at| (at.byte(), at.line()));
                let (offset, line) = place.unwrap_or_default();
                if index.rows.is_multiple_of(STRIDE) {
                    index.marks.push(Mark { offset, line });
                }
                index.rows += 1;
            }
            Ok(false) => return Ok(index),
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                index.broken = Some(format!("line {line}: not valid CSV: {error}"));
                return Ok(index);
            }
        }
    }
}

fn read_csv(
    path: &Path,
    columns: &[String],
    mark: Mark,
    start: u64,
    skip: usize,
    count: usize,
) -> io::Result<Vec<Found>> {
    let mut table = csv::Reader::from_path(path).map_err(io::Error::other)?;
    let mut at = csv::Position::new();
    at.set_byte(mark.offset).set_line(mark.line).set_record(start + 1);
    table.headers().map_err(io::Error::other)?;
    table.seek(at).map_err(io::Error::other)?;
    let mut found = Vec::with_capacity(count);
    for (place, record) in table.records().take(skip + count).enumerate().skip(skip) {
        let record = record.map_err(io::Error::other)?;
        let cell = |(name, cell): (&String, &str)| {
            (name.clone(), if cell.is_empty() { Value::Null } else { Value::from(cell) })
        };
        let value = Value::Object(columns.iter().zip(record.iter()).map(cell).collect());
        let line = record.position().map_or(mark.line, csv::Position::line);
        let row = start + place as u64 + 1;
        found.push(Found { row, line, value: Ok(value), text: String::new() });
    }
    Ok(found)
}

/// A kind of file that only the engine reads: counted, without marks.
fn other(path: &Path) -> FileIndex {
    let mut rows = 0;
    let read = source::read(path, &mut |_| {
        rows += 1;
        Ok(true)
    });
    let broken = read.err().map(|error| error.to_string());
    FileIndex { layout: Layout::Other, marks: Vec::new(), rows, broken }
}

fn read_other(path: &Path, from: u64, count: usize) -> Vec<Found> {
    let mut found = Vec::with_capacity(count);
    // what is broken further on was told when the file was counted
    let _ = source::read(path, &mut |row| {
        if row.row > from {
            let (number, line) = (row.row, row.line);
            found.push(Found { row: number, line, value: Ok(row.value), text: String::new() });
        }
        Ok(found.len() < count)
    });
    found
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(name: &str, text: &str, rows: u64, broken: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let index = build(&path).unwrap();
        assert_eq!(index.rows, rows, "{name}: {text:.60}");
        match (&index.broken, broken) {
            (Some(found), Some(part)) => assert!(found.contains(part), "{name}: {found}"),
            (found, part) => assert_eq!(found.is_some(), part.is_some(), "{name}: {found:?}"),
        }
        // the engine reads the same rows at the same lines
        let mut engine = Vec::new();
        let _ = source::read(&path, &mut |row| {
            engine.push((row.row, row.line, row.value));
            Ok(true)
        });
        for from in [0, 1, 63, 64, 65, 130] {
            let here: Vec<_> = read(&path, &index, from, 3)
                .unwrap()
                .into_iter()
                .filter_map(|found| Some((found.row, found.line, found.value.ok()?)))
                .collect();
            let start = usize::try_from(from).unwrap().min(engine.len());
            let expected = &engine[start..engine.len().min(start + 3)];
            assert_eq!(here, expected, "{name} from {from}");
        }
    }

    #[test]
    fn the_engine_and_the_index_agree() {
        let many = |open: &str, between: &str, close: &str| {
            let row = |n: usize| format!("{{\"n\": {n}, \"t\": \"a,]}}\\\"[\\n\"}}");
            let rows: Vec<_> = (0..200).map(row).collect();
            format!("{open}{}{close}", rows.join(between))
        };
        check("a.json", &many("[", ",", "]"), 200, None);
        check("a.json", &many("\u{feff}\n [\n", "\n ,\n\n", "\n]\n"), 200, None);
        check("a.json", &many("", "\n", "\n"), 200, None);
        check("a.jsonl", &many("\n\n", "\n\n  \n", ""), 200, None);
        check("a.jsonl", &many("\u{feff}", "\r\n", "\r\n"), 200, None);
        check("a.json", "{\n\"a\": 1\n}\n", 1, None);
        check("a.json", "[]", 0, None);
        check("a.json", "", 0, None);
        check("a.json", "[{\"a\": 1},\n{\"a\": ", 1, Some("line 2"));
        check("a.json", "[{\"a\": 1},\n{\"a\": 2}", 1, Some("ends inside a row"));
        check("a.txt", "one\n\ntwo\r\nthree", 4, None);
        let mut table = "a,b\n".to_owned();
        for n in 0..200 {
            table += &format!("{n},\"x, \"\"y\"\"\nz\"\n");
        }
        check("a.csv", &table, 200, None);
        check("a.csv", "a,b\n1,2\n3\n", 1, Some("line 3"));
        check("a.csv", "", 0, None);
    }

    #[test]
    fn a_broken_line_does_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, "{\"a\": 1}\n{oops\n{\"a\": 3}\n").unwrap();
        let index = build(&path).unwrap();
        let rows = read(&path, &index, 0, 10).unwrap();
        assert_eq!(rows.len(), 3);
        assert!(rows[1].value.is_err() && rows[1].text.contains("oops") && rows[1].line == 2);
        assert_eq!(rows[2].value, Ok(serde_json::json!({"a": 3})));
    }
}
