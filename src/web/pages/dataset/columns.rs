//! The tab that edits: which column plays which role, with the first row as it would become.

use serde_json::Value;

use super::super::text::Lang;
use crate::library::datasets::Opened;
use crate::library::rows::{self, RowView};
use crate::library::{LibraryError, Patience};
use crate::web::state::AppState;

/// Roles of a format, in the form's order.
fn roles(formatting: &str) -> &'static [&'static str] {
    match formatting {
        "alpaca" => &["prompt", "query", "response", "history", "system", "tools"],
        "sharegpt" | "openai" => &["messages", "system", "tools"],
        _ => &[],
    }
}

/// Tags of a format.
fn tags(formatting: &str) -> &'static [&'static str] {
    match formatting {
        "sharegpt" | "openai" => &[
            "role_tag",
            "content_tag",
            "user_tag",
            "assistant_tag",
            "system_tag",
            "observation_tag",
            "function_tag",
        ],
        _ => &[],
    }
}

/// The form as it was sent.
pub struct Sent {
    pub action: String,
    formatting: String,
    columns: Vec<(String, String)>,
    tags: Vec<(String, String)>,
}

impl Sent {
    /// From the form's fields: `action`, `formatting`, `col.ROLE`, `tag.NAME`. What is none of these is left alone.
    pub fn new(pairs: Vec<(String, String)>) -> Self {
        let (mut action, mut formatting) = (String::new(), String::new());
        let (mut columns, mut named) = (Vec::new(), Vec::new());
        let all = |list: fn(&str) -> &'static [&'static str], name: &str| {
            ["alpaca", "sharegpt"].iter().any(|format| list(format).contains(&name))
        };
        for (name, value) in pairs {
            match name.as_str() {
                "action" => action = value,
                "formatting" => formatting = value,
                other => match other.split_once('.') {
                    Some(("col", role)) if all(roles, role) => {
                        columns.push((role.to_owned(), value))
                    }
                    Some(("tag", tag)) if all(tags, tag) => named.push((tag.to_owned(), value)),
                    _ => {}
                },
            }
        }
        let formatting = Some(formatting)
            .filter(|word| ["alpaca", "sharegpt", "openai", "tokens"].contains(&word.as_str()));
        Self { action, formatting: formatting.unwrap_or_default(), columns, tags: named }
    }

    /// The entry that it makes of `raw`. Roles of other formats go.
    pub fn entry(&self, raw: &Value) -> Value {
        let raw = raw.as_object().cloned().unwrap_or_default();
        let fits = |list: &[&str], pairs: &[(String, String)]| -> Vec<(String, String)> {
            let keep = |(name, value): &(String, String)| {
                let value =
                    if list.contains(&name.as_str()) { value.clone() } else { String::new() };
                (name.clone(), value)
            };
            pairs.iter().map(keep).collect()
        };
        let columns = fits(roles(&self.formatting), &self.columns);
        let tags = fits(tags(&self.formatting), &self.tags);
        rows::edited(&raw, &self.formatting, &columns, &tags)
    }
}

/// What a form that was sent would do.
pub struct Trial {
    pub sent: Sent,
    pub entry: Value,
    pub first: Option<RowView>,
    pub refused: Option<String>,
}

/// A role or a tag with what stands in it.
pub struct Choice {
    pub name: String,
    pub label: String,
    pub help: String,
    pub value: String,
    /// Whether it matters in the format that is chosen.
    pub used: bool,
    /// Whether its value is none of the columns that the rows have.
    pub odd: bool,
}

/// The form.
pub struct Columns {
    pub formats: Vec<(&'static str, String, bool)>,
    pub columns: Vec<Choice>,
    pub tags: Vec<Choice>,
    /// Columns that the rows have.
    pub known: Vec<String>,
    pub detected: String,
    pub entry: String,
    pub first: Option<RowView>,
    pub refused: Option<String>,
}

impl Columns {
    /// Whether the format has names inside messages.
    pub fn has_tags(&self) -> bool {
        self.tags.iter().any(|tag| tag.used)
    }
}

/// The form of a data set, or of what was typed into it.
pub async fn of(
    state: &AppState,
    opened: &Opened,
    trial: Option<Trial>,
    lang: Lang,
) -> Result<Columns, LibraryError> {
    let found = state.library.detect(opened, Patience::Moment).await?;
    let (mut columns, mut named) = rows::mapping(opened);
    let mut formatting = opened.formatting().to_owned();
    let mut entry = Value::Object(opened.raw.clone());
    let (first, refused);
    if let Some(trial) = trial {
        let typed = |pairs: &mut Vec<(&'static str, String)>, sent: &[(String, String)]| {
            for (name, value) in pairs {
                if let Some((_, new)) = sent.iter().find(|(sent, _)| sent == name) {
                    value.clone_from(new);
                }
            }
        };
        typed(&mut columns, &trial.sent.columns);
        typed(&mut named, &trial.sent.tags);
        if !trial.sent.formatting.is_empty() {
            formatting = trial.sent.formatting;
        }
        (entry, first, refused) = (trial.entry, trial.first, trial.refused);
    } else {
        refused = None;
        first = state.library.page(opened, 0, 1, Patience::Moment).await?.rows.into_iter().next();
    }
    let choice = |list: &[&str], (name, value): (&'static str, String)| Choice {
        label: lang.text(&format!("role.{name}")).to_owned(),
        help: name.to_owned(),
        used: list.contains(&name),
        odd: !value.is_empty() && !found.columns.contains(&value),
        name: name.to_owned(),
        value,
    };
    let formats = ["alpaca", "sharegpt", "openai", "tokens"];
    Ok(Columns {
        formats: formats
            .into_iter()
            .map(|word| (word, lang.text(&format!("format.{word}")).to_owned(), word == formatting))
            .collect(),
        columns: columns.into_iter().map(|pair| choice(roles(&formatting), pair)).collect(),
        tags: named.into_iter().map(|pair| choice(tags(&formatting), pair)).collect(),
        known: found.columns,
        detected: match found.format {
            "" => String::new(),
            word => lang.text(&format!("format.{word}")).to_owned(),
        },
        entry: serde_json::to_string_pretty(&entry).unwrap_or_default(),
        first,
        refused,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_form_makes_of_an_entry() {
        let check = |pairs: &[(&str, &str)], expected: Value| {
            let pairs = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            let raw = json!({"file_name": "a", "columns": {"prompt": "p", "chosen": "c"}});
            assert_eq!(Sent::new(pairs).entry(&raw), expected);
        };
        let same = json!({"file_name": "a", "columns": {"prompt": "p", "chosen": "c"}});
        check(
            &[("formatting", "alpaca"), ("col.prompt", "p"), ("file_name", "/etc")],
            same.clone(),
        );
        check(&[("formatting", "<b>"), ("col.odd", "x"), ("tag.prompt", "x")], same);
        check(
            &[
                ("formatting", "sharegpt"),
                ("col.prompt", "p"),
                ("col.messages", "m"),
                ("tag.role_tag", "role"),
            ],
            json!({"file_name": "a", "columns": {"chosen": "c", "messages": "m"}, "formatting": "sharegpt", "tags": {"role_tag": "role"}}),
        );
    }
}
