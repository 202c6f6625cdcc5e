//! manifest.json: the last file written into a checkpoint, and the proof that it is complete.
//!
//! It names the length and BLAKE3 of each file. A folder without one, or with one that does not
//! fit, is no checkpoint.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic;

/// The name of the file.
pub const NAME: &str = "manifest.json";
/// The only schema there is so far.
pub const SCHEMA: u32 = 1;

/// What makes a resume bit-identical, besides the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Optimiser steps done.
    pub step: u64,
    /// The version of the engine that wrote it.
    pub engine_version: String,
    /// Threads that computed: another count sums in another order.
    pub threads: usize,
    /// CPU features that chose the kernels, in a fixed order.
    pub cpu_features: Vec<String>,
}

/// The content of manifest.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Step, version, threads, CPU.
    #[serde(flatten)]
    pub facts: Facts,
    /// Each file of the folder but this one, by name.
    pub files: BTreeMap<String, FileRecord>,
}

/// One file's proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Bytes.
    pub length: u64,
    /// BLAKE3 in hexadecimal.
    pub blake3: String,
}

/// Why a folder is no complete checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It was never finished.
    #[error("{}: no manifest.json; this checkpoint was never finished", .dir.display())]
    Unfinished {
        /// The folder.
        dir: PathBuf,
    },
    /// manifest.json is not one of ours.
    #[error("{}: {why}", .path.display())]
    Unreadable {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file is missing or cannot be read.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file was cut or grew.
    #[error("{}: {found} bytes, the manifest says {expected}", .path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes on disk.
        found: u64,
    },
    /// A file's bytes changed.
    #[error("{}: its content is not what the manifest says", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
}

/// Syncs and hashes every file of the folder, then writes manifest.json, durably.
///
/// # Errors
/// When a file cannot be read or synced, or the folder holds something that is not a file.
pub fn write(dir: &Path, facts: Facts) -> io::Result<Manifest> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|_| not_plain(&path))?;
        if name == NAME {
            continue;
        }
        if !entry.file_type()?.is_file() {
            return Err(not_plain(&path));
        }
        files.insert(name, sync_and_hash(&path)?);
    }
    let manifest = Manifest { schema: SCHEMA, facts, files };
    atomic::write(dir.join(NAME), serde_json::to_string_pretty(&manifest)?.as_bytes())?;
    Ok(manifest)
}

/// Checks every file against manifest.json.
///
/// # Errors
/// The first thing that is wrong, with the file's name.
pub fn verify(dir: &Path) -> Result<Manifest, Fault> {
    let manifest = read(dir)?;
    for (name, expected) in &manifest.files {
        let path = dir.join(name);
        let io = |source| Fault::Io { path: dir.join(name), source };
        let found = fs::metadata(&path).map_err(io)?.len();
        if found != expected.length {
            return Err(Fault::Length { path, expected: expected.length, found });
        }
        if hash(&File::open(&path).map_err(io)?).map_err(io)? != expected.blake3 {
            return Err(Fault::Content { path });
        }
    }
    Ok(manifest)
}

/// Reads manifest.json without looking at the files.
///
/// # Errors
/// When it is missing or is not one of ours.
pub fn read(dir: &Path) -> Result<Manifest, Fault> {
    let path = dir.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Fault::Unfinished { dir: dir.to_owned() });
        }
        Err(source) => return Err(Fault::Io { path, source }),
    };
    let manifest: Manifest = match serde_json::from_slice(&bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            return Err(Fault::Unreadable { path, why: error.to_string() });
        }
    };
    if manifest.schema != SCHEMA {
        let why = format!("schema {} is not {SCHEMA}; another version wrote it", manifest.schema);
        return Err(Fault::Unreadable { path, why });
    }
    if let Some(name) = manifest.files.keys().find(|name| !is_plain(name)) {
        return Err(Fault::Unreadable { path, why: format!("`{name}` is not a plain file name") });
    }
    Ok(manifest)
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

fn not_plain(path: &Path) -> io::Error {
    io::Error::other(format!("{}: a checkpoint holds plain files only", path.display()))
}

fn sync_and_hash(path: &Path) -> io::Result<FileRecord> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(FileRecord { length: file.metadata()?.len(), blake3: hash(&file)? })
}

fn hash(file: &File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().to_hex().to_string())
}
