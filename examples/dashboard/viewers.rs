//! Many event streams of one run: delay, memory, and what the training loses.
//!
//! The clients run on the machine that they measure. So processor time is counted for each process, and the run is timed
//! in turn alone, with as many clients that hear nothing (they watch a run that waits), and with all of them watching it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Server, percentile};

/// How long each part is watched, and how often all of them.
const PART: Duration = Duration::from_secs(15);
const ROUNDS: usize = 2;

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

/// Seconds of processor time that a process has had.
fn cpu(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = text.rsplit_once(')').unwrap().1.split_ascii_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Seconds of processor time that all processes of this machine have had.
fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let fields = text.lines().next().unwrap().split_ascii_whitespace().skip(1).enumerate();
    // neither idle, nor waiting for a disk, nor what the host took; guests are in user time already
    let ticks = fields.filter(|(place, _)| !matches!(place, 3 | 4 | 7..));
    ticks.map(|(_, ticks)| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
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

/// What was counted over parts of the same kind.
#[derive(Default)]
struct Pace {
    wall: f64,
    steps: f64,
    elapsed: f64,
    server: f64,
    worker: f64,
    clients: f64,
    busy: f64,
}

impl Pace {
    /// Watches a run for a part.
    fn add(&mut self, server: &Server, id: &str) {
        let look = || {
            let run = run(server, id);
            let worker = u32::try_from(run["worker_pid"].as_i64().unwrap()).unwrap();
            // steps and seconds by the worker's own clock
            let told = (run["step"].as_f64().unwrap(), run["elapsed_s"].as_f64().unwrap());
            let own = [cpu(server.child.id()), cpu(worker), cpu(std::process::id())];
            (Instant::now(), told, own, busy())
        };
        let before = look();
        std::thread::sleep(PART);
        let after = look();
        self.wall += (after.0 - before.0).as_secs_f64();
        self.steps += after.1.0 - before.1.0;
        self.elapsed += after.1.1 - before.1.1;
        self.server += after.2[0] - before.2[0];
        self.worker += after.2[1] - before.2[1];
        self.clients += after.2[2] - before.2[2];
        self.busy += after.3 - before.3;
    }

    fn speed(&self) -> f64 {
        self.steps / self.elapsed
    }

    fn tell(&self, what: &str, alone: &Self) {
        let share = |seconds: f64| 100.0 * seconds / self.wall;
        println!(
            "{what:14}{:8.2} steps/s {:+5.1} %   of a core: server {:5.2} %, worker {:6.2} %, clients {:5.2} %, others {:5.2} %",
            self.speed(),
            100.0 * (self.speed() / alone.speed() - 1.0),
            share(self.server),
            share(self.worker),
            share(self.clients),
            share(self.busy - self.server - self.worker - self.clients)
        );
    }
}

/// What the clients of one measurement have seen.
#[derive(Default)]
struct Seen {
    connected: AtomicUsize,
    late: Mutex<Vec<Duration>>,
}

/// Follows a run and notes how late each point came.
async fn follow(port: u16, id: String, from: i64, seen: Arc<Seen>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head =
        format!("GET /runs/{id}/events?after={from} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut lines = BufReader::with_capacity(1024, stream).lines();
    let mut metric = false;
    while let Ok(Some(line)) = lines.next_line().await {
        if line.starts_with("HTTP/1.1 200") {
            seen.connected.fetch_add(1, Ordering::Relaxed);
        }
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
        seen.late.lock().unwrap().extend(delays);
    }
}

/// So many clients of a run, in a thread of their own, until this is dropped.
struct Crowd {
    seen: Arc<Seen>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Crowd {
    fn of(server: &Server, id: &str, count: usize) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (port, from) = (server.port, run(server, id)["seq"].as_i64().unwrap_or(0));
        let seen = Arc::<Seen>::default();
        let (id, shared) = (id.to_owned(), seen.clone());
        std::thread::spawn(move || {
            runtime.block_on(async {
                for _ in 0..count {
                    tokio::spawn(follow(port, id.clone(), from, shared.clone()));
                }
                let _ = stopped.await;
            });
        });
        while seen.connected.load(Ordering::Relaxed) < count {
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_secs(1)); // what they missed has come
        seen.late.lock().unwrap().clear();
        Self { seen, _stop: stop }
    }
}

pub(super) fn measure(data: &Path, count: usize) {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo");
    copy(&demo, &data.join("demo"));
    copy(&demo.join("model"), &data.join("demo-model"));
    let server = Server::start(data);
    // how many steps a second are there?
    let probe = start(&server, 1);
    until(&server, &probe, 30);
    let mut pace = Pace::default();
    pace.add(&server, &probe);
    let every = pace.speed().max(1.0).round();
    stop(&server, &probe);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let id = start(&server, every as u64);
    until(&server, &id, 1);
    let waiting = start(&server, 1);
    println!("logging every {every} steps, on one thread; {} s a part", PART.as_secs());
    let (mut alone, mut silent, mut watched) = (Pace::default(), Pace::default(), Pace::default());
    let (mut late, mut grown) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        alone.add(&server, &id);
        let before = resident(server.child.id());
        let crowd = Crowd::of(&server, &id, count);
        watched.add(&server, &id);
        if round == 0 {
            grown = resident(server.child.id()) - before;
        }
        late.append(&mut crowd.seen.late.lock().unwrap());
        drop(crowd);
        let crowd = Crowd::of(&server, &waiting, count);
        silent.add(&server, &id);
        drop(crowd);
    }
    alone.add(&server, &id);
    stop(&server, &waiting);
    stop(&server, &id);
    late.sort();
    let each = late.len() as f64 / count as f64 / watched.wall;
    println!("{count} viewers, {} points seen ({each:.1} a second each)", late.len());
    if !late.is_empty() {
        let at = |percent| percentile(&late, percent);
        println!("delay         median {:.0?}, p95 {:.0?}, p99 {:.0?}", at(50), at(95), at(99));
    }
    println!("memory        {:+.1} MiB", grown as f64 / 1024.0);
    alone.tell("alone", &alone);
    silent.tell("silent clients", &alone);
    watched.tell("watched", &alone);
    let more = (watched.server / watched.wall - alone.server / alone.wall) * 100.0;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "the server took {more:.2} % of a core more ({:.2} % of {cores}): so much training loses where no core is free",
        more / cores as f64
    );
}

/// Waits until a run has done so many steps.
fn until(server: &Server, id: &str, step: i64) {
    let began = Instant::now();
    while run(server, id)["step"].as_i64().unwrap_or(0) < step {
        assert!(began.elapsed() < PART * 4, "the run does not begin");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Ends a run, and with it its worker: a server that is killed leaves it alone.
fn stop(server: &Server, id: &str) {
    server.ask("POST", &format!("/api/v1/runs/{id}/stop"), r#"{"mode": "now"}"#);
    while matches!(run(server, id)["status"].as_str(), Some("running" | "stopping")) {
        std::thread::sleep(Duration::from_millis(50));
    }
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
