//! Names of models that can be trained here, with their ids on the hubs and their templates.
//!
//! registry.json is a part of LLaMA-Factory's table: names, ids and templates of the architectures that the engine
//! knows, without quantised, mixture-of-experts and multimodal models.

use std::sync::LazyLock;

use serde::Deserialize;

/// A model by its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "(String, String, String, String)")]
pub struct Named {
    /// The name, as LLaMA-Factory has it.
    pub name: String,
    /// Id on Hugging Face.
    pub hf: String,
    /// Id on ModelScope; empty where it is not there.
    pub ms: String,
    /// Template; empty for a base model, which has none.
    pub template: String,
}

impl From<(String, String, String, String)> for Named {
    fn from((name, hf, ms, template): (String, String, String, String)) -> Self {
        let template = if template == "default" { String::new() } else { template };
        Self { name, hf, ms, template }
    }
}

static REGISTRY: LazyLock<Vec<Named>> =
    LazyLock::new(|| serde_json::from_str(include_str!("registry.json")).unwrap_or_default());

/// All of them.
#[must_use]
pub fn all() -> &'static [Named] {
    &REGISTRY
}

/// Those whose name or id contains every word of `text`, whatever their case.
#[must_use]
pub fn search(text: &str) -> Vec<&'static Named> {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let hit = |named: &&Named| {
        let all = format!("{} {} {}", named.name, named.hf, named.ms).to_lowercase();
        words.iter().all(|word| all.contains(word))
    };
    REGISTRY.iter().filter(hit).collect()
}

/// The entry of a hub id, or of a folder that is called like the id's last part.
#[must_use]
pub fn of(model: &str) -> Option<&'static Named> {
    let model = model.trim_end_matches('/').to_lowercase();
    if model.is_empty() {
        return None; // some entries have no id on one of the hubs
    }
    let last = |id: &str| id.rsplit('/').next().unwrap_or_default().to_lowercase();
    let id = |named: &&Named| named.hf.to_lowercase() == model || named.ms.to_lowercase() == model;
    let folder = |named: &&Named| last(&named.hf) == last(&model);
    REGISTRY.iter().find(id).or_else(|| REGISTRY.iter().find(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_whole_and_its_template_known() {
        assert!(all().len() > 100);
        let templates: Vec<&str> = engine::data::Template::names().collect();
        for named in all() {
            let known = named.template.is_empty() || templates.contains(&named.template.as_str());
            assert!(known, "{named:?}");
            assert!(named.hf.contains('/') && !named.name.is_empty(), "{named:?}");
        }
    }

    #[test]
    fn found_by_name_id_and_folder() {
        let name = |model: &str| of(model).map(|named| named.name.as_str());
        assert_eq!(name("Qwen/Qwen2.5-0.5B-Instruct"), Some("Qwen2.5-0.5B-Instruct"));
        assert_eq!(name("/models/SmolLM2-135M-Instruct/"), Some("SmolLM2-135M-Instruct"));
        assert_eq!(name("LLM-Research/gemma-2-2b-it"), Some("Gemma-2-2B-Instruct"));
        assert_eq!((name("nothing"), name(""), name("/")), (None, None, None));
        assert_eq!(search("smollm2 135m instruct").len(), 1);
        assert_eq!(search("no such model").len(), 0);
        assert_eq!(search("").len(), all().len());
    }
}
