//! One column of a row group: its entries in order, a page in memory at a time.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::vec::IntoIter;

use serde_json::Value;

use super::schema::Spec;
use super::thrift::{self, Thrift};
use super::{Failed, decode};

/// Bytes that a page may have once unpacked.
const MAX_PAGE: usize = 1 << 30;
/// Entries that a page may have.
const MAX_ENTRIES: usize = 1 << 24;
/// Bytes that are read in search of a page's description, before more are.
const HEADER: usize = 1 << 14;

/// A column that is being read.
pub(super) struct Leaf {
    file: Arc<File>,
    spec: Spec,
    codec: i64,
    at: u64,
    end: u64,
    /// Entries of the column that no page has given yet.
    left: usize,
    dictionary: Option<Vec<Value>>,
    page: Page,
}

/// The entries of a page that are still to come.
#[derive(Default)]
struct Page {
    next: usize,
    count: usize,
    /// Empty where the column has no levels.
    definitions: Vec<u32>,
    repetitions: Vec<u32>,
    values: IntoIter<Value>,
}

impl Leaf {
    /// The column that `chunk` describes.
    pub(super) fn new(file: Arc<File>, chunk: &Thrift, spec: Spec) -> Failed<Self> {
        let meta = chunk.inner(3).ok_or("a column without a description")?;
        let data = meta.size(9)?;
        let at = match meta.int(11)?.and_then(|at| usize::try_from(at).ok()) {
            Some(dictionary) if dictionary > 0 => dictionary.min(data),
            _ => data,
        };
        let size = meta.size(7)?;
        Ok(Self {
            file,
            codec: meta.int(4)?.unwrap_or(0),
            at: at as u64,
            end: at.checked_add(size).ok_or("a column lies outside the file")? as u64,
            left: meta.size(5)?,
            dictionary: None,
            page: Page::default(),
            spec,
        })
    }

    /// Definition and repetition level of the next entry; `None` after the last.
    pub(super) fn peek(&mut self) -> Failed<Option<(u32, u32)>> {
        while self.page.next >= self.page.count {
            if self.left == 0 {
                return Ok(None);
            }
            self.next_page().map_err(|reason| format!("column `{}`: {reason}", self.spec.name))?;
        }
        let i = self.page.next;
        let definition = self.page.definitions.get(i).copied().unwrap_or(self.spec.max_def);
        Ok(Some((definition, self.page.repetitions.get(i).copied().unwrap_or(0))))
    }

    /// As [`Leaf::peek`], where there must be an entry.
    pub(super) fn levels(&mut self) -> Failed<(u32, u32)> {
        self.peek()?.ok_or_else(|| format!("column `{}` has too few entries", self.spec.name))
    }

    /// The next entry's value; null where it is not there.
    pub(super) fn take(&mut self) -> Failed<Value> {
        let (definition, _) = self.levels()?;
        self.page.next += 1;
        if definition < self.spec.max_def {
            return Ok(Value::Null);
        }
        let value = self.page.values.next();
        value.ok_or_else(|| format!("column `{}` has too few values", self.spec.name))
    }

    fn next_page(&mut self) -> Failed<()> {
        let (header, length) = self.header()?;
        let (size, packed_size) = (header.size(2)?, header.size(3)?);
        let from = self.at + length as u64;
        if size > MAX_PAGE || packed_size as u64 > self.end.saturating_sub(from) {
            return Err(format!("a page of {size} bytes"));
        }
        let mut packed = vec![0; packed_size];
        self.file.read_exact_at(&mut packed, from).map_err(|e| e.to_string())?;
        self.at = from + packed_size as u64;
        match header.int(1)?.unwrap_or(-1) {
            0 => {
                let about = header.inner(5).ok_or("a page without a description")?;
                let bytes = decode::unpack(self.codec, &packed, size)?;
                let mut rest = bytes.as_slice();
                let count = self.count(about)?;
                let repetitions = levels(&mut rest, self.spec.max_rep, count)?;
                let definitions = levels(&mut rest, self.spec.max_def, count)?;
                self.fill(about.int(2)?.unwrap_or(0), rest, count, definitions, repetitions)
            }
            2 => {
                let about = header.inner(7).ok_or("a dictionary without a description")?;
                let bytes = decode::unpack(self.codec, &packed, size)?;
                let count = about.size(1)?;
                if count > MAX_ENTRIES {
                    return Err(format!("a dictionary of {count} entries"));
                }
                let values = decode::plain(&bytes, self.spec.physical, self.spec.unsigned, count)?;
                self.dictionary = Some(values);
                Ok(())
            }
            3 => self.second_kind(&header, &packed, size),
            // An index page, or what a later version may bring.
            _ => Ok(()),
        }
    }

