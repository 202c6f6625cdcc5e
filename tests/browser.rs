//! The pages in a real browser: headless Chromium through chromedriver, both from Debian's packages.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "browser_support/pages.rs"]
mod pages;
#[path = "browser_support/seed.rs"]
mod seed;
#[path = "browser_support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use fantoccini::Locator;
use pages::At;
use serde_json::{Value, json};
use support::{Browser, SOON, Server, Theme};

const FINISHED: &str = "/runs/01JZ00000000000000000000A1";

/// From an empty folder to a model that knows who it is: two clicks, and the page may be away meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn the_sample_run() {
    let server = Server::start().await;
    let browser = Browser::open().await;
    browser.tab.goto(&server.url).await.unwrap();
    browser.tab.find(Locator::Id("run-sample")).await.unwrap().click().await.unwrap();
    browser.until("location.pathname.startsWith('/runs/0')", SOON).await;
    let page = browser.tab.current_url().await.unwrap();
    let id = page.path().rsplit('/').next().unwrap().to_owned();

    // the tab is closed at step 5
    browser
        .until(
            "parseInt(document.getElementById('plot-loss').dataset.last) >= 5",
            Duration::from_secs(90),
        )
        .await;
    let first = browser.tab.window().await.unwrap();
    let other = browser.tab.new_window(true).await.unwrap();
    browser.tab.switch_to_window(first).await.unwrap();
    assert_eq!(browser.errors().await, Vec::<String>::new());
    browser.tab.close_window().await.unwrap();
    browser.tab.switch_to_window(other.handle).await.unwrap();

    // a second look from the middle to the end, live
    browser.size(1280, 900).await;
    browser.tab.goto(page.as_str()).await.unwrap();
    browser.until("parseInt(document.getElementById('r-percent').textContent) >= 60 || document.querySelector('#pill.s-finished')", Duration::from_secs(150)).await;
    // a capture of the whole page does not stop the curve
    browser.picture(1280, 4000).await;
    browser.until("document.querySelector('#pill.s-finished')", Duration::from_secs(180)).await;
    let run = server.wait_over(&id, SOON).await;
    assert_eq!(run["status"], "finished", "{run}");
    // the curve is drawn a few times a second: the last points follow the word
    let drawn =
        format!("document.getElementById('plot-loss').dataset.last == {}", run["total_steps"]);
    browser.until(&drawn, SOON).await;
    let followed = shown_steps(&browser).await;

    // and a third one of the finished run
    browser.tab.refresh().await.unwrap();
    browser.until(&drawn, SOON).await;
    let total = run["total_steps"].as_u64().unwrap();
    let (_, metrics) = server.get(&format!("/api/v1/runs/{id}/metrics?keys=loss&points=5000"));
    let steps: Vec<u64> = metrics["loss"]["step"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step.as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=total).collect::<Vec<_>>());
    assert_eq!(followed, json!([total, total]));
    assert_eq!(shown_steps(&browser).await, json!([total, total]));
    let answers = browser
        .script(
            "return [...document.querySelectorAll('.answer blockquote')].map((b) => b.textContent)",
        )
        .await;
    let answers = answers.as_array().unwrap();
    // before, at each evaluation, and after
    assert!(answers.len() > 2, "{answers:?}");
    let last = answers.last().unwrap();
    assert!(last.as_str().unwrap().contains("Tallow"), "{answers:?}");
    assert_ne!(&answers[0], last);
    assert_eq!(browser.errors().await, Vec::<String>::new());
    browser.close().await;
}

/// How many points the loss curve has, and the last one's step.
async fn shown_steps(browser: &Browser) -> Value {
    browser.script("const { count, last } = document.getElementById('plot-loss').dataset; return [Number(count), Number(last)]").await
}

