//! Many event streams of one run: delay, memory, and what the training loses.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Server, percentile};

/// How long each part is watched.
const PART: Duration = Duration::from_secs(20);

/// Milliseconds since 1970: the clock that the worker writes into its events.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// KiB of memory that a process has in use.
fn resident(pid: u32) -> i64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// A run on one thread that logs about once a second, and the steps that it does between two events.
fn start(server: &Server, every: u64) -> String {
    let config = json!({
        "model_name_or_path": "demo-model", "dataset": "demo", "dataset_dir": "demo", "template": "chatml",
        "finetuning_type": "full", "max_steps": 1_000_000, "logging_steps": every, "save_strategy": "no",
        "cutoff_len": 128, "per_device_train_batch_size": 4, "run_name": "watched", "threads": 1,
    });
    let made = server.ask("POST", "/api/v1/runs", &config.to_string());
    let made: Value = serde_json::from_str(&made).unwrap();
    made["id"].as_str().unwrap().to_owned()
}

fn run(server: &Server, id: &str) -> Value {
    serde_json::from_str(&server.ask("GET", &format!("/api/v1/runs/{id}"), "")).unwrap()
}

/// Steps a second over a part, by the worker's own clock.
fn pace(server: &Server, id: &str) -> f64 {
    let at = || {
        let run = run(server, id);
        (run["step"].as_f64().unwrap_or(0.0), run["elapsed_s"].as_f64().unwrap_or(0.0))
    };
    let before = at();
    std::thread::sleep(PART);
    let after = at();
    (after.0 - before.0) / (after.1 - before.1)
}

/// Follows a run and notes how late each point came.
async fn follow(port: u16, id: String, from: i64, late: Arc<Mutex<Vec<Duration>>>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head =
        format!("GET /runs/{id}/events?after={from} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut lines = BufReader::with_capacity(1024, stream).lines();
    let mut metric = false;
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(kind) = line.strip_prefix("event: ") {
            metric = kind == "metric";
        }
        let Some(data) = line.strip_prefix("data: ").filter(|_| metric) else {
            continue;
        };
        let now = now_ms();
        let points: Vec<Value> = serde_json::from_str(data).unwrap_or_default();
        let delays = points.iter().filter_map(|point| point["at_ms"].as_i64());
        let delays = delays.map(|at| Duration::from_millis((now - at).max(0).unsigned_abs()));
        late.lock().unwrap().extend(delays);
    }
}

pub(super) fn measure(data: &Path, count: usize) {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo");
    copy(&demo, &data.join("demo"));
    copy(&demo.join("model"), &data.join("demo-model"));
    let server = Server::start(data);
    // how many steps a second are there?
    let probe = start(&server, 1);
    let began = Instant::now();
    while run(&server, &probe)["step"].as_i64().unwrap_or(0) < 30 && began.elapsed() < PART * 3 {
        std::thread::sleep(Duration::from_millis(200));
    }
    let every = pace(&server, &probe).max(1.0).round();
    server.ask("POST", &format!("/api/v1/runs/{probe}/stop"), r#"{"mode": "now"}"#);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let id = start(&server, every as u64);
    while run(&server, &id)["step"].as_i64().unwrap_or(0) == 0 {
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("logging every {every} steps, on one thread");
    let alone = pace(&server, &id);
    let before = resident(server.child.id());
    let late = Arc::new(Mutex::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let from = run(&server, &id)["seq"].as_i64().unwrap_or(0);
    let port = server.port;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let client = {
        let (id, late) = (id.clone(), late.clone());
        std::thread::spawn(move || {
            runtime.block_on(async {
                for _ in 0..count {
                    tokio::spawn(follow(port, id.clone(), from, late.clone()));
                }
                let _ = stopped.await;
            });
        })
    };
    std::thread::sleep(Duration::from_secs(3)); // all of them are connected
    late.lock().unwrap().clear();
    let watched = pace(&server, &id);
    let grown = resident(server.child.id()) - before;
    let mut late = std::mem::take(&mut *late.lock().unwrap());
    let _ = stop.send(());
    client.join().unwrap();
    let again = pace(&server, &id);
    late.sort();
    let alone = f64::midpoint(alone, again);
    println!(
        "{count} viewers, {} points seen ({:.1} a second each)",
        late.len(),
        late.len() as f64 / count as f64 / PART.as_secs_f64()
    );
    if !late.is_empty() {
        let at = |percent| percentile(&late, percent);
        println!("delay         median {:.0?}, p95 {:.0?}, p99 {:.0?}", at(50), at(95), at(99));
    }
    println!("memory        {:+.1} MiB", grown as f64 / 1024.0);
    println!(
        "training      {alone:.2} steps/s alone, {watched:.2} watched: {:+.1} %",
        100.0 * (watched / alone - 1.0)
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
