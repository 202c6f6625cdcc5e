//! What the columns of a file are: its format, and which column plays which role.

use serde_json::{Map, Value, json};

use super::datasets::{Home, Opened};
use super::{Library, LibraryError, Patience, Result, index};

/// Rows that are looked at.
const LOOKED_AT: usize = 50;

/// Names that people give to a column, by the role it plays; the likeliest first.
const PROMPT: &[&str] =
    &["instruction", "prompt", "question", "query", "user", "input", "context", "source"];
const QUERY: &[&str] = &["input", "context"];
const RESPONSE: &[&str] =
    &["output", "response", "answer", "completion", "assistant", "target", "reply", "chosen"];
const MESSAGES: &[&str] =
    &["conversations", "messages", "conversation", "dialogue", "turns", "chat"];
const SYSTEM: &[&str] = &["system", "system_prompt"];
const TOOLS: &[&str] = &["tools", "functions"];
const TEXT: &[&str] = &["text", "content", "document", "body"];

/// What a file looks like.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detected {
    /// `alpaca`, `sharegpt`, `openai`, `text`, `tokens`, or nothing where no row could be read.
    pub format: &'static str,
    /// Every column of the rows that were looked at.
    pub columns: Vec<String>,
    /// Roles in dataset_info.json's words, each with its column.
    pub roles: Vec<(&'static str, String)>,
    /// Names inside messages, where they are not the usual ones.
    pub tags: Vec<(&'static str, String)>,
    /// Whether rows hold a better and a worse answer.
    pub ranking: bool,
}

impl Detected {
    /// The entry of dataset_info.json that says so.
    #[must_use]
    pub fn entry(&self, file_name: &str) -> Value {
        let mut entry = Map::new();
        entry.insert("file_name".to_owned(), file_name.into());
        if matches!(self.format, "sharegpt" | "openai" | "tokens") {
            entry.insert("formatting".to_owned(), self.format.into());
        }
        if self.ranking {
            entry.insert("ranking".to_owned(), true.into());
        }
        for (key, pairs) in [("columns", &self.roles), ("tags", &self.tags)] {
            if !pairs.is_empty() {
                let pair = |(name, value): &(&str, String)| ((*name).to_owned(), json!(value));
                entry.insert(key.to_owned(), pairs.iter().map(pair).collect());
            }
        }
        Value::Object(entry)
    }
}

impl Library {
    /// What the first rows of a data set look like.
    ///
    /// # Errors
    /// Where a file cannot be read, or patience ends.
    pub async fn detect(&self, opened: &Opened, patience: Patience) -> Result<Detected> {
        let rows = self.rows_of(opened, patience).await?;
        self.blocking(move |_| {
            let Some((path, index)) = rows.files.first() else {
                return Ok(Detected::default());
            };
            let found = index::read(path, index, 0, LOOKED_AT)?;
            let values: Vec<Value> = found.into_iter().filter_map(|row| row.value.ok()).collect();
            Ok(detect(&values))
        })
        .await
    }

    /// The same for a file that no entry names yet; `file_name` counts from the data folder.
    ///
    /// # Errors
    /// Where the file is outside the roots, of no known kind, or cannot be read.
    pub async fn detect_file(&self, file_name: &str) -> Result<Detected> {
        let home = self.home("")?;
        let opened = self.unnamed(&home, file_name)?;
        self.detect(&opened, Patience::End).await
    }

    fn unnamed(&self, home: &Home, file_name: &str) -> Result<Opened> {
        let opened = self.open(home, "new", &json!({ "file_name": file_name }));
        opened.map_err(|message| LibraryError::wrong("file_name", message))
    }
}

/// What these rows look like.
#[must_use]
pub fn detect(rows: &[Value]) -> Detected {
    let objects: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).collect();
    let mut columns: Vec<String> = Vec::new();
    for name in objects.iter().flat_map(|row| row.keys()) {
        if !columns.contains(name) {
            columns.push(name.clone());
        }
    }
    let mut found = Detected { columns, ..Detected::default() };
    let has = |name: &str| found.columns.iter().any(|column| column == name);
    let pick = |names: &[&str]| {
        let known = names.iter().find(|name| has(name));
        known.map(|name| (*name).to_owned())
    };
    if has("input_ids") {
        found.format = "tokens";
        return found;
    }
    let messages = |name: &&String| objects.iter().any(|row| row.get(*name).is_some_and(is_chat));
    let named = pick(MESSAGES).filter(|name| messages(&name));
    if let Some(column) = named.or_else(|| found.columns.iter().find(messages).cloned()) {
        let chats: Vec<&Value> =
            objects.iter().filter_map(|row| row.get(&column)).flat_map(turns).collect();
        let mut roles = vec![("messages", column)];
        roles.extend(pick(SYSTEM).map(|name| ("system", name)));
        roles.extend(pick(TOOLS).map(|name| ("tools", name)));
        found.ranking = has("chosen") && has("rejected");
        if found.ranking {
            roles.push(("chosen", "chosen".to_owned()));
            roles.push(("rejected", "rejected".to_owned()));
        }
        found.roles = roles;
        (found.format, found.tags) = chat_tags(&chats);
        return found;
    }
    let response = pick(RESPONSE);
    let prompt = pick(PROMPT).filter(|name| Some(name) != response.as_ref());
    if let (Some(prompt), Some(response)) = (prompt, response) {
        let query = pick(QUERY).filter(|name| *name != prompt && *name != response);
        let mut roles = vec![("prompt", prompt)];
        roles.extend(query.map(|name| ("query", name)));
        found.ranking = has("chosen") && has("rejected");
        if found.ranking {
            roles.push(("chosen", "chosen".to_owned()));
            roles.push(("rejected", "rejected".to_owned()));
        } else {
            roles.push(("response", response));
        }
        roles.extend(pick(SYSTEM).map(|name| ("system", name)));
        roles.extend(pick(&["history"]).map(|name| ("history", name)));
        roles.extend(pick(TOOLS).map(|name| ("tools", name)));
        (found.format, found.roles) = ("alpaca", roles);
        return found;
    }
    if let Some(text) = pick(TEXT).or_else(|| found.columns.first().cloned()) {
        (found.format, found.roles) = ("text", vec![("prompt", text)]);
    }
    found
}

