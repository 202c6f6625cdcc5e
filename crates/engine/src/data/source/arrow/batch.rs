//! The columns of one record batch as JSON values.

use std::borrow::Cow;
use std::io::Read;

use half::f16;
use serde_json::{Map, Value};

use super::flat::{Table, Vector};
use super::schema::{Field, Type};
use super::{Dictionaries, Failed};

/// Bytes that one buffer may have once unpacked.
const MAX_BUFFER: u64 = 8 << 30;

/// How the buffers of a batch are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Lz4,
    Zstd,
}

/// A batch that is being read: columns take their nodes and buffers in order.
pub(super) struct Batch<'a> {
    /// Rows.
    pub(super) rows: usize,
    body: &'a [u8],
    nodes: Vector<'a>,
    node: usize,
    buffers: Vector<'a>,
    buffer: usize,
    variadic: Vector<'a>,
    view: usize,
    packing: Packing,
    dictionaries: &'a Dictionaries,
}

impl<'a> Batch<'a> {
    /// A batch by its description and body.
    pub(super) fn new(
        header: &Table<'a>,
        body: &'a [u8],
        dictionaries: &'a Dictionaries,
    ) -> Failed<Self> {
        let packing = match header.table(3)? {
            None => Packing::None,
            Some(compression) => match compression.u8(0)? {
                0 => Packing::Lz4,
                _ => Packing::Zstd,
            },
        };
        let rows = usize::try_from(header.i64(0)?).map_err(|e| e.to_string())?;
        let batch = Self {
            rows,
            body,
            nodes: header.vector(1, 16)?,
            node: 0,
            buffers: header.vector(2, 16)?,
            buffer: 0,
            variadic: header.vector(4, 8)?,
            view: 0,
            packing,
            dictionaries,
        };
        batch.check_count(rows)?;
        Ok(batch)
    }

    /// More values than bits cannot be; a column of nulls needs none, within reason.
    fn check_count(&self, count: usize) -> Failed<()> {
        let packed = if self.packing == Packing::None { 8 } else { 8 * 1024 };
        let most = self.body.len().saturating_mul(packed).saturating_add(1 << 16);
        if count > most { Err(format!("a column of {count} values")) } else { Ok(()) }
    }

    /// The values of the next column.
    pub(super) fn column(&mut self, field: &Field) -> Failed<Vec<Value>> {
        if self.node >= self.nodes.len {
            return Err("a batch has too few columns".into());
        }
        let count = usize::try_from(self.nodes.i64(2 * self.node)?).map_err(|e| e.to_string())?;
        let nulls = self.nodes.i64(2 * self.node + 1)?;
        self.node += 1;
        self.check_count(count)?;
        if field.kind == Type::Null && field.dictionary.is_none() {
            return Ok(vec![Value::Null; count]);
        }
        let validity = self.next_buffer()?;
        if nulls != 0 && validity.len() * 8 < count {
            return Err("a batch is too short".into());
        }
        let valid = |i: usize| nulls == 0 || bit(&validity, i);
        let values = match field.dictionary {
            Some((id, index)) => {
                let indices = self.fixed(index, count)?;
                let known = self.dictionaries.get(&id).ok_or("a dictionary is missing")?;
                let lookup = |i: Value| {
                    let i = i.as_u64().and_then(|i| usize::try_from(i).ok());
                    i.and_then(|i| known.get(i)).cloned().unwrap_or(Value::Null)
                };
                indices.into_iter().map(lookup).collect()
            }
            None => self.values(field, count)?,
        };
        let masked = values.into_iter().enumerate();
        Ok(masked.map(|(i, value)| if valid(i) { value } else { Value::Null }).collect())
    }

    fn values(&mut self, field: &Field, count: usize) -> Failed<Vec<Value>> {
        match field.kind {
            Type::Null => Ok(vec![Value::Null; count]),
            Type::Bool => {
                let bits = self.next_buffer()?;
                if bits.len() * 8 < count {
                    return Err("a batch is too short".into());
                }
                Ok((0..count).map(|i| Value::Bool(bit(&bits, i))).collect())
            }
            Type::Int { .. } | Type::Float { .. } | Type::Fixed(_) => self.fixed(field.kind, count),
            Type::Bytes { wide } => {
                let offsets = self.offsets(wide, count)?;
                let data = self.next_buffer()?;
                let text = |pair: &[usize]| data.get(pair[0]..pair[1]).map(text);
                let texts: Option<Vec<Value>> = offsets.windows(2).map(text).collect();
                texts.ok_or_else(|| "a text lies outside its batch".to_string())
            }
            Type::View => self.views(count),
            Type::List { wide } => {
                let offsets = self.offsets(wide, count)?;
                let mut items = self.column(&field.children[0])?;
                if offsets.last().is_some_and(|end| *end > items.len()) {
                    return Err("a list lies outside its batch".into());
                }
                let lists = offsets.windows(2).map(|pair| {
                    Value::Array(items[pair[0]..pair[1]].iter_mut().map(Value::take).collect())
                });
                Ok(lists.collect())
            }
            Type::FixedList(size) => {
                let items = self.column(&field.children[0])?;
                if size == 0 || items.len() < size.saturating_mul(count) {
                    return Err("a list lies outside its batch".into());
                }
                let lists = items.chunks(size).take(count);
                Ok(lists.map(|items| Value::Array(items.to_vec())).collect())
            }
            Type::Struct => self.structs(field, count),
        }
    }

