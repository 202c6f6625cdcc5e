//! What strangers try: paths that lead out of their folder, and texts that want to be scripts. Over every route of the
//! table that takes a path, every argument that is one, and every page that shows a text.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::fs;

use hostile::{scripts, traversals};

use run::fields::{Class, FIELDS, Kind as FieldKind};
use serde_json::json;
use support::{Data, Server, config};
use tallow::web::router::{ROUTES, Verb};

/// Stands in files that nobody may read through the server.
const CANARY: &str = "CANARY-5f0c2a";

/// A data folder beside a file that is not to be read, with links that lead to it.
fn trapped() -> Data {
    let data = Data::new();
    let out = data.dir.path();
    fs::write(out.join("secret.txt"), CANARY).unwrap();
    fs::create_dir(out.join("data-evil")).unwrap();
    fs::write(out.join("data-evil/secret.txt"), CANARY).unwrap();
    std::os::unix::fs::symlink(out, data.path().join("link")).unwrap();
    std::os::unix::fs::symlink(out.join("data-evil"), data.path().join("link-dir")).unwrap();
    data
}

#[test]
fn no_path_leads_out_of_a_route() {
    let data = trapped();
    let server = data.serve(&[]);
    let host = format!("localhost:{}", server.port);
    for route in ROUTES.iter().filter(|route| route.path.contains('{')) {
        for payload in traversals() {
            // what HTTP itself does not take is not sent
            let sent: String = payload.chars().filter(|c| c.is_ascii_graphic()).collect();
            let path = route
                .path
                .replace("{id}", &sent)
                .replace("{name}", &sent)
                .replace("{*file}", &sent);
            let method = if route.verb == Verb::Get { "GET" } else { "POST" };
            let headers = [
                ("Host", host.as_str()),
                ("Content-Type", "application/json"),
                ("Sec-Fetch-Site", "same-origin"),
            ];
            let reply = server.raw(method, &path, &headers, "{}");
            assert!(
                !reply.body.contains(CANARY) && !reply.body.contains("root:"),
                "{method} {path}"
            );
            assert!(
                matches!(reply.status, 400 | 404 | 405 | 415 | 422),
                "{method} {path}: {}: {}",
                reply.status,
                reply.body
            );
        }
    }
}

#[test]
fn no_path_leads_out_of_an_argument() {
    let data = trapped();
    let server = data.serve(&[]);
    server.post("/api/v1/queue", &json!({"paused": true}));
    let inside = data.path().display().to_string();
    let paths =
        FIELDS.iter().filter(|field| field.kind == FieldKind::Path && field.class == Class::Done);
    let mut tried = 0;
    for field in paths {
        for payload in traversals() {
            let mut wanted = config("finish");
            wanted[field.name] = json!(payload);
            let reply = server.post("/api/v1/runs", &wanted);
            assert!(!reply.body.contains(CANARY), "{} {payload}", field.name);
            if reply.status == 201 {
                // it means something inside: then that is what will be used
                let used =
                    reply.json()["config"][field.name].as_str().unwrap_or(&inside).to_owned();
                assert!(
                    used.starts_with(&format!("{inside}/")) || used == inside,
                    "{} {payload}: {used}",
                    field.name
                );
                assert!(
                    !used.split('/').any(|part| part == ".."),
                    "{} {payload}: {used}",
                    field.name
                );
            } else {
                assert_eq!(reply.status, 422, "{} {payload}: {}", field.name, reply.body);
            }
            tried += 1;
        }
    }
    assert!(tried >= 750, "{tried}");
}

#[test]
fn no_text_becomes_markup() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("bad");
    server.until_status(&id, "failed");
    let other = server.create("finish");
    server.until_status(&other, "finished");
    let get = |server: &Server, path: &str| {
        let host = format!("localhost:{}", server.port);
        server.raw("GET", path, &[("Host", &host)], "")
    };
    for text in scripts() {
        let tag: String = text.chars().filter(|c| *c != ',').take(40).collect();
        let edit = json!({"name": text, "notes": text, "tags": [tag]});
        let reply = server.post(&format!("/api/v1/runs/{id}/edit"), &edit);
        assert_eq!(reply.status, 200, "{text}: {}", reply.body);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let kept = reply.json();
        let texts = [
            kept["name"].as_str().unwrap().to_owned(),
            kept["tags"][0].as_str().unwrap().to_owned(),
        ];
        for path in [
            "/runs".to_owned(),
            format!("/runs/{id}"),
            format!("/runs/{id}?tab=config"),
            format!("/runs/{id}?part=head"),
            format!("/compare?runs={id},{other}"),
            format!("/runs/new?from={id}"),
            "/queue".to_owned(),
        ] {
            let body = get(&server, &path).body;
            for kept in &texts {
                let special = kept.contains(['<', '>', '"', '\'', '&']);
                assert!(!special || !body.contains(kept.as_str()), "{path}: {kept}");
            }
            assert!(
                !body.contains("href=\"javascript:") && !body.contains("href='javascript:"),
                "{path}"
            );
        }
        // what is asked for comes back on the page as it was asked for
        let asked: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for path in [format!("/runs?q={asked}"), format!("/runs?tag={asked}"), format!("/{asked}")]
        {
            let body = get(&server, &path).body;
            assert!(!text.contains('<') || !body.contains(&text), "{path}: {text}");
        }
    }
}
