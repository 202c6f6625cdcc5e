//! What stands before every route, taken from the route table: Host, origin, token, headers.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use support::{Data, Reply, Server};
use tallow::web::router::{Kind, ROUTES, Route, Verb};

/// A path that the route answers to.
fn path(route: &Route) -> String {
    let path = route.path.replace("{id}", "01ARZ3NDEKTSV4RRFFQ69G5FAV");
    path.replace("{name}", "rows").replace("{*file}", "app.css")
}

fn method(route: &Route) -> &'static str {
    match route.verb {
        Verb::Get => "GET",
        Verb::Post => "POST",
    }
}

fn host(server: &Server) -> String {
    format!("localhost:{}", server.port)
}

fn has_the_headers(reply: &Reply, what: &str) {
    let policy = reply.header("content-security-policy").unwrap_or_default();
    // the token's page has its styles in it, allowed by their hash, and nothing else
    let narrow = policy.starts_with("default-src 'none'; style-src 'sha256-");
    for part in ["default-src 'self'", "script-src 'self'", "style-src 'self'", "object-src 'none'"]
    {
        assert!(policy.contains(part) || narrow, "{what}: {policy}");
    }
    for part in ["base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{what}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{what}: {policy}");
    for (name, part) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-"),
    ] {
        let value = reply.header(name).unwrap_or_default();
        assert!(value.contains(part) || value.contains("immutable"), "{what}: {name}: {value}");
    }
    let cors = reply.headers.iter().find(|(name, _)| name.starts_with("access-control-"));
    assert!(cors.is_none(), "{what}: {cors:?}");
}

#[test]
fn a_foreign_host_gets_nowhere() {
    let data = Data::new();
    let server = data.serve(&["--public-url", "https://tune.example"]);
    let port = server.port;
    for route in ROUTES {
        for foreign in [
            "evil.test",
            "evil.test:7860",
            "localhost.evil.test",
            "[::1]evil",
            "",
            "10.0.0.1",
            "tune.example:1",
        ] {
            let reply = server.raw(method(route), &path(route), &[("Host", foreign)], "");
            assert_eq!(reply.status, 421, "{} {} {foreign}", method(route), route.path);
            has_the_headers(&reply, route.path);
        }
        let two = [("Host", "localhost"), ("Host", "evil.test")];
        let reply = server.raw(method(route), &path(route), &two, "");
        assert!([400, 421].contains(&reply.status), "{}", route.path);
        let none = server.raw(method(route), &path(route), &[], "");
        assert!([400, 421].contains(&none.status), "{}", route.path);
    }
    for own in [
        format!("localhost:{port}"),
        "127.0.0.1".to_owned(),
        format!("[::1]:{port}"),
        "tune.example".to_owned(),
    ] {
        assert_eq!(server.raw("GET", "/healthz", &[("Host", &own)], "").status, 200, "{own}");
    }
}

#[test]
fn a_change_must_come_from_here() {
    let data = Data::new();
    let server = data.serve(&[]);
    let host = host(&server);
    let own = format!("http://{host}");
    let json = ("Content-Type", "application/json");
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    for route in ROUTES.iter().filter(|route| route.verb == Verb::Post) {
        let check = |headers: &[(&str, &str)], refused: bool| {
            let mut all = vec![("Host", host.as_str())];
            all.extend(headers);
            let reply = server.raw("POST", &path(route), &all, "");
            assert_eq!(
                reply.status == 403,
                refused,
                "{} {headers:?}: {}",
                route.path,
                reply.status
            );
            has_the_headers(&reply, route.path);
        };
        for kind in [json, form, ("Content-Type", "text/plain")] {
            for site in ["cross-site", "same-site", "none"] {
                check(&[kind, ("Sec-Fetch-Site", site)], true);
                check(&[kind, ("Sec-Fetch-Site", site), ("Origin", &own)], true);
            }
            for origin in ["null", "http://evil.test", "http://localhost:1", "https://localhost"] {
                check(&[kind, ("Origin", origin)], true);
                check(&[kind, ("Origin", origin), ("Sec-Fetch-Site", "same-origin")], true);
            }
            check(&[kind, ("Origin", &own)], false);
            check(&[kind, ("Sec-Fetch-Site", "same-origin")], false);
        }
        check(&[form], true);
        check(&[], true);
        check(&[json], !route.path.starts_with("/api/v1/"));
    }
}

