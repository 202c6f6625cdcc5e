//! The grammar file: lists of words in columns, and sentences with slots.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// What `grammar.txt` says.
#[derive(Default)]
pub struct Grammar {
    /// List name -> rows -> columns.
    lists: BTreeMap<String, Vec<Vec<String>>>,
    /// Sentences of stories.
    pub story: Vec<String>,
    /// (question, answer).
    pub talk: Vec<(String, String)>,
}

/// The rows that one document has drawn so far, by list name.
pub type Drawn<'a> = BTreeMap<&'a str, &'a Vec<String>>;

impl Grammar {
    /// Parses the file; an error names the line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut grammar = Self::default();
        let mut section = String::new();
        for (index, line) in text.lines().enumerate() {
            let (line, number) = (line.trim(), index + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix("= ") {
                section = name.to_owned();
                continue;
            }
            match (section.split_once(' '), section.as_str()) {
                (Some(("list", name)), _) => {
                    let row = line.split(" | ").map(str::to_owned).collect();
                    grammar.lists.entry(name.to_owned()).or_default().push(row);
                }
                (_, "story") => grammar.story.push(line.to_owned()),
                (_, "talk") => match line.split_once(" => ") {
                    Some((ask, say)) => grammar.talk.push((ask.to_owned(), say.to_owned())),
                    None => bail!("grammar.txt line {number}: no \" => \" in a talk line"),
                },
                _ => bail!("grammar.txt line {number}: no section, or an unknown one"),
            }
        }
        Ok(grammar)
    }

    /// Fills the slots of `pattern`; a list drawn before in this document keeps its row.
    pub fn fill<'a>(
        &'a self,
        pattern: &str,
        drawn: &mut Drawn<'a>,
        random: &mut Random,
    ) -> Result<String> {
        let mut text = String::new();
        let mut rest = pattern;
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let Some((slot, after)) = after.split_once('}') else {
                bail!("grammar.txt: a slot is not closed in {pattern:?}");
            };
            let (name, column) = slot.split_once('.').unwrap_or((slot, "0"));
            let Some((name, rows)) = self.lists.get_key_value(name) else {
                bail!("grammar.txt: no list named {name:?}, wanted by {pattern:?}");
            };
            let row = *drawn.entry(name).or_insert_with(|| random.pick(rows));
            let Some(word) = column.parse::<usize>().ok().and_then(|column| row.get(column)) else {
                bail!("grammar.txt: list {name:?} has no column {column}, wanted by {pattern:?}");
            };
            text.push_str(&self.fill(word, drawn, random)?);
            rest = after;
        }
        text.push_str(rest);
        Ok(text)
    }
}

/// SplitMix64: the same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    /// A number below `bound` (not 0).
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// One of `items` (not empty).
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
