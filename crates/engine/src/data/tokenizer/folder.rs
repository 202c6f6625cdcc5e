//! A tokenizer as files: reading a model folder, and writing one that transformers loads.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::super::error::DataError;
use super::{SpecialTokens, Tokenizer};

/// Files that are carried along unchanged where a folder has them.
const OTHER_FILES: [&str; 6] = [
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "added_tokens.json",
];

impl Tokenizer {
    /// Reads the tokenizer of a Hugging Face model folder.
    ///
    /// # Errors
    /// When tokenizer.json is missing or a file is broken.
    pub fn from_folder(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join("tokenizer.json");
        if !path.is_file() {
            return Err(DataError::invalid(format!(
                "{}: not found; make one with transformers: \
                 AutoTokenizer.from_pretrained(...).save_pretrained({:?})",
                path.display(),
                folder.display().to_string()
            )));
        }
        let bytes = fs::read(&path).map_err(DataError::file(&path))?;
        let inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| DataError::Broken {
            line: line_in(&e.to_string()),
            reason: format!("not a usable tokenizer: {e}"),
            path: path.clone(),
        })?;
        let config = read_object(&folder.join("tokenizer_config.json"))?;
        let special_map = read_object(&folder.join("special_tokens_map.json"))?;
        let mut tokenizer = assemble(inner, config, special_map)?;
        tokenizer.digest = *blake3::hash(&bytes).as_bytes();
        let jinja = folder.join("chat_template.jinja");
        if jinja.is_file() {
            tokenizer.chat_template =
                Some(fs::read_to_string(&jinja).map_err(DataError::file(&jinja))?);
            tokenizer.chat_template_file = true;
        }
        let others = OTHER_FILES.iter().map(|name| folder.join(name));
        tokenizer.other_files = others.filter(|path| path.is_file()).collect();
        Ok(tokenizer)
    }

    /// Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and the files that were carried along.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), DataError> {
        fs::create_dir_all(folder).map_err(DataError::file(folder))?;
        let vocabulary = self
            .inner
            .to_string(true)
            .map_err(|e| DataError::invalid(format!("tokenizer.json cannot be written: {e}")))?;
        write(&folder.join("tokenizer.json"), &vocabulary)?;
        write(
            &folder.join("tokenizer_config.json"),
            &pretty(&Value::Object(self.config_to_save())),
        )?;
        write(&folder.join("special_tokens_map.json"), &pretty(&self.special_map()))?;
        if let Some(jinja) = self.chat_template.as_ref().filter(|_| self.chat_template_file) {
            write(&folder.join("chat_template.jinja"), jinja)?;
        }
        for source in &self.other_files {
            let Some(name) = source.file_name() else {
                continue;
            };
            let target = folder.join(name);
            // Saving into the folder that it was read from would empty the file.
            if target != *source {
                fs::copy(source, &target).map_err(DataError::file(source))?;
            }
        }
        Ok(())
    }

    fn config_to_save(&self) -> Map<String, Value> {
        let mut config = self.config.clone();
        for (key, token) in self.special.named() {
            match token {
                Some(token) => config.insert(key.to_string(), json!(token)),
                None => config
                    .get(key)
                    .is_some()
                    .then_some(Value::Null)
                    .and_then(|n| config.insert(key.to_string(), n)),
            };
        }
        let list = if config.get("extra_special_tokens").is_some_and(Value::is_array) {
            "extra_special_tokens"
        } else {
            "additional_special_tokens"
        };
        if !self.special.additional.is_empty() {
            config.insert(list.to_string(), json!(self.special.additional));
        }
        if let Some(jinja) = &self.chat_template {
            config.insert("chat_template".to_string(), json!(jinja));
        }
        if config.get("tokenizer_class").is_none_or(Value::is_null) {
            config.insert("tokenizer_class".to_string(), json!("PreTrainedTokenizerFast"));
        }
        if let Some(Value::Object(decoder)) = config.get_mut("added_tokens_decoder") {
            let mut added: Vec<_> = self.inner.get_added_tokens_decoder().into_iter().collect();
            added.sort_by_key(|(id, _)| *id);
            for (id, token) in added {
                decoder.insert(id.to_string(), json!(token));
            }
        }
        config
    }

    fn special_map(&self) -> Value {
        let mut map = Map::new();
        for (key, token) in self.special.named() {
            if let Some(token) = token {
                map.insert(key.to_string(), json!(token));
            }
        }
        if !self.special.additional.is_empty() {
            map.insert("additional_special_tokens".to_string(), json!(self.special.additional));
        }
        Value::Object(map)
    }
}

