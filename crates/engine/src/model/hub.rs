//! From what a user writes as a model to where it lies on disk: a folder, a GGUF file, or a hub
//! name whose files are already in the Hugging Face or ModelScope cache. Nothing is downloaded.
//!
//! The Hugging Face cache is read by hand: hf-hub's `Cache` knows only revisions with a file in
//! `refs/` (no commit hashes) and answers for single files, where this needs the folder.

use std::path::{Component, Path, PathBuf};

use super::brief;
use crate::error::{Error, Result};

/// Where a model's files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelLocation {
    /// A folder in Hugging Face's layout.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
}

impl ModelLocation {
    /// The folder, or the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Gguf(path) => path,
        }
    }
}

/// Where the hubs keep their files. The caller fills it from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubEnv {
    /// `$HF_HUB_CACHE`, `$HF_HOME/hub` or `~/.cache/huggingface/hub`.
    pub hf_cache: PathBuf,
    /// `$MODELSCOPE_CACHE` or `~/.cache/modelscope/hub`.
    pub ms_cache: PathBuf,
}

/// Finds a model by path or hub name. `revision` is a branch, a tag or a commit; `cache_dir`
/// takes the place of the Hugging Face cache.
///
/// # Errors
/// When there is nothing of that name, a folder holds several GGUF files and no config.json, or
/// the name is that of a pickle. The text says how to point to a model.
pub fn resolve_model(
    name: &str,
    revision: &str,
    cache_dir: Option<&Path>,
    env: &HubEnv,
) -> Result<ModelLocation> {
    let path = Path::new(name);
    if path.is_dir() {
        return folder(path);
    }
    if path.is_file() {
        return match path.extension().and_then(|ending| ending.to_str()) {
            Some("gguf") => Ok(ModelLocation::Gguf(path.to_owned())),
            _ => Err(Error::input(
                brief(name),
                "is a file but no .gguf; give the folder that holds config.json, or a GGUF file",
            )),
        };
    }
    let hf = cache_dir.unwrap_or(&env.hf_cache);
    if is_hub_name(name) {
        let mut found = None;
        for place in hf_snapshot(hf, name, revision).into_iter().chain(ms_folders(env, name)) {
            if place.is_dir() {
                found = Some(folder(&place));
                if let Some(Ok(location)) = found {
                    return Ok(location);
                }
            }
        }
        if let Some(Err(error)) = found {
            return Err(error);
        }
    }
    Err(Error::input(
        format!("model_name_or_path {}", brief(name)),
        format!(
            "no such folder or GGUF file, and no such model in the Hugging Face cache ({}) or \
             ModelScope's ({}). Give the path of a folder with config.json, or fetch it first: \
             hf download {}",
            hf.display(),
            env.ms_cache.display(),
            if is_hub_name(name) { name } else { "NAME" }
        ),
    ))
}

/// A folder with config.json, or with exactly one GGUF file.
fn folder(dir: &Path) -> Result<ModelLocation> {
    if dir.join("config.json").is_file() {
        return Ok(ModelLocation::Folder(dir.to_owned()));
    }
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "gguf"))
        .collect();
    files.sort();
    match files.as_slice() {
        [file] => Ok(ModelLocation::Gguf(file.clone())),
        [] => Err(Error::input(
            dir.display().to_string(),
            "no config.json in this folder (nor a GGUF file): not a model, or not fetched whole",
        )),
        [first, ..] => Err(Error::input(
            dir.display().to_string(),
            format!(
                "{} GGUF files in this folder; name one, such as {}",
                files.len(),
                first.display()
            ),
        )),
    }
}

/// `name` or `owner/name`, of the characters that the hubs allow.
fn is_hub_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    name.split('/').count() <= 2 && name.split('/').all(part)
}

