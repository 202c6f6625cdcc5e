//! dataset_info.json in LLaMA-Factory's format: the folders that have one, its entries, and edits of them.
//!
//! Edits go into the data folder's file alone and keep what they do not touch: other entries, unknown keys, the order.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use engine::data::info::{self, DatasetInfo, Formatting};
use engine::data::source;
use serde_json::{Map, Value};

use super::index::{self, FileIndex};
use super::{Library, LibraryError, Patience, Result};

/// Larger files are no dataset_info.json.
const INFO_LIMIT: u64 = 16 << 20;
/// Folders that are looked into for one.
const MOST_HOMES: usize = 50;
/// Files up to this size are counted when the list is drawn.
const COUNT_AT_ONCE: u64 = 32 << 20;
/// Longest name of a data set made here.
const LONGEST_NAME: usize = 100;

/// A folder with a dataset_info.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// As in a URL: nothing for the data folder, else its path (relative to the data folder where it is below it).
    pub key: String,
    /// The folder.
    pub path: PathBuf,
    /// Whether its list may be changed here.
    pub editable: bool,
}

/// A line of the list.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// `alpaca`, `sharegpt`, `openai`, `tokens`; empty where the entry is not usable.
    pub formatting: &'static str,
    /// `file_name` as it stands.
    pub file: String,
    /// Bytes of its files.
    pub size: Option<u64>,
    /// Rows, where they were counted.
    pub rows: Option<u64>,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// A data set whose files are there.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its name.
    pub name: String,
    /// The entry as it stands.
    pub raw: Map<String, Value>,
    /// The entry as the engine reads it; its path is resolved.
    pub(super) info: DatasetInfo,
    /// Its files, resolved.
    pub files: Vec<PathBuf>,
    /// Bytes of them.
    pub size: u64,
    /// Changes whenever a file or the entry does.
    pub stamp: String,
}

/// A data set, usable or not.
#[derive(Debug, Clone)]
pub struct Looked {
    /// The folder it is in.
    pub home: Home,
    /// Its name.
    pub name: String,
    /// The entry as it stands.
    pub raw: Value,
    /// The files, or why they cannot be used.
    pub opened: std::result::Result<Opened, String>,
}

/// The rows of all files of a data set.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Each file with its rows.
    pub files: Vec<(PathBuf, Arc<FileIndex>)>,
    /// Rows in all.
    pub total: u64,
    /// The first file that breaks off, with the reason.
    pub broken: Option<String>,
}

impl Opened {
    /// The word for the shape of its rows.
    #[must_use]
    pub fn formatting(&self) -> &'static str {
        word(self.info.formatting)
    }

    /// Whether its rows are preferences.
    #[must_use]
    pub fn ranking(&self) -> bool {
        self.info.ranking
    }
}

impl Library {
    /// The folders with a dataset_info.json: the data folder first, whether it has one or not.
    #[must_use]
    pub fn homes(&self) -> Vec<Home> {
        let data = self.0.roots.data_dir();
        let mut homes = vec![self.home_at(data)];
        for root in std::iter::once(data).chain(self.0.roots.allowed().iter().map(PathBuf::as_path))
        {
            let below =
                fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut folders: Vec<PathBuf> =
                below.filter(|path| path.join(info::FILE_NAME).is_file()).collect();
            folders.sort();
            if root != data && root.join(info::FILE_NAME).is_file() {
                folders.insert(0, root.to_owned());
            }
            for folder in folders {
                let readable = self.0.roots.readable(&folder.display().to_string());
                if let Ok(folder) = readable
                    && homes.len() < MOST_HOMES
                    && homes.iter().all(|home| home.path != folder)
                {
                    homes.push(self.home_at(&folder));
                }
            }
        }
        homes
    }

    /// The folder of a key.
    ///
    /// # Errors
    /// Where it is outside the roots or no folder.
    pub fn home(&self, key: &str) -> Result<Home> {
        if key.is_empty() {
            return Ok(self.home_at(self.0.roots.data_dir()));
        }
        let path =
            self.0.roots.readable(key).map_err(|message| LibraryError::wrong("dir", message))?;
        if !path.is_dir() {
            return Err(LibraryError::wrong("dir", "is no folder"));
        }
        Ok(self.home_at(&path))
    }

    fn home_at(&self, path: &Path) -> Home {
        let data = self.0.roots.data_dir();
        let key = path.strip_prefix(data).unwrap_or(path).display().to_string();
        Home { key, path: path.to_owned(), editable: path == data }
    }

