//! The third-party files of the browser are those that scripts/vendor.sh fetched.

use std::process::Command;

#[test]
fn vendored_files_are_unchanged() {
    let check = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "static/vendor/SHA256SUMS"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let output = check.unwrap_or_else(|error| panic!("sha256sum: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_vendored_file_has_a_hash_and_a_licence() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| {
        std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let (sums, licences) = (read("static/vendor/SHA256SUMS"), read("static/THIRD_PARTY.md"));
    for folder in ["static/vendor", "tests/vendor"] {
        let entries = std::fs::read_dir(root.join(folder))
            .unwrap_or_else(|error| panic!("{folder}: {error}"));
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "SHA256SUMS" {
                assert!(sums.contains(&format!("{folder}/{name}")), "{name} has no hash");
                assert!(licences.contains(&name), "{name} has no licence");
            }
        }
    }
}