/// Every page, in both themes: nothing for axe to say, nothing in the console, nothing wider than a phone.
#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_fit_for_everybody() {
    let server = Server::seeded(seed::three_states).await;
    let empty = Server::start().await;
    let browser = Browser::open().await;
    for theme in Theme::BOTH {
        browser.theme(theme).await;
        for (at, path, name) in pages::all() {
            let server = if at == At::Empty { &empty } else { &server };
            browser.size(1280, 900).await;
            browser.tab.goto(&format!("{}{path}", server.url)).await.unwrap();
            browser.settle(&path).await;
            assert_eq!(browser.axe().await, Vec::<String>::new(), "{path} {theme:?}");
            let errors: Vec<_> = browser
                .errors()
                .await
                .into_iter()
                .filter(|line| name != "not-found" || !line.contains("404"))
                .collect();
            assert_eq!(errors, Vec::<String>::new(), "{path} {theme:?}");
            let elsewhere = "return performance.getEntriesByType('resource').map((one) => one.name).filter((name) => !name.startsWith(location.origin) && !name.startsWith('data:'))";
            assert_eq!(browser.script(elsewhere).await, json!([]), "{path} asks elsewhere");
            browser.size(375, 812).await;
            browser.settle(&path).await;
            let wide = browser.script("return document.documentElement.scrollWidth").await;
            assert!(wide.as_u64().unwrap() <= 375, "{path} is {wide} px wide on a phone");
            assert_eq!(browser.axe().await, Vec::<String>::new(), "{path} {theme:?} on a phone");
        }
    }
    // the check can fail
    browser.script("document.getElementById('main').innerHTML = '<img src=\"/favicon.svg\"><input><p style=\"color: #999\">grey</p>'").await;
    assert!(browser.axe().await.len() >= 2);
    browser.close().await;
}

/// What is wrong is said in place, what was typed stays, and the summary has the focus.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_form_comes_back() {
    let server = Server::start().await;
    let browser = Browser::open().await;
    browser.tab.goto(&format!("{}/runs/new", server.url)).await.unwrap();
    browser.tab.find(Locator::Id("f-learning_rate")).await.unwrap().clear().await.unwrap();
    browser
        .tab
        .find(Locator::Id("f-learning_rate"))
        .await
        .unwrap()
        .send_keys("fast")
        .await
        .unwrap();
    browser
        .until("document.getElementById('e-learning_rate').textContent.includes('fast')", SOON)
        .await;
    assert_eq!(
        browser.script("return document.getElementById('e-model_name_or_path').textContent").await,
        ""
    );
    browser.tab.find(Locator::Id("start")).await.unwrap().click().await.unwrap();
    browser.until("document.getElementById('summary')", SOON).await;
    browser.until("document.activeElement.id === 'summary'", SOON).await;
    let shown = browser.script(
        "const f = document.getElementById('f-learning_rate');
         return [f.value, f.getAttribute('aria-invalid'), document.getElementById('e-learning_rate').textContent !== '']",
    ).await;
    assert_eq!(shown, json!(["fast", "true", true]));
    assert_eq!(server.get("/api/v1/runs").1["runs"], json!([]));
    let errors: Vec<_> =
        browser.errors().await.into_iter().filter(|line| !line.contains("422")).collect();
    assert_eq!(errors, Vec::<String>::new());
    browser.close().await;
}

/// The YAML is edited and the form follows; the cutoff's slider moves the numbers.
#[tokio::test(flavor = "multi_thread")]
async fn the_form_and_its_yaml_are_in_step() {
    let server = Server::seeded(seed::three_states).await;
    let browser = Browser::open().await;
    let start = "/runs/new?model_name_or_path=models/sample&dataset=sky&template=qwen";
    browser.tab.goto(&format!("{}{start}", server.url)).await.unwrap();
    browser.until("document.querySelector('#plan .facts-list dd') && !document.querySelector('#plan[aria-busy]')", SOON).await;
    browser.until("document.getElementById('plan').textContent.includes('300')", SOON).await;
    browser
        .script(
            "const yaml = document.getElementById('yaml');
             yaml.value += 'lora_rank: 33\\n';
             yaml.dispatchEvent(new Event('change', { bubbles: true }));",
        )
        .await;
    browser.until("document.getElementById('f-lora_rank').value === '33'", SOON).await;
    browser.until("document.getElementById('cli').value.includes('--lora_rank 33')", SOON).await;
    browser
        .script(
            "const rank = document.getElementById('f-lora_rank');
             rank.value = '44';
             rank.dispatchEvent(new Event('input', { bubbles: true }));",
        )
        .await;
    browser.until("document.getElementById('yaml').value.includes('lora_rank: 44')", SOON).await;
    let tab = "/datasets/sky?tab=lengths&model=models/sample&template=qwen&cutoff_len=2048";
    browser.tab.goto(&format!("{}{tab}", server.url)).await.unwrap();
    browser.until("document.getElementById('f-cut-slide')", SOON).await;
    let before = browser.script("return document.querySelector('.tiles').textContent").await;
    browser
        .script(
            "const slide = document.getElementById('f-cut-slide');
             slide.value = '50';
             slide.dispatchEvent(new Event('input', { bubbles: true }));",
        )
        .await;
    let moved = format!("document.querySelector('.tiles').textContent !== {before}");
    browser.until(&moved, SOON).await;
    browser.until("location.search.includes('cutoff_len=50')", SOON).await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
    browser.close().await;
}