/// The snapshot of a revision, if the cache knows it.
fn hf_snapshot(cache: &Path, name: &str, revision: &str) -> Option<PathBuf> {
    let repo = cache.join(format!("models--{}", name.replace('/', "--")));
    let inside = |path: &str| {
        let mut parts = Path::new(path).components().peekable();
        parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    if !inside(revision) {
        return None;
    }
    let named = std::fs::read_to_string(repo.join("refs").join(revision)).ok();
    let commit = named.as_deref().map_or(revision, str::trim);
    inside(commit).then(|| repo.join("snapshots").join(commit))
}

/// The folders that ModelScope's clients use, newest layout first; they write `___` for a dot.
fn ms_folders(env: &HubEnv, name: &str) -> Vec<PathBuf> {
    let escaped = name.replace('.', "___");
    let base = &env.ms_cache;
    let roots = [base.join("models"), base.clone(), base.join("hub/models"), base.join("hub")];
    roots.iter().flat_map(|root| [root.join(&escaped), root.join(name)]).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn finds_what_is_there_and_says_what_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let put = |path: &str, text: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        };
        let env = HubEnv { hf_cache: at("hf"), ms_cache: at("ms") };
        let commit = "0123456789abcdef0123456789abcdef01234567";
        put(&format!("hf/models--Qwen--Qwen2-0.5B/snapshots/{commit}/config.json"), "{}");
        put("hf/models--Qwen--Qwen2-0.5B/refs/main", &format!("{commit}\n"));
        put("hf/models--Qwen--Qwen2-0.5B/refs/evil", "../../../../model");
        put(&format!("hf/models--a--half/snapshots/{commit}/tokenizer.json"), "{}");
        put("hf/models--a--half/refs/main", commit);
        put("ms/models/Qwen/Qwen2___5-1___5B/config.json", "{}");
        put("ms/old/name/config.json", "{}");
        put("model/config.json", "{}");
        put("one/m.gguf", "");
        put("two/a.gguf", "");
        put("two/b.gguf", "");
        put("weights.bin", "");
        let check = |name: &str, revision: &str, expected: Result<ModelLocation, &str>| {
            let found = resolve_model(name, revision, None, &env).map_err(|e| e.to_string());
            match (&found, &expected) {
                (Err(found), Err(part)) => {
                    assert!(found.contains(part) && found.lines().count() == 1, "{name}: {found}");
                }
                _ => assert_eq!(found.as_ref().ok(), expected.as_ref().ok(), "{name}: {found:?}"),
            }
        };
        let folder = |path: &str| Ok(ModelLocation::Folder(at(path)));
        let gguf = |path: &str| Ok(ModelLocation::Gguf(at(path)));
        let text = |path: &str| at(path).display().to_string();
        let snapshot = format!("hf/models--Qwen--Qwen2-0.5B/snapshots/{commit}");
        check("Qwen/Qwen2-0.5B", "main", folder(&snapshot));
        check("Qwen/Qwen2-0.5B", commit, folder(&snapshot));
        check("Qwen/Qwen2-0.5B", "other", Err("no such model"));
        check("Qwen/Qwen2-0.5B", "evil", Err("no such model"));
        check("Qwen/Qwen2-0.5B", "../../model", Err("no such model"));
        check("a/half", "main", Err("not fetched whole"));
        check("Qwen/Qwen2.5-1.5B", "main", folder("ms/models/Qwen/Qwen2___5-1___5B"));
        check("old/name", "main", folder("ms/old/name"));
        check("no/such", "main", Err("hf download no/such"));
        check("../up", "main", Err("config.json"));
        check(&text("model"), "main", folder("model"));
        check(&text("one"), "main", gguf("one/m.gguf"));
        check(&text("one/m.gguf"), "main", gguf("one/m.gguf"));
        check(&text("two"), "main", Err("2 GGUF files"));
        check(&text("weights.bin"), "main", Err("no .gguf"));
        let other = resolve_model("Qwen/Qwen2-0.5B", "main", Some(&at("empty")), &env);
        assert!(other.is_err(), "cache_dir takes the cache's place");
    }
}
