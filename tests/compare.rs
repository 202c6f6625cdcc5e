//! Runs beside each other, their curves as files, and the state of server and machine.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::{Data, Reply, Server, config};

fn page(server: &Server, path: &str) -> Reply {
    let host = format!("localhost:{}", server.port);
    server.raw("GET", path, &[("Host", &host)], "")
}

/// A finished run with these settings besides the usual ones.
fn finished(server: &Server, name: &str, more: &Value) -> String {
    let mut wanted = config("finish");
    for (key, value) in more.as_object().unwrap() {
        wanted[key] = value.clone();
    }
    let reply = server.post("/api/v1/runs", &wanted);
    assert_eq!(reply.status, 201, "{}", reply.body);
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    server.until_status(&id, "finished");
    server.post(&format!("/api/v1/runs/{id}/edit"), &json!({"name": name}));
    id
}

#[test]
fn runs_beside_each_other() {
    let data = Data::new();
    let server = data.serve(&[]);
    let a = finished(&server, "=a, \"first\"", &json!({"lora_rank": 16, "seed": 7}));
    let b = finished(&server, "<b>second</b>", &json!({"seed": 7}));
    let both = server.get(&format!("/api/v1/compare?runs={a},{b}")).json();
    let setting = |name: &str| {
        let all = both["settings"].as_array().unwrap();
        all.iter().find(|setting| setting["name"] == name).cloned().unwrap()
    };
    assert_eq!(
        both["settings"][0],
        json!({"name": "lora_rank", "differs": true, "values": [16, 8]})
    );
    assert_eq!(setting("seed")["differs"], false);
    let result = |key: &str| {
        let all = both["results"].as_array().unwrap();
        all.iter().find(|result| result["key"] == key).cloned().unwrap()
    };
    assert_eq!(result("loss.last")["values"], json!([1.25, 1.25]));
    assert_eq!(result("loss.best")["steps"], json!([9, 9]));
    assert_eq!(result("eval_loss.best")["values"], json!([null, null]));
    assert_eq!(result("eval_loss.best")["best"], Value::Null);
    // the page: what differs, then everything
    let html = page(&server, &format!("/compare?runs={a},{b}")).body;
    assert!(html.contains("<code>lora_rank</code>") && !html.contains("<code>seed</code>"));
    assert!(html.contains("&#60;b&#62;second&#60;/b&#62;") && !html.contains("<b>second"));
    // the way of checkboxes
    let html = page(&server, &format!("/compare?runs={b}&runs={a}&all=1")).body;
    assert!(html.contains("<code>seed</code>"), "{html}");
    for (query, status) in [
        ("", 200),
        ("?runs=", 200),
        (&format!("?runs={a}"), 200),
        (&format!("?runs={a},{a}"), 200),
        (&format!("?runs={a},nobody"), 404),
        ("?runs=1,2,3,4,5,6,7,8,9,10,11", 400),
    ] {
        assert_eq!(page(&server, &format!("/compare{query}")).status, status, "{query}");
        assert_eq!(server.get(&format!("/api/v1/compare{query}")).status, status, "{query}");
    }
}

#[test]
fn curves_to_take_away() {
    let data = Data::new();
    let server = data.serve(&[]);
    let a = finished(&server, "=a, \"first\"", &json!({}));
    let b = finished(&server, "<b>second</b>", &json!({}));
    let export =
        |more: &str| server.get(&format!("/api/v1/compare/export?runs={a},{b}&format={more}"));
    let csv = export("csv&keys=loss,lr");
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    let lines: Vec<_> = csv.body.lines().collect();
    assert_eq!(lines.len(), 1 + 2 * 2 * 9);
    assert_eq!(lines[1], format!("{a},\"'=a, \"\"first\"\"\",loss,1,9.25,,"));
    let svg = export("svg");
    assert_eq!(svg.header("content-type"), Some("image/svg+xml"));
    assert!(svg.body.starts_with("<svg") && !svg.body.contains("<b>"), "{}", svg.body);
    assert!(!svg.header("content-security-policy").unwrap().contains("unsafe"));
    let png = export("png&keys=lr");
    assert_eq!(png.header("content-type"), Some("image/png"));
    assert!(png.body.contains("PNG"));
    assert_eq!(export("gif").status, 400);
    assert_eq!(export("csv&keys=none").body.lines().count(), 1);
    let none = server.get("/api/v1/compare/export?runs=x&format=svg");
    assert_eq!(none.status, 404);
}

#[test]
fn server_and_machine() {
    let data = Data::new();
    let server = data.serve(&[]);
    let system = server.get("/api/v1/system").json();
    assert!(system["cores"].as_u64().unwrap() > 0 && system["memory_bytes"].as_u64().unwrap() > 0);
    assert!(system["disk_bytes"].as_u64() >= system["disk_free_bytes"].as_u64());
    assert_eq!(system["data_dir"], data.path().display().to_string());
    let queue = |system: &Value| {
        let all = system["health"].as_array().unwrap();
        all.iter().find(|check| check["name"] == "queue").unwrap()["good"].clone()
    };
    assert_eq!(queue(&system), true);
    server.post("/api/v1/queue", &json!({"paused": true}));
    assert_eq!(queue(&server.get("/api/v1/system").json()), false);
    assert!(page(&server, "/system").body.contains("Queue is paused"));
    // the theme without scripts
    let host = format!("localhost:{}", server.port);
    let form = [
        ("Host", host.as_str()),
        ("Sec-Fetch-Site", "same-origin"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    let set = |body: &str| server.raw("POST", "/settings/theme", &form, body);
    let dark = set("theme=dark");
    assert_eq!(dark.status, 303);
    let cookie = dark.header("set-cookie").unwrap().split(';').next().unwrap();
    let html = server.raw("GET", "/settings", &[("Host", &host), ("Cookie", cookie)], "").body;
    assert!(html.contains("data-theme=\"dark\""));
    assert_eq!(set("theme=pink").status, 400);
}

#[test]
fn a_failure_offers_a_copy_that_is_mended() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("silent"); // exit code 23: not finite, but without a word
    server.until_status(&id, "failed");
    let html = page(&server, &format!("/runs/{id}")).body;
    assert!(!html.contains("id=\"mended\""), "nothing was said of why");
    let copy = page(&server, &format!("/runs/new?from={id}&learning_rate=1.7e-5&nonsense=1")).body;
    assert!(copy.contains("value=\"1.7e-5\"") && !copy.contains("nonsense"));
}
