//! Data sets over HTTP: the list, uploads, edits of dataset_info.json, rows, reports, lengths, tokens; hostile input.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Data, Reply, Server};

/// A data folder with the sample model in it.
fn data() -> Data {
    let data = Data::new();
    let model = data.path().join("demo-model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir("data/demo/model").unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    data
}

fn put(data: &Data, name: &str, text: &str) {
    fs::write(data.path().join(name), text).unwrap();
}

fn info(data: &Data) -> Value {
    serde_json::from_slice(&fs::read(data.path().join("dataset_info.json")).unwrap()).unwrap()
}

fn page(server: &Server, path: &str) -> Reply {
    server.raw("GET", path, &[("Host", &format!("localhost:{}", server.port))], "")
}

fn upload(server: &Server, query: &str, body: &str) -> Reply {
    let host = format!("localhost:{}", server.port);
    let headers = [("Host", host.as_str()), ("Content-Type", "application/octet-stream")];
    server.raw("POST", &format!("/api/v1/uploads?{query}"), &headers, body)
}

/// The form of the page: fields, and a file's name with its text.
fn form(server: &Server, fields: &[(&str, &str)], file: Option<(&str, &str)>) -> Reply {
    let host = format!("localhost:{}", server.port);
    let mut body = String::new();
    for (name, value) in fields {
        body += &format!(
            "--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
    }
    if let Some((name, text)) = file {
        body += &format!(
            "--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n{text}\r\n"
        );
    }
    body += "--edge--\r\n";
    let headers = [
        ("Host", host.as_str()),
        ("Sec-Fetch-Site", "same-origin"),
        ("Content-Type", "multipart/form-data; boundary=edge"),
    ];
    server.raw("POST", "/datasets", &headers, &body)
}

/// The plain form of a page.
fn send_form(server: &Server, path: &str, body: &str) -> Reply {
    let host = format!("localhost:{}", server.port);
    let headers = [
        ("Host", host.as_str()),
        ("Sec-Fetch-Site", "same-origin"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    server.raw("POST", path, &headers, body)
}

const ROWS: &str = "{\"question\": \"Who?\", \"answer\": \"Me.\"}\n{\"question\": \"What?\", \"answer\": \"That.\"}\n";

#[test]
fn a_file_becomes_a_data_set() {
    let data = data();
    let server = data.serve(&[]);
    let reply = upload(&server, "file=My%20Rows.jsonl", ROWS);
    assert_eq!(reply.status, 201, "{}", reply.body);
    let added = reply.json();
    assert_eq!((&added["name"], &added["format"]), (&json!("My_Rows"), &json!("alpaca")));
    assert_eq!(added["size"], ROWS.len());
    let entry = &info(&data)["My_Rows"];
    assert_eq!(entry["columns"], json!({"prompt": "question", "response": "answer"}));
    let file = data.path().join(entry["file_name"].as_str().unwrap());
    assert_eq!(fs::read_to_string(&file).unwrap(), ROWS);
    assert!(
        added["blake3"]
            .as_str()
            .unwrap()
            .starts_with(file.file_stem().unwrap().to_str().unwrap().rsplit('-').next().unwrap())
    );
    // the same again is the same file under another name
    assert_eq!(upload(&server, "file=My%20Rows.jsonl", ROWS).json()["name"], "My_Rows-2");
    assert_eq!(fs::read_dir(data.path().join("uploads")).unwrap().count(), 1);
    // the page's form, with a file, with a path, with a name
    let reply = form(&server, &[("name", "")], Some(("b.csv", "prompt,completion\na,b\n")));
    assert_eq!((reply.status, reply.header("location")), (303, Some("/datasets/b")));
    put(&data, "here.json", "[{\"text\": \"one\"}]");
    let reply = form(&server, &[("name", "mine"), ("path", "here.json")], None);
    assert_eq!((reply.status, reply.header("location")), (303, Some("/datasets/mine")));
    assert_eq!(
        info(&data)["mine"],
        json!({"file_name": "here.json", "columns": {"prompt": "text"}})
    );
    let list = server.get("/api/v1/datasets").json();
    let names: Vec<&str> =
        list["datasets"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["rows", "My_Rows", "My_Rows-2", "b", "mine"]);
    assert_eq!(list["datasets"][1]["rows"], 2);
    assert_eq!(list["datasets"][0]["problem"], "it has no rows");
    let registered = server.post("/api/v1/datasets", &json!({"path": "here.json"}));
    assert_eq!((registered.status, registered.json()["name"].as_str()), (201, Some("here")));
}

#[test]
fn what_is_not_taken() {
    let data = data();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("rows.json"), "[{\"text\": \"secret\"}]").unwrap();
    std::os::unix::fs::symlink(outside.path(), data.path().join("link")).unwrap();
    let server = data.serve(&[]);
    let before = info(&data);
    let long = format!("file={}.json&name={}", "a".repeat(3000), "b".repeat(101));
    for (query, body, status) in [
        ("file=rows.exe", "x", 422),
        ("file=..%2f..%2frows.sh", "x", 422),
        ("file=rows.json", "", 422),
        ("file=rows.json", "[", 422),
        ("file=rows.json", "[1, 2]", 422),
        ("file=rows.jsonl", "\u{0}\u{0}", 422),
        ("file=rows.parquet", "PAR1", 422),
        ("file=rows.json&name=rows", "[{\"text\": \"a\"}]", 422),
        ("file=rows.json&name=a%2Fb", "[{\"text\": \"a\"}]", 422),
        ("file=rows.json&name=..", "[{\"text\": \"a\"}]", 422),
        ("file=rows.json&name=%3Cscript%3E", "[{\"text\": \"a\"}]", 422),
        (&long, "[{\"text\": \"a\"}]", 422),
        ("name=a", "[{\"text\": \"a\"}]", 400),
    ] {
        let reply = upload(&server, query, body);
        assert_eq!(reply.status, status, "{query:.60} {body:?}: {}", reply.body);
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    }
    let secret = outside.path().join("rows.json").display().to_string();
    for path in [
        secret.as_str(),
        "../rows.json",
        "link/rows.json",
        "link",
        "/etc/passwd",
        "/proc/self/environ",
        "tallow.db",
        "none.json",
        "",
        "\u{0}",
        "demo-model/model.safetensors",
    ] {
        let reply = server.post("/api/v1/datasets", &json!({ "path": path, "name": "x" }));
        assert_eq!(reply.status, 422, "{path}: {}", reply.body);
        assert!(!reply.body.contains("secret"));
        let reply = form(&server, &[("name", "x"), ("path", path)], None);
        assert_eq!(reply.status, 422, "{path}");
    }
    assert_eq!(info(&data), before);
    let left = fs::read_dir(data.path().join("uploads")).unwrap().count();
    assert_eq!(left, 0, "refused files are removed");
    // too large by what it says, another type, a broken form
    let host = format!("localhost:{}", server.port);
    let own = [("Host", host.as_str()), ("Sec-Fetch-Site", "same-origin")];
    let kind = |kind| [own[0], own[1], ("Content-Type", kind)];
    assert_eq!(
        server.raw("POST", "/api/v1/uploads?file=a.json", &kind("text/plain"), "x").status,
        415
    );
    assert_eq!(server.raw("POST", "/datasets", &kind("text/plain"), "x").status, 415);
    let broken = kind("multipart/form-data; boundary=edge");
    assert_eq!(server.raw("POST", "/datasets", &broken, "--edge\r\nnonsense").status, 422);
    let many: Vec<(&str, &str)> = vec![("other", "x"); 5000];
    assert_eq!(form(&server, &many, None).status, 422);
    assert_eq!(form(&server, &[("name", &"x".repeat(100_000))], None).status, 422);
}

#[test]
fn too_much_is_said_at_once() {
    use std::io::{Read, Write};
    let data = data();
    let server = data.serve(&[]);
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    write!(
        stream,
        "POST /api/v1/uploads?file=a.json HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: 99999999999\r\n\r\n",
        server.port
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    use std::io::Write;
    let data = data();
    let server = data.serve(&[]);
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    write!(
        stream,
        "POST /api/v1/uploads?file=a.json HTTP/1.1\r\nHost: localhost:{}\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: 1000\r\n\r\n[{{",
        server.port
    )
    .unwrap();
    drop(stream);
    // the next one is served, and sees an empty folder once the first is noticed
    assert_eq!(upload(&server, "file=b.json", "[{\"text\": \"a\"}]").status, 201);
    assert!(info(&data).get("a").is_none());
}

#[test]
fn edits_keep_the_rest_of_the_list() {
    let data = data();
    put(&data, "a.json", "[{\"q\": \"Hi\", \"a\": \"Ho\", \"s\": \"Be kind\"}]");
    put(
        &data,
        "c.json",
        "[{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": \"y\"}]}]",
    );
    put(
        &data,
        "dataset_info.json",
        r#"{"z": {"hf_hub_url": "a/b", "odd": [1]}, "a": {"file_name": "a.json", "mine": true, "columns": {"prompt": "q", "response": "a"}}, "c": {"file_name": "c.json"}}"#,
    );
    let server = data.serve(&[]);
    let before = fs::read_to_string(data.path().join("dataset_info.json")).unwrap();
    let dry =
        server.post("/api/v1/datasets/a", &json!({"columns": {"system": "s"}, "dry_run": true}));
    assert_eq!(dry.status, 200, "{}", dry.body);
    let roles: Vec<Value> = dry.json()["first"]["turns"].as_array().unwrap().clone();
    assert_eq!(roles[0], json!({"role": "system", "text": "Be kind"}));
    assert_eq!(fs::read_to_string(data.path().join("dataset_info.json")).unwrap(), before);
    assert_eq!(server.post("/api/v1/datasets/a", &json!({"columns": {"system": "s"}})).status, 200);
    let now = info(&data);
    assert_eq!(
        now["a"].to_string(),
        r#"{"file_name":"a.json","mine":true,"columns":{"prompt":"q","response":"a","system":"s"}}"#
    );
    assert_eq!(now["z"], json!({"hf_hub_url": "a/b", "odd": [1]}));
    assert_eq!(now.as_object().unwrap().keys().collect::<Vec<_>>(), ["z", "a", "c"]);
    // the form: try, then save
    let body = "action=check&formatting=sharegpt&col.messages=messages&tag.role_tag=role&tag.content_tag=content&tag.user_tag=user&tag.assistant_tag=assistant";
    let tried = send_form(&server, "/datasets/c", body);
    assert!(
        tried.status == 200 && tried.body.contains("&quot;role_tag&quot;")
            || tried.body.contains("&#34;role_tag&#34;"),
        "{}",
        tried.body
    );
    assert_eq!(info(&data)["c"], json!({"file_name": "c.json"}));
    let saved = send_form(&server, "/datasets/c", &body.replace("check", "save"));
    assert_eq!((saved.status, saved.header("location")), (303, Some("/datasets/c")));
    assert_eq!(info(&data)["c"]["formatting"], "sharegpt");
    assert!(page(&server, "/datasets/c").body.contains("<dd>y</dd>"));
    for (path, body, status) in [
        ("none", json!({}), 404),
        ("z", json!({}), 422),
        ("a", json!({"formatting": "odd"}), 422),
        ("a", json!({"file_name": "/etc/passwd"}), 400),
    ] {
        assert_eq!(
            server.post(&format!("/api/v1/datasets/{path}"), &body).status,
            status,
            "{path} {body}"
        );
    }
    assert_eq!(send_form(&server, "/datasets/none", "action=save").status, 404);
    assert_eq!(server.post("/api/v1/datasets/a/remove", &json!({})).status, 204);
    assert_eq!(send_form(&server, "/datasets/c", "action=remove").status, 303);
    assert_eq!(info(&data).as_object().unwrap().keys().collect::<Vec<_>>(), ["z"]);
    assert!(data.path().join("a.json").is_file());
}

#[test]
fn rows_reports_lengths_and_tokens() {
    let data = data();
    let mut rows = String::new();
    for n in 0..100 {
        rows += &format!("{{\"instruction\": \"Question {n}?\", \"output\": \"Answer {n}.\"}}\n");
    }
    rows += "{\"instruction\": \"Question 1?\", \"output\": \"Answer 1.\"}\n";
    rows += "{\"instruction\": \"Empty?\", \"output\": \" \"}\n{\"instruction\": 5, \"output\": \"x\"}\n";
    put(&data, "many.jsonl", &rows);
    put(&data, "broken.jsonl", "{\"instruction\": \"a\", \"output\": \"b\"}\n{oops\n");
    put(
        &data,
        "dataset_info.json",
        r#"{"many": {"file_name": "many.jsonl"}, "broken": {"file_name": "broken.jsonl"}}"#,
    );
    let server = data.serve(&[]);
    let get = |tail: &str| server.get(&format!("/api/v1/datasets/{tail}"));
    let some = get("many/rows?from=99&limit=3").json();
    assert_eq!((some["total"].as_u64(), some["rows"][0]["row"].as_u64()), (Some(103), Some(99)));
    assert_eq!(some["rows"][1]["turns"][1]["text"], "Answer 99.");
    assert_eq!(some["rows"][2]["line"], 101);
    assert_eq!(get("many/rows?from=1000").json()["rows"], json!([]));
    assert_eq!(get("many/rows?limit=200").json()["rows"].as_array().unwrap().len(), 103);
    assert_eq!(get("many/rows?limit=9999").status, 400);
    let report = get("many/report").json();
    assert_eq!(report["rows"], 103);
    assert_eq!(report["bad"]["first"][0]["line"], 103);
    assert_eq!(report["empty_answers"]["first"][0]["row"], 102);
    assert_eq!(
        (
            report["duplicates"]["count"].as_u64(),
            report["duplicates"]["first"][0]["reason"].as_str()
        ),
        (Some(1), Some("2"))
    );
    let report = get("broken/report").json();
    assert!(report["broken"].as_str().unwrap().contains("broken.jsonl:2"), "{report}");
    assert!(!report.to_string().contains(data.path().to_str().unwrap()));
    let model = "model=demo-model&template=qwen";
    let lengths = get(&format!("many/lengths?{model}&cutoff_len=1000")).json();
    assert_eq!(
        (lengths["kept"].as_u64(), lengths["truncated"].as_u64(), lengths["dropped"].as_u64()),
        (Some(102), Some(0), Some(1))
    );
    let bars: u64 =
        lengths["bars"].as_array().unwrap().iter().map(|bar| bar[2].as_u64().unwrap()).sum();
    assert_eq!(bars, 102);
    let short = get(&format!("many/lengths?{model}&cutoff_len=4")).json();
    assert_eq!((short["kept"].as_u64(), short["tokens"].as_u64()), (Some(0), Some(408)));
    let tokens = get(&format!("many/tokens?{model}&row=2")).json();
    let all = tokens["tokens"].as_array().unwrap();
    let text = |trained: bool| -> String {
        let kept = all.iter().filter(|token| token["trained"] == trained);
        kept.map(|token| token["text"].as_str().unwrap()).collect()
    };
    assert!(text(true).starts_with("Answer 1."), "{}", text(true));
    assert!(text(false).contains("Question 1?"), "{}", text(false));
    assert_eq!(all.len() as u64, tokens["count"].as_u64().unwrap());
    let cut = get(&format!("many/tokens?{model}&row=2&cutoff_len=5")).json();
    assert_eq!(cut["count"], 5);
    for (tail, status) in [
        ("none", 404),
        ("none/rows", 404),
        ("none/report", 404),
        ("many/tokens?row=2", 422),
        ("many/tokens?model=demo-model&row=0", 400),
        ("many/tokens?model=demo-model&row=104", 404),
        ("many/tokens?model=demo-model&row=103", 422),
        ("many/tokens?model=demo-model&template=no_such&row=1", 422),
        ("many/lengths?model=%2Fetc", 422),
        ("many/lengths?model=..%2F..", 422),
        ("many/lengths?model=no/such", 422),
        ("many/lengths?model=demo-model&cutoff_len=x", 400),
        ("many/rows?from=-1", 400),
        ("many?dir=..", 422),
        ("many?dir=%2Fetc", 422),
        ("many/report?dir=%00", 422),
    ] {
        let reply = get(tail);
        assert_eq!(reply.status, status, "{tail}: {}", reply.body);
    }
    for tab in [
        "",
        "?tab=check",
        "?tab=lengths",
        "?tab=tokens&row=2",
        "?tab=columns",
        "?row=99",
        "?tab=odd",
    ] {
        let joint = if tab.is_empty() { "?" } else { "&" };
        let reply = page(&server, &format!("/datasets/many{tab}{joint}{model}"));
        assert_eq!(reply.status, 200, "{tab}: {}", reply.body);
    }
    assert!(
        page(&server, "/datasets/many?tab=check").body.contains("Question …?")
            || page(&server, "/datasets/many?tab=check").body.contains("not a text")
    );
    assert!(page(&server, "/datasets/many?row=99").body.contains("99–103 of 103"));
    assert_eq!(page(&server, "/datasets/none").status, 404);
    assert_eq!(page(&server, "/datasets?dir=..").status, 422);
}

/// Whatever a row or a name says is text.
#[test]
fn payloads_stay_text() {
    let data = data();
    let payloads = [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "</dd></dl><svg onload=alert(1)>",
        "{{1234*5678}}",
        "' onmouseover='alert(1)",
        "<div hx-get=\"/x\" hx-trigger=\"load\">",
        "</pre><iframe src=javascript:alert(1)>",
        "<!--<script>",
        "\u{202e}\u{0}<b>",
    ];
    let mut entries = serde_json::Map::new();
    for (number, payload) in payloads.iter().enumerate() {
        let file = format!("p{number}.json");
        let row = json!([{"instruction": payload, "output": payload, "system": payload, *payload: payload}]);
        put(&data, &file, &row.to_string());
        let columns = json!({"prompt": "instruction", "response": "output", "system": payload});
        entries.insert((*payload).to_owned(), json!({"file_name": file, "columns": columns}));
        entries
            .insert(format!("bad {payload}"), json!({"file_name": payload, "formatting": payload}));
    }
    put(&data, "dataset_info.json", &Value::Object(entries.clone()).to_string());
    let server = data.serve(&[]);
    let clean = |path: &str| {
        let body = page(&server, path).body;
        let lower = body.to_lowercase();
        for tag in [
            "<script>",
            "<img",
            "<svg onload",
            "<iframe",
            "<!--<",
            "hx-get=\"/x\"",
            "<b>",
            "' onmouseover='",
        ] {
            assert!(!lower.contains(tag), "{path}: {tag}");
        }
        assert!(!body.contains("7006652"), "{path}");
        body
    };
    clean("/datasets");
    for name in entries.keys() {
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for tab in ["rows", "check", "columns", "tokens", "lengths"] {
            clean(&format!(
                "/datasets/{encoded}?tab={tab}&model={encoded}&template={encoded}&dir="
            ));
        }
        clean(&format!("/datasets?q={encoded}"));
    }
}
