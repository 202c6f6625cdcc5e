//! The models on this machine: folders, GGUF files, the hubs' caches, adapters; and why one cannot be trained.
//!
//! Only headers and JSON are read. What is asked of the engine: does it know this config, and how many parameters is
//! that?

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::model::config::ModelConfig;
use engine::model::gguf::Gguf;
use engine::model::hub::{ModelLocation, resolve_model};
use engine::model::params::expected_params;
use serde_json::Value;

use super::datasets::stamp;
use super::{Library, Result, registry, shortened};

/// Folders that are looked into at most.
const MOST_FOLDERS: usize = 20_000;
/// How deep.
const DEEPEST: usize = 6;
/// Larger JSON files are no configs.
const LARGEST_JSON: u64 = 4 << 20;

/// What kind of thing a model is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A folder with config.json.
    Folder,
    /// The snapshot of a hub.
    Hub,
    /// A GGUF file.
    Gguf,
    /// A LoRA adapter.
    Adapter,
}

impl Kind {
    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Hub => "hub",
            Self::Gguf => "gguf",
            Self::Adapter => "adapter",
        }
    }
}

/// A model on disk.
#[derive(Debug, Clone)]
pub struct OnDisk {
    /// What a run names it by: a hub id, or a path (from the data folder on where it is below it).
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// What is inside.
    pub inside: Arc<Inside>,
}

/// What a model's files say of it.
#[derive(Debug, Clone, Default)]
pub struct Inside {
    /// `llama`, `qwen2` ...; what the file says where the engine does not know it.
    pub arch: String,
    /// Parameters; of an adapter none.
    pub parameters: Option<u64>,
    /// `bfloat16`, `Q4_K_M` ...
    pub dtype: String,
    /// Bytes of its weights.
    pub size: u64,
    /// Longest sequence it was made for.
    pub context: Option<u64>,
    /// A template that fits.
    pub template: Option<String>,
    /// Why it cannot be trained.
    pub problem: Option<String>,
    /// Of an adapter: the model it belongs to.
    pub base: Option<String>,
    /// Of an adapter: its rank.
    pub rank: Option<u64>,
}

impl Library {
    /// Every model below the roots and in the hubs' caches, in the order of their names.
    ///
    /// # Errors
    /// Where the work is lost; a folder that cannot be read is left out.
    pub async fn models(&self) -> Result<Vec<OnDisk>> {
        self.blocking(|library| {
            let mut found = library.in_caches();
            let mut left = MOST_FOLDERS;
            let data = library.0.roots.data_dir().to_owned();
            let roots: BTreeSet<PathBuf> =
                library.0.roots.allowed().iter().cloned().chain([data]).collect();
            for root in roots {
                library.walk(&root, 0, &mut left, &mut found);
            }
            found.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
            found.dedup_by(|a, b| a.path == b.path);
            Ok(found)
        })
        .await
    }

    /// Where models are looked for, for people.
    #[must_use]
    pub fn model_places(&self) -> Vec<String> {
        let roots = std::iter::once(self.0.roots.data_dir());
        let allowed = self.0.roots.allowed().iter().map(PathBuf::as_path);
        let caches = [self.0.hub.hf_cache.as_path(), self.0.hub.ms_cache.as_path()];
        roots.chain(allowed).chain(caches).map(|path| path.display().to_string()).collect()
    }

