//! Webhooks against a listener of our own: what arrives, in which order, what is tried again, what survives a restart,
//! and what nobody gets to see.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/http.rs"]
mod http;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use http::wait_for;
use serde_json::{Value, json};
use support::{Data, Server};

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that came: its head, and its body.
type Request = (String, Value);

/// Listens and answers every request with `status`.
fn listen(port: u16, status: &'static str) -> (u16, Receiver<Request>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, receive) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut text, mut part) = (String::new(), [0; 4096]);
            let body = loop {
                let count = stream.read(&mut part).unwrap();
                text += std::str::from_utf8(&part[..count]).unwrap();
                let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                if length.is_some_and(|length| length.parse() == Ok(body.len())) {
                    break body.to_owned();
                }
            };
            let head = text.split("\r\n\r\n").next().unwrap().to_owned();
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
            if send.send((head, serde_json::from_str(&body).unwrap())).is_err() {
                return;
            }
        }
    });
    (port, receive)
}

fn add(server: &Server, port: u16, shape: &str, events: &[&str]) -> i64 {
    let url = format!("http://127.0.0.1:{port}/SECRET-path?key=SECRET");
    let header = "Authorization: Bearer SECRET";
    let wanted =
        json!({"name": shape, "url": url, "shape": shape, "header": header, "events": events});
    let reply = server.post("/api/v1/webhooks", &wanted);
    assert_eq!(reply.status, 201, "{}", reply.body);
    assert!(!reply.body.contains("SECRET"), "{}", reply.body);
    reply.json()["id"].as_i64().unwrap()
}

/// The webhook as the API tells of it, once it is as `wanted` says.
fn hook(server: &Server, id: i64, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for("the outcome of a delivery", PATIENCE, || {
        let list = server.get("/api/v1/webhooks").json();
        let hooks = list["webhooks"].as_array().unwrap();
        let hook = hooks.iter().find(|hook| hook["id"] == id).unwrap();
        wanted(hook).then(|| hook.clone())
    })
}

#[test]
fn news_arrive_in_order_and_secrets_stay() {
    let data = Data::new();
    let log = data.dir.path().join("log");
    let server =
        data.serve_with(&["--private-webhooks", "--public-url", "https://t.test"], |command| {
            command.env("RUST_LOG", "trace").stderr(fs::File::create(&log).unwrap());
        });
    let (port, got) = listen(0, "204 No Content");
    let (other, lines) = listen(0, "200 OK");
    let all = ["finished", "failed", "nan", "stalled"];
    let id = add(&server, port, "json", &all);
    add(&server, other, "slack", &["failed"]);
    let run = server.create("nan");
    server.until_status(&run, "finished");
    for event in ["nan", "finished"] {
        let (head, body) = got.recv_timeout(PATIENCE).unwrap();
        assert!(head.starts_with("POST /SECRET-path?key=SECRET HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nAuthorization: Bearer SECRET"), "{head}");
        assert!(head.contains(&format!("\r\nX-Tallow-Event: {event}\r\n")), "{head}");
        assert_eq!((&body["event"], &body["run"]["id"]), (&json!(event), &json!(run)));
        assert_eq!(body["run"]["owner"], "local");
        assert_eq!(body["run"]["url"], format!("https://t.test/runs/{run}"));
    }
    let run = server.create("bad");
    server.until_status(&run, "failed");
    assert_eq!(got.recv_timeout(PATIENCE).unwrap().1["event"], "failed");
    let text = lines.recv_timeout(PATIENCE).unwrap().1;
    let line = format!(
        "*bad* failed at step 0: data.json: row 3 has no column output · <https://t.test/runs/{run}|open>"
    );
    assert_eq!(text, json!({ "text": line }));
    // the button
    let tested = server.post(&format!("/api/v1/webhooks/{id}/test"), &json!({}));
    assert_eq!((tested.status, tested.json()["ok"].as_bool()), (200, Some(true)));
    assert_eq!(got.recv_timeout(PATIENCE).unwrap().1["event"], "test");
    let told = hook(&server, id, |hook| hook["waiting"] == 0 && hook["last"]["event"] == "test");
    assert_eq!(
        (&told["host"], &told["last"]["text"]),
        (&json!(format!("127.0.0.1:{port}")), &json!("answered 204"))
    );
    let host = format!("localhost:{}", server.port);
    for path in
        ["/settings", "/settings/audit", "/api/v1/webhooks", "/api/v1/audit", "/api/v1/system"]
    {
        let body = server.raw("GET", path, &[("Host", &host)], "").body;
        assert!(!body.contains("SECRET"), "{path}");
    }
    assert!(server.get("/api/v1/audit").body.contains("\"act\":\"webhooks\""));
    drop(server);
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains("SECRET") && log.contains("told"), "{log}");
    assert!(got.try_recv().is_err() && lines.try_recv().is_err(), "each once");
}

