//! The acceptance checks that want a browser; docs/acceptance.md says which test shows which of them.
//!
//! Workers tick (ticking_worker.sh) where it is about the page and not about training.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/million.rs"]
mod million;
#[path = "browser_support/proxy.rs"]
mod proxy;
#[path = "browser_support/seed.rs"]
mod seed;
#[path = "browser_support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fantoccini::key::Key;
use proxy::Proxy;
use serde_json::{Value, json};
use support::{Browser, SOON, Server, Theme, root};

const LIVE: &str = "document.querySelector('#link.s-live')";

/// The numbers of the worker's lines in the log.
const LINES: &str = "return [...document.querySelectorAll('#log p')].map((p) => /^line (\\d+)$/.exec(p.textContent)?.[1]).filter(Boolean).map(Number)";

fn at_least(step: u32) -> String {
    format!("Number(document.getElementById('plot-loss').dataset.last) >= {step}")
}

/// 3 and 4. The proxy answers 503, then the server is killed: the page says so, and afterwards it has everything once.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_catches_up_exactly() {
    let mut server = Server::ticking(seed::three_states).await;
    server.allow(20);
    let id = server.begin("steady");
    let proxy = Proxy::to(&server.url).await;
    let browser = Browser::open().await;
    browser.tab.goto(&format!("{}/runs/{id}", proxy.url)).await.unwrap();
    browser.until(&at_least(20), SOON).await;
    browser.until(LIVE, SOON).await;
    proxy.cut();
    server.allow(60);
    browser.until("document.querySelector('#link.s-reconnecting') && document.getElementById('link').textContent.length > 3", SOON).await;
    server.until_step(&id, 60).await;
    assert_eq!(browser.script(&format!("return {}", at_least(21))).await, json!(false));
    proxy.mend(&server.url);
    browser.until(&at_least(60), SOON).await;
    browser.until(LIVE, SOON).await;
    server.restart();
    server.allow(120);
    browser.until("document.querySelector('#link.s-reconnecting')", SOON).await;
    proxy.mend(&server.url);
    browser.until("document.querySelector('#pill.s-finished')", SOON).await;
    browser.until(&at_least(120), SOON).await;
    let all: Vec<u32> = (1..=120).collect();
    assert_eq!(browser.script(LINES).await, json!(all));
    let count = "return Number(document.getElementById('plot-loss').dataset.count)";
    assert_eq!(browser.script(count).await, json!(120));
    browser.close().await;
}

/// 3. A worker that is killed again and again is given up: the page says so and offers to resume; then the curve goes
/// on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_can_be_resumed_from_the_page() {
    let server = Server::ticking(seed::three_states).await;
    server.allow(15);
    let id = server.begin("steady");
    let browser = Browser::open().await;
    browser.tab.goto(&format!("{}/runs/{id}", server.url)).await.unwrap();
    browser.until(&at_least(15), SOON).await;
    let mut killed = BTreeSet::new();
    let over = "document.querySelector('#pill.s-failed, #pill.s-lost')";
    let start = Instant::now();
    while browser.script(&format!("return Boolean({over})")).await != json!(true) {
        let run = server.get(&format!("/api/v1/runs/{id}")).1;
        if let Some(pid) = run["worker_pid"].as_u64().filter(|pid| killed.insert(*pid)) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
        assert!(start.elapsed() < Duration::from_secs(90), "not given up: {run}");
        support::pause().await;
    }
    assert!(killed.len() > 1, "it is started again before it is given up");
    server.allow(120);
    browser.tab_to("form[action$=\"/resume\"] button").await;
    browser.press(&[Key::Enter]).await;
    browser.until("document.querySelector('#pill.s-finished')", SOON).await;
    browser.until(&at_least(120), SOON).await;
    let steps =
        server.get(&format!("/api/v1/runs/{id}/metrics?keys=loss")).1["loss"]["step"].clone();
    assert_eq!(steps, json!((1..=120).collect::<Vec<u32>>()));
    browser.close().await;
}