    fn walk(&self, dir: &Path, depth: usize, left: &mut usize, found: &mut Vec<OnDisk>) {
        if depth > DEEPEST || *left == 0 {
            return;
        }
        *left -= 1;
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        let (mut folders, mut ggufs) = (Vec::new(), Vec::new());
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(kind) = entry.file_type() else { continue };
            let passed = name.starts_with('.') || name.starts_with("checkpoint-");
            if kind.is_dir() && !passed && name != "uploads" {
                folders.push(entry.path());
            } else if kind.is_file() && name.ends_with(".gguf") {
                ggufs.push(entry.path());
            }
        }
        let known =
            |kind, path: PathBuf, inside| OnDisk { name: self.short(&path), path, kind, inside };
        for path in ggufs {
            let inside = self.kept(&path, gguf);
            found.push(known(Kind::Gguf, path, inside));
        }
        if dir.join("adapter_config.json").is_file() {
            let inside = self.kept(dir, adapter);
            found.push(known(Kind::Adapter, dir.to_owned(), inside));
        } else if is_model(dir) {
            let inside = self.kept(dir, folder);
            found.push(known(Kind::Folder, dir.to_owned(), inside));
        }
        folders.sort();
        for folder in folders {
            self.walk(&folder, depth + 1, left, found);
        }
    }

    /// A path as a run names it.
    fn short(&self, path: &Path) -> String {
        let data = self.0.roots.data_dir();
        path.strip_prefix(data).unwrap_or(path).display().to_string()
    }

    fn in_caches(&self) -> Vec<OnDisk> {
        let hub = &self.0.hub;
        let below = |path: &Path| -> Vec<PathBuf> {
            fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        };
        let name = |path: &Path| {
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let mut names: BTreeSet<String> = below(&hub.hf_cache)
            .iter()
            .filter_map(|path| Some(name(path).strip_prefix("models--")?.replacen("--", "/", 1)))
            .collect();
        for root in [hub.ms_cache.join("models"), hub.ms_cache.clone()] {
            for owner in below(&root) {
                for model in below(&owner).iter().filter(|path| is_model(path)) {
                    names.insert(format!("{}/{}", name(&owner), name(model).replace("___", ".")));
                }
            }
        }
        let one = |name: String| match resolve_model(&name, "main", None, hub) {
            Ok(location) => {
                let path = location.path().to_owned();
                let read = if matches!(location, ModelLocation::Gguf(_)) { gguf } else { folder };
                let mut inside = self.kept(&path, read);
                let named = registry::of(&name).map(|named| named.template.clone());
                if let Some(template) = named.filter(|template| !template.is_empty()) {
                    Arc::make_mut(&mut inside).template = Some(template);
                }
                OnDisk { name, path, kind: Kind::Hub, inside }
            }
            Err(error) => {
                let problem = Some(shortened(&error.to_string(), 300).0);
                let inside = Arc::new(Inside { problem, ..Inside::default() });
                OnDisk { path: PathBuf::from(&name), name, kind: Kind::Hub, inside }
            }
        };
        names.into_iter().map(one).collect()
    }

    /// What a path holds, from before where its config is as it was.
    fn kept(&self, path: &Path, read: fn(&Path) -> Inside) -> Arc<Inside> {
        let files = ["", "config.json", "adapter_config.json", "model.safetensors"];
        let key: Vec<String> = files.iter().map(|name| stamp(&path.join(name))).collect();
        let key = key.join("\0");
        if let Some(inside) = self.0.models.known::<Inside>(&key) {
            return inside;
        }
        let inside = Arc::new(read(path));
        self.0.models.put(key, inside.clone());
        inside
    }

    /// What is known of one model that a run names.
    ///
    /// # Errors
    /// Where it is outside the roots or not there.
    pub async fn model(&self, name: &str, revision: &str) -> Result<Arc<Inside>> {
        let (name, revision) = (name.to_owned(), revision.to_owned());
        self.blocking(move |library| {
            let location = library.locate(&name, &revision)?;
            let read = if matches!(location, ModelLocation::Gguf(_)) { gguf } else { folder };
            let mut inside = library.kept(location.path(), read);
            let named = registry::of(&name).map(|named| named.template.clone());
            if let Some(template) = named.filter(|template| !template.is_empty()) {
                Arc::make_mut(&mut inside).template = Some(template);
            }
            Ok(inside)
        })
        .await
    }
}

/// A config.json of a model: other programs' folders have files of that name too.
fn is_model(dir: &Path) -> bool {
    let config = json(&dir.join("config.json")).unwrap_or_default();
    config.get("model_type").is_some() || config.get("architectures").is_some()
}

