//! Where each tensor lies: headers of safetensors files, and the index over shards.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use indexmap::IndexMap;
use safetensors::tensor::{Dtype as StDtype, Metadata};
use serde_json::Value;

use super::shape_error;
use crate::error::{Error, Result};
use crate::model::brief;
use crate::model::config::read_json;
use crate::model::params::ParamSpec;

/// safetensors' own limit on a header.
const MAX_HEADER: u64 = 100_000_000;

/// Endings of files that are, or may hide, a pickle.
const PICKLES: [&str; 7] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle", "joblib"];

/// A tensor's place.
#[derive(Debug)]
pub(super) struct Entry {
    /// Position in [`Index::files`].
    pub file: usize,
    /// Format in the file.
    pub dtype: StDtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Bytes; lies within the file.
    pub len: usize,
}

/// Open files and the tensors in them.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub files: Vec<(PathBuf, File)>,
    /// By name, ordered by file and offset.
    pub entries: IndexMap<String, Entry>,
}

impl Index {
    /// One file.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut index = Self::default();
        index.add(path)?;
        Ok(index)
    }

    /// The weights of a model folder.
    pub fn open_folder(dir: &Path) -> Result<Self> {
        let single = dir.join("model.safetensors");
        if single.exists() {
            return Self::open_file(&single);
        }
        let list = dir.join("model.safetensors.index.json");
        if !list.exists() {
            return Err(no_weights(dir));
        }
        let map = shards(&list)?;
        let mut index = Self::default();
        let mut opened: IndexMap<&str, usize> = IndexMap::new();
        for shard in map.values() {
            if !opened.contains_key(shard.as_str()) {
                opened.insert(shard, index.files.len());
                index.add(&dir.join(shard))?;
            }
        }
        for (name, shard) in &map {
            if index.entries.get(name).map(|entry| entry.file)
                != opened.get(shard.as_str()).copied()
            {
                let name = brief(name);
                let why = format!("weight_map puts tensor {name} into {shard}, which lacks it");
                return Err(Error::input(list.display().to_string(), why));
            }
        }
        Ok(index)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        let (start, metadata) = header(path, &file)?;
        let number = self.files.len();
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else {
                continue;
            };
            let (from, to) = info.data_offsets;
            let entry = Entry {
                file: number,
                dtype: info.dtype,
                shape: info.shape.clone(),
                offset: start + from as u64,
                len: to - from,
            };
            if let Some(old) = self.entries.get(&name) {
                let other = self.files[old.file].0.display();
                let name = brief(&name);
                let why = format!("tensor {name} is also in {other}; each may be there once");
                return Err(Error::input(path.display().to_string(), why));
            }
            self.entries.insert(name, entry);
        }
        self.files.push((path.to_owned(), file));
        Ok(())
    }

    /// The place of a parameter, checked for its shape. A file saved from the bare decoder
    /// (without head) has names without the leading `model.`.
    pub fn find(&self, spec: &ParamSpec, dir: &Path) -> Result<&Entry> {
        let bare =
            spec.name.strip_prefix("model.").and_then(|name| self.entries.get_key_value(name));
        let Some((name, entry)) = self.entries.get_key_value(&spec.name).or(bare) else {
            let hint = match spec.name.as_str() {
                "lm_head.weight" => " (config.json does not say tie_word_embeddings: true)",
                _ => "",
            };
            let why = format!("tensor {} is missing from the weights{hint}", spec.name);
            return Err(Error::input(dir.display().to_string(), why));
        };
        if entry.shape != spec.shape {
            return Err(shape_error(&self.files[entry.file].0, name, &entry.shape, spec));
        }
        Ok(entry)
    }

    /// Names that `specs` does not have, but for what every old checkpoint carries along.
    pub fn unused(&self, specs: &[ParamSpec], tied: bool) -> Vec<String> {
        let known: std::collections::BTreeSet<_> =
            specs.iter().map(|spec| spec.name.as_str()).collect();
        let wanted = |name: &str| {
            known.contains(name)
                || known.contains(format!("model.{name}").as_str())
                || name.ends_with("rotary_emb.inv_freq")
                || (tied && name == "lm_head.weight")
        };
        self.entries.keys().filter(|name| !wanted(name)).cloned().collect()
    }
}