/// 5. Hidden tabs give their connection back: the eighth tab of a live run gets one.
#[tokio::test(flavor = "multi_thread")]
async fn the_eighth_tab_loads() {
    let server = Server::ticking(seed::three_states).await;
    server.allow(10);
    let id = server.begin("steady");
    let page = format!("{}/runs/{id}", server.url);
    let browser = Browser::open().await;
    let hide = "Object.defineProperty(document, 'hidden', { value: true, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));";
    for tab in 1..=8 {
        browser.size(1280, 900).await;
        browser.tab.goto(&page).await.unwrap();
        browser.until(&at_least(10), SOON).await;
        browser.until(LIVE, SOON).await;
        if tab < 8 {
            browser.script(hide).await;
            let next = browser.tab.new_window(true).await.unwrap();
            browser.tab.switch_to_window(next.handle).await.unwrap();
        }
    }
    // and it follows
    server.allow(120);
    browser.until("document.querySelector('#pill.s-finished')", SOON).await;
    browser.close().await;
}

/// 6. The queue by keyboard alone: paused, put in order, let go; a failed run does not stop the next.
#[tokio::test(flavor = "multi_thread")]
async fn the_queue_by_keyboard() {
    let server = Server::ticking(seed::three_states).await;
    server.allow(10);
    let browser = Browser::open().await;
    browser.tab.goto(&format!("{}/queue", server.url)).await.unwrap();
    browser.tab_to("#pause").await;
    browser.press(&[Key::Enter]).await;
    browser.until("document.getElementById('paused')", SOON).await;
    let ids = ["steady", "last", "bad"].map(|name| server.begin(name));
    let names = "[...document.querySelectorAll('#waiting .line-name a')].map((a) => a.textContent).join(' ')";
    browser.until(&format!("{names} === 'steady last bad'"), SOON).await;
    // up with the button, then with Alt and the arrow
    browser.tab_to(&format!("#up-{}", ids[2])).await;
    browser.press(&[Key::Enter]).await;
    browser.until(&format!("{names} === 'steady bad last'"), SOON).await;
    browser.until(&format!("document.activeElement.id === 'up-{}'", ids[2]), SOON).await;
    browser.press(&[Key::Alt, Key::Up]).await;
    browser.until(&format!("{names} === 'bad steady last'"), SOON).await;
    let spoken = "document.getElementById('say').textContent";
    browser.until(&format!("{spoken}.includes('1')"), SOON).await;
    let waiting = server.get("/api/v1/queue").1["waiting"].clone();
    let order: Vec<Value> =
        waiting.as_array().unwrap().iter().map(|one| one["run"]["name"].clone()).collect();
    assert_eq!(order, ["bad", "steady", "last"]);
    browser.tab.refresh().await.unwrap();
    browser.tab_to("#pause").await;
    browser.press(&[Key::Enter]).await;
    // the first fails, the second runs, the third waits and says why
    browser.until("document.querySelector('.lines .pill.s-failed')", SOON).await;
    browser.until(&format!("{names} === 'last'"), SOON).await;
    browser.until("document.querySelector('#waiting .why').textContent.length > 5", SOON).await;
    browser.until("document.querySelector('.lines .pill.s-running')", SOON).await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
    browser.close().await;
}

/// A file that is dropped anywhere on the page becomes a data set.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_dropped() {
    let server = Server::start().await;
    let browser = Browser::open().await;
    browser.tab.goto(&format!("{}/datasets", server.url)).await.unwrap();
    browser
        .until("document.documentElement.classList.contains('js') && document.ondrop", SOON)
        .await;
    browser
        .script(
            "const data = new DataTransfer();
             data.items.add(new File(['{\"instruction\": \"Who?\", \"output\": \"I.\"}\\n'.repeat(3)], 'dropped.jsonl'));
             document.querySelector('h1').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));",
        )
        .await;
    browser.until("location.pathname === '/datasets/dropped'", SOON).await;
    let rows = server.get("/api/v1/datasets/dropped/rows").1;
    assert_eq!(rows["total"], json!(3), "{rows}");
    assert_eq!(browser.errors().await, Vec::<String>::new());
    browser.close().await;
}