#[test]
fn what_waits_survives_a_restart() {
    let data = Data::new();
    let server = data.serve(&["--private-webhooks"]);
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let id = add(&server, port, "json", &["finished"]);
    let run = server.create("finish");
    server.until_status(&run, "finished");
    let told = hook(&server, id, |hook| hook["last"]["ok"] == false);
    assert_eq!((&told["waiting"], &told["last"]["event"]), (&json!(1), &json!("finished")));
    drop(server);
    let (_, got) = listen(port, "200 OK");
    let server = data.serve(&["--private-webhooks"]);
    assert_eq!(got.recv_timeout(PATIENCE).unwrap().1["run"]["id"], run);
    hook(&server, id, |hook| hook["last"]["ok"] == true && hook["waiting"] == 0);
    assert!(got.try_recv().is_err(), "once");
}

#[test]
fn what_helps_is_tried_again_and_no_run_waits() {
    let data = Data::new();
    let server = data.serve(&["--private-webhooks"]);
    // who never answers holds up nobody
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    add(&server, silent.local_addr().unwrap().port(), "json", &["finished"]);
    let cases = [
        ("500 Internal Server Error", 1, "answered 500"),
        ("429 Too Many Requests", 1, "answered 429"),
        ("404 Not Found", 0, "answered 404"),
        ("302 Found\r\nLocation: http://127.0.0.1/", 0, "answered 302"),
    ];
    let hooks = cases.map(|(status, waiting, text)| {
        let (port, got) = listen(0, status);
        (add(&server, port, "json", &["finished"]), got, waiting, text)
    });
    for _ in 0..2 {
        let run = server.create("finish");
        server.until_status(&run, "finished");
    }
    for (id, got, waiting, text) in &hooks {
        let runs = 2;
        let left = if *waiting == 0 { 0 } else { runs };
        let told = hook(&server, *id, |hook| !hook["last"].is_null() && hook["waiting"] == left);
        assert_eq!((&told["last"]["ok"], &told["last"]["text"]), (&json!(false), &json!(text)));
        assert_eq!(got.recv_timeout(PATIENCE).unwrap().1["event"], "finished");
    }
}

#[test]
fn only_the_public_network_is_reached_unless_allowed() {
    let data = Data::new();
    let server = data.serve(&[]);
    let wanted = |url: &str| json!({"url": url, "events": ["failed"]});
    for url in [
        "http://hooks.example.org/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.1.2.3:8443/x",
        "https://user@hooks.example.org/",
        "file:///etc/passwd",
        "",
    ] {
        let reply = server.post("/api/v1/webhooks", &wanted(url));
        assert_eq!((reply.status, reply.json()["field"].as_str()), (422, Some("url")), "{url}");
    }
    // a name is not looked up before it is used; what it leads to is refused then
    let (port, got) = listen(0, "200 OK");
    let made = server.post("/api/v1/webhooks", &wanted(&format!("https://localhost:{port}/")));
    assert_eq!(made.status, 201, "{}", made.body);
    let path = format!("/api/v1/webhooks/{}", made.json()["id"]);
    let tested = server.post(&format!("{path}/test"), &json!({})).json();
    assert_eq!(tested["ok"], false);
    assert!(tested["text"].as_str().unwrap().contains("--private-webhooks"), "{tested}");
    assert!(got.try_recv().is_err());
    assert_eq!(server.post(&format!("{path}/delete"), &json!({})).status, 204);
    assert_eq!(server.post(&format!("{path}/delete"), &json!({})).status, 404);
    assert_eq!(server.post(&format!("{path}/test"), &json!({})).status, 404);
    for (minutes, expected) in [(0, 422), (-5, 422), (10_081, 422), (30, 204)] {
        let reply = server.post("/api/v1/webhooks/stalled", &json!({ "minutes": minutes }));
        assert_eq!(reply.status, expected, "{minutes}");
    }
    let list = server.get("/api/v1/webhooks").json();
    assert_eq!(list, json!({"webhooks": [], "stalled_minutes": 30, "private": false}));
}
