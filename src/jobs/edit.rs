//! What a person says of a run without changing what it does: its name, notes and tags.

use super::{ActionError, Jobs};
use crate::db::list::{self, Edit};
use crate::db::runs::RunRow;

const NAME: usize = 120;
const NOTES: usize = 10_000;
const TAGS: usize = 20;
const TAG: usize = 40;

impl Jobs {
    /// Renames a run, and writes its notes and tags; what is left out stays.
    ///
    /// # Errors
    /// Where a text is too long, or there is no such run.
    pub async fn edit(&self, id: &str, edit: Edit) -> Result<RunRow, ActionError> {
        let edit = cleaned(edit)?;
        let row = list::edit(&self.0.db, id, &edit).await?;
        row.ok_or_else(|| ActionError::NoRun(id.to_owned()))
    }
}

fn cleaned(edit: Edit) -> Result<Edit, ActionError> {
    let wrong = |field, why: String| Err(ActionError::Invalid(field, why));
    let name = edit.name.map(|name| one_line(&name));
    if let Some(name) = &name
        && !(1..=NAME).contains(&name.chars().count())
    {
        return wrong("name", format!("must have 1 to {NAME} characters"));
    }
    let notes = edit.notes.map(|notes| notes.replace("\r\n", "\n").trim_end().to_owned());
    if notes.as_ref().is_some_and(|notes| notes.chars().count() > NOTES) {
        return wrong("notes", format!("must have at most {NOTES} characters"));
    }
    let mut tags = None;
    if let Some(given) = edit.tags {
        let mut all: Vec<String> = given.iter().map(|tag| one_line(tag)).collect();
        all.retain(|tag| !tag.is_empty());
        all.sort();
        all.dedup();
        if all.len() > TAGS {
            return wrong("tags", format!("must be at most {TAGS}"));
        }
        if let Some(long) = all.iter().find(|tag| tag.chars().count() > TAG || tag.contains(',')) {
            return wrong("tags", format!("`{long}`: at most {TAG} characters and no comma"));
        }
        tags = Some(all);
    }
    Ok(Edit { name, notes, tags })
}

/// Without control characters and outer blanks.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept() {
        let check = |name: Option<&str>, tags: &[&str], expected: Result<(&str, &str), &str>| {
            let tags = Some(tags.iter().map(|tag| (*tag).to_owned()).collect());
            let edit = Edit { name: name.map(str::to_owned), notes: None, tags };
            let got = cleaned(edit).map(|edit| {
                (edit.name.unwrap_or_default(), edit.tags.unwrap_or_default().join("|"))
            });
            match (got, expected) {
                (Ok((name, tags)), Ok(wanted)) => {
                    assert_eq!((name.as_str(), tags.as_str()), wanted);
                }
                (Err(ActionError::Invalid(field, _)), Err(wanted)) => assert_eq!(field, wanted),
                (got, wanted) => assert_eq!(format!("{got:?}"), format!("{wanted:?}")),
            }
        };
        check(Some(" a\u{7}b\n"), &[" x ", "x", "", "b"], Ok(("ab", "b|x")));
        check(None, &[], Ok(("", "")));
        check(Some("  "), &[], Err("name"));
        check(Some(&"n".repeat(121)), &[], Err("name"));
        check(None, &["a,b"], Err("tags"));
        check(None, &[&"t".repeat(41)], Err("tags"));
        let many: Vec<String> = (0..21).map(|n| n.to_string()).collect();
        check(None, &many.iter().map(String::as_str).collect::<Vec<_>>(), Err("tags"));
    }
}
