//! Reads what a worker wrote: events.jsonl and worker.log, each from where the last read ended.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use run::dir::RunDir;
use run::event::Tail;

use crate::db::ingest::Taken;
use crate::db::runs::RunRow;

/// Log bytes read at once.
const CHUNK: u64 = 64 << 10;
/// Log bytes that are stored for the live page; the file has the rest.
const LOG_LIMIT: u64 = 8 << 20;
/// A longer line is cut for display.
const LINE: usize = 2000;

/// The reading end of one run directory.
#[derive(Debug)]
pub struct Reader {
    events: Tail,
    log: PathBuf,
    log_offset: u64,
}

impl Reader {
    /// Starts where the stored run says that the last read ended.
    #[must_use]
    pub fn new(row: &RunRow) -> Self {
        let dir = RunDir::new(&row.output_dir);
        Self {
            events: Tail::new(dir.events(), unsigned(row.events_offset)),
            log: dir.worker_log(),
            log_offset: unsigned(row.log_offset),
        }
    }

    /// What is new since then; `None` where nothing is. At most about a MiB: read again until nothing comes.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn read(&mut self) -> io::Result<Option<Taken>> {
        let before = (self.events.offset(), self.log_offset);
        let events = self.events.read()?;
        let lines = self.log_lines()?;
        if (events.offset, self.log_offset) == before && !events.restarted {
            return Ok(None);
        }
        Ok(Some(Taken { events, lines, log_offset: self.log_offset }))
    }

    fn log_lines(&mut self) -> io::Result<Vec<String>> {
        let mut file = match File::open(&self.log) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if length < self.log_offset {
            self.log_offset = 0;
        }
        if self.log_offset >= LOG_LIMIT {
            self.log_offset = length;
            return Ok(Vec::new());
        }
        file.seek(SeekFrom::Start(self.log_offset))?;
        let mut bytes = Vec::new();
        file.take(CHUNK).read_to_end(&mut bytes)?;
        let end = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => newline + 1,
            None if bytes.len() as u64 == CHUNK => bytes.len(), // no line is that long
            None => return Ok(Vec::new()),
        };
        self.log_offset += end as u64;
        let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
        let mut lines: Vec<String> = text.lines().map(clean).collect();
        if self.log_offset >= LOG_LIMIT {
            lines.push("... the log goes on in worker.log".to_owned());
        }
        Ok(lines)
    }
}

/// A line for display: what a carriage return overwrote, colours and control characters are gone.
fn clean(line: &str) -> String {
    let shown = line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    shown.chars().filter(|c| !c.is_control() || *c == '\t').take(LINE).collect()
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_display() {
        let check = |line: &str, expected: &str| assert_eq!(clean(line), expected);
        check("plain", "plain");
        check("10%\r50%\r100%", "100%");
        check("dos\r", "dos");
        check("\u{1b}[31mred\u{1b}[0m\0\u{85}", "[31mred[0m");
        check(&"x".repeat(5000), &"x".repeat(2000));
    }
}
