//! Who works on a run: an flock on `lock`, held for the worker's life.
//!
//! The kernel frees it the moment its holder dies, so liveness never rests on a pid alone.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::dir::RunDir;

/// A look at the lock ([`is_held`]) takes it for a moment; taking it for real outlasts that.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// The right to work on a run; ends when dropped or when the process dies.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum Held {
    /// Another process has it.
    #[error("{}: another process works on this run{}", .path.display(), .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    ByAnother {
        /// The lock file.
        path: PathBuf,
        /// Who, as far as it wrote so.
        pid: Option<u32>,
    },
    /// The lock file cannot be made or opened.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl RunLock {
    /// Takes the lock, at once or not at all.
    ///
    /// # Errors
    /// When another process holds it or the file cannot be made.
    pub fn take(dir: &RunDir) -> Result<Self, Held> {
        let path = dir.lock();
        let io = |source| Held::Io { path: dir.lock(), source };
        // The file is opened close-on-exec, so no child inherits the lock.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io)?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(io(source)),
                Err(TryLockError::WouldBlock) if attempt < TRIES => thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(Held::ByAnother { path, pid: holder(dir) });
                }
            }
        }
        file.set_len(0).map_err(io)?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(io)?;
        Ok(Self { _file: file })
    }
}

/// True while some process holds the lock. A run directory without a lock file is free.
///
/// # Errors
/// When the lock file is there but cannot be opened.
pub fn is_held(dir: &RunDir) -> io::Result<bool> {
    let file = match File::open(dir.lock()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The pid that the latest holder wrote: for display and signals, only while [`is_held`].
#[must_use]
pub fn holder(dir: &RunDir) -> Option<u32> {
    fs::read_to_string(dir.lock()).ok()?.trim().parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::new(root.path());
        assert!(!is_held(&dir).unwrap());
        let lock = RunLock::take(&dir).unwrap();
        assert!(is_held(&dir).unwrap());
        assert_eq!(holder(&dir), Some(std::process::id()));
        // A second open file is a second holder to flock, in one process or in two.
        let refused = RunLock::take(&dir).unwrap_err();
        assert!(matches!(refused, Held::ByAnother { pid: Some(_), .. }), "{refused}");
        drop(lock);
        assert!(!is_held(&dir).unwrap());
        RunLock::take(&dir).unwrap();
    }

    #[test]
    fn a_missing_run_directory_is_named() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::new(root.path().join("none"));
        assert!(!is_held(&dir).unwrap());
        let text = RunLock::take(&dir).unwrap_err().to_string();
        assert!(text.contains("none/lock"), "{text}");
    }
}