/// Start of the data and the header, whose offsets all lie within the file.
fn header(path: &Path, mut file: &File) -> Result<(u64, Metadata)> {
    let io = |e| Error::io("read", path, e);
    let bad = |why: String| Error::input(path.display().to_string(), why);
    let file_len = file.metadata().map_err(io)?.len();
    let mut head = [0; 9];
    if file_len < 9 {
        return Err(bad(format!(
            "{file_len} bytes is too short for a safetensors file; fetch it again"
        )));
    }
    file.read_exact(&mut head).map_err(io)?;
    if is_pickle(&head) {
        return Err(pickle_error(path, "is a pickle (PyTorch) file, whatever its name says"));
    }
    let [len @ .., _] = head;
    let len = u64::from_le_bytes(len);
    if len > MAX_HEADER || len.saturating_add(8) > file_len || head[8] != b'{' {
        let why = "not a safetensors file, or cut short in its header; fetch it again";
        return Err(bad(why.into()));
    }
    let mut json = vec![b'{'; len as usize];
    file.read_exact(&mut json[1..]).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&json)
        .map_err(|e| bad(format!("damaged safetensors header: {}", brief(e))))?;
    let expected = (8 + len).saturating_add(metadata.data_len() as u64);
    if expected != file_len {
        let why = match file_len < expected {
            true => "the file is truncated",
            false => "there is something after the last tensor",
        };
        return Err(bad(format!(
            "{why}: {file_len} bytes where its header describes {expected}; fetch it again"
        )));
    }
    Ok((8 + len, metadata))
}

/// `weight_map` of an index file: tensor to shard, in the file's order.
fn shards(list: &Path) -> Result<IndexMap<String, String>> {
    let bad = |why: String| Error::input(list.display().to_string(), why);
    let json = read_json(list)?;
    let Some(Value::Object(map)) = json.get("weight_map") else {
        return Err(bad("weight_map: expected an object of tensor names and file names".into()));
    };
    let one = |(name, shard): (&String, &Value)| {
        let label = brief(name);
        let Some(shard) = shard.as_str() else {
            return Err(bad(format!("weight_map.{label}: expected a file name")));
        };
        let mut parts = Path::new(shard).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || shard.contains(['\\', '/', '\0']) {
            let why = format!("weight_map.{label}: {shard:?} is not a file name in this folder");
            return Err(bad(why));
        }
        if !shard.ends_with(".safetensors") {
            return Err(bad(format!("weight_map.{label}: {shard:?} is not a .safetensors file")));
        }
        Ok((name.clone(), shard.to_owned()))
    };
    map.iter().map(one).collect()
}

/// Whether a file's first bytes are those of a pickle or of PyTorch's zip of pickles.
fn is_pickle(head: &[u8; 9]) -> bool {
    // A safetensors header's length may look like a pickle's start; what follows it does not.
    let pickled = head[0] == 0x80 && (2..=5).contains(&head[1]) && head[8] != b'{';
    pickled || head.starts_with(b"PK\x03\x04")
}

/// Why a folder without safetensors cannot be used.
fn no_weights(dir: &Path) -> Error {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut pickles: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("");
            PICKLES.contains(&ending.to_ascii_lowercase().as_str())
        })
        .collect();
    pickles.sort();
    match pickles.first() {
        Some(path) => pickle_error(path, "is a pickle (PyTorch) file"),
        None => Error::input(
            dir.display().to_string(),
            "no weights here: expected model.safetensors, or model.safetensors.index.json and its \
             shards",
        ),
    }
}

fn pickle_error(path: &Path, what: &str) -> Error {
    Error::input(
        path.display().to_string(),
        format!(
            "{what}, which can run any program when opened, and is never read here. Convert it to \
             safetensors with transformers' save_pretrained, or take the model's safetensors version"
        ),
    )
}
