//! The JSON API from outside: what it takes, what it says of what it does not take.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Data, Server, config};

/// Posts a configuration and gives the field that is named as wrong.
fn wrong_field(server: &Server, change: Value) -> String {
    let mut config = config("finish");
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    let reply = server.post("/api/v1/runs", &config);
    assert_eq!(reply.status, 422, "{change}: {}", reply.body);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem = reply.json();
    assert_eq!(problem["status"], 422);
    assert_eq!(problem["field"], problem["errors"][0]["field"]);
    assert!(!problem["errors"][0]["message"].as_str().unwrap().is_empty());
    problem["field"].as_str().unwrap().to_owned()
}

#[test]
fn wrong_arguments_are_named() {
    let data = Data::new();
    let server = data.serve(&[]);
    let outside = tempfile::tempdir().unwrap();
    let outside = outside.path().canonicalize().unwrap().display().to_string();
    fs::create_dir(data.path().join("busy")).unwrap();
    fs::write(data.path().join("busy/model.safetensors"), "x").unwrap();
    for (change, field) in [
        (json!({"learning_rat": 1}), "learning_rat"),
        (json!({"learning_rate": "fast"}), "learning_rate"),
        (json!({"finetuning_type": "magic"}), "finetuning_type"),
        (json!({"num_train_epochs": 1e308}), "num_train_epochs"),
        (json!({"model_name_or_path": null}), "model_name_or_path"),
        (json!({"model_name_or_path": outside}), "model_name_or_path"),
        (json!({"model_name_or_path": "../.."}), "model_name_or_path"),
        (json!({"model_name_or_path": "/proc/self/environ"}), "model_name_or_path"),
        (json!({"dataset": "none"}), "dataset"),
        (json!({"dataset": ""}), "dataset"),
        (json!({"dataset_dir": outside}), "dataset_dir"),
        (json!({"output_dir": outside}), "output_dir"),
        (json!({"output_dir": "."}), "output_dir"),
        (json!({"output_dir": "busy"}), "output_dir"),
        (json!({"start_id": 5}), "start_id"),
        (json!({"start_id": ""}), "start_id"),
    ] {
        assert_eq!(wrong_field(&server, change.clone()), field, "{change}");
    }
    assert_eq!(server.get("/api/v1/runs").json()["runs"], json!([]));
    let several = server.post("/api/v1/runs", &json!({"seed": "x", "lora_rank": "y"})).json();
    assert_eq!(several["errors"].as_array().unwrap().len(), 2);
}

