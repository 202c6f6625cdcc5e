//! A real server on a port of its own, and the bytes of HTTP by hand: the tests decide over every header.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Nothing in these tests takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The data folder of a server, with a model folder and a data set in it.
pub struct Data {
    pub dir: TempDir,
}

impl Data {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("data/model")).unwrap();
        fs::write(dir.path().join("data/rows.json"), "[]").unwrap();
        let info = json!({"rows": {"file_name": "rows.json"}});
        fs::write(dir.path().join("data/dataset_info.json"), info.to_string()).unwrap();
        Self { dir }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("data")
    }

    /// Starts a server on it.
    pub fn serve(&self, args: &[&str]) -> Server {
        self.serve_with(args, |_| {})
    }

    /// Starts a server whose command is changed before.
    pub fn serve_with(&self, args: &[&str], change: impl FnOnce(&mut Command)) -> Server {
        let mut command = command(&self.path(), args);
        change(&mut command);
        Server::start(command)
    }
}

/// A running server; killed when dropped.
pub struct Server {
    pub child: Child,
    pub port: u16,
    pub greeting: Vec<String>,
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut greeting = Vec::new();
        let mut line = String::new();
        // the port is in the first line unless --public-url is given; the token comes last
        while stdout.read_line(&mut line).unwrap() > 0 {
            let text = std::mem::take(&mut line).trim().to_owned();
            let last = text.starts_with("ready");
            greeting.push(text);
            if last {
                break;
            }
        }
        let port = greeting
            .iter()
            .find_map(|line| line.strip_prefix("ready on port "))
            .unwrap()
            .parse()
            .unwrap();
        Self { child, port, greeting, _stdout: stdout }
    }

    /// A request as a script would send it.
    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let host = format!("localhost:{}", self.port);
        let headers = [("Host", host.as_str()), ("Content-Type", "application/json")];
        let text = body.map(Value::to_string).unwrap_or_default();
        self.raw(method, path, &headers, &text)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, Some(body))
    }

    /// A request with these headers and no others but its length.
    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut stream = self.open(method, path, headers, body);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Reply::parse(&bytes)
    }

    fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
        stream
    }

    /// The event stream of a run.
    pub fn events(&self, id: &str, after: i64) -> Events {
        let host = format!("localhost:{}", self.port);
        let path = format!("/runs/{id}/events?after={after}");
        let stream = self.open("GET", &path, &[("Host", &host)], "");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        let mut head = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            head += &std::mem::take(&mut line);
        }
        Events { reader, head: head.to_ascii_lowercase() }
    }

    /// A run of the fake worker's, by what it is to do.
    pub fn create(&self, name: &str) -> String {
        let reply = self.post("/api/v1/runs", &config(name));
        assert_eq!(reply.status, 201, "{}", reply.body);
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    pub fn run(&self, id: &str) -> Value {
        self.get(&format!("/api/v1/runs/{id}")).json()
    }

    /// Waits, by its event stream, until the run is as `wanted` says.
    pub fn until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut events = self.events(id, 0);
        loop {
            let run = self.run(id);
            if wanted(&run) {
                return run;
            }
            assert!(
                events.next().is_some() || wanted(&self.run(id)),
                "the stream ended with {run}"
            );
        }
    }

    pub fn until_status(&self, id: &str, status: &str) -> Value {
        self.until(id, |run| run["status"] == status)
    }

    pub fn signal(&self, signal: &str) {
        kill(self.child.id(), signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `tallow serve` on this data folder with the fake worker, on any free port.
pub fn command(data: &Path, args: &[&str]) -> Command {
    let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/fake_worker.sh");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallow"));
    command.args(["serve", "--port", "0", "--data-dir"]).arg(data).args(args);
    command.env("WORKER_BIN", worker).env("RUST_LOG", "warn").stdin(Stdio::null());
    command
}

/// Sends a signal to one process.
pub fn kill(pid: u32, signal: &str) {
    let done =
        Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().unwrap();
    assert!(done.success(), "kill -{signal} {pid}");
}

/// A configuration that the server takes.
pub fn config(name: &str) -> Value {
    json!({"model_name_or_path": "model", "dataset": "rows", "template": "qwen", "run_name": name})
}

/// What a server answered.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let chunked =
            headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if chunked { unchunk(body) } else { body.to_owned() };
        Self { status: status.unwrap_or(0), headers, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn unchunk(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        whole += &rest[..size];
        text = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// An open event stream.
pub struct Events {
    reader: BufReader<TcpStream>,
    pub head: String,
}

/// One event of it.
#[derive(Debug, Default, Clone)]
pub struct Event {
    pub name: String,
    pub id: Option<i64>,
    pub data: String,
}

impl Events {
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    }
}

impl Iterator for Events {
    type Item = Event;

    /// The next event; `None` where the server has ended the stream.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = self.line()?;
            // sizes of chunks and comments stand between the lines; an event ends where the next begins or a chunk ends
            match line.split_once(':') {
                Some(("event", value)) => event.name = value.trim().to_owned(),
                Some(("id", value)) => event.id = value.trim().parse().ok(),
                Some(("data", value)) => event.data = value.trim().to_owned(),
                _ if line.is_empty() && !event.name.is_empty() => return Some(event),
                _ => {}
            }
        }
    }
}
