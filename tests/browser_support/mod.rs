//! What the browser tests stand on: a server in a folder of its own, a headless Chromium, axe.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::actions::{
    InputSource, KeyAction, KeyActions, MOUSE_BUTTON_LEFT, MouseActions, PointerAction,
};
use fantoccini::key::Key;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};

/// Longest wait for anything but a training run.
pub const SOON: Duration = Duration::from_secs(30);

/// `tallow serve` on a free port and an empty data folder.
pub struct Server {
    child: Child,
    _out: Lines<BufReader<ChildStdout>>,
    pub url: String,
    pub dir: tempfile::TempDir,
    worker: Option<PathBuf>,
}

impl Server {
    /// Starts one on a folder that `seed` has filled.
    pub async fn seeded(seed: impl AsyncFnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        seed(dir.path()).await;
        Self::on(dir, None)
    }

    /// The same with workers that tick and train nothing (ticking_worker.sh).
    pub async fn ticking(seed: impl AsyncFnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        seed(dir.path()).await;
        Self::on(dir, Some(root().join("tests/browser_support/ticking_worker.sh")))
    }

    fn on(dir: tempfile::TempDir, worker: Option<PathBuf>) -> Self {
        let (child, port, out) = serve(dir.path(), worker.as_deref());
        Self { child, _out: out, url: format!("http://127.0.0.1:{port}"), dir, worker }
    }

    /// Kills the server and starts another on the same folder, at another port.
    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let (child, port, out) = serve(self.dir.path(), self.worker.as_deref());
        (self.child, self._out) = (child, out);
        self.url = format!("http://127.0.0.1:{port}");
    }

    /// How far ticking workers may go; they wait there.
    pub fn allow(&self, steps: u32) {
        std::fs::write(self.dir.path().join("allowed"), steps.to_string()).unwrap();
    }

    /// Starts a run with the seeded model and rows; its id.
    pub fn begin(&self, name: &str) -> String {
        let config = json!({"model_name_or_path": "models/sample", "dataset": "sky", "template": "qwen", "run_name": name});
        let (status, run) = self.post("/api/v1/runs", &config);
        assert_eq!(status, 201, "{run}");
        run["id"].as_str().unwrap().to_owned()
    }

    /// POST of JSON: status and body.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let host = self.url.strip_prefix("http://").unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, _, body) = exchange(host, &head);
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Starts one on an empty folder.
    pub async fn start() -> Self {
        Self::seeded(async |_| {}).await
    }

    /// GET of a path: status and body, as JSON where it is.
    pub fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.request(&format!("GET {path} HTTP/1.1\r\n"));
        (
            status,
            serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body))),
        )
    }

    /// One request by hand: status, head, and the bytes that came over the wire (chunk frames taken off).
    pub fn request(&self, head: &str) -> (u16, String, Vec<u8>) {
        let host = self.url.strip_prefix("http://").unwrap();
        exchange(host, &format!("{head}Host: {host}\r\nConnection: close\r\n\r\n"))
    }

    /// Waits until a run has come so far.
    pub async fn until_step(&self, id: &str, step: u64) {
        let start = Instant::now();
        while self.get(&format!("/api/v1/runs/{id}")).1["step"].as_u64() < Some(step) {
            assert!(start.elapsed() < SOON, "step {step} is not reached");
            pause().await;
        }
    }

    /// Waits until a run is over and gives it as the API shows it.
    pub async fn wait_over(&self, id: &str, longest: Duration) -> Value {
        let start = Instant::now();
        loop {
            let run = self.get(&format!("/api/v1/runs/{id}")).1;
            if !matches!(run["status"].as_str(), Some("queued" | "running" | "stopping")) {
                return run;
            }
            assert!(start.elapsed() < longest, "not over after {longest:?}: {run}");
            pause().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request; status, head and body of the answer.
fn exchange(host: &str, request: &str) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let cut = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..cut]).to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = &answer[cut + 4..];
    let body =
        if head.contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_vec() };
    (status, head, body)
}