/// Two clicks on Run the sample make one run.
#[tokio::test(flavor = "multi_thread")]
async fn a_double_click_makes_one_run() {
    let server = Server::start().await;
    let browser = Browser::open().await;
    browser.tab.goto(&server.url).await.unwrap();
    browser.script("const form = document.getElementById('run-sample').form; form.submit(); form.submit();").await;
    browser.until("location.pathname.startsWith('/runs/0')", SOON).await;
    let (_, list) = server.get("/api/v1/runs");
    assert_eq!(list["runs"].as_array().unwrap().len(), 1);
    let id = list["runs"][0]["id"].as_str().unwrap();
    server.wait_over(id, Duration::from_secs(120)).await;
    browser.close().await;
}

/// The list goes on past a page, and follows.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_pages_and_filters() {
    let server = Server::seeded(seed::many).await;
    let browser = Browser::open().await;
    browser.tab.goto(&format!("{}/runs", server.url)).await.unwrap();
    let names = "return [...document.querySelectorAll('.runs .name')].map((n) => n.textContent)";
    let mut seen = BTreeSet::new();
    for name in browser.script(names).await.as_array().unwrap() {
        assert!(seen.insert(name.to_string()));
    }
    assert_eq!(seen.len(), 50);
    browser.tab.find(Locator::Css(".more")).await.unwrap().click().await.unwrap();
    browser.until("location.search.includes('before')", SOON).await;
    for name in browser.script(names).await.as_array().unwrap() {
        assert!(seen.insert(name.to_string()));
    }
    assert_eq!(seen.len(), 60);
    browser.tab.goto(&format!("{}/runs?q=sweep+59", server.url)).await.unwrap();
    assert_eq!(browser.script(names).await, json!(["sweep 59"]));
    browser.close().await;
}

/// Without scripts the pages still say everything.
#[tokio::test(flavor = "multi_thread")]
async fn pages_read_without_scripts() {
    let server = Server::seeded(seed::three_states).await;
    let browser = Browser::open().await;
    browser.cdp("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    browser.tab.goto(&format!("{}{FINISHED}", server.url)).await.unwrap();
    let source = browser.tab.source().await.unwrap();
    for part in ["class=\"curve\"", "I am Tallow", "saved checkpoint-240", "Before training", "240"]
    {
        assert!(source.contains(part), "{part}");
    }
    assert!(source.contains("&lt;script&gt;alert(1)") && !source.contains("<script>alert(1)"));
    browser.close().await;
}

/// Everything that a first visit loads, as it goes over the wire: at most 80 KB.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_visit_is_light() {
    let server = Server::seeded(seed::three_states).await;
    for page in ["/runs", "/runs/new", "/datasets", "/datasets/sky", "/models", FINISHED] {
        let mut todo = vec![page.to_owned()];
        let mut seen = BTreeSet::new();
        let mut total = 0;
        while let Some(path) = todo.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let (status, head, body) =
                server.request(&format!("GET {path} HTTP/1.1\r\nAccept-Encoding: gzip\r\n"));
            assert_eq!(status, 200, "{path}");
            if path != page {
                total += body.len();
            }
            // the same again, to be read: what does it ask for?
            if head.contains("text/html") || path.ends_with(".js") || path.ends_with(".css") {
                let (_, _, plain) = server.request(&format!("GET {path} HTTP/1.1\r\n"));
                todo.extend(asked_for(&String::from_utf8(plain).unwrap(), &path));
            }
        }
        let twice =
            seen.iter().filter(|path| path.ends_with("app.js") || path.contains("/app.")).count();
        assert_eq!(twice, 2, "app.js and app.css have one name each: {seen:?}");
        assert!(total < 80 * 1024, "{page} loads {total} bytes: {seen:?}");
    }
}

/// Scripts, styles, icons and fonts that a text names.
fn asked_for(text: &str, path: &str) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut found = Vec::new();
    for (mark, end) in [("src=\"", '"'), ("href=\"", '"'), ("from './", '\''), ("url(\"", '"')] {
        for rest in text.split(mark).skip(1) {
            let name = rest.split([end, '#']).next().unwrap();
            if name.starts_with("/assets/") || name == "/favicon.svg" {
                found.push(name.to_owned());
            } else if mark == "from './" || (mark == "url(\"" && !name.contains(':')) {
                found.push(format!("{folder}/{name}"));
            }
        }
    }
    found
}
