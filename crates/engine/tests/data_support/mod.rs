//! Where the recorded truth is, and how it is read.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a broken test may panic")]
#![allow(dead_code, reason = "every test file uses a part of this")]

use std::path::{Path, PathBuf};

use engine::data::template::{Message, Role};
use serde_json::Value;

/// A path below the shared folder; says what is left out where it is missing.
pub fn shared(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("TALLOW_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let path = folder.join(path);
    if path.exists() {
        return Some(path);
    }
    println!("left out: {} is not here (set TALLOW_SHARED)", path.display());
    None
}

/// A JSON file of the recorded truth.
pub fn recorded(name: &str) -> Option<Value> {
    let path = shared(&format!("parity/{name}"))?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

/// Messages as the recordings have them.
pub fn messages(value: &Value) -> Vec<Message> {
    let role = |name: &str| match name {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "function" => Role::Function,
        "observation" => Role::Observation,
        other => panic!("role {other}"),
    };
    let message = |m: &Value| Message::new(role(m["role"].as_str().unwrap()), m["content"].as_str().unwrap());
    value.as_array().expect("messages").iter().map(message).collect()
}
