//! The repository's files, as the checks see them.

use std::fs;
use std::path::{Path, PathBuf};

/// One text file.
pub struct File {
    /// From the repository's root, with `/`.
    pub path: String,
    /// Its whole text.
    pub text: String,
}

impl File {
    /// A complaint about `line` (from 1).
    pub fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }

    /// Whether the whole file is test code.
    pub fn is_test(&self) -> bool {
        let in_test_folder = |part: &str| {
            self.path.starts_with(&format!("{part}/")) || self.path.contains(&format!("/{part}/"))
        };
        in_test_folder("tests") || in_test_folder("benches") || self.path.ends_with("/tests.rs")
    }

    /// (line number, code) of what is compiled outside tests, without comments.
    pub fn code(&self) -> Vec<(usize, &str)> {
        let end = if self.is_test() { 0 } else { self.tests_start() };
        self.lines().take(end).map(|(number, line)| (number, uncommented(line))).collect()
    }

    /// (line number, code) of what is compiled for tests only, without comments.
    pub fn test_code(&self) -> Vec<(usize, &str)> {
        let start = if self.is_test() { 0 } else { self.tests_start() };
        self.lines().skip(start).map(|(number, line)| (number, uncommented(line))).collect()
    }

    /// (line number from 1, line).
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// How many lines stand before `#[cfg(test)] mod NAME {`, which by custom ends a file.
    fn tests_start(&self) -> usize {
        let lines: Vec<&str> = self.text.lines().collect();
        let opens_module = |index: usize| {
            let after = lines[index + 1..].iter().find(|line| !line.starts_with("#["));
            after.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
        };
        (0..lines.len())
            .find(|&index| lines[index] == "#[cfg(test)]" && opens_module(index))
            .unwrap_or(lines.len())
    }
}

/// The line up to its `//` comment.
fn uncommented(line: &str) -> &str {
    if line.trim_start().starts_with("//") {
        return "";
    }
    line.split_once(" // ").map_or(line, |(code, _)| code)
}

/// The repository's root: where cargo starts the tests, so that one build serves every worktree.
pub fn root() -> &'static Path {
    Path::new(".")
}

/// One file; `path` from the root.
pub fn read(path: &str) -> File {
    let text = fs::read_to_string(root().join(path));
    File { path: path.to_owned(), text: text.unwrap_or_else(|error| panic!("{path}: {error}")) }
}

/// Every Rust file of ours.
pub fn rust() -> Vec<File> {
    ["src", "crates", "tests", "examples"].iter().flat_map(|folder| under(folder, "rs")).collect()
}

/// Every file below `folder` whose name ends in `.extension`, sorted; none where it is missing.
pub fn under(folder: &str, extension: &str) -> Vec<File> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(next) = folders.pop() {
        let Ok(entries) = fs::read_dir(&next) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|its| its == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found.iter().map(|path| read(path.strip_prefix(root()).unwrap().to_str().unwrap())).collect()
}

/// Every file in `folder` itself whose name ends in `.extension`.
pub fn beside(folder: &str, extension: &str) -> Vec<File> {
    let mut names: Vec<String> = fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(&format!(".{extension}")))
        .collect();
    names.sort();
    names.iter().map(|name| read(format!("{folder}/{name}").trim_start_matches('/'))).collect()
}

/// Whether `line` has `word` with no letter, digit or `_` touching its ends.
pub fn names(line: &str, word: &str) -> bool {
    let part_of_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back().is_some_and(part_of_name);
        let after = line[start + word.len()..].chars().next().is_some_and(part_of_name);
        let open_end = !word.ends_with(part_of_name);
        let open_start = !word.starts_with(part_of_name);
        (open_start || !before) && (open_end || !after)
    })
}
