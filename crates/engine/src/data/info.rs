//! dataset_info.json: which file a dataset is in and what its columns are called.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::{DataError, nearest};

/// The name of the file in a dataset directory.
pub const FILE_NAME: &str = "dataset_info.json";

/// The shape of a dataset's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formatting {
    /// instruction, input, output.
    Alpaca,
    /// A list of messages with tags.
    Sharegpt,
    /// As sharegpt, with tool calls and tool messages as OpenAI's API has them.
    Openai,
    /// Token ids and labels, taken as they are (not in LLaMA-Factory).
    Tokens,
}

/// Names of columns; `None` where the rows have no such column.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in dataset_info.json")]
pub struct Columns {
    pub prompt: Option<String>,
    pub query: Option<String>,
    pub response: Option<String>,
    pub history: Option<String>,
    pub messages: Option<String>,
    pub system: Option<String>,
    pub tools: Option<String>,
    pub images: Option<String>,
    pub videos: Option<String>,
    pub audios: Option<String>,
    pub chosen: Option<String>,
    pub rejected: Option<String>,
    pub kto_tag: Option<String>,
}

/// Names inside messages; `None` where there is no such tag.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in dataset_info.json")]
pub struct Tags {
    pub role: Option<String>,
    pub content: Option<String>,
    pub user: Option<String>,
    pub assistant: Option<String>,
    pub observation: Option<String>,
    pub function: Option<String>,
    pub system: Option<String>,
}

/// One entry of dataset_info.json, for a dataset that is a local file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetInfo {
    /// Its name.
    pub name: String,
    /// The file or directory.
    pub path: PathBuf,
    /// The shape of its rows.
    pub formatting: Formatting,
    /// Whether rows are preferences (chosen and rejected answers).
    pub ranking: bool,
    /// Take this many rows at random.
    pub num_samples: Option<usize>,
    /// Names of columns.
    pub columns: Columns,
    /// Names inside messages.
    pub tags: Tags,
}

impl Default for Columns {
    fn default() -> Self {
        let mut columns = Self::named(&Map::new());
        columns.prompt = Some("instruction".to_string());
        columns.query = Some("input".to_string());
        columns.response = Some("output".to_string());
        columns.messages = Some("conversations".to_string());
        columns
    }
}

impl Columns {
    /// The columns that `map` names, and no others.
    fn named(map: &Map<String, Value>) -> Self {
        let name = |key: &str| {
            map.get(key).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_string)
        };
        Self {
            prompt: name("prompt"),
            query: name("query"),
            response: name("response"),
            history: name("history"),
            messages: name("messages"),
            system: name("system"),
            tools: name("tools"),
            images: name("images"),
            videos: name("videos"),
            audios: name("audios"),
            chosen: name("chosen"),
            rejected: name("rejected"),
            kto_tag: name("kto_tag"),
        }
    }
}

impl Default for Tags {
    fn default() -> Self {
        let tag = |name: &str| Some(name.to_string());
        Self {
            role: tag("from"),
            content: tag("value"),
            user: tag("human"),
            assistant: tag("gpt"),
            observation: tag("observation"),
            function: tag("function_call"),
            system: tag("system"),
        }
    }
}

impl Tags {
    /// The tags that `map` names, and no others.
    fn named(map: &Map<String, Value>) -> Self {
        let tag = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_string);
        Self {
            role: tag("role_tag"),
            content: tag("content_tag"),
            user: tag("user_tag"),
            assistant: tag("assistant_tag"),
            observation: tag("observation_tag"),
            function: tag("function_tag"),
            system: tag("system_tag"),
        }
    }
}

/// The entries of `names` in `dataset_dir`/dataset_info.json.
///
/// # Errors
/// When the file cannot be read, a name is not in it, or an entry is not a local file in a known format.
pub fn read(dataset_dir: &str, names: &[String]) -> Result<Vec<DatasetInfo>, DataError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    if dataset_dir == "ONLINE" || dataset_dir.starts_with("REMOTE:") {
        return Err(DataError::invalid(format!(
            "dataset_dir: {dataset_dir} would download; save the dataset as a file, name it in a {FILE_NAME} \
             and give its directory"
        )));
    }
    let path = Path::new(dataset_dir).join(FILE_NAME);
    let cannot = |reason: String| {
        DataError::invalid(format!("Cannot open {} due to {reason}.", path.display()))
    };
    let text = fs::read(&path).map_err(|e| cannot(e.to_string()))?;
    let entries: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|e| DataError::Broken {
            path: path.clone(),
            line: e.line() as u64,
            reason: format!("not a JSON object of datasets: {e}"),
        })?;
    names.iter().map(|name| entry(Path::new(dataset_dir), &path, &entries, name)).collect()
}

