//! Rows of a Parquet file: each column is read page by page, so that a few pages are in memory and
//! not a row group.
//!
//! Format: <https://parquet.apache.org/docs/file-format/>. Nested values are put together from
//! definition and repetition levels as the Dremel paper says.

mod decode;
mod leaf;
mod schema;
mod thrift;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::error::DataError;
use super::{RawRow, Sink};
use leaf::Leaf;
use schema::Node;
use thrift::Thrift;

/// What may be wrong inside a file, without the file's name.
type Failed<T> = Result<T, String>;

const MAGIC: &[u8] = b"PAR1";
/// Far above any real footer.
const MAX_FOOTER: usize = 512 << 20;

/// Reads the rows in order and gives each to `sink`.
pub(super) fn read(path: &Path, file: File, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let mut outcome = Ok(());
    let mut row = 0;
    let read = rows(file, &mut |value| {
        row += 1;
        match sink(RawRow { value, row, line: 0 }) {
            Ok(more) => more,
            Err(error) => {
                outcome = Err(error);
                false
            }
        }
    });
    let wrong =
        |reason| DataError::invalid(format!("{}: wrong Parquet file: {reason}", path.display()));
    read.map_err(wrong)?;
    outcome
}

/// Calls `each` with every row; it answers whether to go on.
fn rows(file: File, each: &mut dyn FnMut(Value) -> bool) -> Failed<()> {
    let footer = footer(&file)?;
    let (columns, leaves) = schema::read(footer.list(2)?)?;
    let file = Arc::new(file);
    for group in footer.list(4)? {
        let chunks = group.list(1)?;
        if chunks.len() != leaves.len() {
            return Err("a row group has another number of columns than the schema".into());
        }
        let mut readers = Vec::with_capacity(leaves.len());
        for (chunk, spec) in chunks.iter().zip(&leaves) {
            readers.push(Leaf::new(Arc::clone(&file), chunk, spec.clone())?);
        }
        for _ in 0..group.int(3)?.unwrap_or(0) {
            let mut row = Map::with_capacity(columns.len());
            for (name, node) in &columns {
                row.insert(name.clone(), assemble(node, &mut readers)?);
            }
            if !each(Value::Object(row)) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn footer(file: &File) -> Failed<Thrift> {
    let io = |e: std::io::Error| e.to_string();
    let length = file.metadata().map_err(io)?.len();
    let mut tail = [0; 8];
    let at = length.checked_sub(8).ok_or("it is too short")?;
    file.read_exact_at(&mut tail, at).map_err(io)?;
    if &tail[4..] != MAGIC {
        return Err("it does not end as a Parquet file does (cut short?)".into());
    }
    let size = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let from = at.checked_sub(u64::from(size)).ok_or("its footer is longer than the file")?;
    if size as usize > MAX_FOOTER {
        return Err(format!("its footer has {size} bytes"));
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, from).map_err(io)?;
    Ok(thrift::parse(&bytes)?.0)
}

/// The next value of a part of the schema.
fn assemble(node: &Node, leaves: &mut [Leaf]) -> Failed<Value> {
    match node {
        Node::Leaf(leaf) => leaves[*leaf].take(),
        Node::Struct(fields) => {
            let mut map = Map::with_capacity(fields.len());
            for (name, field) in fields {
                map.insert(name.clone(), assemble(field, leaves)?);
            }
            Ok(Value::Object(map))
        }
        Node::Optional { defined, inner } => {
            let (level, _) = leaves[inner.first_leaf()].levels()?;
            if level >= *defined {
                return assemble(inner, leaves);
            }
            skip(inner, leaves)?;
            Ok(Value::Null)
        }
        Node::Repeated { defined, repeated, inner } => {
            let first = inner.first_leaf();
            if leaves[first].levels()?.0 < *defined {
                skip(inner, leaves)?;
                return Ok(Value::Array(Vec::new()));
            }
            let mut items = Vec::new();
            loop {
                items.push(assemble(inner, leaves)?);
                if leaves[first].peek()?.is_none_or(|(_, level)| level < *repeated) {
                    return Ok(Value::Array(items));
                }
            }
        }
    }
}

/// Passes over a part that is not there: each of its columns has one entry that says so.
fn skip(node: &Node, leaves: &mut [Leaf]) -> Failed<()> {
    match node {
        Node::Leaf(leaf) => leaves[*leaf].take().map(|_| ()),
        Node::Struct(fields) => fields.iter().try_for_each(|(_, field)| skip(field, leaves)),
        Node::Optional { inner, .. } | Node::Repeated { inner, .. } => skip(inner, leaves),
    }
}