fn serve(dir: &Path, worker: Option<&Path>) -> (Child, u16, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallow"));
    command.args(["serve", "--port", "0", "--data-dir"]).arg(dir);
    if let Some(worker) = worker {
        command.env("WORKER_BIN", worker);
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (port, out) = find_port(child.stdout.take().unwrap(), "http://localhost:", "").unwrap();
    (child, port, out)
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size =
            usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
    body
}

/// The number between `before` and `after` in the first line that has both. The pipe comes back: who writes into a closed
/// one may die of it.
fn find_port(
    out: ChildStdout,
    before: &str,
    after: &str,
) -> Option<(u16, Lines<BufReader<ChildStdout>>)> {
    let mut lines = BufReader::new(out).lines();
    for line in lines.by_ref().map_while(Result::ok) {
        let Some((_, rest)) = line.split_once(before) else {
            continue;
        };
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if rest[digits.len()..].starts_with(after) && !digits.is_empty() {
            return Some((digits.parse().unwrap(), lines));
        }
    }
    None
}

/// Lets others work for a moment; a wait always looks at something between two of these.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// A headless Chromium with a profile of its own.
pub struct Browser {
    pub tab: Client,
    driver: Child,
    _out: Lines<BufReader<ChildStdout>>,
    _profile: tempfile::TempDir,
}

fn driver() -> Option<(Child, u16, Lines<BufReader<ChildStdout>>)> {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("chromedriver: {error}; apt-get install -y chromium chromium-driver")
        });
    match find_port(driver.stdout.take().unwrap(), "on port ", ".") {
        Some((port, out)) => Some((driver, port, out)),
        None => {
            let _ = driver.kill();
            let _ = driver.wait();
            None
        }
    }
}

/// Light or dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    Light,
    Dark,
}

impl Theme {
    pub const BOTH: [Self; 2] = [Self::Light, Self::Dark];

