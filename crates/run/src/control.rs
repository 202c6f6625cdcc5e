//! control.json: what the server, or a person at the terminal, wishes of the worker.
//!
//! The file is replaced whole and carries a serial, so that the same wish can be made twice.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::dir::RunDir;

/// What the worker should do at the next step boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Go on.
    #[default]
    Run,
    /// Write a checkpoint, then end with "stopped".
    StopAndSave,
    /// End with "stopped" without writing anything.
    StopNow,
    /// Write a checkpoint and go on.
    SaveNow,
    /// Answer the sample prompt and go on.
    SampleNow,
}

/// The content of control.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Control {
    /// Counts up with each wish; 0 means that none was ever made.
    pub serial: u64,
    /// The latest wish.
    pub wish: Wish,
}

/// Writes a wish with the next serial.
///
/// # Errors
/// When the run directory cannot be written to.
pub fn write(dir: &RunDir, wish: Wish) -> io::Result<Control> {
    let control = Control { serial: read(dir).serial + 1, wish };
    atomic::write(dir.control(), serde_json::to_string(&control)?.as_bytes())?;
    Ok(control)
}

/// The latest wish. A missing or unreadable file wishes nothing.
#[must_use]
pub fn read(dir: &RunDir) -> Control {
    let bytes = fs::read(dir.control()).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// The worker's end: gives each wish once.
#[derive(Debug)]
pub struct Listener {
    dir: RunDir,
    heard: u64,
}

impl Listener {
    /// Wishes made before now are settled: for a run started at a terminal, whose folder may hold
    /// the wish that ended it the last time.
    #[must_use]
    pub fn from_now(dir: RunDir) -> Self {
        let heard = read(&dir).serial;
        Self { dir, heard }
    }

    /// Every wish with a later serial counts, also one made before the worker was up: for a worker
    /// that a server starts, after writing [`Wish::Run`] whose serial this is.
    #[must_use]
    pub const fn after(dir: RunDir, serial: u64) -> Self {
        Self { dir, heard: serial }
    }

    /// A wish that was not heard before, else [`Wish::Run`]. One small file read.
    pub fn wish(&mut self) -> Wish {
        let control = read(&self.dir);
        if control.serial <= self.heard {
            return Wish::Run;
        }
        self.heard = control.serial;
        control.wish
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn each_wish_is_heard_once() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::new(root.path());
        assert_eq!(read(&dir), Control::default());
        write(&dir, Wish::StopNow).unwrap();
        let mut listener = Listener::from_now(dir.clone());
        assert_eq!(listener.wish(), Wish::Run);
        for wish in [Wish::SaveNow, Wish::SaveNow, Wish::StopAndSave] {
            write(&dir, wish).unwrap();
            assert_eq!(listener.wish(), wish);
            assert_eq!(listener.wish(), Wish::Run);
        }
        assert_eq!(Listener::after(dir.clone(), 3).wish(), Wish::StopAndSave);
        fs::write(dir.control(), b"{\"serial\":").unwrap();
        assert_eq!(listener.wish(), Wish::Run);
    }
}