fn folder(dir: &Path) -> Inside {
    let raw = json(&dir.join("config.json")).unwrap_or_default();
    let text = |key: &str| raw.get(key).and_then(Value::as_str).map(str::to_owned);
    let (size, trouble) = weights(dir);
    let mut inside = Inside {
        arch: text("model_type").unwrap_or_default(),
        dtype: text("dtype").or_else(|| text("torch_dtype")).unwrap_or_default(),
        size,
        context: raw.get("max_position_embeddings").and_then(Value::as_u64),
        template: guess(dir),
        problem: trouble,
        ..Inside::default()
    };
    match ModelConfig::from_file(&dir.join("config.json")) {
        Ok(config) => inside.parameters = Some(parameters(&config)),
        Err(error) => inside.problem = Some(bare(&error.to_string(), &dir.join("config.json"))),
    }
    inside
}

fn gguf(path: &Path) -> Inside {
    let size = fs::metadata(path).map_or(0, |facts| facts.len());
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let dtype = stem.rsplit(['-', '.']).next().filter(|word| {
        let word = word.to_ascii_uppercase();
        ["Q", "IQ", "F16", "F32", "BF16"].iter().any(|start| word.starts_with(start))
    });
    let mut inside = Inside {
        size,
        dtype: dtype.map(str::to_ascii_uppercase).unwrap_or_default(),
        ..Inside::default()
    };
    match Gguf::open(path).and_then(|file| file.config()) {
        Ok(config) => {
            inside.arch = config.arch.model_type().to_owned();
            inside.parameters = Some(parameters(&config));
            inside.context = Some(config.max_position_embeddings as u64);
        }
        Err(error) => inside.problem = Some(bare(&error.to_string(), path)),
    }
    inside
}

fn adapter(dir: &Path) -> Inside {
    let raw = json(&dir.join("adapter_config.json")).unwrap_or_default();
    let text = |key: &str| raw.get(key).and_then(Value::as_str).map(str::to_owned);
    let file = dir.join("adapter_model.safetensors");
    let there = file.is_file();
    let kind = text("peft_type").unwrap_or_default();
    let problem = if !there {
        Some("adapter_model.safetensors is missing".to_owned())
    } else if kind != "LORA" {
        Some(format!("an adapter of type {kind}; LORA can be trained on"))
    } else {
        None
    };
    Inside {
        arch: kind,
        size: fs::metadata(file).map_or(0, |facts| facts.len()),
        base: text("base_model_name_or_path").filter(|name| !name.is_empty()),
        rank: raw.get("r").and_then(Value::as_u64),
        problem,
        ..Inside::default()
    }
}

/// Parameters that a config describes.
fn parameters(config: &ModelConfig) -> u64 {
    let count = |shape: &[usize]| shape.iter().map(|side| *side as u64).product::<u64>();
    expected_params(config).iter().map(|spec| count(&spec.shape)).sum()
}

/// Bytes of a folder's weights, and what is wrong with them.
fn weights(dir: &Path) -> (u64, Option<String>) {
    let length = |name: &str| fs::metadata(dir.join(name)).ok().map(|facts| facts.len());
    if let Some(size) = length("model.safetensors") {
        return (size, None);
    }
    if let Some(index) = json(&dir.join("model.safetensors.index.json")) {
        let map = index.get("weight_map").and_then(Value::as_object);
        let shards: BTreeSet<&str> =
            map.into_iter().flat_map(|map| map.values()).filter_map(Value::as_str).collect();
        let plain = |name: &str| !name.contains(['/', '\\']);
        let missing = shards.iter().find(|name| !plain(name) || length(name).is_none());
        let size = shards.iter().filter(|name| plain(name)).filter_map(|name| length(name)).sum();
        let problem = missing.map(|name| format!("{} is missing", shortened(name, 80).0));
        return (size, problem);
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let pickle = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| [".bin", ".pt", ".pth"].iter().any(|ending| name.ends_with(ending)));
    let problem = match pickle {
        Some(name) => format!(
            "{} is a pickle, which can run any program when it is opened; take the model's safetensors version",
            shortened(&name, 80).0
        ),
        None => "there are no weights: model.safetensors, or its index and shards".to_owned(),
    };
    (0, Some(problem))
}