/// 7. A double click on Start is one run.
#[tokio::test(flavor = "multi_thread")]
async fn a_double_click_on_start_is_one_run() {
    let server = Server::ticking(seed::three_states).await;
    server.allow(3);
    let browser = Browser::open().await;
    let form =
        "/runs/new?model_name_or_path=models/sample&dataset=sky&template=qwen&run_name=twice";
    browser.tab.goto(&format!("{}{form}", server.url)).await.unwrap();
    browser.until("document.querySelector('#start:not([data-blocked])')", SOON).await;
    browser
        .until(
            "document.querySelector('#memory') && !document.querySelector('#plan[aria-busy]')",
            SOON,
        )
        .await;
    browser.double_click("#start").await;
    browser.until("location.pathname.startsWith('/runs/0')", SOON).await;
    let (_, list) = server.get("/api/v1/runs?q=twice");
    assert_eq!(list["runs"].as_array().unwrap().len(), 1, "{list}");
    browser.close().await;
}

/// 9. One high value among a million is seen with all of them on the screen; `--nocapture` prints how long it takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_spike_in_a_million_points_is_seen() {
    let server = Server::seeded(async |dir: &Path| {
        tallow::db::Db::open(&dir.join("tallow.db")).await.unwrap().close().await;
        million::write(dir, &million::a_million_points()).await;
    })
    .await;
    let browser = Browser::open().await;
    let start = Instant::now();
    browser.tab.goto(&format!("{}/runs/{}", server.url, million::LONG)).await.unwrap();
    browser.until("document.querySelector('#plot-loss .u-over')", SOON).await;
    let painted = "performance.getEntriesByType('paint').map((p) => `${p.name} ${Math.round(p.startTime)} ms`).join(', ')";
    println!(
        "{}; curves after {:?}",
        browser.script(&format!("return {painted}")).await,
        start.elapsed()
    );
    // the band reaches up to the spike: something is drawn in the upper half, where it is and nowhere else
    let share = million::SPIKE as f64 / million::POINTS as f64;
    let drawn = format!(
        "const canvas = document.querySelector('#plot-loss canvas'), over = document.querySelector('#plot-loss .u-over');
         const box = canvas.getBoundingClientRect(), field = over.getBoundingClientRect(), scale = canvas.width / box.width;
         const ink = (share) => {{
           const x = (field.left - box.left + share * field.width) * scale, y = (field.top - box.top) * scale;
           const strip = canvas.getContext('2d').getImageData(x - 4, y + 0.15 * field.height * scale, 8, 0.4 * field.height * scale).data;
           let lines = 0;
           for (let i = 0; i < strip.length; i += 4) if (strip[i + 3] > 60 && strip[i + 2] > strip[i] + 40) lines += 1;
           return lines;
         }};
         return [ink({share}), ink(0.3)];"
    );
    let ink = browser.script(&drawn).await;
    assert!(ink[0].as_u64().unwrap() > 20 && ink[1] == json!(0), "{ink}");
    // from the end of the drag to the frame after the first and after the finer drawing, by the browser's own clock
    let clock = "const box = document.getElementById('plot-loss'), over = box.querySelector('.u-over');
         window.zoomed = {};
         const mark = (name) => requestAnimationFrame(() => setTimeout(() => { zoomed[name] = Math.round(performance.now() - zoomed.from); }));
         addEventListener('mouseup', () => { zoomed.from = performance.now(); }, true);
         const scale = CanvasRenderingContext2D.prototype.clearRect;
         CanvasRenderingContext2D.prototype.clearRect = function (...all) {
           if (zoomed.from && !zoomed.asked && box.contains(this.canvas)) { zoomed.asked = true; mark('rescaled'); }
           return scale.apply(this, all);
         };
         new MutationObserver(() => {
           if (Number(box.dataset.last) < 710000 && !zoomed.seen) { zoomed.seen = true; mark('finer'); }
         }).observe(box, { attributes: true, attributeFilter: ['data-last'] });";
    browser.script(clock).await;
    browser.drag("#plot-loss .u-over", 0.6, 0.7).await;
    browser.until("location.search.includes('from=')", SOON).await;
    browser.until("zoomed.rescaled && zoomed.finer", SOON).await;
    let zoomed = browser.script("return zoomed").await;
    println!("zoom: rescaled after {} ms, finer after {} ms", zoomed["rescaled"], zoomed["finer"]);
    assert!(zoomed["rescaled"].as_u64() <= zoomed["finer"].as_u64(), "{zoomed}");
    browser.close().await;
}