    /// The data sets of a folder.
    ///
    /// # Errors
    /// Where its dataset_info.json is broken.
    pub async fn list(&self, home: Home) -> Result<Vec<Listed>> {
        self.blocking(move |library| {
            let entries = read_info(&home.path)?;
            let one = |(name, raw): (&String, &Value)| library.listed(&home, name, raw);
            Ok(entries.iter().map(one).collect())
        })
        .await
    }

    fn listed(&self, home: &Home, name: &str, raw: &Value) -> Listed {
        let file = raw.get("file_name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let blank = Listed {
            name: name.to_owned(),
            formatting: "",
            file,
            size: None,
            rows: None,
            problem: None,
        };
        match self.open(home, name, raw) {
            Err(problem) => Listed { problem: Some(problem), ..blank },
            Ok(opened) => {
                let mut rows = Some(0);
                let mut problem = None;
                for (path, size) in opened.files.iter().zip(sizes(&opened.files)) {
                    let known = self.0.answers.known::<FileIndex>(&stamp(path));
                    let index = match known {
                        Some(index) => Some(index),
                        None if size <= COUNT_AT_ONCE => self.count_now(path),
                        None => None,
                    };
                    problem = problem.or_else(|| index.as_ref().and_then(|i| i.broken.clone()));
                    rows = rows.zip(index).map(|(rows, index)| rows + index.rows);
                }
                if rows == Some(0) {
                    problem = problem.or_else(|| Some("it has no rows".to_owned()));
                }
                let (formatting, size) = (opened.formatting(), Some(opened.size));
                Listed { formatting, size, rows, problem, ..blank }
            }
        }
    }

    /// Counts a small file on this thread, which may block, and keeps the answer.
    fn count_now(&self, path: &Path) -> Option<Arc<FileIndex>> {
        let index = Arc::new(index::build(path).ok()?);
        let kept = index.clone();
        self.0.answers.put(stamp(path), kept);
        Some(index)
    }

    /// A data set by its name.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub async fn look(&self, home: Home, name: &str) -> Result<Looked> {
        let name = name.to_owned();
        self.blocking(move |library| {
            let entries = read_info(&home.path)?;
            let Some(raw) = entries.get(&name) else {
                return Err(LibraryError::Missing { what: "dataset", name });
            };
            let opened = library.open(&home, &name, raw);
            Ok(Looked { home, name, raw: raw.clone(), opened })
        })
        .await
    }

    /// A data set whose files must be there.
    ///
    /// # Errors
    /// Where there is none of that name, or it cannot be used.
    pub async fn opened(&self, home: Home, name: &str) -> Result<Opened> {
        let looked = self.look(home, name).await?;
        looked.opened.map_err(|message| LibraryError::wrong("name", message))
    }

    /// The files of an entry, resolved and confined.
    pub(super) fn open(
        &self,
        home: &Home,
        name: &str,
        raw: &Value,
    ) -> std::result::Result<Opened, String> {
        let mut info = info::parse_entry(&home.path, name, raw)?;
        let file = raw.get("file_name").and_then(Value::as_str).unwrap_or_default();
        info.path = self.0.roots.readable_from(&home.path, file)?;
        let files = source::files(&info.path).map_err(|error| error.to_string())?;
        let size = sizes(&files).iter().sum();
        let stamps: Vec<String> = files.iter().map(|path| stamp(path)).collect();
        let all = format!("{name}\0{raw}\0{}", stamps.join("\0"));
        let stamp = blake3::hash(all.as_bytes()).to_hex().to_string();
        let raw = raw.as_object().cloned().unwrap_or_default();
        Ok(Opened { name: name.to_owned(), raw, info, files, size, stamp })
    }

    /// Where the rows of a data set lie.
    ///
    /// # Errors
    /// Where a file cannot be read, or patience ends.
    pub async fn rows_of(&self, opened: &Opened, patience: Patience) -> Result<Rows> {
        let mut rows = Rows { files: Vec::new(), total: 0, broken: None };
        for path in &opened.files {
            let file = path.clone();
            let build = move || Ok(index::build(&file)?);
            let index = self.0.answers.get(stamp(path), patience, build).await?;
            rows.total += index.rows;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let broken = || index.broken.as_ref().map(|why| format!("{name}, {why}"));
            rows.broken = rows.broken.or_else(broken);
            rows.files.push((path.clone(), index));
        }
        Ok(rows)
    }

    /// Writes an entry into the data folder's dataset_info.json. With `fresh` the name must be free.
    ///
    /// # Errors
    /// Where the name or the entry cannot be used, or the file cannot be read or written.
    pub async fn write_entry(&self, name: &str, entry: Value, fresh: bool) -> Result<()> {
        check_name(name)?;
        let name = name.to_owned();
        self.edit(move |library, home, entries| {
            if fresh && entries.contains_key(&name) {
                let message = format!("there is a dataset `{name}` already");
                return Err(LibraryError::wrong("name", message));
            }
            library
                .open(home, &name, &entry)
                .map_err(|message| LibraryError::wrong("file_name", message))?;
            entries.insert(name, entry);
            Ok(())
        })
        .await
    }

    /// Takes an entry out of the list. Its files stay.
    ///
    /// # Errors
    /// Where there is no such entry, or the file cannot be written.
    pub async fn remove_entry(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.edit(move |_, _, entries| match entries.shift_remove(&name) {
            Some(_) => Ok(()),
            None => Err(LibraryError::Missing { what: "dataset", name }),
        })
        .await
    }

    /// One change of the data folder's list.
    async fn edit(
        &self,
        change: impl FnOnce(&Self, &Home, &mut Map<String, Value>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let _one_at_a_time = self.0.edits.lock().await;
        let home = self.home("")?;
        self.blocking(move |library| {
            let mut entries = read_info(&home.path)?;
            change(library, &home, &mut entries)?;
            let text = serde_json::to_string_pretty(&entries).unwrap_or_default() + "\n";
            run::atomic::write(home.path.join(info::FILE_NAME), text.as_bytes())?;
            Ok(())
        })
        .await
    }

    /// A name like `wanted` that the data folder's list does not have.
    ///
    /// # Errors
    /// Where the list cannot be read.
    pub async fn free_name(&self, wanted: &str) -> Result<String> {
        let home = self.home("")?;
        let wanted = wanted.to_owned();
        self.blocking(move |_| {
            let entries = read_info(&home.path)?;
            let mut name = wanted.clone();
            for number in 2.. {
                if !entries.contains_key(&name) {
                    break;
                }
                name = format!("{wanted}-{number}");
            }
            Ok(name)
        })
        .await
    }
}

