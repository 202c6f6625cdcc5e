//! Who may do what once the server asks: people, roles, sessions, tokens of their own, and what is noted.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Data, Reply, Server, config};
use tallow::db::team::Role;
use tallow::web::router::{Kind, ROUTES, Verb};

struct Team<'s> {
    server: &'s Server,
    host: String,
}

impl Team<'_> {
    fn call(&self, who: (&str, &str), method: &str, path: &str, body: &Value) -> Reply {
        let headers = [("Host", self.host.as_str()), ("Content-Type", "application/json"), who];
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.server.raw(method, path, &headers, &text)
    }

    fn form(&self, cookie: &str, path: &str, body: &str) -> Reply {
        let headers = [
            ("Host", self.host.as_str()),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Sec-Fetch-Site", "same-origin"),
            ("Cookie", cookie),
        ];
        self.server.raw("POST", path, &headers, body)
    }

    /// The cookie of a login; the status where there is none.
    fn login(&self, name: &str, password: &str) -> Result<String, u16> {
        let reply = self.form("", "/login", &format!("name={name}&token={password}"));
        let cookie = reply.header("set-cookie").and_then(|cookie| cookie.split(';').next());
        cookie.map(str::to_owned).ok_or(reply.status)
    }
}

fn open(data: &Data) -> (Server, String) {
    let server = data.serve(&["--host", "0.0.0.0"]);
    let token = fs::read_to_string(data.path().join("token")).unwrap().trim().to_owned();
    (server, format!("Bearer {token}"))
}

const PASSWORD: &str = "correct-horse-battery";

