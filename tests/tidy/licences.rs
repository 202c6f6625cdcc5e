//! What is linked: licences, and crates that are never let in.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::files::{self, File};
use super::{must_fail, must_hold};

/// The licences that we take, best first. A dependency under several counts under the first here.
/// The test demands that each is in use, so that the list stays a true account.
const LICENCES: &[&str] =
    &["MIT", "Apache-2.0", "BSD-3-Clause", "ISC", "Zlib", "Unicode-3.0", "MPL-2.0"];

/// Never part of the program, at any depth; `openssl` and `native-tls` may serve the browser test.
const BANNED: &[&str] = &[
    "openssl-sys",
    "openssl",
    "native-tls",
    "ring",
    "aws-lc-sys",
    "onig_sys",
    "serde_yaml",
    "chrono-tz",
    "bindgen",
    "git2",
    "libgit2-sys",
    "pyo3",
    "python3-sys",
];

/// A package of the build: name, licence expression, whether the program itself links it.
struct Package {
    name: String,
    licence: String,
    shipped: bool,
}

/// The build for this machine, as cargo resolves it without the network.
fn packages() -> Vec<Package> {
    let host = Command::new("rustc").arg("-vV").output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .args(["--filter-platform", &host])
        .current_dir(files::root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    from_metadata(&serde_json::from_slice(&output.stdout).unwrap())
}

fn from_metadata(metadata: &Value) -> Vec<Package> {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    // package id -> (id of what it needs, whether outside tests)
    let mut needs: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    for node in array(&metadata["resolve"]["nodes"]) {
        let edges = array(&node["deps"]).into_iter().map(|dependency| {
            let kinds = array(&dependency["dep_kinds"]);
            (text(&dependency["pkg"]), kinds.iter().any(|kind| text(&kind["kind"]) != "dev"))
        });
        needs.insert(text(&node["id"]), edges.collect());
    }
    let mut shipped: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<String> = array(&metadata["workspace_members"]).iter().map(text).collect();
    while let Some(id) = next.pop() {
        if shipped.insert(id.clone()) {
            let edges = needs.get(&id).into_iter().flatten();
            next.extend(edges.filter(|(_, ships)| *ships).map(|(id, _)| id.clone()));
        }
    }
    let used = array(&metadata["packages"]).into_iter();
    used.filter(|package| needs.contains_key(&text(&package["id"])))
        .map(|package| Package {
            name: text(&package["name"]),
            licence: text(&package["license"]),
            shipped: shipped.contains(&text(&package["id"])),
        })
        .collect()
}

/// The licence under which we take a package: all terms of one alternative must be ours.
fn taken_under(expression: &str) -> Option<Vec<&'static str>> {
    let expression = expression.replace(['(', ')'], "").replace('/', " OR ");
    // `(A OR B) AND C` occurs in one shape only: every term after AND is required.
    let (choices, required) = match expression.split_once(" AND ") {
        Some((choices, required)) => (choices.to_owned(), required.split(" AND ").collect()),
        None => (expression.clone(), Vec::new()),
    };
    let ours = |name: &str| LICENCES.iter().find(|ours| **ours == name.trim()).copied();
    let alternatives: Vec<&str> = choices.split(" OR ").collect();
    let best = LICENCES.iter().find(|ours| alternatives.iter().any(|a| a.trim() == **ours))?;
    let mut taken = vec![*best];
    for name in required {
        taken.push(ours(name)?);
    }
    Some(taken)
}

fn licence_complaints(packages: &[Package]) -> Vec<String> {
    let refused = packages.iter().filter(|package| taken_under(&package.licence).is_none());
    refused.map(|package| format!("{} is under {:?}", package.name, package.licence)).collect()
}

fn banned_complaints(packages: &[Package]) -> Vec<String> {
    let banned = |package: &&Package| package.shipped && BANNED.contains(&package.name.as_str());
    packages.iter().filter(banned).map(|package| format!("links {}", package.name)).collect()
}