#[test]
fn bodies_that_are_none() {
    let data = Data::new();
    let server = data.serve(&[]);
    let host = format!("localhost:{}", server.port);
    let headers = [("Host", host.as_str()), ("Content-Type", "application/json")];
    let deep = "[".repeat(100_000);
    for body in ["", "{", "null", "[]", "5", "{\"a\":}", "\u{0}", &deep] {
        let reply = server.raw("POST", "/api/v1/runs", &headers, body);
        assert_eq!(reply.status, 400, "{}", body.get(..10).unwrap_or(body));
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    }
    let large = format!("{{\"run_name\": \"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(server.raw("POST", "/api/v1/runs", &headers, &large).status, 413);
    for body in ["{\"mode\": \"later\"}", "{\"made\": \"now\"}", "5"] {
        assert_eq!(server.raw("POST", "/api/v1/runs/x/stop", &headers, body).status, 400, "{body}");
    }
}

#[test]
fn what_is_not_there() {
    let data = Data::new();
    let server = data.serve(&[]);
    for id in
        ["x", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "..%2f..", "%00", "'%20or%201=1", &"9".repeat(2000)]
    {
        for (method, tail) in [
            ("GET", ""),
            ("GET", "/metrics"),
            ("GET", "/log"),
            ("POST", "/stop"),
            ("POST", "/resume"),
        ] {
            let reply = server.send(method, &format!("/api/v1/runs/{id}{tail}"), None);
            assert_eq!(reply.status, 404, "{method} {id} {tail}: {}", reply.body);
            assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        }
        assert_eq!(server.get(&format!("/runs/{id}/events")).status, 404, "{id}");
    }
    for query in ["runs?status=odd", "runs?limit=x", "runs?limit=-1", "runs/x/metrics?x0=a"] {
        assert_eq!(server.get(&format!("/api/v1/{query}")).status, 400, "{query}");
    }
}

#[test]
fn lists_are_paged_and_starts_are_counted_once() {
    let data = Data::new();
    let server = data.serve(&["--workers", "2"]);
    let mut config = config("finish");
    config["start_id"] = json!("0f8fad5b-d9cb-469f-a165-70867728950e");
    let first = server.post("/api/v1/runs", &config);
    assert_eq!(first.status, 201);
    let id = first.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(first.header("location"), Some(format!("/api/v1/runs/{id}").as_str()));
    let again = server.post("/api/v1/runs", &config);
    assert_eq!((again.status, again.json()["id"].as_str()), (200, Some(id.as_str())));
    let mut ids = vec![id];
    ids.extend((0..4).map(|_| server.create("bad")));
    ids.reverse();
    let mut found = Vec::new();
    let mut before = String::new();
    loop {
        let page = server.get(&format!("/api/v1/runs?limit=2{before}")).json();
        found.extend(
            page["runs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|run| run["id"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    assert_eq!(found, ids);
    for id in &ids {
        server.until(id, |run| run["status"] == "failed" || run["status"] == "finished");
    }
    assert_eq!(
        server.get("/api/v1/runs?status=failed").json()["runs"].as_array().unwrap().len(),
        4
    );
    assert_eq!(server.get("/api/v1/runs?q=FIN").json()["runs"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/api/v1/runs?q=%25").json()["runs"].as_array().unwrap().len(), 0);
}

#[test]
fn curves_and_logs() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("finish");
    server.until_status(&id, "finished");
    let get = |tail: &str| server.get(&format!("/api/v1/runs/{id}/{tail}"));
    let all = get("metrics").json();
    assert_eq!(all.as_object().unwrap().keys().collect::<Vec<_>>(), ["loss", "lr", "elapsed_s"]);
    assert_eq!(all["loss"]["value"][0], 9.25);
    let two = get("metrics?keys=lr,%20loss,none&points=1500").json();
    assert_eq!(two.as_object().unwrap().keys().collect::<Vec<_>>(), ["lr", "loss", "none"]);
    assert_eq!(two["none"]["step"], json!([]));
    assert_eq!(two["lr"]["value"], json!(vec![0.001; 9]));
    assert!(two["lr"].get("min").is_none());
    let few = get("metrics?keys=loss&points=3").json();
    assert_eq!(few["loss"]["step"], json!([1, 6, 9]));
    assert_eq!(few["loss"]["min"], json!([7.25, 4.25, 1.25]));
    assert_eq!(get("metrics?keys=loss&x0=3&x1=4").json()["loss"]["step"], json!([3, 4]));
    assert_eq!(get("metrics?points=x").status, 400);
    assert_eq!(get("log?tail=1").json()["lines"].as_array().unwrap().len(), 1);
    assert_eq!(get("log?tail=0").json()["lines"], json!([]));
    assert_eq!(get("log?tail=-1").status, 400);
}

#[test]
fn the_description_and_the_fields() {
    let data = Data::new();
    let server = data.serve(&[]);
    let document = server.get("/api/v1/openapi.json").json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(document["paths"]["/api/v1/runs"]["post"]["responses"]["201"].is_object());
    let fields = server.get("/api/v1/fields").json();
    let rate = fields["fields"]
        .as_array()
        .unwrap()
        .iter()
        .find(|field| field["name"] == "learning_rate")
        .unwrap();
    assert_eq!((rate["class"].as_str(), rate["kind"].as_str()), (Some("done"), Some("float")));
    assert_eq!(server.get("/healthz").json(), json!({"status": "ok"}));
}

#[test]
fn folders_that_may_be_read() {
    let data = Data::new();
    let allowed = tempfile::tempdir().unwrap();
    let allowed = allowed.path().canonicalize().unwrap();
    fs::create_dir(allowed.join("model")).unwrap();
    fs::write(allowed.join("dataset_info.json"), r#"{"rows": {"file_name": "rows.jsonl"}}"#)
        .unwrap();
    fs::write(allowed.join("rows.jsonl"), "").unwrap();
    let server = data.serve(&["--allow-path", allowed.to_str().unwrap()]);
    let mut config = config("finish");
    config["model_name_or_path"] = json!(allowed.join("model"));
    config["dataset_dir"] = json!(allowed);
    config["output_dir"] = json!(allowed.join("out"));
    let reply = server.post("/api/v1/runs", &config);
    assert_eq!(reply.status, 201, "{}", reply.body);
    server.until_status(reply.json()["id"].as_str().unwrap(), "finished");
    assert!(allowed.join("out/run.json").is_file());
}

#[test]
fn what_is_known_is_not_sent_again() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("finish");
    server.until_status(&id, "finished");
    let host = format!("localhost:{}", server.port);
    for path in [
        format!("/api/v1/runs/{id}/metrics?keys=loss"),
        format!("/api/v1/runs/{id}/log"),
        format!("/api/v1/compare/export?runs={id}"),
        format!("/api/v1/compare/export?runs={id}&format=svg"),
    ] {
        let first = server.get(&path);
        let tag = first.header("etag").unwrap().to_owned();
        assert_eq!((first.status, first.header("cache-control")), (200, Some("private, no-cache")));
        let ask = |known: &str| {
            let headers = [("Host", host.as_str()), ("If-None-Match", known)];
            server.raw("GET", &path, &headers, "")
        };
        let same = ask(&tag);
        assert_eq!((same.status, same.body.as_str(), same.header("etag")), (304, "", Some(&*tag)));
        assert_eq!(ask("\"other\"").body, first.body, "{path}");
    }
    // one event more is another curve
    let path = format!("/api/v1/runs/{id}/metrics");
    let hang = server.create("hang");
    let run = server.until(&hang, |run| run["step"] == 4);
    let path = path.replace(&id, &hang);
    let before = server.get(&path).header("etag").unwrap().to_owned();
    server.post(&format!("/api/v1/runs/{hang}/wish"), &json!({"wish": "save"}));
    server.until(&hang, |now| now["seq"].as_i64() > run["seq"].as_i64());
    assert_ne!(server.get(&path).header("etag").unwrap(), before);
}

#[test]
fn curves_are_smoothed_where_that_is_asked() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("finish");
    server.until_status(&id, "finished");
    let loss = |query: &str| {
        let path = format!("/api/v1/runs/{id}/metrics?keys=loss{query}");
        let reply = server.get(&path);
        if reply.status == 200 {
            reply.json()["loss"]["smooth"].clone()
        } else {
            json!(reply.status)
        }
    };
    // the losses are 9.25, 8.25 ... 1.25
    assert_eq!(loss(""), serde_json::Value::Null);
    assert_eq!(loss("&smooth=0")[8], 1.25);
    let all = loss("&smooth=0.5");
    assert_eq!((&all[0], all.as_array().unwrap().len()), (&json!(9.25), 9));
    assert!((all[1].as_f64().unwrap() - (9.25 + 2.0 * 8.25) / 3.0).abs() < 1e-9);
    // the part is as smooth as it is in the whole
    let part = loss("&smooth=0.5&x0=4&x1=6");
    assert_eq!(part.as_array().unwrap()[..], all.as_array().unwrap()[3..6]);
    for wrong in ["1", "-0.1", "x", "NaN", "inf"] {
        assert_eq!(loss(&format!("&smooth={wrong}")), 400, "{wrong}");
    }
}