/// A template whose marks the tokenizer's chat template has.
fn guess(dir: &Path) -> Option<String> {
    if let Some(named) = registry::of(&dir.display().to_string()) {
        return Some(named.template.clone()).filter(|template| !template.is_empty());
    }
    let jinja = match fs::read_to_string(dir.join("chat_template.jinja")) {
        Ok(text) => text,
        Err(_) => {
            let config = json(&dir.join("tokenizer_config.json"))?;
            config.get("chat_template")?.as_str()?.to_owned()
        }
    };
    template_of(&jinja).map(str::to_owned)
}

/// The likeliest template of a chat template, by the marks in it.
fn template_of(jinja: &str) -> Option<&'static str> {
    let has = |mark: &str| jinja.contains(mark);
    Some(match () {
        () if has("<|im_start|>") && has("<think>") => "qwen3",
        () if has("<|im_start|>") && has("SmolLM") => "smollm2",
        () if has("<|im_start|>") && has("Qwen") => "qwen",
        () if has("<|im_start|>") => "chatml",
        () if has("<|start_header_id|>") => "llama3",
        () if has("<start_of_turn>") => "gemma2",
        () if has("<|end|>") && has("<|user|>") => "phi",
        () if has("[INST]") && has("<<SYS>>") => "llama2",
        () if has("[INST]") => "mistral",
        () => return None,
    })
}

/// A JSON object from a small file.
fn json(path: &Path) -> Option<serde_json::Map<String, Value>> {
    let length = fs::metadata(path).ok()?.len();
    if length > LARGEST_JSON * 16 {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// A reason without the path before it.
fn bare(error: &str, path: &Path) -> String {
    let text = error.replace(&path.display().to_string(), "");
    let text = text.trim_start_matches([':', ' ']);
    shortened(text, 400).0
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_a_folder_holds() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let config = |kind: &str| {
            format!(
                r#"{{"model_type": "{kind}", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 10, "torch_dtype": "bfloat16"}}"#
            )
        };
        put("good/config.json", &config("llama"));
        put("good/model.safetensors", "12345");
        put("good/tokenizer_config.json", r#"{"chat_template": "<|im_start|> by Qwen"}"#);
        put("odd/config.json", &config("mamba"));
        put("odd/model.safetensors", "");
        put("pickle/config.json", &config("qwen2"));
        put("pickle/pytorch_model.bin", "");
        put("half/config.json", &config("qwen2"));
        put(
            "half/model.safetensors.index.json",
            r#"{"weight_map": {"a": "one.safetensors", "b": "../two.safetensors"}}"#,
        );
        put("empty/config.json", &config("qwen2"));
        let check = |name: &str, problem: Option<&str>| {
            let inside = folder(&dir.path().join(name));
            match (&inside.problem, problem) {
                (Some(found), Some(part)) => assert!(found.contains(part), "{name}: {found}"),
                (found, expected) => assert_eq!(found.as_deref(), expected, "{name}"),
            }
            inside
        };
        let good = check("good", None);
        assert_eq!((good.parameters, good.size, good.dtype.as_str()), (Some(824), 5, "bfloat16"));
        assert_eq!(good.template.as_deref(), Some("qwen"));
        check("odd", Some("mamba"));
        check("pickle", Some("pickle"));
        check("half", Some("is missing"));
        check("empty", Some("no weights"));
        put(
            "a/adapter_config.json",
            r#"{"peft_type": "LORA", "r": 8, "base_model_name_or_path": "x/y"}"#,
        );
        assert!(adapter(&dir.path().join("a")).problem.unwrap().contains("missing"));
        put("a/adapter_model.safetensors", "1");
        let found = adapter(&dir.path().join("a"));
        assert_eq!(
            (found.problem, found.rank, found.base.as_deref()),
            (None, Some(8), Some("x/y"))
        );
        put("m.gguf", "no");
        assert!(gguf(&dir.path().join("m.gguf")).problem.is_some());
    }
}
