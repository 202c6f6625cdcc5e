//! Rows of the security score card over every route of the table: reading changes nothing, no answer is for other
//! origins, no field is a way out of the folder, no upload is too much, no stored text is markup.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::Duration;

use hostile::{scripts, traversals};
use serde_json::{Value, json};
use sqlx::Connection;
use support::{Data, Reply, Server};
use tallow::web::router::{ROUTES, Route, Verb};

const CANARY: &str = "CANARY-77e1";

/// Runs statements in the database of a server, and gives the texts of the last one.
fn sql(data: &Data, statements: &[String]) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = format!("sqlite://{}", data.path().join("tallow.db").display());
    runtime.block_on(async {
        let mut db = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let (last, first) = statements.split_last().unwrap();
        for text in first {
            sqlx::raw_sql(sqlx::AssertSqlSafe(text.clone())).execute(&mut db).await.unwrap();
        }
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(last.clone()));
        query.fetch_all(&mut db).await.unwrap()
    })
}

/// Every value of every table.
fn dump(data: &Data) -> BTreeMap<String, Vec<String>> {
    let tables = "select name from sqlite_master where type = 'table' and name not like 'sqlite%'";
    let tables = sql(data, &[tables.to_owned()]);
    let rows = |table: String| {
        let columns =
            format!("select 'quote(\"' || name || '\")' from pragma_table_info('{table}')");
        let columns = sql(data, &[columns]).join(" || ',' || ");
        let rows = sql(data, &[format!("select {columns} from \"{table}\" order by 1")]);
        (table, rows)
    };
    tables.into_iter().map(rows).collect()
}

/// Every file below a folder, with its size.
fn tree(folder: &Path) -> BTreeSet<(String, u64)> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(tree(&entry.path()));
        }
        found.insert((entry.path().display().to_string(), entry.metadata().unwrap().len()));
    }
    found
}

/// A path that the route answers to, on what is there.
fn path(route: &Route, run: &str) -> String {
    let path = route.path.replace("{id}", run).replace("{name}", "rows");
    path.replace("{*file}", "app.css")
}

