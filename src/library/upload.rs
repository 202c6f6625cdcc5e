//! Files that come over HTTP: streamed to disk, hashed on the way, put in place whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{Stream, StreamExt};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::datasets::check_name;
use super::detect::Detected;
use super::{Library, LibraryError, Result};

/// Largest file that is taken.
pub const LARGEST: u64 = 8 << 30;
/// What an upload leaves free on the disk: a full one stops runs.
const SPARE: u64 = 1 << 30;
/// Bytes between two looks at the disk, the first after as many: a small file may come at any time.
const LOOK: u64 = 64 << 20;
/// How long a client may say nothing.
const IDLE: Duration = Duration::from_secs(30);
/// The folder, below the data folder.
const FOLDER: &str = "uploads";
/// Endings that may be data sets; whether the engine reads one is asked when the file is there.
pub const ENDINGS: [&str; 6] = ["json", "jsonl", "csv", "txt", "parquet", "arrow"];

/// A file that has arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// As dataset_info.json names it.
    pub file_name: String,
    /// What the name of the data set would be.
    pub stem: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of its content, in hex.
    pub blake3: String,
    path: PathBuf,
}

impl Library {
    /// Takes a file. `name` is what the client calls it; only its last part and harmless characters are used.
    ///
    /// # Errors
    /// Where the name has no known ending, the file is too large or empty, the client stops, or the disk is full.
    pub async fn receive<B: AsRef<[u8]>, E: std::fmt::Display>(
        &self,
        name: &str,
        bytes: impl Stream<Item = std::result::Result<B, E>>,
    ) -> Result<Received> {
        let (stem, ending) = file_name(name)?;
        let folder = self.0.roots.data_dir().join(FOLDER);
        tokio::fs::create_dir_all(&folder).await?;
        let temporary = Temporary(folder.join(format!(".tmp-{}", ulid::Ulid::new())));
        let (size, blake3) = write(&temporary.0, bytes).await?;
        if size == 0 {
            return Err(LibraryError::wrong("file", "the file is empty"));
        }
        let short = blake3.get(..12).unwrap_or(&blake3);
        let name = format!("{stem}-{short}.{ending}");
        let path = folder.join(&name);
        tokio::fs::rename(&temporary.0, &path).await?;
        let synced = folder.clone();
        self.blocking(move |_| Ok(run::atomic::sync_dir(synced)?)).await?;
        Ok(Received { file_name: format!("{FOLDER}/{name}"), stem, size, blake3, path })
    }

    /// Puts a file into the list under a name, with the format that its rows show. A file that cannot be used goes.
    ///
    /// # Errors
    /// Where the name is taken or the rows cannot be read.
    pub async fn enlist(
        &self,
        received: &Received,
        name: Option<&str>,
    ) -> Result<(String, Detected)> {
        let done = self.register(&received.file_name, name, &received.stem).await;
        if done.is_err() {
            let _ = tokio::fs::remove_file(&received.path).await;
        }
        done
    }

    /// The same for a file or folder that is there already: `path` is absolute, or counts from the data folder.
    ///
    /// # Errors
    /// Where the path is outside the roots, the name is taken or the rows cannot be read.
    pub async fn enlist_path(&self, path: &str, name: Option<&str>) -> Result<(String, Detected)> {
        let resolved = self.0.roots.readable_from(self.0.roots.data_dir(), path);
        let resolved = resolved.map_err(|message| LibraryError::wrong("path", message))?;
        let below = resolved.strip_prefix(self.0.roots.data_dir()).unwrap_or(&resolved);
        let stem = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
        self.register(&below.display().to_string(), name, &harmless(&stem)).await
    }