    /// DATA_PAGE_V2: the levels stand before the packed part.
    fn second_kind(&mut self, header: &Thrift, mut packed: &[u8], size: usize) -> Failed<()> {
        let about = header.inner(8).ok_or("a page without a description")?;
        let count = self.count(about)?;
        let (definition_size, repetition_size) = (about.size(5)?, about.size(6)?);
        let bytes = decode::take(&mut packed, repetition_size)?;
        let repetitions = run(bytes, self.spec.max_rep, count)?;
        let bytes = decode::take(&mut packed, definition_size)?;
        let definitions = run(bytes, self.spec.max_def, count)?;
        let left = size.saturating_sub(definition_size + repetition_size);
        let codec = if about.bool(7) == Some(false) { 0 } else { self.codec };
        let bytes =
            if packed.is_empty() { Vec::new() } else { decode::unpack(codec, packed, left)? };
        self.fill(about.int(4)?.unwrap_or(0), &bytes, count, definitions, repetitions)
    }

    fn count(&self, about: &Thrift) -> Failed<usize> {
        let count = about.size(1)?;
        if count > self.left.min(MAX_ENTRIES) {
            return Err(format!("a page of {count} entries"));
        }
        Ok(count)
    }

    fn fill(
        &mut self,
        encoding: i64,
        mut bytes: &[u8],
        count: usize,
        definitions: Vec<u32>,
        repetitions: Vec<u32>,
    ) -> Failed<()> {
        let present = match definitions.is_empty() {
            true => count,
            false => definitions.iter().filter(|level| **level == self.spec.max_def).count(),
        };
        let values = match (encoding, &self.dictionary) {
            _ if present == 0 => Vec::new(),
            (2 | 8, None) => return Err("a dictionary is missing".into()),
            (2 | 8, Some(known)) => {
                let bits = u32::from(decode::take(&mut bytes, 1)?[0]);
                let indices = decode::hybrid(bytes, bits, present)?;
                let values = indices.iter().map(|i| known.get(*i as usize).cloned());
                values.collect::<Option<Vec<_>>>().ok_or("an index outside its dictionary")?
            }
            _ => {
                let Spec { physical, unsigned, .. } = self.spec;
                decode::values(encoding, bytes, physical, unsigned, present)?
            }
        };
        self.left -= count;
        self.page = Page { next: 0, count, definitions, repetitions, values: values.into_iter() };
        Ok(())
    }

    /// The description of the next page, and its length.
    fn header(&self) -> Failed<(Thrift, usize)> {
        let mut window = HEADER;
        loop {
            let left =
                usize::try_from(self.end.saturating_sub(self.at)).map_err(|e| e.to_string())?;
            let mut bytes = vec![0; window.min(left)];
            self.file.read_exact_at(&mut bytes, self.at).map_err(|e| e.to_string())?;
            match thrift::parse(&bytes) {
                Err(reason) if reason == thrift::TOO_SHORT && window < left => window *= 16,
                parsed => return parsed,
            }
        }
    }
}

/// Levels with their length in front; none where the largest is 0.
fn levels(bytes: &mut &[u8], max: u32, count: usize) -> Failed<Vec<u32>> {
    if max == 0 {
        return Ok(Vec::new());
    }
    let length = decode::take(bytes, 4)?;
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
    run(decode::take(bytes, length as usize)?, max, count)
}

fn run(bytes: &[u8], max: u32, count: usize) -> Failed<Vec<u32>> {
    if max == 0 {
        return Ok(Vec::new());
    }
    decode::hybrid(bytes, u32::BITS - max.leading_zeros(), count)
}