fn add_model(data: &Data) {
    let model = data.path().join("demo-model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir("data/demo/model").unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
}

fn page(server: &Server, path: &str) -> Reply {
    server.raw("GET", path, &[("Host", &format!("localhost:{}", server.port))], "")
}

#[test]
fn reading_leaves_the_database_as_it_is() {
    let data = Data::new();
    add_model(&data);
    fs::write(data.path().join("rows.json"), r#"[{"instruction": "a", "output": "b"}]"#).unwrap();
    let server = data.serve(&[]);
    let id = server.create("finish");
    server.until_status(&id, "finished");
    let (before, files) = (dump(&data), tree(&data.path().join("runs")));
    assert!(before.len() > 10 && before["run"].len() == 1, "{:?}", before.keys());
    let host = format!("localhost:{}", server.port);
    let mut good = 0;
    for route in ROUTES.iter().filter(|route| route.verb == Verb::Get) {
        let query = if route.path.ends_with("/lengths") || route.path.ends_with("/tokens") {
            "?model=demo-model&template=qwen"
        } else if route.path.starts_with("/api/v1/compare") {
            "?runs={id}&format=svg"
        } else {
            ""
        };
        let path = format!("{}{}", path(route, &id), query.replace("{id}", &id));
        for method in ["GET", "HEAD"] {
            // who can only link and not post might try to say what is meant
            let headers = [
                ("Host", host.as_str()),
                ("X-HTTP-Method-Override", "POST"),
                ("X-HTTP-Method", "DELETE"),
                ("Sec-Fetch-Site", "cross-site"),
                ("Content-Type", "application/json"),
            ];
            let reply =
                server.raw(method, &path, &headers, r#"{"_method": "DELETE", "paused": true}"#);
            assert!(reply.status < 500, "{method} {path}: {}", reply.status);
            good += usize::from(reply.status == 200);
        }
    }
    assert!(good > 2 * 30, "most routes showed something: {good}");
    assert_eq!(dump(&data), before);
    assert_eq!(tree(&data.path().join("runs")), files);
}

#[test]
fn no_answer_is_for_other_origins() {
    let data = Data::new();
    let server = data.serve(&["--public-url", "https://tune.example"]);
    let host = format!("localhost:{}", server.port);
    let own = format!("http://{host}");
    for route in ROUTES {
        let path = path(route, "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        for origin in ["http://evil.test", "null", &own, "https://tune.example"] {
            for method in ["GET", "POST", "OPTIONS", "HEAD", "PUT"] {
                let headers = [
                    ("Host", host.as_str()),
                    ("Origin", origin),
                    ("Access-Control-Request-Method", "POST"),
                    ("Access-Control-Request-Headers", "content-type, authorization"),
                    ("Content-Type", "text/plain"),
                ];
                let reply = server.raw(method, &path, &headers, "");
                let told =
                    reply.headers.iter().find(|(name, _)| name.starts_with("access-control-"));
                assert!(told.is_none(), "{method} {path} {origin}: {told:?}");
                assert!(method != "OPTIONS" || reply.status >= 400, "{path}: {}", reply.status);
                let away = reply.header("location").unwrap_or("/");
                assert!(away.starts_with('/') && !away.starts_with("//"), "{path}: {away}");
            }
        }
    }
}

#[test]
fn no_field_leads_out() {
    let data = Data::new();
    let out = data.dir.path().canonicalize().unwrap();
    fs::create_dir(out.join("data-evil")).unwrap();
    for file in ["secret.txt", "secret.json", "data-evil/secret.txt"] {
        fs::write(out.join(file), format!(r#"[{{"instruction": "{CANARY}", "output": "x"}}]"#))
            .unwrap();
    }
    std::os::unix::fs::symlink(&out, data.path().join("link")).unwrap();
    std::os::unix::fs::symlink(out.join("data-evil"), data.path().join("link-dir")).unwrap();
    let server = data.serve(&[]);
    let outside = || {
        let all = tree(&out).into_iter();
        let data = data.path().display().to_string();
        all.filter(|(path, _)| !path.starts_with(&format!("{data}/")) && *path != data)
            .collect::<Vec<_>>()
    };
    let before = outside();
    let host = format!("localhost:{}", server.port);
    let api = |kind: &str, path: &str, body: &str| {
        let headers =
            [("Host", host.as_str()), ("Content-Type", kind), ("Sec-Fetch-Site", "same-origin")];
        server.raw("POST", path, &headers, body)
    };
    let rows = r#"[{"instruction": "a", "output": "b"}]"#;
    let mut tried = 0;
    for payload in traversals() {
        // decoded once: what was percent notation in the list is percent notation still
        let asked: String = payload.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let json = "application/json";
        let replies = [
            ("dir of the list", server.get(&format!("/api/v1/datasets?dir={asked}"))),
            ("dir of a data set", server.get(&format!("/api/v1/datasets/rows?dir={asked}"))),
            ("dir of rows", server.get(&format!("/api/v1/datasets/rows/rows?dir={asked}"))),
            ("dir of a report", server.get(&format!("/api/v1/datasets/rows/report?dir={asked}"))),
            (
                "model of tokens",
                server.get(&format!("/api/v1/datasets/rows/tokens?template=qwen&model={asked}")),
            ),
            (
                "model of lengths",
                server.get(&format!("/api/v1/datasets/rows/lengths?template=qwen&model={asked}")),
            ),
            ("dir of the page", page(&server, &format!("/datasets?dir={asked}"))),
            (
                "dir of a page",
                page(&server, &format!("/datasets/rows?dir={asked}&model={asked}&tab=tokens")),
            ),
            (
                "path",
                api(json, "/api/v1/datasets", &json!({"path": payload, "name": "x"}).to_string()),
            ),
            (
                "name",
                api(
                    json,
                    "/api/v1/datasets",
                    &json!({"path": "rows.json", "name": payload}).to_string(),
                ),
            ),
            (
                "file",
                api(
                    "application/octet-stream",
                    &format!("/api/v1/uploads?file={asked}.json&name={asked}"),
                    rows,
                ),
            ),
            (
                "preview",
                api(
                    json,
                    "/api/v1/runs/preview",
                    &json!({"model_name_or_path": payload, "dataset": "rows",
                "dataset_dir": payload, "template": "qwen", "output_dir": payload})
                    .to_string(),
                ),
            ),
        ];
        for (what, reply) in replies {
            assert!(
                !reply.body.contains(CANARY) && !reply.body.contains("root:x:"),
                "{what}: {payload}"
            );
            assert!(reply.status < 500, "{what}: {payload}: {}", reply.body);
            tried += 1;
        }
    }
    assert!(tried >= 12 * 250);
    // an upload under any of these names lies in its folder, under a harmless one
    let rest = "/api/v1/uploads?name=kept&file=";
    let made = api("application/octet-stream", &format!("{rest}..%2F..%2Fevil.json"), rows);
    assert_eq!(made.status, 201, "{}", made.body);
    for entry in fs::read_dir(data.path().join("uploads")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)),
            "{name}"
        );
    }
    assert_eq!(outside(), before, "nothing was made or changed outside");
}

/// An open connection with the head of an upload, and so much of its body.
fn begin(server: &Server, path: &str, kind: &str, length: u64, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\nSec-Fetch-Site: same-origin\r\n\
         Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n",
        server.port
    )
    .unwrap();
    stream.write_all(body).unwrap();
    stream
}

fn status(mut stream: TcpStream) -> u16 {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

const BYTES: &str = "application/octet-stream";

#[test]
fn too_much_is_refused_by_every_route_before_it_is_sent() {
    let data = Data::new();
    let server = data.serve(&[]);
    for route in ROUTES.iter().filter(|route| route.verb == Verb::Post) {
        let path = path(route, "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        for kind in ["application/json", BYTES, "multipart/form-data; boundary=edge"] {
            // nothing of the body is ever sent: who waited for it would hang
            let stream = begin(&server, &path, kind, 10 << 30, b"");
            assert_eq!(status(stream), 413, "{path} {kind}");
        }
    }
}

#[test]
fn odd_uploads_leave_nothing() {
    let data = Data::new();
    let server = data.serve(&[]);
    let uploads = "/api/v1/uploads?file=a.json";
    let rows = br#"[{"instruction": "a", "output": "b"}]"#;
    // fewer bytes than were promised: the client is gone, or waits and says nothing more
    for given in [0, 1, rows.len() - 1] {
        let stream = begin(&server, uploads, BYTES, rows.len() as u64, &rows[..given]);
        stream.shutdown(Shutdown::Write).unwrap();
        assert!([0, 400, 422].contains(&status(stream)), "{given}");
    }
    // more than were promised: the rest is not part of it
    let stream = begin(&server, uploads, BYTES, rows.len() as u64 - 1, rows);
    assert_eq!(status(stream), 422);
    // a length that is none
    for length in ["-1", "1e3", "0x10", "99999999999999999999999", "1, 2"] {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        write!(stream, "POST {uploads} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {BYTES}\r\nContent-Length: {length}\r\n\r\nxx").unwrap();
        assert_eq!(status(stream), 400, "{length}");
    }
    // both a length and chunks: no proxy in front reads another request into it
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    write!(stream, "POST {uploads} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {BYTES}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    // a hundred thousand parts, and one without an end
    let kind = "multipart/form-data; boundary=edge";
    let part = "--edge\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n\r\n";
    let parts = part.repeat(100_000);
    let mut stream = begin(&server, "/datasets", kind, parts.len() as u64, b"");
    let mut writer = stream.try_clone().unwrap();
    let body = std::thread::spawn(move || writer.write_all(parts.as_bytes()).is_ok());
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 422");
    drop(stream);
    let _ = body.join().unwrap();
    let open = format!("{part}no end");
    let stream = begin(&server, "/datasets", kind, open.len() as u64, open.as_bytes());
    assert_eq!(status(stream), 422);
    assert_eq!(fs::read_dir(data.path().join("uploads")).map_or(0, Iterator::count), 0);
    let info = fs::read_to_string(data.path().join("dataset_info.json")).unwrap();
    assert_eq!(info, r#"{"rows":{"file_name":"rows.json"}}"#);
}

#[test]
fn slow_clients_hold_up_nobody() {
    let data = Data::new();
    let server = data.serve(&[]);
    let uploads: Vec<TcpStream> = (0..150)
        .map(|n| begin(&server, &format!("/api/v1/uploads?file={n}.json"), BYTES, 1000, b"["))
        .collect();
    let heads: Vec<TcpStream> = (0..350)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
            stream.write_all(b"GET /runs HTTP/1.1\r\nHost: local").unwrap();
            stream
        })
        .collect();
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(page(&server, "/runs").status, 200);
    let id = server.create("finish");
    server.until_status(&id, "finished");
    drop((uploads, heads));
}

#[test]
fn columns_on_disk_are_taken() {
    let data = Data::new();
    let server = data.serve(&[]);
    let folder = Path::new("crates/engine/tests/fixtures/columnar");
    let mut taken = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".parquet") && !name.ends_with(".arrow") {
            continue;
        }
        let bytes = fs::read(&file).unwrap();
        let path = format!("/api/v1/uploads?file={name}");
        let mut stream = begin(&server, &path, BYTES, bytes.len() as u64, &bytes);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // a compression that the engine does not know is said, and nothing stays
        if name.starts_with("brotli") {
            assert!(answer.starts_with("HTTP/1.1 422"), "{name}: {answer}");
            continue;
        }
        assert!(answer.starts_with("HTTP/1.1 201"), "{name}: {answer}");
        let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["size"], bytes.len(), "{name}");
        let set = body["name"].as_str().unwrap();
        let rows = server.get(&format!("/api/v1/datasets/{set}/rows")).json();
        assert!(rows["total"].as_u64().unwrap() > 0, "{name}: {rows}");
        assert_eq!(page(&server, &format!("/datasets/{set}")).status, 200, "{name}");
        taken += 1;
    }
    assert!(taken >= 8, "{taken}");
    assert_eq!(fs::read_dir(data.path().join("uploads")).unwrap().count(), taken);
}