/// 11. The sample run with the keyboard alone: started, its curve read out, stopped.
#[tokio::test(flavor = "multi_thread")]
async fn the_sample_run_by_keyboard() {
    let server = Server::start().await;
    let browser = Browser::open().await;
    browser.tab.goto(&server.url).await.unwrap();
    browser.tab_to("#run-sample").await;
    browser.press(&[Key::Enter]).await;
    browser.until("location.pathname.startsWith('/runs/0')", SOON).await;
    browser.until(&at_least(3), Duration::from_secs(90)).await;
    browser.tab_to("#plot-loss").await;
    let spoken = "document.getElementById('say').textContent";
    browser.press(&[Key::Home]).await;
    browser.until(&format!("{spoken}.includes('step 1,')"), SOON).await;
    browser.press(&[Key::Right]).await;
    browser.until(&format!("{spoken}.includes('step 2,')"), SOON).await;
    browser.tab.refresh().await.unwrap();
    browser.tab_to("form[action$=\"/stop\"] .danger").await;
    // what has the focus shows it
    let ring = "return getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.script(ring).await, json!("solid"));
    browser.press(&[Key::Enter]).await;
    browser.until("document.querySelector('#pill.s-stopped')", SOON).await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
    browser.close().await;
}

/// 11. What is written on the canvas, which axe cannot see, has enough contrast in both themes.
#[tokio::test(flavor = "multi_thread")]
async fn the_writing_of_charts_can_be_read() {
    let server = Server::seeded(seed::three_states).await;
    let browser = Browser::open().await;
    for theme in Theme::BOTH {
        browser.theme(theme).await;
        browser.tab.goto(&format!("{}/runs/{}", server.url, seed::FINISHED)).await.unwrap();
        browser.until("document.querySelector('#plot-loss .u-over')", SOON).await;
        let contrast = browser
            .script(
                "const canvas = document.querySelector('#plot-loss canvas'), over = document.querySelector('#plot-loss .u-over');
                 const side = (over.getBoundingClientRect().left - canvas.getBoundingClientRect().left) * canvas.width / canvas.getBoundingClientRect().width;
                 const sheet = Object.assign(document.createElement('canvas'), { width: side, height: canvas.height }).getContext('2d');
                 sheet.fillStyle = getComputedStyle(canvas.closest('.card')).backgroundColor;
                 sheet.fillRect(0, 0, side, canvas.height);
                 const light = (r, g, b) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
                 const ground = light(...sheet.getImageData(0, 0, 1, 1).data);
                 sheet.drawImage(canvas, 0, 0);
                 const { data } = sheet.getImageData(0, 0, side, canvas.height);
                 let best = 1;
                 for (let i = 0; i < data.length; i += 4) {
                   const ink = light(data[i], data[i + 1], data[i + 2]);
                   best = Math.max(best, (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05));
                 }
                 return best;",
            )
            .await;
        assert!(contrast.as_f64().unwrap() >= 4.5, "{theme:?}: {contrast}");
    }
    browser.close().await;
}

