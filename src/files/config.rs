//! The paths inside a run's configuration: each is resolved and confined before the run is queued.

use std::fs;
use std::path::Path;

use run::config::FieldError;
use run::fields::{FIELDS, Kind};
use serde_json::{Map, Value};

use super::Roots;

/// What names a model: a path, or a name in a hub's cache.
const MODELS: [&str; 2] = ["model_name_or_path", "adapter_name_or_path"];
/// What is written, not read.
const OUTPUT: &str = "output_dir";
/// What is written where it is missing, and read where it is there.
const KEPT: &str = "tokenized_path";
/// Larger files are no dataset_info.json.
const INFO_LIMIT: u64 = 16 << 20;

impl Roots {
    /// Resolves every path of a configuration in place. A missing `dataset_dir` becomes the data folder.
    ///
    /// # Errors
    /// Every path that is outside or missing, by its argument.
    pub fn confine(&self, config: &mut Map<String, Value>) -> Result<(), Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut fail = |field: &str, message: String| {
            errors.push(FieldError { field: field.to_owned(), message })
        };
        if !config.contains_key("dataset_dir") {
            config.insert("dataset_dir".to_owned(), self.data_dir().display().to_string().into());
        }
        let paths = FIELDS.iter().filter(|field| field.kind == Kind::Path).map(|field| field.name);
        for name in paths.chain(MODELS) {
            let Some(value) = config.get_mut(name) else {
                continue;
            };
            if let Err(message) = self.confine_value(name, value) {
                fail(name, message);
            }
        }
        if errors.is_empty() {
            self.check_datasets(config).map_err(|error| vec![error])
        } else {
            Err(errors)
        }
    }

    /// A model as a user names it: a path, resolved, or a name in a hub's cache as it is.
    ///
    /// # Errors
    /// One line for the user: it is outside, or is not there.
    pub fn model(&self, text: &str) -> Result<String, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        self.confine_text(MODELS[0], text)
    }

    fn confine_value(&self, name: &str, value: &mut Value) -> Result<(), String> {
        match value {
            Value::Array(items) => {
                items.iter_mut().try_for_each(|item| self.confine_value(name, item))
            }
            Value::String(text) => {
                *text = self.confine_text(name, text)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn confine_text(&self, name: &str, text: &str) -> Result<String, String> {
        if text.is_empty()
            || (name == "resume_from_checkpoint" && text.eq_ignore_ascii_case("true"))
        {
            return Ok(text.to_owned());
        }
        let written = name == OUTPUT || (name == KEPT && !self.exists(text));
        let resolved = if written { self.writable(text) } else { self.readable(text) };
        match resolved {
            Ok(path) => path.into_os_string().into_string().map_err(|_| "is not UTF-8".to_owned()),
            // the worker looks it up in the caches of the hubs
            Err(_) if MODELS.contains(&name) && is_hub_name(text) && !self.exists(text) => {
                Ok(text.to_owned())
            }
            Err(message) => Err(message),
        }
    }

    fn exists(&self, text: &str) -> bool {
        self.data_dir().join(text).symlink_metadata().is_ok()
            || Path::new(text).symlink_metadata().is_ok()
    }

    /// The files that dataset_info.json names for this run must be inside too.
    fn check_datasets(&self, config: &Map<String, Value>) -> Result<(), FieldError> {
        let folder = config.get("dataset_dir").and_then(Value::as_str).unwrap_or_default();
        let folder = Path::new(folder);
        for field in ["dataset", "eval_dataset"] {
            let names = names(config.get(field));
            if names.is_empty() {
                continue;
            }
            let wrong = |message| FieldError { field: field.to_owned(), message };
            let entries = dataset_info(folder)
                .map_err(|message| FieldError { field: "dataset_dir".to_owned(), message })?;
            for name in names {
                let Some(entry) = entries.get(&name) else {
                    let path = folder.join("dataset_info.json");
                    return Err(wrong(format!("there is no `{name}` in {}", path.display())));
                };
                if let Some(file) = entry.get("file_name").and_then(Value::as_str) {
                    self.readable_from(folder, file)
                        .map_err(|message| wrong(format!("{name}: {message}")))?;
                }
            }
        }
        Ok(())
    }
}

fn names(value: Option<&Value>) -> Vec<String> {
    let split = |text: &str| text.split(',').map(str::trim).map(str::to_owned).collect::<Vec<_>>();
    let mut names = match value {
        Some(Value::String(text)) => split(text),
        Some(Value::Array(items)) => {
            items.iter().filter_map(Value::as_str).flat_map(split).collect()
        }
        _ => Vec::new(),
    };
    names.retain(|name| !name.is_empty());
    names
}

fn dataset_info(folder: &Path) -> Result<Map<String, Value>, String> {
    let path = folder.join("dataset_info.json");
    let size = fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?.len();
    if size > INFO_LIMIT {
        return Err(format!("{}: larger than 16 MiB", path.display()));
    }
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// `name` or `owner/name`, of letters, digits, `.`, `_` and `-`, neither part beginning with a dot.
fn is_hub_name(text: &str) -> bool {
    let part = |part: &str| {
        (1..=96).contains(&part.len())
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    match text.split_once('/') {
        Some((owner, name)) => part(owner) && part(name),
        None => part(text),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_path_of_a_config() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        for folder in ["data/m", "allowed/ds", "outside"] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        fs::write(base.join("allowed/ds/rows.json"), "[]").unwrap();
        fs::write(base.join("outside/rows.json"), "[]").unwrap();
        let info = json!({"in": {"file_name": "rows.json"}, "out": {"file_name": "../../outside/rows.json"},
            "gone": {"file_name": "gone.json"}, "hub": {"hf_hub_url": "a/b"}});
        fs::write(base.join("allowed/ds/dataset_info.json"), info.to_string()).unwrap();
        let roots = Roots::open(&base.join("data"), &[base.join("allowed")]).unwrap();
        let ds = base.join("allowed/ds");
        let check = |config: Value, field: &str, part: &str| {
            let mut map = config.as_object().unwrap().clone();
            map.entry("dataset_dir").or_insert(json!(ds));
            let got = roots.confine(&mut map);
            match (field, got) {
                ("", Ok(())) => {
                    assert!(serde_json::to_string(&map).unwrap().contains(part), "{map:?}")
                }
                (_, Err(errors)) => {
                    assert_eq!(errors[0].field, field, "{errors:?}");
                    assert!(errors[0].message.contains(part), "{errors:?}");
                }
                (_, Ok(())) => panic!("{config} was taken"),
            }
        };
        check(json!({"model_name_or_path": "m", "dataset": "in"}), "", "data/m");
        check(json!({"model_name_or_path": "owner/name", "dataset": "in,hub"}), "", "owner/name");
        check(json!({"model_name_or_path": "/etc"}), "model_name_or_path", "--allow-path");
        check(json!({"model_name_or_path": "../outside"}), "model_name_or_path", "--allow-path");
        check(
            json!({"adapter_name_or_path": ["m", "/etc"]}),
            "adapter_name_or_path",
            "--allow-path",
        );
        check(json!({"cache_dir": "/root"}), "cache_dir", "--allow-path");
        check(json!({"output_dir": "/root/x"}), "output_dir", "--allow-path");
        check(json!({"output_dir": "x"}), "", "data/x");
        check(json!({"resume_from_checkpoint": "true"}), "", "true");
        check(json!({"resume_from_checkpoint": "/etc"}), "resume_from_checkpoint", "--allow-path");
        check(json!({"dataset": "out"}), "dataset", "--allow-path");
        check(json!({"eval_dataset": ["in", "none"]}), "eval_dataset", "no `none`");
        check(json!({"dataset": "gone"}), "dataset", "there is no file");
        check(json!({"dataset": "in", "dataset_dir": "m"}), "dataset_dir", "dataset_info.json");
    }
}
