//! Thrift's compact protocol, read into a tree without knowing what it describes.

use std::collections::BTreeMap;

use super::Failed;

/// Structs nest no deeper than this.
const MAX_DEPTH: usize = 32;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Thrift {
    Bool(bool),
    Int(i64),
    Double,
    Bytes(Vec<u8>),
    List(Vec<Thrift>),
    Struct(BTreeMap<i16, Thrift>),
}

impl Thrift {
    fn field(&self, id: i16) -> Option<&Self> {
        match self {
            Self::Struct(fields) => fields.get(&id),
            _ => None,
        }
    }

    /// A number; `None` where the field is absent.
    pub(super) fn int(&self, id: i16) -> Failed<Option<i64>> {
        match self.field(id) {
            None => Ok(None),
            Some(Self::Int(value)) => Ok(Some(*value)),
            Some(_) => Err("a number is missing".into()),
        }
    }

    /// A number that must not be negative.
    pub(super) fn size(&self, id: i16) -> Failed<usize> {
        let size = self.int(id)?.and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| "a size is missing".to_string())
    }

    pub(super) fn bool(&self, id: i16) -> Option<bool> {
        match self.field(id) {
            Some(Self::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    /// A list; an absent one is empty.
    pub(super) fn list(&self, id: i16) -> Failed<&[Self]> {
        match self.field(id) {
            None => Ok(&[]),
            Some(Self::List(items)) => Ok(items),
            Some(_) => Err("a list is missing".into()),
        }
    }

    pub(super) fn text(&self, id: i16) -> String {
        match self.field(id) {
            Some(Self::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        }
    }

    pub(super) fn inner(&self, id: i16) -> Option<&Self> {
        self.field(id)
    }

    /// Whether a struct has this field, as a union does that is of this kind.
    pub(super) fn has(&self, id: i16) -> bool {
        self.field(id).is_some()
    }
}

/// The struct at the start of `bytes` and its length.
pub(super) fn parse(bytes: &[u8]) -> Failed<(Thrift, usize)> {
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.fields(0)?;
    Ok((value, reader.at))
}

/// What [`parse`] says where the bytes end too early.
pub(super) const TOO_SHORT: &str = "a description is cut short";

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Failed<u8> {
        let byte = self.bytes.get(self.at).copied().ok_or(TOO_SHORT)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Failed<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long".into())
    }

    fn zigzag(&mut self) -> Failed<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn fields(&mut self, depth: usize) -> Failed<Thrift> {
        if depth > MAX_DEPTH {
            return Err("a description nests too deeply".into());
        }
        let mut fields = BTreeMap::new();
        let mut id = 0_i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(Thrift::Struct(fields));
            }
            id = match head >> 4 {
                0 => self.zigzag()? as i16,
                delta => id.wrapping_add(i16::from(delta)),
            };
            let value = match head & 15 {
                1 => Thrift::Bool(true),
                2 => Thrift::Bool(false),
                kind => self.value(kind, depth)?,
            };
            fields.insert(id, value);
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Failed<Thrift> {
        Ok(match kind {
            1 | 2 => Thrift::Bool(self.byte()? == 1),
            3 => Thrift::Int(i64::from(self.byte()? as i8)),
            4..=6 => Thrift::Int(self.zigzag()?),
            7 => {
                self.bytes(8)?;
                Thrift::Double
            }
            8 => {
                let length = self.varint()?;
                Thrift::Bytes(self.bytes(usize::try_from(length).map_err(|e| e.to_string())?)?)
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    count => u64::from(count),
                };
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.value(head & 15, depth + 1)?);
                }
                Thrift::List(items)
            }
            12 => self.fields(depth + 1)?,
            other => return Err(format!("a description holds type {other}")),
        })
    }

    fn bytes(&mut self, length: usize) -> Failed<Vec<u8>> {
        let end = self.at.checked_add(length);
        let bytes = end.and_then(|end| self.bytes.get(self.at..end)).ok_or(TOO_SHORT)?;
        self.at += length;
        Ok(bytes.to_vec())
    }
}
