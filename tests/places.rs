//! The places of the dashboard over HTTP: full page and fragment, in each language, on an empty data folder too.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::{Data, Reply, Server, config};

/// Every place, and a word of its title in English and in Chinese.
const PLACES: &[(&str, &str, &str)] = &[
    ("/", "Welcome", "欢迎"),
    ("/runs", "Runs", "训练"),
    ("/runs/new", "New run", "新建训练"),
    ("/datasets", "Datasets", "数据集"),
    ("/models", "Models", "模型"),
    ("/queue", "Queue", "队列"),
    ("/compare", "Compare", "比较"),
    ("/system", "System", "系统"),
    ("/settings", "Settings", "设置"),
];

fn page(server: &Server, path: &str, headers: &[(&str, &str)]) -> Reply {
    let host = format!("localhost:{}", server.port);
    let mut all = vec![("Host", host.as_str())];
    all.extend(headers);
    server.raw("GET", path, &all, "")
}

#[test]
fn every_place_answers_on_an_empty_folder() {
    let data = Data::new();
    let server = data.serve(&[]);
    for (path, english, chinese) in PLACES {
        for (language, lang, title) in
            [("", "en", english), ("fr", "en", english), ("zh-CN,zh;q=0.9", "zh", chinese)]
        {
            let reply = page(&server, path, &[("Accept-Language", language)]);
            assert_eq!(reply.status, 200, "{path}");
            assert!(reply.header("vary").unwrap().contains("Accept-Language"), "{path}");
            assert!(reply.body.contains(&format!("<html lang=\"{lang}\"")), "{path} {language}");
            assert!(reply.body.contains(&format!("<title>{title} · Tallow</title>")), "{path}");
            let part =
                page(&server, path, &[("HX-Request", "true"), ("Accept-Language", language)]);
            assert_eq!(part.status, 200, "{path}");
            assert!(!part.body.contains("<html"), "{path}");
        }
    }
    let lost = page(&server, "/nope", &[("Accept-Language", "zh")]);
    assert!(lost.status == 404 && lost.body.contains("这里什么也没有"), "{}", lost.body);
}