/// A list of objects, each with a text and somebody who says it.
fn is_chat(value: &Value) -> bool {
    let said = |turn: &Value| {
        let has = |names: &[&str]| names.iter().any(|name| turn.get(name).is_some());
        has(&["role", "from"]) && has(&["content", "value", "tool_calls"])
    };
    value.as_array().is_some_and(|turns| turns.first().is_some_and(said))
}

fn turns(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The format of conversations, and the tags that are not LLaMA-Factory's defaults.
fn chat_tags(turns: &[&Value]) -> (&'static str, Vec<(&'static str, String)>) {
    let has = |name: &str| turns.iter().any(|turn| turn.get(name).is_some());
    let (role, content) = match (has("role"), has("content")) {
        (true, true) => ("role", "content"),
        (true, false) if !has("value") => ("role", "content"),
        (true, false) => ("role", "value"),
        (false, true) => ("from", "content"),
        _ => ("from", "value"),
    };
    let spoken = |name: &str| turns.iter().any(|turn| turn.get(role).is_some_and(|r| r == name));
    let either = |names: &[&'static str]| names.iter().copied().find(|name| spoken(name));
    let user = either(&["human", "user"]).unwrap_or("human");
    let assistant = either(&["gpt", "assistant", "model", "bot"]).unwrap_or("gpt");
    let openai = has("tool_calls") || spoken("tool");
    let mut tags = Vec::new();
    let mut tag = |name: &'static str, value: &str, usual: &str| {
        if value != usual {
            tags.push((name, value.to_owned()));
        }
    };
    tag("role_tag", role, "from");
    tag("content_tag", content, "value");
    tag("user_tag", user, "human");
    tag("assistant_tag", assistant, "gpt");
    if openai {
        tag("observation_tag", "tool", "observation");
        tag("function_tag", either(&["function_call", "function"]).unwrap_or("function"), "");
    } else if let Some(observation) = either(&["observation", "function_response"]) {
        tag("observation_tag", observation, "observation");
    }
    // where one tag is named the others must be: an entry's `tags` replace all defaults
    if !tags.is_empty() {
        let all = [
            ("role_tag", role),
            ("content_tag", content),
            ("user_tag", user),
            ("assistant_tag", assistant),
        ];
        for (name, value) in all {
            if tags.iter().all(|(known, _)| *known != name) {
                tags.push((name, value.to_owned()));
            }
        }
        if !openai {
            for (name, value) in
                [("observation_tag", "observation"), ("function_tag", "function_call")]
            {
                if spoken(value) && tags.iter().all(|(known, _)| *known != name) {
                    tags.push((name, value.to_owned()));
                }
            }
        }
        if spoken("system") {
            tags.push(("system_tag", "system".to_owned()));
        }
    }
    (if openai { "openai" } else { "sharegpt" }, tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_roles() {
        let check = |row: Value, format: &str, roles: &[(&str, &str)], tags: &[(&str, &str)]| {
            let found = detect(std::slice::from_ref(&row));
            let flat = |pairs: &[(&'static str, String)]| {
                pairs.iter().map(|(a, b)| format!("{a}={b}")).collect::<Vec<_>>().join(" ")
            };
            let wanted = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(a, b)| format!("{a}={b}")).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(
                (found.format, flat(&found.roles), flat(&found.tags)),
                (format, wanted(roles), wanted(tags)),
                "{row}"
            );
        };
        let alpaca = json!({"instruction": "a", "input": "b", "output": "c", "history": []});
        let roles = [
            ("prompt", "instruction"),
            ("query", "input"),
            ("response", "output"),
            ("history", "history"),
        ];
        check(alpaca, "alpaca", &roles, &[]);
        check(
            json!({"question": "a", "answer": "b", "id": 5}),
            "alpaca",
            &[("prompt", "question"), ("response", "answer")],
            &[],
        );
        check(
            json!({"input": "a", "target": "b"}),
            "alpaca",
            &[("prompt", "input"), ("response", "target")],
            &[],
        );
        check(json!({"text": "a"}), "text", &[("prompt", "text")], &[]);
        check(json!({"input_ids": [1], "labels": [1]}), "tokens", &[], &[]);
        let chat = json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"});
        check(chat, "sharegpt", &[("messages", "conversations"), ("system", "system")], &[]);
        let open = json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
        let tags = [
            ("role_tag", "role"),
            ("content_tag", "content"),
            ("user_tag", "user"),
            ("assistant_tag", "assistant"),
            ("system_tag", "system"),
        ];
        check(open, "sharegpt", &[("messages", "messages")], &tags);
        let tool = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "x"}]});
        assert_eq!(detect(&[tool]).format, "openai");
        let better = json!({"prompt": "a", "chosen": "b", "rejected": "c"});
        assert!(detect(&[better]).ranking);
        assert_eq!(detect(&[json!(5), json!("x")]), Detected::default());
        assert_eq!(detect(&[]), Detected::default());
    }
}
