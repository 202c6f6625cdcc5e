//! A page of rows: each as it stands in its file, and as the conversation that a run would make of it.

use engine::data::convert::{Converted, convert};
use engine::data::info::{self, DatasetInfo};
use engine::data::template::Role;
use serde_json::{Map, Value};

use super::datasets::{Home, Opened};
use super::index::{self, Found};
use super::{Library, LibraryError, Patience, Result, shortened};

/// Characters of one text that are shown.
const LONGEST_TEXT: usize = 4000;
/// Most rows of a page.
pub const MOST_ROWS: usize = 200;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// `system`, `tools`, `user`, `assistant`, `function`, `observation` or `text`.
    pub role: &'static str,
    /// What is said.
    pub text: String,
    /// Characters that are left out.
    pub more: usize,
    /// Whether a run learns it with the default settings.
    pub learnt: bool,
}

impl Said {
    /// The key of the role's name.
    #[must_use]
    pub fn role_key(&self) -> &'static str {
        match self.role {
            "system" => "role.system",
            "tools" => "role.tools",
            "user" => "role.user",
            "assistant" => "role.assistant",
            "function" => "role.function",
            "observation" => "role.observation",
            _ => "role.text",
        }
    }
}

/// A row for people.
#[derive(Debug, Clone)]
pub struct RowView {
    /// Its place in the data set, from 1.
    pub number: u64,
    /// The file's name, where the data set has several.
    pub file: Option<String>,
    /// The line it begins on, from 1.
    pub line: u64,
    /// The conversation; empty where it makes none.
    pub said: Vec<Said>,
    /// Why it cannot be used.
    pub problem: Option<String>,
    /// The row as JSON, or its text where it is none.
    pub raw: String,
}

/// A page of a data set.
#[derive(Debug, Clone)]
pub struct RowPage {
    /// The rows.
    pub rows: Vec<RowView>,
    /// How many rows the data set has.
    pub total: u64,
    /// Where a file breaks off.
    pub broken: Option<String>,
}

impl Library {
    /// Rows `from` (from 0) and those after it.
    ///
    /// # Errors
    /// Where a file cannot be read, or patience ends.
    pub async fn page(
        &self,
        opened: &Opened,
        from: u64,
        count: usize,
        patience: Patience,
    ) -> Result<RowPage> {
        let rows = self.rows_of(opened, patience).await?;
        let info = opened.info.clone();
        self.blocking(move |_| {
            let several = rows.files.len() > 1;
            let mut page =
                RowPage { rows: Vec::new(), total: rows.total, broken: rows.broken.clone() };
            let (mut start, mut left) = (0, count.min(MOST_ROWS));
            for (path, index) in &rows.files {
                let wanted = from.max(start);
                if wanted < start + index.rows && left > 0 {
                    let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
                    let found = index::read(path, index, wanted - start, left)?;
                    left -= found.len();
                    let file = file.filter(|_| several);
                    let view = |found| view(&info, found, start, file.clone());
                    page.rows.extend(found.into_iter().map(view));
                }
                start += index.rows;
            }
            Ok(page)
        })
        .await
    }

    /// One row as its file has it, number from 1.
    ///
    /// # Errors
    /// Where there is no such row, or its file cannot be read.
    pub(super) async fn row(
        &self,
        opened: &Opened,
        number: u64,
        patience: Patience,
    ) -> Result<Found> {
        let rows = self.rows_of(opened, patience).await?;
        let missing = move || LibraryError::Missing { what: "row", name: number.to_string() };
        let at = number.checked_sub(1).ok_or_else(missing)?;
        self.blocking(move |_| {
            let mut start = 0;
            for (path, index) in &rows.files {
                if at < start + index.rows {
                    let found = index::read(path, index, at - start, 1)?;
                    return found.into_iter().next().ok_or_else(missing);
                }
                start += index.rows;
            }
            Err(missing())
        })
        .await
    }

    /// The first row as an entry would make it, before the entry is written.
    ///
    /// # Errors
    /// Where the entry or a file cannot be used.
    pub async fn preview(&self, home: Home, name: &str, entry: Value) -> Result<Vec<RowView>> {
        let wrong = |message| LibraryError::wrong("columns", message);
        let opened = self.open(&home, name, &entry).map_err(wrong)?;
        Ok(self.page(&opened, 0, 1, Patience::End).await?.rows)
    }
}

