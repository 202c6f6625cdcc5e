//! The places of the dashboard over HTTP: full page and fragment, in each language, on an empty data folder too.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{Data, Reply, Server};

/// Every place, and a word of its title in English and in Chinese.
const PLACES: &[(&str, &str, &str)] =
    &[("/", "Welcome", "欢迎"), ("/runs", "Runs", "训练"), ("/runs/new", "New run", "新建训练")];

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
    assert!(chosen.body.contains("搜索名称"), "{}", chosen.body);
    let help = page(&server, "/runs/new", &[("Cookie", cookie)]);
    assert!(help.body.contains("每行截断到这么多词元"));
    for wrong in ["lang=tlh", "lang=", ""] {
        assert_eq!(choose(wrong).status, 400, "{wrong}");
    }
}