#[test]
fn roles_decide_over_every_route() {
    let data = Data::new();
    let (server, admin) = open(&data);
    let team = Team { host: format!("localhost:{}", server.port), server: &server };
    let admin = ("Authorization", admin.as_str());
    for (name, role) in [("vera", "viewer"), ("ed", "editor"), ("ada", "admin")] {
        let new = json!({"name": name, "role": role, "password": PASSWORD});
        let reply = team.call(admin, "POST", "/api/v1/users", &new);
        assert_eq!(reply.status, 201, "{}", reply.body);
        assert!(!reply.body.contains(PASSWORD) && !reply.body.contains("argon2"));
    }
    for (name, role) in [("vera", Role::Viewer), ("ed", Role::Editor), ("ada", Role::Admin)] {
        let cookie = team.login(name, PASSWORD).unwrap();
        let who = ("Cookie", cookie.as_str());
        let me = team.call(who, "GET", "/api/v1/me", &Value::Null).json();
        assert_eq!(me, json!({"name": name, "role": role.as_str()}));
        for route in
            ROUTES.iter().filter(|route| route.path != "/logout" && route.kind != Kind::Login)
        {
            let path = route
                .path
                .replace("{id}", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
                .replace("{name}", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
                .replace("{*file}", "app.css");
            let headers = [
                ("Host", team.host.as_str()),
                ("Sec-Fetch-Site", "same-origin"),
                ("Content-Type", "text/plain"), // nothing is changed: no handler takes it
                who,
            ];
            let method = if route.verb == Verb::Get { "GET" } else { "POST" };
            let reply = server.raw(method, &path, &headers, "");
            let refused = reply.status == 403;
            assert_eq!(refused, role < route.least, "{name} {method} {path}: {}", reply.status);
        }
    }
    for path in ["/settings", "/settings/audit"] {
        assert_eq!(team.call(admin, "GET", path, &Value::Null).status, 200);
    }
}

#[test]
fn only_the_owner_and_admins_stop_a_run() {
    let data = Data::new();
    let (server, admin) = open(&data);
    let team = Team { host: format!("localhost:{}", server.port), server: &server };
    let admin = ("Authorization", admin.as_str());
    let mut cookies = Vec::new();
    for (name, role) in [("vera", "viewer"), ("ed", "editor"), ("eve", "editor"), ("ada", "admin")]
    {
        let new = json!({"name": name, "role": role, "password": PASSWORD});
        assert_eq!(team.call(admin, "POST", "/api/v1/users", &new).status, 201);
        cookies.push((name, team.login(name, PASSWORD).unwrap()));
    }
    let of = |name: &str| cookies.iter().find(|one| one.0 == name).unwrap().1.clone();
    team.call(admin, "POST", "/api/v1/queue", &json!({"paused": true}));
    let made = team.call(("Cookie", &of("ed")), "POST", "/api/v1/runs", &config("finish"));
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let run = team.call(admin, "GET", &format!("/api/v1/runs/{id}"), &Value::Null).json();
    assert_eq!(run["owner"], "ed");
    let owned: Vec<_> = ROUTES.iter().filter(|route| route.owned).collect();
    assert_eq!(owned.len(), 6, "stop, resume and wish, on pages and in the API");
    for (name, cookie) in &cookies {
        for route in &owned {
            // a letter of the id in percent notation is the same letter
            for id in [id.clone(), format!("%{:02X}{}", id.as_bytes()[0], &id[1..])] {
                let headers = [
                    ("Host", team.host.as_str()),
                    ("Sec-Fetch-Site", "same-origin"),
                    ("Content-Type", "text/plain"), // no handler takes it
                    ("Cookie", cookie),
                ];
                let path = route.path.replace("{id}", &id);
                let reply = server.raw("POST", &path, &headers, "x");
                let refused = ["vera", "eve"].contains(name);
                assert_eq!(reply.status == 403, refused, "{name} {path}: {}", reply.status);
            }
        }
    }
    let stop = format!("/api/v1/runs/{id}/stop");
    let eve = of("eve");
    assert_eq!(team.call(("Cookie", &eve), "POST", &stop, &json!({})).status, 403);
    assert_eq!(team.call(("Cookie", &of("ed")), "POST", &stop, &json!({})).status, 202);
    assert_eq!(team.call(("Cookie", &of("ada")), "POST", &stop, &json!({})).status, 409);
    // a colleague may still name and tag it
    let edit = format!("/api/v1/runs/{id}/edit");
    assert_eq!(team.call(("Cookie", &eve), "POST", &edit, &json!({"tags": ["x"]})).status, 200);
}

#[test]
fn sessions_and_tokens_come_and_go() {
    let data = Data::new();
    let (server, admin) = open(&data);
    let team = Team { host: format!("localhost:{}", server.port), server: &server };
    let admin = ("Authorization", admin.as_str());
    let users = |body: Value| team.call(admin, "POST", "/api/v1/users", &body);
    let made = users(json!({"name": "Eve", "role": "editor", "password": PASSWORD}));
    let id = made.json()["id"].clone();
    for (body, field) in [
        (json!({"name": "eve", "role": "viewer", "password": PASSWORD}), "name"),
        (json!({"name": "a b", "role": "viewer", "password": PASSWORD}), "name"),
        (json!({"name": "token", "role": "viewer", "password": PASSWORD}), "name"),
        (json!({"name": "x", "role": "owner", "password": PASSWORD}), "role"),
        (json!({"name": "x", "role": "viewer", "password": "short"}), "password"),
    ] {
        let reply = users(body);
        assert_eq!((reply.status, reply.json()["field"].as_str()), (422, Some(field)));
    }
    assert_eq!(team.login("eve", "wrong-password"), Err(401));
    assert_eq!(team.login("nobody", PASSWORD), Err(401));
    let cookie = team.login("EVE", PASSWORD).unwrap();
    let eve = ("Cookie", cookie.as_str());
    // a token for scripts: shown once, with the rights of its person
    let page = team.form(&cookie, "/settings/tokens", "name=ci");
    assert_eq!(page.status, 200);
    let start = page.body.find("tlw_").unwrap();
    let bearer = format!("Bearer {}", &page.body[start..start + 68]);
    let script = ("Authorization", bearer.as_str());
    let me = team.call(script, "GET", "/api/v1/me", &Value::Null).json();
    assert_eq!(me["name"], "Eve");
    assert_eq!(team.call(script, "GET", "/api/v1/users", &Value::Null).status, 403);
    let tokens = team.call(script, "GET", "/api/v1/tokens", &Value::Null);
    assert!(!tokens.body.contains("tlw_"), "{}", tokens.body);
    let path = format!("/api/v1/tokens/{}/delete", tokens.json()[0]["id"]);
    assert_eq!(team.call(script, "POST", &path, &Value::Null).status, 204);
    assert_eq!(team.call(script, "GET", "/api/v1/me", &Value::Null).status, 401);
    // what only people have
    let none = team.call(admin, "POST", "/api/v1/tokens", &json!({"name": "x"}));
    assert_eq!(none.status, 409);
    // signing out ends the session at the server too
    let second = team.login("eve", PASSWORD).unwrap();
    assert_eq!(team.form(&second, "/logout", "").status, 303);
    assert_eq!(team.call(("Cookie", &second), "GET", "/api/v1/me", &Value::Null).status, 401);
    // so does another password, and losing a role or the account counts at once
    assert_eq!(team.call(eve, "GET", "/api/v1/me", &Value::Null).status, 200);
    let change =
        |body: Value| team.call(admin, "POST", &format!("/api/v1/users/{id}"), &body).status;
    assert_eq!(change(json!({"role": "viewer"})), 204);
    assert_eq!(team.call(eve, "GET", "/api/v1/me", &Value::Null).json()["role"], "viewer");
    assert_eq!(team.call(eve, "POST", "/api/v1/queue", &json!({"paused": true})).status, 403);
    assert_eq!(change(json!({"password": "another-horse-battery"})), 204);
    assert_eq!(team.call(eve, "GET", "/api/v1/me", &Value::Null).status, 401);
    let again = team.login("eve", "another-horse-battery").unwrap();
    let path = format!("/api/v1/users/{id}/delete");
    assert_eq!(team.call(admin, "POST", &path, &Value::Null).status, 204);
    assert_eq!(team.call(("Cookie", &again), "GET", "/api/v1/me", &Value::Null).status, 401);
    assert_eq!(team.call(admin, "POST", &path, &Value::Null).status, 404);
}

#[test]
fn guesses_run_out_and_secrets_stay_secret() {
    let data = Data::new();
    let (server, admin) = open(&data);
    let team = Team { host: format!("localhost:{}", server.port), server: &server };
    let admin = ("Authorization", admin.as_str());
    let new = json!({"name": "kim", "role": "viewer", "password": PASSWORD});
    assert_eq!(team.call(admin, "POST", "/api/v1/users", &new).status, 201);
    let tries: Vec<u16> =
        (0..12).map(|n| team.login("kim", &format!("guess-{n}")).unwrap_err()).collect();
    assert_eq!((&tries[..10], &tries[10..]), (&[401; 10][..], &[429; 2][..]));
    assert_eq!(team.login("kim", PASSWORD), Err(429), "not even the right one");
    drop(server);
    for name in ["tallow.db", "tallow.db-wal"] {
        let bytes = fs::read(data.path().join(name)).unwrap_or_default();
        let found = bytes.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes());
        assert!(!found, "{name} holds a password");
    }
}

#[test]
fn what_is_done_is_noted() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("hang");
    server.until(&id, |run| run["step"] == 4);
    assert_eq!(server.post(&format!("/api/v1/runs/{id}/resume"), &json!({})).status, 409);
    server.post(&format!("/api/v1/runs/{id}/edit"), &json!({"name": "a"}));
    server.post(&format!("/api/v1/runs/{id}/stop"), &json!({"mode": "now"}));
    server.until_status(&id, "stopped");
    server.post("/api/v1/queue", &json!({"paused": true}));
    let acts = server.get("/api/v1/audit").json();
    let acts: Vec<_> = acts
        .as_array()
        .unwrap()
        .iter()
        .map(|act| {
            (act["who"].as_str().unwrap(), act["act"].as_str().unwrap(), act["run"].as_str())
        })
        .collect();
    let run = Some(id.as_str());
    assert_eq!(
        acts,
        [
            ("local", "queue", None),
            ("local", "stop", run),
            ("local", "edit", run),
            ("local", "start", run)
        ]
    );
    let host = format!("localhost:{}", server.port);
    let html = server.raw("GET", "/settings/audit", &[("Host", &host)], "").body;
    assert!(html.contains(&format!("href=\"/runs/{id}\"")));
}
