//! Files that are replaced whole: a reader, or the next start after a power cut, finds the old
//! bytes or the new ones, never a mixture.
//!
//! The order is: temporary file beside the target, bytes, fsync, rename, fsync of the folder.
//! A kill in between leaves a `.tmp-*` name, which [`sweep`] removes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a name begins with while it is being written.
pub const TEMPORARY: &str = ".tmp-";
/// What a name begins with while it is being removed.
pub const TRASH: &str = ".trash-";
/// Files are readable by all, writable by their owner.
const MODE: u32 = 0o644;

/// Replaces a file by these bytes, durably, with mode 0644.
///
/// # Errors
/// When the folder cannot be written to; the old file is then as it was.
pub fn write(path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Replaces a file by what `fill` writes, durably, with mode 0644.
///
/// # Errors
/// What `fill` returns, or when the folder cannot be written to; the old file is then as it was.
pub fn write_with<E: From<io::Error>>(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let path = path.as_ref();
    let (temporary, mut file) = create_beside(path)?;
    let written = fill(&mut file).and_then(|()| {
        // The creation mode is subject to the umask; the promise of 0644 is not.
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(())
    });
    if let Err(error) = written {
        // A leftover is swept at the next start; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(parent(path))?;
    Ok(())
}

/// Makes the names in a folder durable.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_dir(dir: impl AsRef<Path>) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Bytes that an ordinary user can still write to the disk that holds a path.
///
/// # Errors
/// When the path does not exist.
pub fn free_bytes(path: impl AsRef<Path>) -> io::Result<u64> {
    let facts = rustix::fs::statvfs(path.as_ref())?;
    Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
}

/// Removes what killed writers left in a folder (`.tmp-*`, `.trash-*`); returns how many.
///
/// Call it only while holding the lock of the folder's run: a live writer's file would go too.
///
/// # Errors
/// When the folder cannot be listed or an entry cannot be removed. A missing folder is no error.
pub fn sweep(dir: impl AsRef<Path>) -> io::Result<usize> {
    let mut removed = 0;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(TEMPORARY) && !name.starts_with(TRASH) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
        removed += 1;
    }
    Ok(removed)
}

/// A name beside `path` that nobody else uses: `.tmp-NAME-PID-COUNT`.
pub(crate) fn unused_name(path: &Path, prefix: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    parent(path).join(format!("{prefix}{name}-{}-{count}", std::process::id()))
}

/// The folder of a path; `.` for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    loop {
        let temporary = unused_name(path, TEMPORARY);
        let opened = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary);
        match opened {
            Ok(file) => return Ok((temporary, file)),
            // Left by an earlier process that had our pid.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_whole_with_mode_0644_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        for bytes in [&b"one"[..], b"", b"three"] {
            write(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_failed_fill_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, b"old").unwrap();
        let failed = write_with(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("no"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path().join("no/a.json"), b"x").is_err());
    }

    #[test]
    fn sweeping_takes_leftovers_only() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".tmp-a.json-1-0"), b"half").unwrap();
        fs::create_dir(dir.path().join(".trash-checkpoint-5-1-0")).unwrap();
        fs::write(dir.path().join(".trash-checkpoint-5-1-0/x"), b"x").unwrap();
        fs::write(dir.path().join("keep.json"), b"x").unwrap();
        assert_eq!(sweep(dir.path()).unwrap(), 2);
        assert_eq!(names(dir.path()), ["keep.json"]);
        assert_eq!(sweep(dir.path().join("none")).unwrap(), 0);
        assert!(free_bytes(dir.path()).unwrap() > 0);
        assert!(free_bytes(dir.path().join("none")).is_err());
    }
}
