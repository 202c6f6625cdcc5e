//! Follows a growing events.jsonl from a byte offset.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::Event;

/// Bytes read at once, unless a single line is longer.
const CHUNK: u64 = 1 << 20;
/// A line longer than this is not ours: it is passed over as garbage.
const LONGEST_LINE: u64 = 64 << 20;

/// Reads complete lines only, from where the last batch ended.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    offset: u64,
}

/// What one read found.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// The events, in file order.
    pub events: Vec<Event>,
    /// Where the next read starts; store it together with the events.
    pub offset: u64,
    /// Complete lines that are not events (a damaged file): passed over.
    pub skipped: u64,
    /// The file is shorter than the offset was: reading began again at 0, so `seq` may repeat.
    pub restarted: bool,
}

impl Tail {
    /// Starts at a byte offset: 0, or the `offset` of the last batch that was stored.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, offset: u64) -> Self {
        Self { path: path.into(), offset }
    }

    /// The byte offset of the next read.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The complete lines since the last call, about 1 MiB at most; call again until it is empty.
    ///
    /// A file that does not exist yet gives an empty batch.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&mut self) -> io::Result<Batch> {
        let mut batch = Batch { offset: self.offset, ..Batch::default() };
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(batch),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if length < self.offset {
            self.offset = 0;
            batch.restarted = true;
        }
        let Some(bytes) = self.complete_lines(&mut file, length)? else {
            batch.offset = self.offset;
            return Ok(batch);
        };
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(event) => batch.events.push(event),
                Err(_) => batch.skipped += 1,
            }
        }
        self.offset += bytes.len() as u64;
        batch.offset = self.offset;
        Ok(batch)
    }

    /// Bytes from the offset to the last newline within reach; `None` when no line is complete.
    fn complete_lines(&self, file: &mut File, length: u64) -> io::Result<Option<Vec<u8>>> {
        if self.offset >= length {
            return Ok(None);
        }
        let mut reach = CHUNK;
        loop {
            file.seek(SeekFrom::Start(self.offset))?;
            let mut bytes = Vec::new();
            (&mut *file).take(reach).read_to_end(&mut bytes)?;
            if let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
                bytes.truncate(end + 1);
                return Ok(Some(bytes));
            }
            if (bytes.len() as u64) < reach {
                return Ok(None);
            }
            if reach >= LONGEST_LINE {
                return Ok(Some(bytes));
            }
            reach *= 8;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use super::*;
    use crate::event::Body;

    fn line(seq: u64, text: &str) -> String {
        let event = Event { seq, at_ms: 1, elapsed_s: 0.5, body: Body::info(text) };
        serde_json::to_string(&event).unwrap() + "\n"
    }

    fn seqs(batch: &Batch) -> Vec<u64> {
        batch.events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn gives_each_whole_line_once_wherever_the_writer_is() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("events.jsonl");
        let mut tail = Tail::new(&path, 0);
        assert_eq!(tail.read().unwrap(), Batch::default());
        let text: String = (1..=5).map(|seq| line(seq, "so")).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let mut seen = Vec::new();
        for byte in text.as_bytes() {
            file.write_all(&[*byte]).unwrap();
            seen.extend(seqs(&tail.read().unwrap()));
        }
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        let mut again = Tail::new(&path, line(1, "so").len() as u64);
        let batch = again.read().unwrap();
        assert_eq!((seqs(&batch), batch.offset), (vec![2, 3, 4, 5], text.len() as u64));
    }

    #[test]
    fn passes_over_damage_and_long_lines_and_begins_again_when_cut() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("events.jsonl");
        let long = "x".repeat(3 << 20);
        let text = line(1, "a") + "garbage\n\n{\"seq\":2}\n" + &line(3, &long) + &line(4, "d");
        fs::write(&path, &text).unwrap();
        let mut tail = Tail::new(&path, 0);
        let (mut seen, mut skipped) = (Vec::new(), 0);
        while tail.offset() < text.len() as u64 {
            let batch = tail.read().unwrap();
            seen.extend(seqs(&batch));
            skipped += batch.skipped;
        }
        assert_eq!((seen, skipped), (vec![1, 3, 4], 2));
        fs::write(&path, line(1, "a")).unwrap();
        let batch = tail.read().unwrap();
        assert!(batch.restarted);
        assert_eq!(seqs(&batch), [1]);
        assert!(!tail.read().unwrap().restarted);
    }
}