fn entry(
    dir: &Path,
    file: &Path,
    entries: &Map<String, Value>,
    name: &str,
) -> Result<DatasetInfo, DataError> {
    let Some(value) = entries.get(name) else {
        let near = nearest(name, entries.keys().map(String::as_str));
        let hint = if near.is_empty() {
            String::new()
        } else {
            format!(" Did you mean {}?", near.join(" or "))
        };
        let file = file.display();
        return Err(DataError::invalid(format!(
            "Undefined dataset {name} in {FILE_NAME}.{hint} ({file})"
        )));
    };
    parse_entry(dir, name, value)
        .map_err(|reason| DataError::invalid(format!("{}: {name}: {reason}", file.display())))
}

/// One entry, as it stands under its name. The reason of an error names no file.
///
/// # Errors
/// Why the entry is no local dataset in a known format.
pub fn parse_entry(dir: &Path, name: &str, value: &Value) -> Result<DatasetInfo, String> {
    let Value::Object(map) = value else {
        return Err("the entry must be a JSON object".to_string());
    };
    refuse_remote(map)?;
    let file_name = map.get("file_name").and_then(Value::as_str).ok_or("`file_name` is missing")?;
    let formatting = match map.get("formatting").map_or(Some("alpaca"), Value::as_str) {
        Some("alpaca") => Formatting::Alpaca,
        Some("sharegpt") => Formatting::Sharegpt,
        Some("openai") => Formatting::Openai,
        Some("tokens") => Formatting::Tokens,
        _ => {
            return Err(format!(
                "`formatting` is {}; choose alpaca, sharegpt, openai or tokens",
                map["formatting"]
            ));
        }
    };
    if let Some(split) = map.get("split").filter(|split| *split != "train" && !split.is_null()) {
        return Err(format!("`split` is {split}, but a local file has the split \"train\" alone"));
    }
    let section = |key: &str| match map.get(key) {
        None => Ok(None),
        Some(Value::Object(section)) => Ok(Some(section)),
        Some(_) => Err(format!("`{key}` must be a JSON object")),
    };
    let num_samples = match map.get("num_samples") {
        None | Some(Value::Null) => None,
        Some(n) => Some(n.as_u64().ok_or(format!("`num_samples` is {n}, not a count"))? as usize),
    };
    Ok(DatasetInfo {
        name: name.to_string(),
        path: dir.join(file_name),
        formatting,
        ranking: map.get("ranking").and_then(Value::as_bool).unwrap_or(false),
        num_samples,
        columns: section("columns")?.map_or_else(Columns::default, Columns::named),
        tags: section("tags")?.map_or_else(Tags::default, Tags::named),
    })
}

/// Entries that are not local files are refused with a way to make them local.
fn refuse_remote(map: &Map<String, Value>) -> Result<(), String> {
    let place =
        |key: &str| map.get(key).map(|value| value.as_str().unwrap_or_default().to_string());
    for (key, hub) in
        [("hf_hub_url", "Hugging Face"), ("ms_hub_url", "ModelScope"), ("om_hub_url", "Openmind")]
    {
        if let Some(id) = place(key) {
            return Err(format!(
                "the dataset {id} lies on {hub} and is not downloaded; save it as a .json or .jsonl file in the \
                 dataset directory and give the entry `file_name` instead of `{key}`"
            ));
        }
    }
    if let Some(script) = place("script_url") {
        return Err(format!(
            "a loading script ({script}) is never run; save its rows as a .jsonl file and give the entry `file_name` \
             instead of `script_url`"
        ));
    }
    match place("cloud_file_name") {
        Some(url) => Err(format!(
            "{url} is not downloaded; copy the file into the dataset directory and give the entry `file_name` instead \
             of `cloud_file_name`"
        )),
        None => Ok(()),
    }
}