#[test]
fn the_language_is_chosen() {
    let data = Data::new();
    let server = data.serve(&[]);
    let host = format!("localhost:{}", server.port);
    let from = format!("http://{host}/runs?q=a");
    let headers = [
        ("Host", host.as_str()),
        ("Sec-Fetch-Site", "same-origin"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Referer", &from),
    ];
    let choose = |body: &str| server.raw("POST", "/settings/language", &headers, body);
    let reply = choose("lang=zh");
    assert_eq!((reply.status, reply.header("location")), (303, Some("/runs?q=a")));
    let cookie = reply.header("set-cookie").unwrap().split(';').next().unwrap();
    assert_eq!(cookie, "lang=zh");
    let chosen = page(&server, "/runs", &[("Cookie", cookie), ("Accept-Language", "en")]);
    assert!(chosen.body.contains("运行示例"), "{}", chosen.body);
    let help = page(&server, "/runs/new", &[("Cookie", cookie)]);
    assert!(help.body.contains("每行截断到这么多词元"));
    for wrong in ["lang=tlh", "lang=", ""] {
        assert_eq!(choose(wrong).status, 400, "{wrong}");
    }
}

fn form(server: &Server, path: &str, body: &str) -> Reply {
    let host = format!("localhost:{}", server.port);
    let headers = [
        ("Host", host.as_str()),
        ("Sec-Fetch-Site", "same-origin"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    server.raw("POST", path, &headers, body)
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap()).collect()
}

#[test]
fn the_queue_is_ordered_paused_and_kept() {
    let data = Data::new();
    let mut server = data.serve(&[]);
    assert_eq!(server.post("/api/v1/queue", &json!({"paused": true})).status, 200);
    let made = ["finish", "finish", "finish"].map(|name| server.create(name));
    let [a, b, c] = made.each_ref().map(String::as_str);
    let order = |server: &Server| -> Vec<String> {
        let queue = server.get("/api/v1/queue").json();
        assert!(queue["active"].as_array().unwrap().is_empty());
        let waiting = queue["waiting"].as_array().unwrap();
        assert!(waiting.iter().all(|one| one["why"] == "paused"), "{queue}");
        waiting.iter().map(|one| one["run"]["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(order(&server), [a, b, c]);
    for (id, body, expected) in [
        (c, json!({"to": "up"}), [a, c, b]),
        (a, json!({"to": "down"}), [c, a, b]),
        (b, json!({"to": "first"}), [b, c, a]),
        (b, json!({"before": a}), [c, b, a]),
        (c, json!({"to": "last"}), [b, a, c]),
        (b, json!({"to": "up"}), [b, a, c]),
    ] {
        assert_eq!(server.post(&format!("/api/v1/queue/{id}/move"), &body).status, 200, "{body}");
        assert_eq!(order(&server), expected, "{body}");
    }
    for (id, body, status) in [
        (a, json!({"to": "sideways"}), 400),
        (a, json!({}), 400),
        (a, json!({"to": "up", "before": b}), 400),
        (a, json!({"too": "up"}), 400),
        ("x", json!({"to": "up"}), 404),
    ] {
        let reply = server.post(&format!("/api/v1/queue/{id}/move"), &body);
        assert_eq!(reply.status, status, "{body}");
    }
    for body in [json!({"slots": 0}), json!({"slots": 65})] {
        let reply = server.post("/api/v1/queue", &body);
        assert_eq!((reply.status, reply.json()["field"].as_str()), (422, Some("slots")), "{body}");
    }
    // the page has the same order, and its plain forms do the same
    let reply = form(&server, &format!("/queue/{a}/move"), "to=up");
    assert_eq!((reply.status, reply.header("location")), (303, Some("/queue")));
    let html = page(&server, "/queue", &[]).body;
    let places: Vec<usize> =
        [a, b, c].iter().map(|id| html.find(&format!("id=\"q-{id}\"")).unwrap()).collect();
    assert!(places.is_sorted() && html.contains("The queue is paused"), "{places:?}");
    assert_eq!(form(&server, "/queue", "slots=many").status, 422);
    // a killed server keeps it all
    server.signal("KILL");
    server.child.wait().unwrap();
    server = data.serve(&[]);
    assert_eq!(order(&server), [a, b, c]);
    assert_eq!(form(&server, "/queue", "slots=2").status, 303);
    assert_eq!(server.get("/api/v1/queue").json()["slots"], 2);
    assert_eq!(form(&server, "/queue", "paused=false").status, 303);
    for id in &made {
        server.until_status(id, "finished");
    }
    let late = server.post(&format!("/api/v1/queue/{a}/move"), &json!({"to": "up"}));
    assert_eq!(late.status, 409);
}

#[test]
fn a_failed_run_does_not_stop_the_next() {
    let data = Data::new();
    let server = data.serve(&[]);
    let first = server.create("hang");
    server.until_status(&first, "running");
    let [bad, next] = ["bad", "finish"].map(|name| server.create(name));
    let queue = server.get("/api/v1/queue").json();
    assert_eq!(ids(&queue["active"]), [first.as_str()]);
    let why: Vec<_> =
        queue["waiting"].as_array().unwrap().iter().map(|one| one["why"].as_str()).collect();
    assert_eq!(why, [Some("slots"), Some("behind")]);
    let html = page(&server, &format!("/runs/{next}"), &[("Accept-Language", "zh")]).body;
    assert!(html.contains("前面还有 1 个"), "why it waits is on its page");
    server.post(&format!("/api/v1/runs/{first}/stop"), &json!({"mode": "now"}));
    server.until_status(&bad, "failed");
    server.until_status(&next, "finished");
}

#[test]
fn a_run_is_asked_for_things_and_goes_on() {
    let data = Data::new();
    let server = data.serve(&[]);
    let mut wanted = config("hang");
    wanted["sample_prompt"] = json!("Who?");
    let id = server.post("/api/v1/runs", &wanted).json()["id"].as_str().unwrap().to_owned();
    server.until(&id, |run| run["step"] == 4);
    let ask = |wish: &str| server.post(&format!("/api/v1/runs/{id}/wish"), &json!({"wish": wish}));
    assert_eq!(ask("save").status, 202);
    server.until(&id, |run| run["checkpoint_step"] == 4);
    assert_eq!(ask("sample").status, 202);
    let told = server.events(&id, 0).find(|event| event.name == "sample").unwrap();
    assert!(told.data.contains("\"I.\""), "{}", told.data);
    assert_eq!(server.run(&id)["status"], "running");
    assert_eq!(ask("stop").status, 400);
    let reply = form(&server, &format!("/runs/{id}/wish"), "wish=save");
    assert_eq!(reply.status, 303);
    server.post(&format!("/api/v1/runs/{id}/stop"), &json!({}));
    server.until_status(&id, "stopped");
    assert_eq!(ask("save").status, 409);
    let silent = server.create("hang");
    server.until(&silent, |run| run["step"] == 4);
    let reply = server.post(&format!("/api/v1/runs/{silent}/wish"), &json!({"wish": "sample"}));
    assert_eq!(reply.status, 409, "no prompt");
    server.post(&format!("/api/v1/runs/{silent}/stop"), &json!({"mode": "now"}));
    server.until_status(&silent, "stopped");
}

#[test]
fn runs_are_named_tagged_and_found() {
    let data = Data::new();
    let server = data.serve(&[]);
    let [first, second] = ["bad", "finish"].map(|name| server.create(name));
    server.until_status(&first, "failed");
    server.until_status(&second, "finished");
    let edit = json!({"name": "Größe <b>7</b>", "tags": ["baseline", " to keep ", "baseline"], "notes": "the one\r\nthat worked"});
    let run = server.post(&format!("/api/v1/runs/{second}/edit"), &edit).json();
    assert_eq!(
        (&run["name"], &run["tags"]),
        (&json!("Größe <b>7</b>"), &json!(["baseline", "to keep"]))
    );
    let found = |query: &str| {
        let list = server.get(&format!("/api/v1/runs?{query}")).json();
        ids(&list["runs"]).len()
    };
    for (query, expected) in [
        ("q=", 2),
        ("q=gr%C3%B6%C3%9Fe", 1),
        ("q=GR%C3%96%C3%9FE", 1),
        ("q=worked+baseline", 1),
        ("q=worked+nothing", 0),
        ("q=rows", 2),
        ("q=%25", 0),
        ("tag=baseline", 1),
        ("tag=base", 0),
        ("dataset=rows", 2),
        ("dataset=row", 0),
        ("method=lora", 2),
        ("method=full", 0),
        ("model=nothing", 0),
        ("status=failed&tag=baseline", 0),
        ("status=finished&tag=baseline&dataset=rows", 1),
    ] {
        assert_eq!(found(query), expected, "{query}");
    }
    let html = page(&server, "/runs?tag=to%20keep", &[]).body;
    assert!(
        html.contains("Größe &#60;b&#62;7&#60;/b&#62;")
            && !html.contains(&format!("id=\"run-{first}\"")),
        "{html}"
    );
    assert!(html.contains("href=\"/runs?tag=to%20keep\"") && html.contains("<polyline"), "{html}");
    // a plain form: an empty list of tags takes them all away
    let reply = form(&server, &format!("/runs/{second}/edit"), "name=plain&tags=&notes=");
    assert_eq!(reply.status, 303);
    assert_eq!((found("tag=baseline"), found("q=plain"), found("q=worked")), (0, 1, 0));
    for (body, field) in [
        (json!({"name": ""}), "name"),
        (json!({"notes": "n".repeat(10_001)}), "notes"),
        (json!({"tags": ["a,b"]}), "tags"),
    ] {
        let reply = server.post(&format!("/api/v1/runs/{second}/edit"), &body);
        assert_eq!((reply.status, reply.json()["field"].as_str()), (422, Some(field)));
    }
    assert_eq!(server.post("/api/v1/runs/x/edit", &json!({"name": "a"})).status, 404);
}

#[test]
fn a_part_of_an_address() {
    let data = Data::new();
    let server = data.serve(&["--base-path", "/tuner/"]);
    let id = server.create("bad"); // a proxy may take the base off: then it is as if there were none
    server.until_status(&id, "failed");
    for path in
        ["/", "/runs", "/runs/new", "/queue", "/system", "/settings", &format!("/runs/{id}")]
    {
        let reply = page(&server, &format!("/tuner{path}"), &[]);
        assert!([200, 303].contains(&reply.status), "{path}: {}", reply.status);
        for attribute in ["href", "src", "action", "hx-get", "hx-post", "data-live"] {
            for rest in reply.body.split(&format!(" {attribute}=\"/")).skip(1) {
                let address: String = rest.chars().take(30).collect();
                assert!(address.starts_with("tuner/"), "{path}: {attribute} /{address}");
            }
        }
    }
    assert_eq!(page(&server, "/tuner", &[]).header("location"), Some("/tuner/runs"));
    let host = format!("localhost:{}", server.port);
    let from = format!("http://{host}/tuner/queue");
    let headers = [
        ("Host", host.as_str()),
        ("Sec-Fetch-Site", "same-origin"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Referer", &from),
    ];
    let reply = server.raw("POST", "/tuner/settings/language", &headers, "lang=zh");
    assert_eq!(reply.header("location"), Some("/tuner/queue"));
    assert!(reply.header("set-cookie").unwrap().contains("Path=/tuner/"));
    assert_eq!(page(&server, "/tunerx", &[]).status, 404);
    assert_eq!(page(&server, "/healthz", &[]).status, 200);
}