/// A name that a command line, a YAML file and a URL take as it is.
///
/// # Errors
/// Where it is not one.
pub fn check_name(name: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fine = (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(fits)
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if fine {
        return Ok(());
    }
    let rule =
        "takes letters, digits, `.`, `_` and `-`, at most 100, and begins with a letter or a digit";
    Err(LibraryError::wrong("name", rule))
}

/// The entries of a folder's dataset_info.json; none where it has no such file.
fn read_info(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join(info::FILE_NAME);
    let length = match fs::metadata(&path) {
        Ok(facts) => facts.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(error.into()),
    };
    let wrong = |why: String| LibraryError::wrong("dir", format!("dataset_info.json: {why}"));
    if length > INFO_LIMIT {
        return Err(wrong("larger than 16 MiB".to_owned()));
    }
    let text = fs::read(&path)?;
    serde_json::from_slice(&text).map_err(|error| wrong(format!("no object of datasets: {error}")))
}

fn sizes(files: &[PathBuf]) -> Vec<u64> {
    files.iter().map(|path| fs::metadata(path).map_or(0, |facts| facts.len())).collect()
}

/// A file as it is now: path, length and time of change.
pub(super) fn stamp(path: &Path) -> String {
    let facts = fs::metadata(path).ok();
    let changed = facts.as_ref().and_then(|facts| facts.modified().ok());
    let changed = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let length = facts.map_or(0, |facts| facts.len());
    format!("{}\0{length}\0{}", path.display(), changed.as_nanos())
}

fn word(formatting: Formatting) -> &'static str {
    match formatting {
        Formatting::Alpaca => "alpaca",
        Formatting::Sharegpt => "sharegpt",
        Formatting::Openai => "openai",
        Formatting::Tokens => "tokens",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for fine in ["a", "my_rows-2.v1", "0x"] {
            assert!(check_name(fine).is_ok(), "{fine}");
        }
        let long = "a".repeat(101);
        for wrong in
            ["", ".", "..", "-a", "_a", "a,b", "a/b", "a b", "ä", "a\0", "<b>", "a\n", &long]
        {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
