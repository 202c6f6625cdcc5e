//! The house rules, executed. A rule that matters is a test here, and not a line in a guide.
//!
//! Each check is a function from one file's text to the complaints about it; it runs over every
//! file of the repository, and a planted file that breaks the rule shows that the check can fail.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod files;
mod furniture;
mod imports;
mod licences;
mod readme;
mod source;
mod templates;

use files::File;

/// Runs `check` over `files` and fails with every complaint at once.
fn must_hold(files: &[File], check: fn(&File) -> Vec<String>) {
    assert!(!files.is_empty(), "the check looked at no file");
    let complaints: Vec<String> = files.iter().flat_map(check).collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// The positive control: `text` at `path` must get a complaint that contains `expected`.
fn must_fail(check: fn(&File) -> Vec<String>, path: &str, text: &str, expected: &str) {
    let file = File { path: path.to_owned(), text: text.to_owned() };
    let complaints = check(&file);
    assert!(
        complaints.iter().any(|complaint| complaint.contains(expected)),
        "planted {path} with {text:?}: no complaint with {expected:?}, but {complaints:?}"
    );
}

/// The negative control: `text` at `path` is fine.
fn must_pass(check: fn(&File) -> Vec<String>, path: &str, text: &str) {
    let file = File { path: path.to_owned(), text: text.to_owned() };
    assert_eq!(check(&file), Vec::<String>::new(), "{path} with {text:?}");
}
