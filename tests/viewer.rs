//! What a viewer is shown: no button that would be refused, on any page in any state.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;

use serde_json::json;
use support::{Data, Reply, Server};
use tallow::db::team::Role;
use tallow::web::router::{ROUTES, Verb};

const PASSWORD: &str = "correct-horse-battery";

/// A GET with a login's cookie, or with the server's token.
fn get(server: &Server, who: (&str, &str), path: &str) -> Reply {
    let host = format!("localhost:{}", server.port);
    server.raw("GET", path, &[("Host", &host), who], "")
}

fn login(server: &Server, name: &str) -> String {
    let host = format!("localhost:{}", server.port);
    let headers = [
        ("Host", host.as_str()),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Sec-Fetch-Site", "same-origin"),
    ];
    let reply = server.raw("POST", "/login", &headers, &format!("name={name}&token={PASSWORD}"));
    let cookie = reply.header("set-cookie").unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

/// Where a page's forms and buttons send POSTs.
fn targets(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for tag in page.split('<').filter_map(|rest| rest.split('>').next()) {
        let value = |name: &str| {
            let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
            Some(rest.split('"').next()?.split('?').next()?.to_owned())
        };
        if tag.starts_with("form ") && value("method").as_deref() == Some("post") {
            found.extend(value("action"));
        }
        found.extend(["formaction", "hx-post"].iter().filter_map(|name| value(name)));
    }
    found
}

/// The least role for a POST to that path.
fn least(path: &str) -> Role {
    let fits = |pattern: &str| {
        let (parts, wanted): (Vec<&str>, Vec<&str>) =
            (path.split('/').collect(), pattern.split('/').collect());
        parts.len() == wanted.len()
            && parts
                .iter()
                .zip(wanted)
                .all(|(part, wanted)| *part == wanted || wanted.starts_with('{'))
    };
    let route = ROUTES.iter().find(|route| route.verb == Verb::Post && fits(route.path));
    route.unwrap_or_else(|| panic!("no route for POST {path}")).least
}

#[test]
fn a_viewer_sees_no_button_that_is_refused() {
    let data = Data::new();
    let server = data.serve(&["--host", "0.0.0.0"]);
    let token = fs::read_to_string(data.path().join("token")).unwrap().trim().to_owned();
    let bearer = format!("Bearer {token}");
    let admin = ("Authorization", bearer.as_str());
    let host = format!("localhost:{}", server.port);
    let post = |path: &str, body: &serde_json::Value| {
        let headers = [("Host", host.as_str()), ("Content-Type", "application/json"), admin];
        let reply = server.raw("POST", path, &headers, &body.to_string());
        assert!(reply.status < 300, "{path}: {}", reply.body);
        reply.json()
    };
    for (name, role) in [("vera", "viewer"), ("ed", "editor")] {
        post("/api/v1/users", &json!({"name": name, "role": role, "password": PASSWORD}));
    }
    let empty = ["/", "/runs", "/queue", "/datasets", "/models"].map(str::to_owned);
    let cookie = login(&server, "vera");
    let vera = ("Cookie", cookie.as_str());
    let check = |pages: &[String]| {
        let mut seen = 0;
        for path in pages {
            let page = get(&server, vera, path);
            assert!([200, 303].contains(&page.status), "{path}: {}", page.status);
            // the form may be looked at; its one button is off, so nothing is sent
            let off = path == "/runs/new" && page.body.contains(" disabled>");
            for target in targets(&page.body).into_iter().filter(|to| !(off && to == "/runs")) {
                seen += 1;
                assert_eq!(least(&target), Role::Viewer, "{path} offers a viewer {target}");
            }
        }
        assert!(seen > 0, "language and theme at least");
    };
    check(&empty);
    // a run that goes on, two that wait, one that failed
    let ids: Vec<String> = ["bad", "hang", "finish", "finish"]
        .iter()
        .map(|name| post("/api/v1/runs", &support::config(name))["id"].as_str().unwrap().to_owned())
        .collect();
    let status =
        |id: &str| get(&server, admin, &format!("/api/v1/runs/{id}")).json()["status"].clone();
    let start = std::time::Instant::now();
    while status(&ids[0]) != "failed" || status(&ids[1]) != "running" {
        assert!(
            start.elapsed().as_secs() < 30,
            "{:?}",
            ids.iter().map(|id| status(id)).collect::<Vec<_>>()
        );
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
    let mut pages: Vec<String> = ids.iter().map(|id| format!("/runs/{id}")).collect();
    pages.extend(empty);
    pages.push(format!("/compare?runs={},{}", ids[0], ids[1]));
    pages.extend(
        ["/runs/new", "/datasets/rows", "/datasets/rows?tab=columns", "/system", "/settings"]
            .map(str::to_owned),
    );
    check(&pages);
    // the control: an editor has them
    let cookie = login(&server, "ed");
    let editor = get(&server, ("Cookie", &cookie), "/queue").body;
    assert!(targets(&editor).iter().any(|target| least(target) == Role::Editor));
}