#[test]
fn no_stored_text_is_markup() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("finish");
    server.until_status(&id, "finished");
    let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let pages = [
        "/runs".to_owned(),
        format!("/runs/{id}"),
        format!("/runs/{id}?tab=config"),
        format!("/runs/{id}?part=head"),
        format!("/compare?runs={id}"),
        "/queue".to_owned(),
        "/models".to_owned(),
        "/settings".to_owned(),
        "/settings/audit".to_owned(),
        "/runs/new".to_owned(),
    ];
    let all: Vec<String> = scripts().into_iter().filter(|text| !text.contains('\0')).collect();
    assert!(all.len() >= 120);
    for text in &all {
        let body = json!({"text": text, "prompt": text, "level": text, "dir": text, "step": 4})
            .to_string();
        let config = json!({"model_name_or_path": text, "dataset": text, "template": text, "report_to": text});
        let (said, config, word) = (quote(&body), quote(&config.to_string()), quote(text));
        let lines = quote(&json!([{ "text": text }]).to_string());
        sql(
            &data,
            &[
                format!(
                    "update run set name = {word}, reason = {word}, model = {word}, dataset = {word}, method = {word}, \
                notes = {word}, spark = {word}, phase = {word}, exit_message = {word}, owner = {word}, config = {config}, \
                status = 'failed'"
                ),
                format!(
                    "update event set body = {said} where kind in ('sample', 'notice', 'checkpoint')"
                ),
                format!(
                    "insert or replace into event (run, seq, kind, at_ms, body) values (1, 9001, 'sample', 1, {said}), \
                (1, 9002, 'notice', 1, {said}), (1, 9003, 'log', 1, {lines})"
                ),
                format!(
                    "delete from webhook; insert into webhook (name, url, host, shape, header, events, created_ms, last_ms, \
                last_event, last_ok, last_text) values ({word}, '', {word}, 'json', '', {word}, 1, 1, {word}, 0, {word})"
                ),
                format!(
                    "insert into audit (at_ms, who, act, path, run) values (1, {word}, 'start', {word}, {word})"
                ),
                format!(
                    "insert or replace into user (id, name, role, password, created_ms) values (1, {word}, 'viewer', 'x', 1)"
                ),
                format!("insert or ignore into metric_key (name) values ({word})"),
                "select 'done'".to_owned(),
            ],
        );
        let special = text.contains(['<', '>', '"', '\'']);
        for path in &pages {
            let reply = page(&server, path);
            assert!(reply.status < 500, "{path}: {text}: {}", reply.body);
            assert!(!special || !reply.body.contains(text.as_str()), "{path}: {text}");
            assert!(!reply.body.contains("href=\"javascript:"), "{path}: {text}");
        }
        // in a stream it is one line of JSON, whatever it says
        let stream = page(&server, &format!("/runs/{id}/events?after=9000")).body;
        let odd = stream.lines().find(|line| {
            let known = ["event: ", "data: ", "id: ", "retry: ", ":"];
            !line.is_empty() && !known.iter().any(|known| line.starts_with(known))
        });
        assert_eq!(odd, None, "{text}");
    }
}
