//! Reading flatbuffers: tables whose fields are found through a table of offsets. Every access is
//! checked, because the bytes come from a file.

use super::Failed;

/// A table inside a buffer.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A vector inside a buffer.
#[derive(Clone, Copy)]
pub(super) struct Vector<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Number of elements; all of them lie inside the buffer.
    pub(super) len: usize,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Failed<[u8; N]> {
    let slice = at.checked_add(N).and_then(|end| bytes.get(at..end));
    slice.and_then(|s| s.try_into().ok()).ok_or_else(|| "its description is damaged".to_string())
}

fn offset(bytes: &[u8], at: usize) -> Failed<usize> {
    at.checked_add(u32::from_le_bytes(array(bytes, at)?) as usize)
        .filter(|target| *target < bytes.len())
        .ok_or_else(|| "its description is damaged".to_string())
}

impl<'a> Table<'a> {
    /// The table that a buffer holds.
    pub(super) fn root(bytes: &'a [u8]) -> Failed<Self> {
        Ok(Self { bytes, at: offset(bytes, 0)? })
    }

    /// Where a field lies; `None` where it has its default.
    fn field(&self, index: usize) -> Failed<Option<usize>> {
        let back = i64::from(i32::from_le_bytes(array(self.bytes, self.at)?));
        let vtable = usize::try_from(self.at as i64 - back).map_err(|e| e.to_string())?;
        let size = usize::from(u16::from_le_bytes(array(self.bytes, vtable)?));
        let entry = 4 + 2 * index;
        if entry + 2 > size {
            return Ok(None);
        }
        let at = u16::from_le_bytes(array(self.bytes, vtable + entry)?);
        Ok((at != 0).then_some(self.at + usize::from(at)))
    }

    fn scalar<const N: usize>(&self, index: usize) -> Failed<[u8; N]> {
        self.field(index)?.map_or(Ok([0; N]), |at| array(self.bytes, at))
    }

    pub(super) fn u8(&self, index: usize) -> Failed<u8> {
        Ok(self.scalar::<1>(index)?[0])
    }

    pub(super) fn i16(&self, index: usize) -> Failed<i16> {
        Ok(i16::from_le_bytes(self.scalar(index)?))
    }

    pub(super) fn i32(&self, index: usize) -> Failed<i32> {
        Ok(i32::from_le_bytes(self.scalar(index)?))
    }

    pub(super) fn i64(&self, index: usize) -> Failed<i64> {
        Ok(i64::from_le_bytes(self.scalar(index)?))
    }

    pub(super) fn table(&self, index: usize) -> Failed<Option<Self>> {
        let at = self.field(index)?.map(|at| offset(self.bytes, at)).transpose()?;
        Ok(at.map(|at| Self { bytes: self.bytes, at }))
    }

    /// A vector whose elements have `width` bytes; an absent one is empty.
    pub(super) fn vector(&self, index: usize, width: usize) -> Failed<Vector<'a>> {
        let Some(at) = self.field(index)? else {
            return Ok(Vector { bytes: self.bytes, at: 0, len: 0 });
        };
        let at = offset(self.bytes, at)?;
        let len = u32::from_le_bytes(array(self.bytes, at)?) as usize;
        if len.checked_mul(width).is_none_or(|size| size > self.bytes.len() - at) {
            return Err("its description is damaged".into());
        }
        Ok(Vector { bytes: self.bytes, at: at + 4, len })
    }

    pub(super) fn text(&self, index: usize) -> Failed<String> {
        let text = self.vector(index, 1)?;
        let bytes = text.bytes.get(text.at..text.at + text.len).unwrap_or_default();
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

impl<'a> Vector<'a> {
    pub(super) fn table(&self, i: usize) -> Failed<Table<'a>> {
        Ok(Table { bytes: self.bytes, at: offset(self.bytes, self.at + 4 * i)? })
    }

    pub(super) fn i64(&self, i: usize) -> Failed<i64> {
        Ok(i64::from_le_bytes(array(self.bytes, self.at + 8 * i)?))
    }
}