    async fn register(
        &self,
        file_name: &str,
        name: Option<&str>,
        stem: &str,
    ) -> Result<(String, Detected)> {
        let name = match name.map(str::trim).filter(|name| !name.is_empty()) {
            Some(name) => {
                check_name(name)?;
                name.to_owned()
            }
            None => self.free_name(stem).await?,
        };
        let detected = self.detect_file(file_name).await?;
        if detected.columns.is_empty() {
            let message = "no row of the file could be read as a JSON object or a table's row";
            return Err(LibraryError::wrong("file", message));
        }
        let entry: Value = detected.entry(file_name);
        self.write_entry(&name, entry, true).await?;
        Ok((name, detected))
    }
}

/// A file that goes again unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Size and hash of what was written.
async fn write<B: AsRef<[u8]>, E: std::fmt::Display>(
    path: &Path,
    bytes: impl Stream<Item = std::result::Result<B, E>>,
) -> Result<(u64, String)> {
    let mut file = tokio::fs::OpenOptions::new().write(true).create_new(true).open(path).await?;
    let mut bytes = std::pin::pin!(bytes);
    let mut hasher = blake3::Hasher::new();
    let (mut size, mut next_look) = (0_u64, LOOK);
    let stopped = |why: String| LibraryError::wrong("file", why);
    loop {
        let chunk = tokio::time::timeout(IDLE, bytes.next()).await;
        let chunk = chunk.map_err(|_| stopped("nothing came for 30 seconds".to_owned()))?;
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(|error| stopped(format!("the upload broke off: {error}")))?;
        let chunk = chunk.as_ref();
        size += chunk.len() as u64;
        if size > LARGEST {
            return Err(too_large());
        }
        if size >= next_look {
            let free = run::atomic::free_bytes(path).unwrap_or(u64::MAX);
            if free < SPARE {
                return Err(LibraryError::TooLarge(
                    "The disk has less than 1 GiB left; make room first.".to_owned(),
                ));
            }
            next_look = size + LOOK;
        }
        hasher.update(chunk);
        file.write_all(chunk).await?;
    }
    file.sync_all().await?;
    Ok((size, hasher.finalize().to_hex().to_string()))
}

/// A file above the limit.
#[must_use]
pub fn too_large() -> LibraryError {
    LibraryError::TooLarge(
        "The file is larger than 8 GiB; put it on the disk and name its path.".to_owned(),
    )
}

/// The stem and the ending of a client's file name.
fn file_name(name: &str) -> Result<(String, String)> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let (stem, ending) = last.rsplit_once('.').unwrap_or((last, ""));
    let ending = ending.to_ascii_lowercase();
    if !ENDINGS.contains(&ending.as_str()) {
        let message = format!("must be a file that ends in .{}", ENDINGS.join(", ."));
        return Err(LibraryError::wrong("file", message));
    }
    Ok((harmless(stem), ending))
}

/// A name of letters, digits, `.`, `_` and `-` that begins with a letter or a digit.
fn harmless(text: &str) -> String {
    let fits = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    let name: String = text.chars().map(|char| if fits(char) { char } else { '_' }).collect();
    let name = name.trim_start_matches(|char: char| !char.is_ascii_alphanumeric());
    let name: String = name.chars().take(60).collect();
    if name.is_empty() { "data".to_owned() } else { name }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        let check = |name: &str, expected: Option<(&str, &str)>| {
            let expected = expected.map(|(a, b)| (a.to_owned(), b.to_owned()));
            assert_eq!(file_name(name).ok(), expected, "{name}");
        };
        check("rows.json", Some(("rows", "json")));
        check("C:\\data\\My Rows.JSONL", Some(("My_Rows", "jsonl")));
        check("../../etc/x.csv", Some(("x", "csv")));
        check("...json", Some(("data", "json")));
        check("<img src=x>.json", Some(("img_src_x_", "json")));
        check("日本.txt", Some(("data", "txt")));
        check("a\0b.json", Some(("a_b", "json")));
        for wrong in ["", "rows", "rows.sh", "json", "a.json/", "a.json\0"] {
            check(wrong, None);
        }
        let long = format!("{}.json", "a".repeat(5000));
        assert_eq!(file_name(&long).unwrap().0.len(), 60);
    }
}