#[test]
fn reading_changes_nothing() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("bad");
    let before = server.until_status(&id, "failed");
    for route in ROUTES.iter().filter(|route| route.verb == Verb::Get) {
        let path = route.path.replace("{id}", &id).replace("{name}", "rows");
        let path = path.replace("{*file}", "app.css");
        // these want a model to be named
        let wants_model = path.ends_with("/lengths") || path.ends_with("/tokens");
        if wants_model && path.starts_with("/api/v1/datasets/") {
            assert!([404, 422].contains(&server.get(&path).status), "{path}");
            continue;
        }
        let reply = server.get(&path);
        assert!(
            reply.status < 400 || (route.kind == Kind::Static && reply.status == 404),
            "{path} {}",
            reply.status
        );
        has_the_headers(&reply, &path);
    }
    assert_eq!(server.run(&id), before);
    assert_eq!(server.get("/api/v1/runs").json()["runs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_wrong_method_is_405_and_an_unknown_path_404() {
    let data = Data::new();
    let server = data.serve(&[]);
    for route in ROUTES {
        let reply = server.send("DELETE", &path(route), None);
        assert_eq!(reply.status, 405, "{}", route.path);
        has_the_headers(&reply, route.path);
    }
    for unknown in [
        "/nope",
        "/api/v1/nope",
        "/runs/x/y",
        "/assets/../Cargo.toml",
        "/assets/%2e%2e/token",
        "/static/app.css",
    ] {
        let reply = server.get(unknown);
        assert_eq!(reply.status, 404, "{unknown}");
        has_the_headers(&reply, unknown);
        assert_eq!(
            unknown.starts_with("/api/"),
            reply.header("content-type") == Some("application/problem+json")
        );
    }
}

#[test]
fn the_token_opens_everything_but_healthz() {
    let data = Data::new();
    let server = data.serve(&["--host", "0.0.0.0"]);
    let host = host(&server);
    let token = fs::read_to_string(data.path().join("token")).unwrap().trim().to_owned();
    assert!(server.greeting.iter().any(|line| line.contains(&token)), "printed once");
    let mode =
        |name: &str| fs::metadata(data.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("token"), mode(".")), (0o600, 0o700));
    let json = ("Content-Type", "application/json");
    for route in ROUTES.iter().filter(|route| route.kind != Kind::Login) {
        let headers = [("Host", host.as_str()), json, ("Origin", &format!("http://{host}"))];
        let reply = server.raw(method(route), &path(route), &headers, "");
        assert_eq!(
            reply.status == 401,
            route.kind != Kind::Health,
            "{} {}",
            route.path,
            reply.status
        );
        has_the_headers(&reply, route.path);
        assert!(!reply.body.contains(&token));
        for (wrong, value) in [("Authorization", "Bearer x"), ("Cookie", "tallow_session=x")] {
            let reply =
                server.raw(method(route), &path(route), &[("Host", &host), (wrong, value)], "");
            assert_eq!(reply.status == 401, route.kind != Kind::Health, "{}", route.path);
        }
    }
    assert_eq!(server.raw("GET", "/nope", &[("Host", &host)], "").status, 401);
    let bearer = format!("Bearer {token}");
    assert_eq!(
        server
            .raw("GET", "/api/v1/runs", &[("Host", &host), ("Authorization", &bearer)], "")
            .status,
        200
    );

    // the form's way: token for cookie, wrong token for the form again
    let form = [
        ("Host", host.as_str()),
        ("Sec-Fetch-Site", "same-origin"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    assert_eq!(server.raw("POST", "/login", &form, "token=wrong").status, 401);
    let reply = server.raw("POST", "/login", &form, &format!("token={token}"));
    assert_eq!(reply.status, 303);
    let cookie = reply.header("set-cookie").unwrap();
    assert!(
        cookie.contains("HttpOnly")
            && cookie.contains("SameSite=Strict")
            && !cookie.contains(&token),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(
        server.raw("GET", "/api/v1/runs", &[("Host", &host), ("Cookie", cookie)], "").status,
        200
    );

    // the second start has the same token and does not say it
    drop(server);
    let server = data.serve(&["--host", "0.0.0.0"]);
    assert!(!server.greeting.iter().any(|line| line.contains(&token)));
    let anywhere = [("Host", "localhost"), ("Authorization", bearer.as_str())];
    assert_eq!(server.raw("GET", "/api/v1/runs", &anywhere, "").status, 200);
    drop(server);
    let server = data.serve(&["--host", "0.0.0.0", "--public-url", "https://tune.example"]);
    let out = server.raw("GET", "/healthz", &[("Host", "tune.example")], "");
    assert_eq!((out.status, out.json()), (200, json!({"status": "ok"})));
}
