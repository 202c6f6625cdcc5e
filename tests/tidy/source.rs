//! Every Rust file: module docs, length, nothing unfinished, no sleeping tests.

use super::files::{self, File, names};
use super::{must_fail, must_hold, must_pass};

/// A file tells one story; past this it tells two.
const LONGEST_FILE: usize = 500;
/// One screen and a half.
const LONGEST_FUNCTION: usize = 90;

fn module_docs(file: &File) -> Vec<String> {
    let documented = file.text.starts_with("//! ");
    if documented { vec![] } else { vec![file.at(1, "starts without a `//!` line")] }
}

fn length(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    if lines <= LONGEST_FILE {
        return vec![];
    }
    vec![file.at(lines, &format!("{lines} lines, more than {LONGEST_FILE}"))]
}

/// Relies on rustfmt: a function ends at the first `}` as deep as its first line.
fn function_length(file: &File) -> Vec<String> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut complaints = Vec::new();
    for (number, line) in file.code() {
        let depth = line.len() - line.trim_start().len();
        let opens = line.trim_start().split('(').next().unwrap_or("");
        let is_function = names(opens, "fn ") && !opens.contains(['"', '=', '|']);
        if !is_function || line.ends_with(';') || line.ends_with('}') {
            continue;
        }
        let ends = |line: &&str| line.len() > depth && line[depth..].starts_with('}');
        let closes = |line: &&str| line.trim_start().len() + depth == line.len() && ends(line);
        let body = lines[number - 1..].iter().position(closes).unwrap_or(0) + 1;
        if body > LONGEST_FUNCTION {
            complaints.push(file.at(number, &format!("a function of {body} lines")));
        }
    }
    complaints
}

/// The rules' own texts are left out.
fn is_rules(file: &File) -> bool {
    file.path.starts_with("tests/tidy/")
}

fn unfinished(file: &File) -> Vec<String> {
    if is_rules(file) {
        return vec![];
    }
    let mut complaints = Vec::new();
    for (number, line) in file.lines() {
        for word in ["TODO", "FIXME", "XXX", "todo!", "unimplemented!", "#[ignore", "dbg!"] {
            if names(line, word) {
                complaints.push(file.at(number, &format!("`{word}`: finish it, or leave it out")));
            }
        }
        for word in ["assert!(true", "#[allow("] {
            if line.contains(word) {
                complaints.push(file.at(number, &format!("`{word}`: say `#[expect(.., reason)]`")));
            }
        }
    }
    complaints
}

/// A support module may pause between two looks at what a test waits for; a test itself never may.
fn sleeping_tests(file: &File) -> Vec<String> {
    if is_rules(file) {
        return vec![];
    }
    let support = file.path.starts_with("tests/") && file.path.contains("support/");
    let sleeps =
        |line: &str| line.contains("thread::sleep") || (!support && line.contains("time::sleep("));
    let lines = file.test_code().into_iter().filter(|(_, line)| sleeps(line));
    lines.map(|(number, _)| file.at(number, "a test that sleeps: wait for the event")).collect()
}

#[test]
fn every_file_says_what_it_is() {
    must_hold(&files::rust(), module_docs);
    must_fail(module_docs, "src/a.rs", "use std::fs;\n", "without a `//!`");
}

#[test]
fn no_file_is_long() {
    must_hold(&files::rust(), length);
    must_fail(length, "src/a.rs", &"let x = 1;\n".repeat(501), "501 lines");
    must_pass(length, "src/a.rs", &"let x = 1;\n".repeat(500));
}

#[test]
fn no_function_is_long() {
    must_hold(&files::rust(), function_length);
    let body = |lines: usize| format!("pub fn a() {{\n{}}}\n", "    b();\n".repeat(lines));
    must_fail(function_length, "src/a.rs", &body(89), "91 lines");
    must_pass(function_length, "src/a.rs", &body(88));
    let nested =
        format!("impl A {{\n    fn a(\n        b: u8,\n    ) {{\n{}    }}\n}}\n", "\n".repeat(90));
    must_fail(function_length, "src/a.rs", &nested, "a function of");
}

#[test]
fn nothing_is_unfinished() {
    must_hold(&files::rust(), unfinished);
    let planted = [
        ("// TODO: later\n", "TODO"),
        ("todo!()\n", "todo!"),
        ("unimplemented!(\"x\")\n", "unimplemented!"),
        ("#[ignore]\nfn a() {}\n", "#[ignore"),
        ("#[ignore = \"slow\"]\n", "#[ignore"),
        ("// FIXME\n", "FIXME"),
        ("#[allow(dead_code)]\n", "#[allow("),
        ("assert!(true);\n", "assert!(true"),
    ];
    for (text, expected) in planted {
        must_fail(unfinished, "src/a.rs", text, expected);
    }
    must_pass(unfinished, "src/a.rs", "//! Ignored labels.\nlet todos = 1;\n");
}

#[test]
fn no_test_sleeps() {
    must_hold(&files::rust(), sleeping_tests);
    must_fail(sleeping_tests, "tests/a.rs", "std::thread::sleep(second);\n", "sleeps");
    let in_module =
        "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    tokio::time::sleep(ms).await;\n}\n";
    must_fail(sleeping_tests, "src/a.rs", in_module, "src/a.rs:5: a test that sleeps");
    let poll = "async fn pause() {\n    tokio::time::sleep(ms).await;\n}\n";
    must_pass(sleeping_tests, "tests/support/mod.rs", poll);
    must_fail(sleeping_tests, "tests/pages.rs", poll, "sleeps");
    must_pass(sleeping_tests, "src/a.rs", "fn wait() { tokio::time::sleep(ms) }\n");
}