fn view(info: &DatasetInfo, found: Found, before: u64, file: Option<String>) -> RowView {
    let mut view = RowView {
        number: before + found.row,
        file,
        line: found.line,
        said: Vec::new(),
        problem: None,
        raw: String::new(),
    };
    match &found.value {
        Err(problem) => {
            view.problem = Some(problem.clone());
            view.raw = found.text;
        }
        Ok(value) => {
            let pretty = serde_json::to_string_pretty(value).unwrap_or_default();
            view.raw = shortened(&pretty, 4 * LONGEST_TEXT).0;
            (view.said, view.problem) = conversation(info, value);
        }
    }
    view
}

/// A row as it is understood: who says what, and what is wrong with it.
fn conversation(info: &DatasetInfo, value: &Value) -> (Vec<Said>, Option<String>) {
    let example = match convert(info, value) {
        Err(error) => return (Vec::new(), Some(error.to_string())),
        Ok(Converted::Tokens(row)) => {
            let text = format!("{} token ids", row.input_ids.len());
            return (vec![Said { role: "text", text, more: 0, learnt: true }], None);
        }
        Ok(Converted::Example(example)) => example,
    };
    let problem = example.check_turns().err().map(|error| error.to_string());
    let mut said = Vec::new();
    let mut add = |role, text: &str, learnt| {
        let (text, more) = shortened(text, LONGEST_TEXT);
        said.push(Said { role, text, more, learnt });
    };
    for (role, text) in [("system", &example.system), ("tools", &example.tools)] {
        if !text.is_empty() {
            add(role, text, false);
        }
    }
    for message in example.prompt.iter().chain(&example.response) {
        let (role, learnt) = match message.role {
            Role::User => ("user", false),
            Role::Assistant => ("assistant", true),
            Role::Function => ("function", true),
            Role::Observation => ("observation", false),
        };
        add(role, &message.content, learnt);
    }
    (said, problem)
}

/// An entry with other columns and tags; what they do not say stays as it is.
///
/// `formatting` empty leaves the format, an empty column takes the role away.
#[must_use]
pub fn edited(
    raw: &Map<String, Value>,
    formatting: &str,
    columns: &[(String, String)],
    tags: &[(String, String)],
) -> Value {
    let mut entry = raw.clone();
    match formatting {
        "" => {}
        "alpaca" if !entry.contains_key("formatting") => {}
        other => {
            entry.insert("formatting".to_owned(), other.into());
        }
    }
    for (key, pairs) in [("columns", columns), ("tags", tags)] {
        if pairs.is_empty() {
            continue;
        }
        let mut section = entry.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, value) in pairs {
            if value.is_empty() {
                section.shift_remove(name);
            } else {
                section.insert(name.clone(), value.as_str().into());
            }
        }
        if section.is_empty() {
            entry.shift_remove(key);
        } else {
            entry.insert(key.to_owned(), Value::Object(section));
        }
    }
    Value::Object(entry)
}

/// Roles or tags, each with what it is called.
pub type Named = Vec<(&'static str, String)>;

/// Which column plays which role, and what the tags are, with the defaults filled in.
#[must_use]
pub fn mapping(opened: &Opened) -> (Named, Named) {
    let info::DatasetInfo { columns, tags, .. } = &opened.info;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let columns = vec![
        ("prompt", text(&columns.prompt)),
        ("query", text(&columns.query)),
        ("response", text(&columns.response)),
        ("history", text(&columns.history)),
        ("messages", text(&columns.messages)),
        ("system", text(&columns.system)),
        ("tools", text(&columns.tools)),
    ];
    let tags = vec![
        ("role_tag", text(&tags.role)),
        ("content_tag", text(&tags.content)),
        ("user_tag", text(&tags.user)),
        ("assistant_tag", text(&tags.assistant)),
        ("observation_tag", text(&tags.observation)),
        ("function_tag", text(&tags.function)),
        ("system_tag", text(&tags.system)),
    ];
    (columns, tags)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_edit_keeps_what_it_does_not_touch() {
        let raw = json!({"file_name": "a.json", "odd": 5, "columns": {"prompt": "p", "images": "i", "query": "q"}});
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let check = |formatting: &str, columns: &[(String, String)], expected: Value| {
            let got = edited(raw.as_object().unwrap(), formatting, columns, &[]);
            assert_eq!(got.to_string(), expected.to_string());
        };
        check("", &[], raw.clone());
        check("alpaca", &[], raw.clone());
        check(
            "sharegpt",
            &[pair("prompt", "x"), pair("query", ""), pair("messages", "m")],
            json!({"file_name": "a.json", "odd": 5, "columns": {"prompt": "x", "images": "i", "messages": "m"}, "formatting": "sharegpt"}),
        );
    }
}
