//! The data folder and the confinement of paths that a user names.
//!
//! What a run posted to the server may read lies below the data folder or a `--allow-path` folder, symbolic links
//! resolved; what it writes too. A path outside is refused with the same words whether it exists or not.

mod config;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// The folders that user-named paths must stay in.
#[derive(Debug, Clone)]
pub struct Roots {
    data_dir: PathBuf,
    allowed: Vec<PathBuf>,
}

impl Roots {
    /// Makes the data folder where it is missing (mode 0700) and resolves it and the allowed folders.
    ///
    /// # Errors
    /// Where a folder cannot be made or resolved; the text names it.
    pub fn open(data_dir: &Path, allow: &[PathBuf]) -> io::Result<Self> {
        let named = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        if !data_dir.is_dir() {
            let mut builder = DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(data_dir)
                .map_err(|error| named(data_dir, error))?;
        }
        // a folder that others could read until now will hold a token and logs
        let mode =
            fs::metadata(data_dir).map_err(|error| named(data_dir, error))?.permissions().mode();
        if mode & 0o077 != 0 {
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(data_dir, private).map_err(|error| named(data_dir, error))?;
        }
        let resolve = |path: &Path| path.canonicalize().map_err(|error| named(path, error));
        let allowed = allow.iter().map(|path| resolve(path)).collect::<io::Result<_>>()?;
        Ok(Self { data_dir: resolve(data_dir)?, allowed })
    }

    /// The data folder, absolute, without symbolic links.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The folders given as `--allow-path`, resolved.
    #[must_use]
    pub fn allowed(&self) -> &[PathBuf] {
        &self.allowed
    }

    /// Resolves a path to something that exists. A relative one is looked for in the data folder, then in the
    /// server's working folder.
    ///
    /// # Errors
    /// One line for the user: it is outside, or is not there.
    pub fn readable(&self, text: &str) -> Result<PathBuf, String> {
        let path = plain(text)?;
        let here = if path.is_relative() { std::env::current_dir().ok() } else { None };
        let elsewhere = here.and_then(|here| self.resolve(&here.join(path), path).ok());
        self.resolve(&self.data_dir.join(path), path).or_else(|why| elsewhere.ok_or(why))
    }

    /// The same for a path that can only mean one below `base`.
    ///
    /// # Errors
    /// As [`Self::readable`].
    pub fn readable_from(&self, base: &Path, text: &str) -> Result<PathBuf, String> {
        let path = plain(text)?;
        self.resolve(&base.join(path), path)
    }

    fn resolve(&self, place: &Path, shown: &Path) -> Result<PathBuf, String> {
        match place.canonicalize() {
            Ok(found) if self.covers(&found) => self.entries_inside(&found).map(|()| found),
            Err(_) if self.covers(&lexical(place)) && place.symlink_metadata().is_err() => {
                Err(format!("there is no file or folder `{}`", shown.display()))
            }
            _ => Err(self.outside(shown)),
        }
    }

    /// Resolves a folder to write to, which need not exist; a relative path means one below the data folder.
    ///
    /// # Errors
    /// One line for the user: it is outside, or is a file, or is the data folder itself.
    pub fn writable(&self, text: &str) -> Result<PathBuf, String> {
        let path = plain(text)?;
        let wanted = lexical(&self.data_dir.join(path));
        let mut missing = Vec::new();
        let mut present = wanted.clone();
        let resolved = loop {
            match present.canonicalize() {
                Ok(found) if missing.is_empty() || found.is_dir() => break found,
                Ok(_) => return Err(format!("`{}` is below a file", path.display())),
                Err(_) if present.symlink_metadata().is_ok() => return Err(self.outside(path)),
                Err(_) => {
                    let Some(name) = present.file_name().map(ToOwned::to_owned) else {
                        return Err(self.outside(path));
                    };
                    missing.push(name);
                    present.pop();
                }
            }
        };
        let resolved = missing.iter().rev().fold(resolved, |path, name| path.join(name));
        if !self.covers(&resolved) {
            return Err(self.outside(path));
        }
        if self.data_dir.starts_with(&resolved) || resolved == self.data_dir.join("runs") {
            return Err("is a folder of the server itself; name one below it".to_owned());
        }
        if resolved.exists() && !resolved.is_dir() {
            return Err(format!("`{}` is a file", path.display()));
        }
        Ok(resolved)
    }

    fn covers(&self, path: &Path) -> bool {
        path.starts_with(&self.data_dir) || self.allowed.iter().any(|root| path.starts_with(root))
    }

