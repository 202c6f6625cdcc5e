//! Dockerfile, compose file, scripts and guides: that they say what the README promises.

use std::path::PathBuf;

use serde_json::Value;

use super::files::{self, File};
use super::{must_fail, must_hold, must_pass};

/// The rules of both images.
fn dockerfile(file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut stages: Vec<(&str, String)> = Vec::new();
    for (number, line) in file.lines().filter(|(_, line)| !line.starts_with('#')) {
        if line.starts_with("FROM ") {
            let Some((image, name)) = line.split_once(" AS ") else {
                complaints.push(file.at(number, "a stage without a name"));
                continue;
            };
            if !image.contains(':') || image.ends_with(":latest") {
                complaints.push(file.at(number, "an image without a version"));
            }
            stages.push((name, String::new()));
        }
        if let Some(from) = line.strip_prefix("COPY --from=") {
            let name = from.split(' ').next().unwrap_or("");
            if !stages.iter().any(|(stage, _)| *stage == name) {
                complaints.push(file.at(number, &format!("copies from no stage: {name}")));
            }
        }
        if let Some((_, text)) = stages.last_mut() {
            text.push_str(&format!("{line}\n"));
        }
    }
    for target in ["cpu", "cuda"] {
        let Some((_, text)) = stages.iter().find(|(name, _)| *name == target) else {
            complaints.push(file.at(1, &format!("no target {target}")));
            continue;
        };
        for wanted in
            ["USER 1000:1000", "VOLUME /data", "EXPOSE 7860 8000", "HEALTHCHECK ", "CMD ["]
        {
            if !text.contains(&format!("\n{wanted}")) {
                complaints.push(file.at(1, &format!("target {target} lacks {wanted:?}")));
            }
        }
    }
    complaints
}

/// The rules of the compose file.
fn compose(file: &File) -> Vec<String> {
    let parsed: Value = match serde_yaml_ng::from_str(&file.text) {
        Ok(parsed) => parsed,
        Err(error) => return vec![file.at(1, &error.to_string())],
    };
    let mut complaints = Vec::new();
    let listed = |list: &Value, wanted: &str| {
        let entries = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        entries.into_iter().any(|entry| entry.ends_with(wanted))
    };
    for (name, target) in [("tallow", "cpu"), ("tallow-gpu", "cuda")] {
        let service = &parsed["services"][name];
        let facts = [
            ("port 7860", listed(&service["ports"], ":7860:7860")),
            ("port 8000", listed(&service["ports"], ":8000:8000")),
            ("the data volume", listed(&service["volumes"], "data:/data")),
            ("a restart policy", service["restart"] == "unless-stopped"),
            ("a healthcheck", service["healthcheck"]["test"].is_array()),
            ("its build target", service["build"]["target"] == target),
        ];
        let lacking = facts.iter().filter(|(_, holds)| !holds);
        complaints.extend(lacking.map(|(fact, _)| file.at(1, &format!("{name} lacks {fact}"))));
    }
    let devices =
        &parsed["services"]["tallow-gpu"]["deploy"]["resources"]["reservations"]["devices"];
    if devices[0]["capabilities"][0] != "gpu" {
        complaints.push(file.at(1, "tallow-gpu lacks the GPU reservation"));
    }
    if !listed(&parsed["services"]["tallow-gpu"]["profiles"], "gpu") {
        complaints.push(file.at(1, "tallow-gpu lacks its profile"));
    }
    complaints
}

/// `[text](path)` and `![text](path)`: the path, from the guide's own folder, exists.
fn links(file: &File) -> Vec<String> {
    let folder = files::root().join(&file.path).parent().map(PathBuf::from).unwrap_or_default();
    let mut complaints = Vec::new();
    let mut fenced = false;
    for (number, line) in file.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        // what stands between backticks is code
        let prose: String = line.split('`').step_by(2).collect();
        for target in prose.split("](").skip(1) {
            let target = target.split([')', '#']).next().unwrap_or("");
            let outside = target.contains("://") || target.is_empty();
            if !outside && !folder.join(target).exists() {
                complaints.push(file.at(number, &format!("leads nowhere: {target}")));
            }
        }
    }
    complaints
}

/// A script stops at its first error, and says what it is for.
fn script(file: &File) -> Vec<String> {
    let mut lines = file.text.lines();
    let shell = lines.next().is_some_and(|line| line.starts_with("#!") && line.contains("bash"));
    let says = lines.next().is_some_and(|line| line.starts_with("# "));
    let stops = file.text.contains("\nset -eu");
    let facts = [("#!...bash", shell), ("a comment on line 2", says), ("set -eu", stops)];
    let lacking = facts.iter().filter(|(_, holds)| !holds);
    lacking.map(|(fact, _)| file.at(1, &format!("lacks {fact}"))).collect()
}

#[test]
fn the_images_are_sound() {
    let real = files::read("Dockerfile");
    must_hold(&[files::read("Dockerfile")], dockerfile);
    let planted = [
        ("USER 1000:1000\n", "", "lacks \"USER 1000:1000\""),
        ("HEALTHCHECK ", "# HEALTHCHECK ", "lacks \"HEALTHCHECK \""),
        ("--from=build-cpu /out", "--from=builder /out", "copies from no stage: builder"),
        (" AS cuda\n", " AS gpu\n", "no target cuda"),
        ("debian:bookworm-slim", "debian", "an image without a version"),
    ];
    for (from, to, expected) in planted {
        must_fail(dockerfile, "Dockerfile", &real.text.replace(from, to), expected);
    }
}

#[test]
fn the_compose_file_is_sound() {
    let real = files::read("docker-compose.yml");
    must_hold(&[files::read("docker-compose.yml")], compose);
    let planted = [
        ("restart: unless-stopped", "restart: no", "tallow lacks a restart policy"),
        ("capabilities: [gpu]", "capabilities: []", "lacks the GPU reservation"),
        (":8000:8000", ":8001:8001", "lacks port 8000"),
        ("profiles: [\"gpu\"]", "x-none: 1", "lacks its profile"),
        ("services:", "services", "docker-compose.yml:1:"),
    ];
    for (from, to, expected) in planted {
        must_fail(compose, "docker-compose.yml", &real.text.replace(from, to), expected);
    }
}

#[test]
fn links_in_the_guides_lead_somewhere() {
    let guides: Vec<File> =
        ["", "data", "docs"].iter().flat_map(|folder| files::beside(folder, "md")).collect();
    must_hold(&guides, links);
    must_fail(links, "README.md", "\n[a](docs/none.md)\n", "README.md:2: leads nowhere");
    must_fail(links, "docs/design.md", "![a](../none.png)", "leads nowhere");
    must_pass(links, "docs/design.md", "[a](../README.md#files) [b](https://x.example/) `[c](d)`");
}

#[test]
fn scripts_stop_at_their_first_error() {
    let mut scripts = files::under("scripts", "sh");
    scripts.extend([files::read("test"), files::read(".ci/run")]);
    must_hold(&scripts, script);
    must_fail(script, "scripts/a.sh", "#!/bin/bash\n# Does it.\nfalse\n", "set -eu");
    must_fail(script, "scripts/a.sh", "#!/bin/bash\nset -eu\n", "a comment on line 2");
    must_pass(script, "scripts/a.sh", "#!/usr/bin/env bash\n# Does it.\nset -euo pipefail\n");
}
