//! Who may name whom: the arrows of docs/design.md, read off the code and the manifests.

use super::files::{self, File, names};
use super::{must_fail, must_hold, must_pass};

/// Files below `zone` never name `words`.
struct Rule {
    zone: &'static str,
    words: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        zone: "crates/run/src/",
        words: &["candle_core", "tokio", "engine::", "axum", "sqlx", "tallow::"],
        why: "`run` is what two processes agree on: nothing of ours, no runtime, no tensors",
    },
    Rule {
        zone: "crates/engine/src/",
        words: &["tokio", "axum", "sqlx", "askama", "tracing", "clap", "tallow::"],
        why: "the engine lives without the web",
    },
    Rule {
        zone: "crates/engine/src/",
        words: &[
            "env::var",
            "env::var_os",
            "env::args",
            "env::current_dir",
            "SystemTime",
            "Instant::now",
        ],
        why: "the engine is a function of its config: no environment, no clock",
    },
    Rule {
        zone: "crates/engine/src/",
        words: &["println!", "eprintln!", "print!", "eprint!", "stdout()", "stderr()"],
        why: "the engine speaks through its Observer",
    },
    Rule {
        zone: "src/db",
        words: &["jobs::", "web::", "axum", "engine::", "candle_core", "std::process"],
        why: "`db` knows rows, not who asks",
    },
    Rule {
        zone: "src/jobs",
        words: &["web::", "axum", "engine::", "candle_core", "askama"],
        why: "`jobs` runs processes: no pages, no tensors",
    },
    Rule {
        zone: "src/web",
        words: &["engine::", "candle_core", "std::process", "Command::new", "sqlx", "rusqlite"],
        why: "`web` asks `jobs` and `db`: no engine, no processes, no SQL",
    },
    Rule {
        zone: "src/library",
        words: &[
            "jobs::",
            "web::",
            "db::",
            "candle_core",
            "sqlx",
            "askama",
            "train::",
            "std::process",
        ],
        why: "`library` reads what lies on disk: no pages, no runs, no tensors",
    },
    Rule {
        zone: "src/files",
        words: &["jobs::", "web::", "db::", "axum", "engine::", "sqlx"],
        why: "`files` only opens what users name",
    },
];

/// The only files of the root package that may name `engine`.
const USES_ENGINE: &[&str] =
    &["src/worker.rs", "src/worker/", "src/cli.rs", "src/cli/", "src/library.rs", "src/library/"];

/// Besides jobs: what starts a browser or an editor, and what calls nvcc while the GPU build is made.
const STARTS_PROCESSES: &[&str] =
    &["src/jobs/", "src/cli.rs", "src/cli/", "crates/engine/build.rs"];

/// (word, the only files of the program that may name it, why).
const SOLE_USERS: &[(&str, &[&str], &str)] = &[
    ("engine::", USES_ENGINE, "only worker, cli and library name the engine"),
    ("SystemTime::now", &["src/clock.rs", "crates/run/src/"], "ask the Clock"),
    ("Command::new", STARTS_PROCESSES, "only jobs starts processes"),
];

/// A string that starts like this, whatever its case, is SQL.
const SQL: &[&str] = &["\"select ", "\"insert into ", "\"delete from ", "\"update ", "\"with "];

/// (manifest, crates that it never depends on outside tests).
const MANIFESTS: &[(&str, &[&str])] = &[
    ("crates/run/Cargo.toml", &["engine", "tallow", "candle-core", "tokio", "axum", "sqlx"]),
    (
        "crates/engine/Cargo.toml",
        &["tallow", "tokio", "axum", "sqlx", "askama", "tracing", "clap", "rand"],
    ),
];

fn in_zone(path: &str, zone: &str) -> bool {
    let Some(rest) = path.strip_prefix(zone) else {
        return false;
    };
    zone.ends_with('/') || rest == ".rs" || rest.starts_with('/')
}

fn direction(file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    for rule in RULES.iter().filter(|rule| in_zone(&file.path, rule.zone)) {
        for (number, line) in file.code() {
            for word in rule.words.iter().filter(|word| names(line, word)) {
                complaints.push(file.at(number, &format!("names `{word}`, but {}", rule.why)));
            }
        }
    }
    complaints
}

fn sole_users(file: &File) -> Vec<String> {
    if !file.path.starts_with("src/") && !file.path.starts_with("crates/") {
        return vec![];
    }
    let mut complaints = Vec::new();
    for (word, users, why) in SOLE_USERS {
        if users.iter().any(|start| file.path.starts_with(start)) {
            continue;
        }
        let lines = file.code().into_iter().filter(|(_, line)| names(line, word));
        complaints.extend(lines.map(|(number, _)| file.at(number, &format!("`{word}`: {why}"))));
    }
    complaints
}