    /// A folder must not lead out through a link in it.
    fn entries_inside(&self, found: &Path) -> Result<(), String> {
        let Ok(entries) = fs::read_dir(found) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                let target = entry.path().canonicalize();
                if !target.is_ok_and(|target| self.covers(&target)) {
                    return Err(self.outside(&entry.path()));
                }
            }
        }
        Ok(())
    }

    fn outside(&self, path: &Path) -> String {
        format!(
            "`{}` is not below the data folder nor below a folder given as --allow-path; start the server with \
             --allow-path for its folder",
            path.display()
        )
    }
}

/// A text as a path, where it can be one.
fn plain(text: &str) -> Result<&Path, String> {
    match text {
        "" => Err("is empty".to_owned()),
        _ if text.len() > 4096 || text.contains('\0') => Err("is no path".to_owned()),
        _ => Ok(Path::new(text)),
    }
}

/// The path without `.` and `..`, as written; links are not looked at.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

/// What is read of a log at most, from its end.
const TAIL: u64 = 4 << 20;

/// The last `count` lines of a log; none where the file is not there yet. Bytes that are no UTF-8 are replaced.
///
/// # Errors
/// Where the file cannot be read.
pub fn tail(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    if start > 0 && !lines.is_empty() {
        lines.remove(0); // most likely cut
    }
    let skip = lines.len().saturating_sub(count);
    Ok(lines.into_iter().skip(skip).map(str::to_owned).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Fixture {
        _dir: tempfile::TempDir,
        base: PathBuf,
        roots: Roots,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        for folder in ["data/model", "data-evil", "allowed/sub", "outside/secret"] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        fs::write(base.join("outside/secret/file"), "x").unwrap();
        symlink(base.join("outside"), base.join("data/out")).unwrap();
        symlink(base.join("allowed/sub"), base.join("data/in")).unwrap();
        symlink(base.join("outside/none"), base.join("data/dangling")).unwrap();
        fs::create_dir(base.join("data/mixed")).unwrap();
        symlink(base.join("outside/secret/file"), base.join("data/mixed/model.safetensors"))
            .unwrap();
        let roots = Roots::open(&base.join("data"), &[base.join("allowed")]).unwrap();
        Fixture { _dir: dir, base, roots }
    }

    #[test]
    fn what_may_be_read() {
        let Fixture { _dir, base, roots } = fixture();
        let absolute = |path: &str| base.join(path).display().to_string();
        for fine in ["model", "./model", "in", "model/../model"] {
            assert!(roots.readable(fine).is_ok(), "{fine}");
        }
        for fine in ["data/model", "allowed", "allowed/sub", "data/in"] {
            assert!(roots.readable(&absolute(fine)).is_ok(), "{fine}");
        }
        let long = "a/".repeat(3000);
        for wrong in [
            "",
            "\0",
            "..",
            "../outside",
            "../data-evil",
            "out",
            "out/secret",
            "out/secret/file",
            "dangling",
            "mixed",
            "/etc/passwd",
            "/proc/self/environ",
            "/nowhere",
            "model/../../outside",
            &long,
            "%2e%2e/outside",
        ] {
            assert!(roots.readable(wrong).is_err(), "{wrong}");
        }
        for wrong in
            ["outside", "data-evil", "outside/none", "data/../outside", "allowed/../outside"]
        {
            let text = roots.readable(&absolute(wrong)).unwrap_err();
            assert!(text.contains("--allow-path"), "{text}");
        }
        let missing = roots.readable("nothing-here").unwrap_err();
        assert!(missing.contains("there is no"), "{missing}");
    }

    #[test]
    fn what_may_be_written() {
        let Fixture { _dir, base, roots } = fixture();
        let check = |text: &str, expected: Option<&str>| {
            let got = roots.writable(text).ok();
            assert_eq!(got, expected.map(|path| base.join(path)), "{text}");
        };
        check("saves/a/b", Some("data/saves/a/b"));
        check("x/../y", Some("data/y"));
        check("in/new", Some("allowed/sub/new"));
        check(&base.join("allowed/new").display().to_string(), Some("allowed/new"));
        check(&base.join("outside/new").display().to_string(), None);
        for wrong in [
            "",
            ".",
            "..",
            "runs",
            "../data-evil/x",
            "out/x",
            "dangling",
            "dangling/x",
            "/",
            "/etc/x",
            "x/../..",
            "\0",
        ] {
            check(wrong, None);
        }
        fs::write(base.join("data/file"), "x").unwrap();
        check("file", None);
        check("file/below", None);
    }

    #[test]
    fn the_end_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.log");
        assert!(tail(&path, 5).unwrap().is_empty());
        fs::write(&path, b"one\ntwo\n\xffthree\n").unwrap();
        assert_eq!(tail(&path, 2).unwrap(), ["two", "\u{fffd}three"]);
        assert_eq!(tail(&path, 9).unwrap().len(), 3);
        assert!(tail(&path, 0).unwrap().is_empty());
    }
}