    pub fn word(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

impl Browser {
    pub async fn open() -> Self {
        // a driver that finds its free port taken in the meantime ends: the next one finds another
        let (driver, port, out) = (0..10).find_map(|_| driver()).unwrap();
        let profile = tempfile::tempdir().unwrap();
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ]
        .map(str::to_owned)
        .into();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let wanted = json!({
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        });
        let tab = ClientBuilder::native()
            .capabilities(wanted.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        let browser = Self { tab, driver, _out: out, _profile: profile };
        browser.size(1280, 900).await;
        browser
    }

    /// A command of Chromium's own protocol.
    pub async fn cdp(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.tab.issue_cmd(Raw { path: "goog/cdp/execute", body }).await.unwrap()
    }

    pub async fn size(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.cdp("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// What the system is said to want.
    pub async fn theme(&self, theme: Theme) {
        let features = json!([{ "name": "prefers-color-scheme", "value": theme.word() }]);
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    pub async fn script(&self, code: &str) -> Value {
        self.tab.execute(code, Vec::new()).await.unwrap()
    }

    /// Presses keys one after the other while the first ones stay down: `[Key::Alt, Key::Up]`.
    pub async fn press(&self, keys: &[Key]) {
        let mut actions = KeyActions::new("keyboard".to_owned());
        for key in keys {
            actions = actions.then(KeyAction::Down { value: char::from(*key) });
        }
        for key in keys.iter().rev() {
            actions = actions.then(KeyAction::Up { value: char::from(*key) });
        }
        self.tab.perform_actions(actions).await.unwrap();
    }

    /// Presses Tab until the element that matches has the focus.
    pub async fn tab_to(&self, selector: &str) {
        let there = format!("return document.activeElement.matches('{selector}')");
        for _ in 0..120 {
            self.press(&[Key::Tab]).await;
            if self.script(&there).await == json!(true) {
                return;
            }
        }
        panic!("{selector} is not reached with Tab");
    }

    /// A real double click in the middle of an element.
    pub async fn double_click(&self, selector: &str) {
        let element = self.tab.find(Locator::Css(selector)).await.unwrap();
        let to = PointerAction::MoveToElement { element, duration: None, x: 0.0, y: 0.0 };
        let mut actions = MouseActions::new("mouse".to_owned()).then(to);
        for _ in 0..2 {
            actions = actions.then(PointerAction::Down { button: MOUSE_BUTTON_LEFT });
            actions = actions.then(PointerAction::Up { button: MOUSE_BUTTON_LEFT });
        }
        self.tab.perform_actions(actions).await.unwrap();
    }

    /// Draws the mouse over an element, from one share of its width to another.
    pub async fn drag(&self, selector: &str, from: f64, to: f64) {
        let width = format!("return document.querySelector('{selector}').clientWidth");
        let width = self.script(&width).await.as_f64().unwrap();
        let element = self.tab.find(Locator::Css(selector)).await.unwrap();
        let at = |share: f64| PointerAction::MoveToElement {
            element: element.clone(),
            duration: Some(Duration::from_millis(50)),
            x: (share - 0.5) * width,
            y: 0.0,
        };
        let actions = MouseActions::new("mouse".to_owned())
            .then(at(from))
            .then(PointerAction::Down { button: MOUSE_BUTTON_LEFT })
            .then(at(f64::midpoint(from, to)))
            .then(at(to))
            .then(PointerAction::Up { button: MOUSE_BUTTON_LEFT });
        self.tab.perform_actions(actions).await.unwrap();
    }

    /// Waits until the expression is true.
    pub async fn until(&self, expression: &str, longest: Duration) {
        let start = Instant::now();
        while self.script(&format!("return Boolean({expression})")).await != json!(true) {
            assert!(start.elapsed() < longest, "not so after {longest:?}: {expression}");
            pause().await;
        }
    }

    /// Errors of the console since the last call.
    pub async fn errors(&self) -> Vec<String> {
        let lines = self
            .tab
            .issue_cmd(Raw { path: "se/log", body: json!({ "type": "browser" }) })
            .await
            .unwrap();
        let severe = lines
            .as_array()
            .unwrap()
            .iter()
            .filter(|line| line["level"] == "SEVERE" || line["level"] == "WARNING");
        // It says how slow the machine is, and nothing about the page: the font is used as soon as it is drawn.
        let slow = "was preloaded using link preload but not used within a few seconds";
        let messages = severe.map(|line| line["message"].as_str().unwrap_or_default().to_owned());
        messages.filter(|message| !message.contains(slow)).collect()
    }

    /// What axe finds against WCAG 2.2 AA on the page as it is.
    pub async fn axe(&self) -> Vec<String> {
        let axe = std::fs::read_to_string(root().join("tests/vendor/axe.min.js")).unwrap();
        self.script(&format!("{axe}; window.axe = axe;")).await;
        let code = "const [done] = arguments;
            const levels = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'];
            axe.run(document, { runOnly: levels })
              .then(({ violations }) => done(violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html} ${n.failureSummary}`))))
              .catch((error) => done([String(error)]));";
        let found = self.tab.execute_async(code, Vec::new()).await.unwrap();
        found
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Waits until the page at that path is as it will stay.
    pub async fn settle(&self, path: &str) {
        self.until("document.readyState === 'complete'", SOON).await;
        self.script("return document.fonts.ready.then(() => true)").await;
        if path.starts_with("/runs/0") && !path.contains("tab=") || path.contains("/compare?") {
            self.until("document.querySelector('#plot-loss .u-over')", SOON).await;
        }
        if path.starts_with("/runs/new") {
            self.until("document.querySelector('#yaml').textContent && !document.querySelector('#plan[aria-busy]')", SOON).await;
        }
        self.until("!document.querySelector('.spin')", SOON).await;
        // charts learn their size with the next frame
        self.script("return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))").await;
    }

    /// The page as a picture in WebP, as high as it is but no higher than `highest`.
    pub async fn picture(&self, wide: u32, highest: u32) -> Vec<u8> {
        let high = self.script("return document.documentElement.scrollHeight").await;
        let high = u32::try_from(high.as_u64().unwrap()).unwrap();
        self.size(wide, high.min(highest)).await;
        self.script("return new Promise((done) => setTimeout(done, 300))").await;
        let format = json!({ "format": "webp", "quality": 60 });
        let picture = self.cdp("Page.captureScreenshot", format).await;
        decode(picture["data"].as_str().unwrap())
    }

    pub async fn close(self) {
        let _ = self.tab.clone().close().await;
    }
}

impl Drop for Browser {
    /// After a failed test Chromium is still there: the driver's whole process group goes.
    fn drop(&mut self) {
        let _ =
            Command::new("kill").args(["-KILL", "--", &format!("-{}", self.driver.id())]).status();
        let _ = self.driver.wait();
    }
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Base64, the one thing a picture needs.
fn decode(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut have) = (0_u32, 0);
    for value in text.bytes().filter_map(|byte| ALPHABET.iter().position(|known| *known == byte)) {
        bits = (bits << 6) | u32::try_from(value).unwrap();
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push(u8::try_from((bits >> have) & 0xff).unwrap());
        }
    }
    bytes
}

/// A POST that is in Chromium's driver and not in the standard.
#[derive(Debug)]
struct Raw {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Raw {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _url: &url::Url) -> (axum::http::Method, Option<String>) {
        (axum::http::Method::POST, Some(self.body.to_string()))
    }
}
