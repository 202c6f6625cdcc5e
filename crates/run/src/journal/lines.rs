//! A file of JSON lines that is only appended to.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{JournalError, sync_file};
use crate::atomic;

/// Bytes looked at from the end at first.
const BLOCK: u64 = 1 << 16;

/// The open file; it ends with a newline or is empty.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Lines {
    /// Opens or makes the file and cuts a torn last line.
    pub(super) fn open(path: PathBuf) -> Result<Self, JournalError> {
        let opened = open_and_repair(&path);
        let (file, length) =
            opened.map_err(|source| JournalError { path: path.clone(), source })?;
        Ok(Self { path, file, length })
    }

    /// Appends one line in one write; a write that fails half-way is taken back.
    pub(super) fn append(&mut self, value: &impl Serialize) -> Result<(), JournalError> {
        let written = serde_json::to_vec(value).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            match self.file.write_all(&line) {
                Ok(()) => Ok(line.len() as u64),
                Err(error) => {
                    if self.file.metadata()?.len() > self.length {
                        self.file.set_len(self.length)?;
                    }
                    Err(error)
                }
            }
        });
        self.length += written.map_err(|source| self.error(source))?;
        Ok(())
    }

    /// The last line that `parse` takes; damaged lines at the end are passed over.
    pub(super) fn last_that<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, JournalError> {
        let mut reach = BLOCK;
        loop {
            let start = self.length.saturating_sub(reach);
            let bytes = self.read_from(start).map_err(|source| self.error(source))?;
            // The first line of a block may be the end of a longer one.
            let first_whole = if start == 0 { 0 } else { 1 };
            let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
            let found = lines.iter().skip(first_whole).rev().find_map(|line| parse(line));
            if found.is_some() || start == 0 {
                return Ok(found);
            }
            reach *= 8;
        }
    }

    /// Keeps the lines that `keep` takes, in one atomic replacement.
    pub(super) fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) -> Result<(), JournalError> {
        let replaced = self.read_from(0).and_then(|bytes| {
            let mut kept = Vec::with_capacity(bytes.len());
            for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| keep(line)) {
                kept.extend_from_slice(line);
            }
            if kept.len() == bytes.len() {
                return Ok(None);
            }
            atomic::write(&self.path, &kept)?;
            open_and_repair(&self.path).map(Some)
        });
        if let Some((file, length)) = replaced.map_err(|source| self.error(source))? {
            self.file = file;
            self.length = length;
        }
        Ok(())
    }

    /// Bytes written.
    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// Takes back the lines after this length.
    pub(super) fn cut(&mut self, length: u64) -> Result<(), JournalError> {
        if length < self.length {
            self.file.set_len(length).map_err(|source| self.error(source))?;
            self.length = length;
        }
        Ok(())
    }

    /// Syncs the file to disk.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        sync_file(&self.file, &self.path)
    }

    fn read_from(&mut self, start: u64) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        (&mut self.file).take(self.length.saturating_sub(start)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn error(&self, source: io::Error) -> JournalError {
        JournalError { path: self.path.clone(), source }
    }
}

fn open_and_repair(path: &Path) -> io::Result<(File, u64)> {
    let made = !path.exists();
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    if made {
        atomic::sync_dir(atomic::parent(path))?;
    }
    let length = file.metadata()?.len();
    let whole = whole_lines(&mut file, length)?;
    if whole < length {
        file.set_len(whole)?;
    }
    Ok((file, whole))
}

/// Bytes up to and with the last newline.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        (&mut *file).take(end - start).read_to_end(&mut bytes)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