/// SQL text stands in `src/db` and `migrations` only.
fn sql_outside_db(file: &File) -> Vec<String> {
    if !file.path.starts_with("src/") || in_zone(&file.path, "src/db") {
        return vec![];
    }
    let is_sql = |line: &str| SQL.iter().any(|start| line.to_lowercase().contains(start));
    let lines = file.code().into_iter().filter(|(_, line)| is_sql(line));
    lines.map(|(number, _)| file.at(number, "SQL outside src/db")).collect()
}

fn manifest(file: &File) -> Vec<String> {
    let never = MANIFESTS.iter().find(|(path, _)| *path == file.path).map_or(&[][..], |(_, n)| n);
    let mut complaints = Vec::new();
    let mut section = "";
    for (number, line) in file.lines() {
        if line.starts_with('[') {
            section = line.trim();
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or("");
        let section_name = section.trim_matches(['[', ']']);
        let in_table = section_name == "dependencies" && never.contains(&name);
        let own_table = section_name.strip_prefix("dependencies.");
        let own_table = own_table.is_some_and(|name| line == section && never.contains(&name));
        if in_table || own_table {
            complaints.push(file.at(number, &format!("depends on what it must not: {line}")));
        }
    }
    complaints
}

#[test]
fn imports_follow_the_arrows() {
    must_hold(&files::rust(), direction);
    let planted = [
        ("crates/run/src/a.rs", "use tokio::fs;\n", "`tokio`"),
        ("crates/run/src/a.rs", "use candle_core::Tensor;\n", "`candle_core`"),
        ("crates/engine/src/a.rs", "let t = std::time::SystemTime::now();\n", "`SystemTime`"),
        ("crates/engine/src/a.rs", "let h = std::env::var(\"HOME\");\n", "`env::var`"),
        ("crates/engine/src/ops/a.rs", "    println!(\"x\");\n", "`println!`"),
        ("crates/engine/src/a.rs", "use axum::Router;\n", "`axum`"),
        ("src/db/runs.rs", "use crate::web::Page;\n", "`web::`"),
        ("src/db.rs", "use crate::jobs::Queue;\n", "`jobs::`"),
        ("src/jobs/queue.rs", "use axum::Json;\n", "`axum`"),
        ("src/jobs.rs", "engine::train(&config)?;\n", "`engine::`"),
        ("src/web/pages/run.rs", "use std::process::Command;\n", "`std::process`"),
        ("src/web.rs", "sqlx::query(text)\n", "`sqlx`"),
    ];
    for (path, text, expected) in planted {
        must_fail(direction, path, text, expected);
    }
    must_pass(direction, "crates/engine/src/a.rs", "//! No tokio here.\nuse run::Config;\n");
    let tests_only = "fn a() {}\n#[cfg(test)]\nmod tests {\n    let a = env::var(\"A\");\n}\n";
    must_pass(direction, "crates/engine/src/a.rs", tests_only);
    must_pass(direction, "src/website.rs", "use sqlx::Row;\n");
}

#[test]
fn some_things_have_one_user() {
    must_hold(&files::rust(), sole_users);
    let planted = [
        ("src/clock.rs", "use engine::train;\n", "only worker, cli and"),
        ("src/worker.rs", "let now = SystemTime::now();\n", "ask the Clock"),
        ("src/web/run.rs", "let child = Command::new(\"sh\");\n", "only jobs starts"),
    ];
    for (path, text, expected) in planted {
        must_fail(sole_users, path, text, expected);
    }
    must_pass(sole_users, "src/worker.rs", "use engine::train;\n");
}

#[test]
fn sql_stands_in_db() {
    must_hold(&files::rust(), sql_outside_db);
    must_fail(sql_outside_db, "src/web/a.rs", "let q = \"SELECT id FROM run\";\n", "SQL outside");
    must_fail(sql_outside_db, "src/jobs/a.rs", "q(\"update run set step = 1\")\n", "SQL outside");
    must_pass(sql_outside_db, "src/db/a.rs", "let q = \"select id from run\";\n");
}

#[test]
fn manifests_follow_the_arrows() {
    let all: Vec<File> = MANIFESTS.iter().map(|(path, _)| files::read(path)).collect();
    must_hold(&all, manifest);
    let run = "crates/run/Cargo.toml";
    must_fail(manifest, run, "[dependencies]\ntokio.workspace = true\n", "must not: tokio");
    must_fail(manifest, run, "[dependencies.engine]\npath = \"../engine\"\n", "must not");
    must_pass(manifest, run, "[dev-dependencies]\ntokio = \"1\"\n");
}