impl SpecialTokens {
    fn named(&self) -> [(&'static str, &Option<String>); 4] {
        [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("pad_token", &self.pad),
            ("unk_token", &self.unk),
        ]
    }

    /// What tokenizer_config.json says, and special_tokens_map.json where that says nothing.
    fn read(config: &Map<String, Value>, special_map: &Map<String, Value>) -> Self {
        let named = |key: &str| match config.get(key) {
            Some(value) => token_name(value),
            None => special_map.get(key).and_then(token_name),
        };
        let list =
            |key: &str| config.get(key).or_else(|| special_map.get(key)).and_then(Value::as_array);
        let additional =
            ["additional_special_tokens", "extra_special_tokens"].into_iter().find_map(list);
        Self {
            bos: named("bos_token"),
            eos: named("eos_token"),
            pad: named("pad_token"),
            unk: named("unk_token"),
            additional: additional.into_iter().flatten().filter_map(token_name).collect(),
        }
    }
}

/// Builds a tokenizer and adds the tokens that its configuration names and its vocabulary lacks.
pub(super) fn assemble(
    mut inner: tokenizers::Tokenizer,
    config: Map<String, Value>,
    special_map: Map<String, Value>,
) -> Result<Tokenizer, DataError> {
    // Cutting and padding are done elsewhere, whatever the file was saved with.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|e| DataError::invalid(format!("tokenizer.json: {e}")))?;
    let special = SpecialTokens::read(&config, &special_map);
    let chat_template = config.get("chat_template").and_then(|value| match value {
        Value::String(jinja) => Some(jinja.clone()),
        // Several of them: {"name", "template"} each.
        Value::Array(list) => {
            let default = list.iter().find(|t| t["name"] == "default")?;
            default["template"].as_str().map(str::to_string)
        }
        _ => None,
    });
    let missing = listed_tokens(&config, &inner);
    if !missing.is_empty() {
        inner.add_tokens(missing).map_err(|e| {
            DataError::invalid(format!("tokenizer_config.json: added_tokens_decoder: {e}"))
        })?;
    }
    let names: Vec<String> = special
        .named()
        .into_iter()
        .filter_map(|(_, t)| t.clone())
        .chain(special.additional.clone())
        .collect();
    let mut tokenizer = Tokenizer {
        inner,
        config,
        special,
        chat_template,
        chat_template_file: false,
        other_files: Vec::new(),
        digest: [0; 32],
    };
    let unlisted: Vec<String> =
        names.into_iter().filter(|name| !tokenizer.is_added(name)).collect();
    tokenizer.add_tokens(&unlisted, true)?;
    Ok(tokenizer)
}

impl Tokenizer {
    fn is_added(&self, token: &str) -> bool {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        self.inner.token_to_id(token).is_some_and(|id| added.contains_key(&id))
    }
}

/// Tokens of `added_tokens_decoder` that the vocabulary does not know as added ones, in the order of their ids.
fn listed_tokens(config: &Map<String, Value>, inner: &tokenizers::Tokenizer) -> Vec<AddedToken> {
    let Some(Value::Object(listed)) = config.get("added_tokens_decoder") else {
        return Vec::new();
    };
    let known = inner.get_added_vocabulary().get_added_tokens_decoder();
    let mut missing: Vec<(u64, AddedToken)> = listed
        .iter()
        .filter_map(|(id, token)| {
            let flag = |key: &str| token.get(key).and_then(Value::as_bool);
            let special = flag("special").unwrap_or(false);
            let content = token.get("content")?.as_str()?;
            let added = AddedToken::from(content, special)
                .single_word(flag("single_word").unwrap_or(false))
                .lstrip(flag("lstrip").unwrap_or(false))
                .rstrip(flag("rstrip").unwrap_or(false))
                .normalized(flag("normalized").unwrap_or(!special));
            let is_known = inner.token_to_id(content).is_some_and(|id| known.contains_key(&id));
            (!is_known).then_some((id.parse().ok()?, added))
        })
        .collect();
    missing.sort_by_key(|(id, _)| *id);
    missing.into_iter().map(|(_, token)| token).collect()
}

/// A token given as a string or as an object with `content`.
fn token_name(value: &Value) -> Option<String> {
    let name = value.as_str().or_else(|| value.get("content")?.as_str())?;
    Some(name.to_string())
}

/// A JSON object from a file; empty where there is no file.
fn read_object(path: &Path) -> Result<Map<String, Value>, DataError> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    let text = fs::read(path).map_err(DataError::file(path))?;
    serde_json::from_slice(&text).map_err(|e| DataError::Broken {
        path: path.to_path_buf(),
        line: e.line() as u64,
        reason: format!("not a JSON object: {e}"),
    })
}

/// The line that a JSON error's text names.
fn line_in(message: &str) -> u64 {
    let after = message.split("line ").nth(1).unwrap_or_default();
    after.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(1)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn write(path: &Path, text: &str) -> Result<(), DataError> {
    fs::write(path, text).map_err(DataError::file(path))
}
