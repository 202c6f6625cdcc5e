//! The README's file tree is made from the first sentence of each file's `//!`.
//!
//! After adding or renaming files: `UPDATE_README=1 cargo test --release --test tidy readme`.

use std::collections::BTreeSet;
use std::fs;

use super::files::{self, File};

const START: &str = "<!-- made by tests/tidy/readme.rs -->\n```\n";
const END: &str = "```\n<!-- end -->";
/// Where the phrases begin.
const COLUMN: usize = 34;
const WIDTH: usize = 124;

/// The first sentence of the module doc, cut at a word where it is long.
fn phrase(file: &File, width: usize) -> String {
    let doc = file.text.lines().map_while(|line| line.strip_prefix("//!"));
    let doc: Vec<&str> = doc.map(str::trim).take_while(|line| !line.is_empty()).collect();
    let doc = doc.join(" ").replace(['`', '[', ']'], "");
    let sentence = doc.split(". ").next().unwrap_or("").trim_end_matches(['.', ':']);
    if sentence.chars().count() <= width {
        return sentence.to_owned();
    }
    let cut: String = sentence.chars().take(width - 1).collect();
    let cut = cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words);
    format!("{}…", cut.trim_end_matches([',', ';', ':']))
}

/// One line a file, one line a folder, indented by depth. `files` is sorted by path.
fn tree(files: &[File]) -> String {
    let mut out = String::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for file in files {
        let parts: Vec<&str> = file.path.split('/').collect();
        for depth in 0..parts.len() - 1 {
            if seen.insert(parts[..=depth].join("/")) {
                out.push_str(&format!("{}{}/\n", "  ".repeat(depth), parts[depth]));
            }
        }
        let depth = parts.len() - 1;
        let name = format!("{}{}", "  ".repeat(depth), parts[depth]);
        let column = COLUMN.max(name.chars().count() + 1);
        let line = format!("{name:<column$}{}", phrase(file, WIDTH - column));
        out.push_str(&format!("{}\n", line.trim_end()));
    }
    out
}

/// README.md with `tree` between the marks.
fn with_tree(readme: &str, tree: &str) -> Option<String> {
    let (before, rest) = readme.split_once(START)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{START}{tree}{END}{after}"))
}

#[test]
fn readme_tree_is_true() {
    let mut sources = files::rust();
    sources.sort_by_key(|file| sort_key(&file.path));
    let readme = files::read("README.md");
    let expected = with_tree(&readme.text, &tree(&sources)).unwrap();
    if std::env::var_os("UPDATE_README").is_some() {
        fs::write(files::root().join("README.md"), &expected).unwrap();
        return;
    }
    let stale = expected.lines().find(|line| !readme.text.lines().any(|has| has == *line));
    let gone = readme.text.lines().find(|line| !expected.lines().any(|has| has == *line));
    assert!(
        readme.text == expected,
        "README.md's tree is not today's (new: {stale:?}, gone: {gone:?}): \
         run UPDATE_README=1 cargo test --release --test tidy readme"
    );
}

/// Files of a folder come before its subfolders; `a.rs` stands right before `a/`.
fn sort_key(path: &str) -> Vec<(String, bool)> {
    let parts: Vec<&str> = path.split('/').collect();
    let last = parts.len() - 1;
    let key = |(index, part): (usize, &&str)| (part.replace(".rs", ""), index != last);
    parts.iter().enumerate().map(key).collect()
}

#[test]
fn a_stale_tree_is_seen() {
    let files = [
        ("src/a.rs", "//! Does a. And more.\n"),
        ("src/a/b.rs", "//! `B`:\n//! of [`A`].\n//!\n//! More.\n"),
    ];
    let files = files.map(|(path, text)| File { path: path.into(), text: text.into() });
    let made = tree(&files);
    let expected = format!("src/\n{:<34}Does a\n  a/\n{:<34}B: of A\n", "  a.rs", "    b.rs");
    assert_eq!(made, expected);
    let readme = format!("# T\n{START}old\n{END}\nend\n");
    assert_eq!(with_tree(&readme, "new\n").unwrap(), format!("# T\n{START}new\n{END}\nend\n"));
    assert_eq!(with_tree("no marks", "new\n"), None);
    let long = File { path: "a.rs".into(), text: format!("//! {}\n", "word ".repeat(40)) };
    assert_eq!(phrase(&long, 12), "word word…");
}