/// No text of ours or of what we vendor is under a licence that spreads to the network's users.
fn affero(file: &File) -> Vec<String> {
    let word = ["AF", "FERO GENERAL PUBLIC"].concat();
    let short = ["AG", "PL"].concat();
    let found = |line: &str| line.contains(&short) || line.to_uppercase().contains(&word);
    let lines = file.lines().filter(|(_, line)| found(line));
    lines.map(|(number, _)| file.at(number, "names that licence")).collect()
}

#[test]
fn every_licence_is_ours_and_each_of_ours_is_used() {
    let packages = packages();
    assert!(packages.len() > 100, "cargo metadata named only {} packages", packages.len());
    assert_eq!(licence_complaints(&packages), Vec::<String>::new());
    let used: BTreeSet<&str> =
        packages.iter().filter_map(|package| taken_under(&package.licence)).flatten().collect();
    let ours: BTreeSet<&str> = LICENCES.iter().copied().collect();
    assert_eq!(used, ours, "LICENCES in tests/tidy/licences.rs is no longer a true account");
}

#[test]
fn licence_expressions_are_read() {
    let cases: [(&str, Option<&[&str]>); 9] = [
        ("MIT", Some(&["MIT"])),
        ("MIT OR Apache-2.0", Some(&["MIT"])),
        ("Unlicense/MIT", Some(&["MIT"])),
        ("Apache-2.0 OR BSL-1.0", Some(&["Apache-2.0"])),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", Some(&["MIT", "Unicode-3.0"])),
        ("GPL-3.0-only", None),
        ("MIT AND GPL-3.0-only", None),
        ("SSPL-1.0 OR GPL-2.0", None),
        ("", None),
    ];
    for (expression, expected) in cases {
        assert_eq!(taken_under(expression).as_deref(), expected, "{expression:?}");
    }
    let planted = [Package { name: "bad".into(), licence: "GPL-3.0".into(), shipped: true }];
    assert_eq!(licence_complaints(&planted), ["bad is under \"GPL-3.0\""]);
}

#[test]
fn banned_crates_stay_out() {
    assert_eq!(banned_complaints(&packages()), Vec::<String>::new());
    let planted = |shipped| Package { name: "openssl-sys".into(), licence: "MIT".into(), shipped };
    assert_eq!(banned_complaints(&[planted(true)]), ["links openssl-sys"]);
    assert_eq!(banned_complaints(&[planted(false)]), Vec::<String>::new());
}

#[test]
fn dependencies_of_tests_do_not_count_as_shipped() {
    let metadata = serde_json::json!({
        "workspace_members": ["root"],
        "packages": [
            { "id": "root", "name": "root", "license": "Apache-2.0" },
            { "id": "a", "name": "a", "license": "MIT" },
            { "id": "b", "name": "b", "license": "MIT" },
            { "id": "c", "name": "c", "license": "MIT" },
        ],
        "resolve": { "nodes": [
            { "id": "root", "deps": [
                { "pkg": "a", "dep_kinds": [{ "kind": null }] },
                { "pkg": "b", "dep_kinds": [{ "kind": "dev" }] },
            ] },
            { "id": "a", "deps": [] },
            { "id": "b", "deps": [] },
        ] },
    });
    let shipped: Vec<(String, bool)> =
        from_metadata(&metadata).into_iter().map(|p| (p.name, p.shipped)).collect();
    let expected = [("root", true), ("a", true), ("b", false)];
    assert_eq!(shipped, expected.map(|(name, ships)| (name.to_owned(), ships)));
}

#[test]
fn no_affero_text() {
    let mut all = files::rust();
    for (folder, extension) in
        [("static", "js"), ("static", "css"), ("static", "txt"), ("templates", "html")]
    {
        all.extend(files::under(folder, extension));
    }
    must_hold(&all, affero);
    must_fail(affero, "static/a.js", &["/* AG", "PL-3.0 */"].concat(), "names that licence");
}