/// 15. Each field of the form is an argument of the command, of the API and of the documentation.
#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_known_everywhere() {
    let server = Server::start().await;
    let page = String::from_utf8(server.request("GET /runs/new HTTP/1.1\r\n").2).unwrap();
    let fields: BTreeSet<&str> =
        page.split("data-field=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(fields.len() > 80, "{fields:?}");
    let help =
        Command::new(env!("CARGO_BIN_EXE_tallow")).args(["train", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let docs = std::fs::read_to_string(root().join("docs/arguments.md")).unwrap();
    let api = server.get("/api/v1/fields").1.to_string();
    let description = server.get("/api/v1/openapi.json").1;
    for field in fields {
        assert!(
            help.contains(&format!("--{field} ")) || help.contains(&format!("--{field}\n")),
            "--help: {field}"
        );
        assert!(docs.contains(&format!("`{field}`")), "docs/arguments.md: {field}");
        let schema =
            description.pointer(&format!("/components/schemas/RunConfig/properties/{field}"));
        assert!(schema.is_some(), "OpenAPI: {field}");
        assert!(api.contains(&format!("\"{field}\"")), "/api/v1/fields: {field}");
    }
}

/// 16. On a phone the live page can be read, and the run be stopped with a finger.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_run_on_a_phone() {
    let server = Server::ticking(seed::three_states).await;
    server.allow(30);
    let id = server.begin("steady");
    let browser = Browser::open().await;
    browser.size(375, 812).await;
    browser.tab.goto(&format!("{}/runs/{id}", server.url)).await.unwrap();
    browser.until(&at_least(30), SOON).await;
    let seen = browser
        .script(
            "const inside = (e) => { const { left, right, width, height } = e.getBoundingClientRect(); return left >= 0 && right <= 375 && width >= 24 && height >= 24; };
             const cut = (e) => e.scrollWidth > e.clientWidth;
             return [document.documentElement.scrollWidth, [...document.querySelectorAll('#actions button')].every(inside),
               [...document.querySelectorAll('.readings dd')].filter(cut).map((e) => e.textContent), inside(document.getElementById('plot-loss'))];",
        )
        .await;
    assert_eq!(seen, json!([375, true, [], true]));
    let stop = "form[action$='/stop'] .danger";
    let top = format!("return document.querySelector(\"{stop}\").getBoundingClientRect().bottom");
    assert!(browser.script(&top).await.as_f64().unwrap() <= 812.0, "without scrolling");
    browser.tab.find(fantoccini::Locator::Css(stop)).await.unwrap().click().await.unwrap();
    browser.until("document.querySelector('#pill.s-stopped')", SOON).await;
    browser.close().await;
}

/// docs/acceptance.md names tests that exist, for every check.
#[test]
fn every_check_names_its_tests() {
    let text = std::fs::read_to_string(root().join("docs/acceptance.md")).unwrap();
    let mut checks = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let Ok(number) = line[2..].split(' ').next().unwrap().parse::<u32>() else { continue };
        let named: Vec<&str> =
            line.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        assert!(!named.is_empty(), "check {number} names no test");
        for name in named {
            let (file, test) = name.split_once("::").unwrap();
            let path = match file.split_once('/') {
                Some(_) => root().join(file).with_extension("rs"),
                None => root().join("tests").join(file).with_extension("rs"),
            };
            let source = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(source.contains(&format!("fn {test}()")), "check {number}: no test {name}");
        }
        checks.insert(number);
    }
    assert_eq!(checks, (1..=16).collect());
}

/// Keys of one letter lead to the places, are told in the settings, and can be switched off there.
#[tokio::test(flavor = "multi_thread")]
async fn shortcuts_can_be_switched_off() {
    let server = Server::start().await;
    let browser = Browser::open().await;
    let press = "for (const key of ['g', 'q']) document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));";
    let settings = format!("{}/settings", server.url);
    browser.tab.goto(&settings).await.unwrap();
    browser.until("document.querySelector('#keys:checked')", SOON).await;
    let told =
        "return [...document.querySelectorAll('.keys dt')].map((key) => key.textContent).join(' ')";
    assert_eq!(browser.script(told).await, json!("n / gr gd gm gq gs ge ?"));
    browser.script(press).await;
    browser.until("location.pathname === '/queue'", SOON).await;
    browser.tab.goto(&settings).await.unwrap();
    browser.until("document.querySelector('#keys:checked')", SOON).await;
    browser.script(&format!("document.getElementById('keys').click(); {press}")).await;
    browser.tab.refresh().await.unwrap();
    browser.until("document.querySelector('#keys:not(:checked)')", SOON).await;
    assert_eq!(browser.script("return location.pathname").await, json!("/settings"));
    browser.close().await;
}