    fn structs(&mut self, field: &Field, count: usize) -> Failed<Vec<Value>> {
        let mut rows = vec![Map::with_capacity(field.children.len()); count];
        for child in &field.children {
            let values = self.column(child)?;
            if values.len() < count {
                return Err("a batch is too short".into());
            }
            for (row, value) in rows.iter_mut().zip(values) {
                row.insert(child.name.clone(), value);
            }
        }
        Ok(rows.into_iter().map(Value::Object).collect())
    }

    /// Numbers; values without a JSON form become `true`, which no text column takes.
    fn fixed(&mut self, kind: Type, count: usize) -> Failed<Vec<Value>> {
        let data = self.next_buffer()?;
        let width = match kind {
            Type::Int { bytes, .. } | Type::Float { bytes } | Type::Fixed(bytes) => bytes.max(1),
            _ => return Err("an index is not a number".into()),
        };
        if data.len() / width < count {
            return Err("a batch is too short".into());
        }
        let number = |bytes: &[u8]| {
            let mut wide = [0; 8];
            match kind {
                Type::Int { signed: true, .. } => {
                    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
                    wide.fill(if negative { 0xff } else { 0 });
                    wide[..width].copy_from_slice(bytes);
                    Value::from(i64::from_le_bytes(wide))
                }
                Type::Int { .. } => {
                    wide[..width].copy_from_slice(bytes);
                    Value::from(u64::from_le_bytes(wide))
                }
                Type::Float { .. } => match bytes {
                    [a, b] => Value::from(f16::from_le_bytes([*a, *b]).to_f64()),
                    [a, b, c, d] => Value::from(f64::from(f32::from_le_bytes([*a, *b, *c, *d]))),
                    _ => {
                        wide.copy_from_slice(bytes);
                        Value::from(f64::from_le_bytes(wide))
                    }
                },
                _ => Value::Bool(true),
            }
        };
        Ok(data.chunks_exact(width).take(count).map(number).collect())
    }

    /// `count + 1` places in the data that follows, never falling.
    fn offsets(&mut self, wide: bool, count: usize) -> Failed<Vec<usize>> {
        if count == 0 {
            self.next_buffer()?;
            return Ok(vec![0]);
        }
        let kind = Type::Int { bytes: if wide { 8 } else { 4 }, signed: true };
        let read = self.fixed(kind, count + 1)?;
        let places: Option<Vec<usize>> =
            read.iter().map(|v| v.as_u64().and_then(|v| usize::try_from(v).ok())).collect();
        let places = places.ok_or("a negative place")?;
        if places.is_sorted() { Ok(places) } else { Err("its places are out of order".into()) }
    }

    fn views(&mut self, count: usize) -> Failed<Vec<Value>> {
        let views = self.next_buffer()?;
        if views.len() / 16 < count {
            return Err("a batch is too short".into());
        }
        if self.view >= self.variadic.len {
            return Err("a batch has too few counts".into());
        }
        let buffers = usize::try_from(self.variadic.i64(self.view)?).map_err(|e| e.to_string())?;
        self.view += 1;
        let buffers = (0..buffers).map(|_| self.next_buffer()).collect::<Failed<Vec<_>>>()?;
        let word = |view: &[u8], at: usize| {
            view[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default() as usize
        };
        let read = |view: &[u8]| {
            let len = word(view, 0);
            if len <= 12 {
                return view.get(4..4 + len).map(text);
            }
            let (buffer, from) = (word(view, 8), word(view, 12));
            buffers.get(buffer)?.get(from..from + len).map(text)
        };
        let texts: Option<Vec<Value>> = views.chunks_exact(16).take(count).map(read).collect();
        texts.ok_or_else(|| "a text lies outside its batch".to_string())
    }

    fn next_buffer(&mut self) -> Failed<Cow<'a, [u8]>> {
        if self.buffer >= self.buffers.len {
            return Err("a batch has too few buffers".into());
        }
        let place = |i| usize::try_from(self.buffers.i64(i)?).map_err(|e| e.to_string());
        let (from, len) = (place(2 * self.buffer)?, place(2 * self.buffer + 1)?);
        self.buffer += 1;
        let bytes = from.checked_add(len).and_then(|end| self.body.get(from..end));
        let bytes = bytes.ok_or("a buffer lies outside its batch")?;
        if self.packing == Packing::None || bytes.is_empty() {
            return Ok(Cow::Borrowed(bytes));
        }
        let (size, packed) = bytes.split_at_checked(8).ok_or("a buffer is too short")?;
        let size = i64::from_le_bytes(size.try_into().unwrap_or_default());
        if size < 0 {
            return Ok(Cow::Borrowed(packed));
        }
        let mut unpacked = Vec::new();
        let read = match self.packing {
            Packing::Zstd => ruzstd::decoding::StreamingDecoder::new(packed)
                .map_err(|e| e.to_string())?
                .take(MAX_BUFFER)
                .read_to_end(&mut unpacked),
            _ => lz4_flex::frame::FrameDecoder::new(packed)
                .take(MAX_BUFFER)
                .read_to_end(&mut unpacked),
        };
        read.map_err(|e| format!("a packed buffer is damaged: {e}"))?;
        Ok(Cow::Owned(unpacked))
    }
}

fn bit(bits: &[u8], i: usize) -> bool {
    bits.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1)
}

/// A text; bytes that are none become `true`, which no text column takes.
pub(in crate::data::source) fn text(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes).map_or(Value::Bool(true), Value::from)
}
