//! Rows of an Arrow file, of the stream kind (`datasets` writes it) or the file kind: one record batch
//! in memory at a time.
//!
//! Format: <https://arrow.apache.org/docs/format/Columnar.html>, "Serialization and Interprocess
//! Communication".

mod batch;
mod flat;
mod schema;
mod write;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Map, Value};

use super::super::error::DataError;
use super::{RawRow, Sink};
use batch::Batch;
pub(super) use batch::text;
use flat::Table;
use schema::Field;
pub(in crate::data) use write::{Column, write};

/// What may be wrong inside a file, without the file's name.
pub(super) type Failed<T> = Result<T, String>;

/// The bytes that begin and end a file of the file kind.
const MAGIC: &[u8] = b"ARROW1";
/// Far above any real description of a batch.
const MAX_METADATA: usize = 256 << 20;
/// A record batch is in memory as a whole.
const MAX_BODY: u64 = 8 << 30;

const CUT: &str = "it is cut short";

/// Dictionaries by their ids.
pub(super) type Dictionaries = HashMap<i64, Vec<Value>>;

/// Takes the fields, the columns of a record batch and its number of rows; answers whether to go on.
type Each<'a> = dyn FnMut(&[Field], Vec<Vec<Value>>, usize) -> Failed<bool> + 'a;

/// Reads the rows in order and gives each to `sink`.
pub(in crate::data) fn read(
    path: &Path,
    file: &File,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    let mut row = 0;
    let mut outcome = Ok(());
    let read = batches(file, &mut |fields, columns, rows| {
        let mut columns: Vec<_> =
            fields.iter().zip(columns).map(|(f, c)| (&f.name, c.into_iter())).collect();
        for _ in 0..rows {
            row += 1;
            let cells = columns
                .iter_mut()
                .map(|(name, cells)| ((*name).clone(), cells.next().unwrap_or(Value::Null)));
            let value = Value::Object(Map::from_iter(cells));
            match sink(RawRow { value, row, line: 0 }) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => {
                    outcome = Err(error);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    });
    let wrong =
        |reason| DataError::invalid(format!("{}: wrong Arrow file: {reason}", path.display()));
    read.map_err(wrong)?;
    outcome
}

/// Calls `each` for every record batch.
fn batches(file: &File, each: &mut Each<'_>) -> Failed<()> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut state = Reader::default();
    if reader.fill_buf().map_err(|e| e.to_string())?.starts_with(MAGIC) {
        return blocks(file, &mut state, each);
    }
    while let Some(metadata) = next_metadata(&mut reader)? {
        let length = body_length(&metadata)?;
        let mut body = Vec::new();
        reader.by_ref().take(length).read_to_end(&mut body).map_err(|e| e.to_string())?;
        if body.len() as u64 != length {
            return Err(CUT.into());
        }
        if !state.message(&metadata, &body, each)? {
            return Ok(());
        }
    }
    if state.fields.is_none() { Err("it has no schema".into()) } else { Ok(()) }
}

/// The file kind: its footer names the schema and where the batches lie. (What stands in front of the
/// first batch differs between writers.)
fn blocks(file: &File, state: &mut Reader, each: &mut Each<'_>) -> Failed<()> {
    let io = |e: std::io::Error| e.to_string();
    let length = file.metadata().map_err(io)?.len();
    let mut tail = [0; 10];
    let at = length.checked_sub(10).ok_or(CUT)?;
    file.read_exact_at(&mut tail, at).map_err(io)?;
    if &tail[4..] != MAGIC {
        return Err(CUT.into());
    }
    let size = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let from = at.checked_sub(u64::from(size)).ok_or(CUT)?;
    if size as usize > MAX_METADATA {
        return Err(format!("its footer has {size} bytes"));
    }
    let mut footer = vec![0; size as usize];
    file.read_exact_at(&mut footer, from).map_err(io)?;
    let footer = Table::root(&footer)?;
    state.fields = Some(schema::fields(&footer.table(1)?.ok_or("it has no schema")?)?);
    for list in [2, 3] {
        // A block is an offset, a length in 32 bits (padded to 64) and the body's length.
        let list = footer.vector(list, 24)?;
        for i in 0..list.len {
            let offset = u64::try_from(list.i64(3 * i)?).map_err(|e| e.to_string())?;
            let mut reader = At { file, at: offset };
            let metadata = next_metadata(&mut reader)?.ok_or("a batch is missing")?;
            let size = body_length(&metadata)?;
            if size > length {
                return Err(CUT.into());
            }
            let mut body = vec![0; size as usize];
            file.read_exact_at(&mut body, reader.at).map_err(io)?;
            if !state.message(&metadata, &body, each)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A file from a place on.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(out, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn body_length(metadata: &[u8]) -> Failed<u64> {
    let length = u64::try_from(Table::root(metadata)?.i64(3)?).map_err(|_| "a negative length")?;
    if length > MAX_BODY {
        return Err(format!("a record batch of {length} bytes is too large"));
    }
    Ok(length)
}

/// What earlier messages said.
#[derive(Default)]
struct Reader {
    fields: Option<Vec<Field>>,
    dictionaries: Dictionaries,
}

impl Reader {
    /// Takes one message; answers whether to go on.
    fn message(&mut self, metadata: &[u8], body: &[u8], each: &mut Each<'_>) -> Failed<bool> {
        let message = Table::root(metadata)?;
        let header = message.table(2)?.ok_or("a message without a header")?;
        match (message.u8(1)?, &self.fields) {
            (1, _) => self.fields = Some(schema::fields(&header)?),
            (2, Some(fields)) => {
                let id = header.i64(0)?;
                let data = header.table(1)?.ok_or("a dictionary without data")?;
                let field = fields.iter().find_map(|f| f.of_dictionary(id));
                let field = field.ok_or("a dictionary that no column has")?.values();
                let values = Batch::new(&data, body, &self.dictionaries)?.column(&field)?;
                let known = self.dictionaries.entry(id).or_default();
                if header.u8(2)? == 0 {
                    known.clear();
                }
                known.extend(values);
            }
            (3, Some(fields)) => {
                let mut batch = Batch::new(&header, body, &self.dictionaries)?;
                let rows = batch.rows;
                let columns =
                    fields.iter().map(|field| batch.column(field)).collect::<Failed<Vec<_>>>()?;
                return each(fields, columns, rows);
            }
            (2 | 3, None) => return Err("a batch comes before the schema".into()),
            (other, _) => return Err(format!("a message of unknown type {other}")),
        }
        Ok(true)
    }
}

/// The description of the next message; `None` at the end.
fn next_metadata(reader: &mut impl Read) -> Failed<Option<Vec<u8>>> {
    let mut word = [0; 4];
    let mut length = || -> Failed<Option<u32>> {
        match reader.read_exact(&mut word) {
            Ok(()) => Ok(Some(u32::from_le_bytes(word))),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    };
    // Before 0.15 the length came without the word in front.
    let length = match length()? {
        Some(u32::MAX) => length()?,
        other => other,
    };
    let length = length.unwrap_or(0) as usize;
    if length == 0 {
        return Ok(None);
    }
    if length > MAX_METADATA {
        return Err("it does not begin as an Arrow file does".into());
    }
    let mut metadata = Vec::new();
    reader.take(length as u64).read_to_end(&mut metadata).map_err(|e| e.to_string())?;
    if metadata.len() != length {
        return Err(CUT.into());
    }
    Ok(Some(metadata))
}
