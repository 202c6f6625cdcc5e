//! Measures the dashboard: `cargo run --release --example dashboard -- lists|curves|viewers [COUNT]`.
//!
//! - `lists`: 10,000 runs, listed, searched and filtered. `curves`: a run of a million points, whole and zoomed.
//! - `viewers`: so many (1000) event streams of one run that trains on one thread: how late events come, what the server's
//!   memory grows by, how much slower the training is, and how much of the processor each process takes.
//!
//! Times are told and nothing is asserted: the tests assert what is shown, this tells how fast. The server is
//! `target/release/tallow` beside this program, or $TALLOW.
#![allow(clippy::unwrap_used, reason = "a measurement that fails may panic")]

#[path = "../../tests/support/seed.rs"]
mod seed;
mod viewers;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server on a folder of its own; killed when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(data: &Path) -> Self {
        let beside = std::env::current_exe().unwrap().with_file_name("../tallow");
        let binary = std::env::var_os("TALLOW").map_or(beside, PathBuf::from);
        let mut child = Command::new(binary)
            .args(["serve", "--port", "0", "--data-dir"])
            .arg(data)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            line.strip_prefix("ready on port ").and_then(|port| port.parse().ok())
        });
        Self { child, port: port.unwrap() }
    }

    /// The body of an answer.
    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
        body.to_owned()
    }

    /// Asks for each path and tells the median and the slowest but one in twenty.
    fn time(&self, what: &str, paths: impl Iterator<Item = String>) {
        let times = paths.map(|path| {
            let began = Instant::now();
            self.ask("GET", &path, "");
            began.elapsed()
        });
        let mut times: Vec<Duration> = times.collect();
        times.sort();
        let (median, p95) = (percentile(&times, 50), percentile(&times, 95));
        println!("{what:32} median {median:9.1?}   p95 {p95:9.1?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len() - 1)).copied().unwrap_or_default()
}

fn lists(data: &Path) {
    let server = Server::start(data);
    seed::fill(data, &[seed::ten_thousand_runs()]);
    for (what, query) in [
        ("list", ""),
        ("search", "q=sweep+{n}"),
        ("search without a hit", "q=nothing+{n}"),
        ("filter", "model=/models/m3&dataset=d4&status=failed"),
        ("filter by a rare tag", "tag=rare"),
        ("a page in the middle", "before=01JZ0000000000000000005000"),
    ] {
        let path = |n: i32| format!("/runs?{}", query.replace("{n}", &n.to_string()));
        server.time(what, (1000..1100).map(path));
    }
}

fn curves(data: &Path) {
    let server = Server::start(data);
    seed::fill(data, &seed::a_million_points());
    let (run, spike) = (seed::LONG, seed::SPIKE);
    let keys = "loss,eval_loss,lr,grad_norm,tokens_per_s";
    let window = |half: i64| {
        let (x0, x1) = ((spike - half).max(1), spike + half);
        format!("/api/v1/runs/{run}/metrics?keys={keys}&x0={x0}&x1={x1}")
    };
    server.time("first paint: the page", (0..20).map(|_| format!("/runs/{run}")));
    let all = format!("/api/v1/runs/{run}/metrics?keys={keys}");
    server.time("first paint: the curves", (0..20).map(|_| all.clone()));
    for half in [400_000, 100_000, 45_000, 5_000] {
        server.time(&format!("zoom to {} steps", 2 * half), (0..20).map(|_| window(half)));
    }
    server.time("best and last of it", (0..10).map(|_| format!("/api/v1/compare?runs={run}")));
}

fn main() {
    let mut words = std::env::args().skip(1);
    let folder = tempfile::tempdir().unwrap();
    let count = |word: Option<String>| word.and_then(|word| word.parse().ok()).unwrap_or(1000);
    match words.next().as_deref() {
        Some("lists") => lists(folder.path()),
        Some("curves") => curves(folder.path()),
        Some("viewers") => viewers::measure(folder.path(), count(words.next())),
        _ => eprintln!("dashboard lists|curves|viewers [COUNT]"),
    }
}
