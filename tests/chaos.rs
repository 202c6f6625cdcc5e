//! Kills: of the server in mid-run, of the worker at random moments. Nothing is lost, nothing is
//! done twice, and the result is the undisturbed run's, bit for bit.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/http.rs"]
mod http;
#[path = "support/tiny.rs"]
mod tiny;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::{request, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);

/// A server process; killed when dropped.
struct Server {
    child: Child,
    at: SocketAddr,
    data: PathBuf,
}

impl Server {
    fn start(data: &Path, allowed: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let log =
            fs::File::options().create(true).append(true).open(data.join("server.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tallow"))
            .args(["serve", "--host", "127.0.0.1", "--port", &port.to_string()])
            .arg("--data-dir")
            .arg(data)
            .arg("--allow-path")
            .arg(allowed)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self { child, at, data: data.to_owned() };
        wait_for("the server", LIMIT, || request(at, "GET", "/healthz", None));
        server
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn post(&self, config: &Value) -> String {
        let (status, answer) = request(self.at, "POST", "/api/v1/runs", Some(config)).unwrap();
        assert_eq!(status, 201, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    fn run(&self, id: &str) -> Option<Value> {
        let answer = request(self.at, "GET", &format!("/api/v1/runs/{id}"), None)?;
        (answer.0 == 200).then_some(answer.1)
    }

    fn step(&self, id: &str) -> u64 {
        self.run(id).and_then(|run| run["step"].as_u64()).unwrap_or(0)
    }

    fn wait_for_step(&self, id: &str, step: u64) {
        wait_for(&format!("step {step}"), LIMIT, || (self.step(id) >= step).then_some(()));
    }

    #[track_caller]
    fn wait_for_end(&self, id: &str) -> Value {
        wait_for("the end of the run", LIMIT, || {
            let run = self.run(id)?;
            let status = run["status"].as_str()?;
            assert!(!matches!(status, "failed" | "lost"), "{run}");
            (status == "finished").then_some(run)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = &self.data;
    }
}

/// Writes `config` with this output folder as a file for `tallow train`.
fn config_file(config: &Value, output_dir: &Path, file: &Path) -> PathBuf {
    let mut config = config.clone();
    config["output_dir"] = json!(output_dir);
    fs::write(file, config.to_string()).unwrap();
    file.to_owned()
}

/// (step, loss as written) of every line of trainer_log.jsonl that has a loss.
fn losses(dir: &Path) -> Vec<(u64, String)> {
    let text = fs::read_to_string(dir.join("trainer_log.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line.get("loss").is_some())
        .map(|line| (line["current_steps"].as_u64().unwrap(), line["loss"].to_string()))
        .collect()
}

/// The run without any kill: its folder.
fn undisturbed(root: &Path, config: &Value) -> PathBuf {
    let dir = root.join("undisturbed");
    let file = config_file(config, &dir, &root.join("undisturbed.json"));
    let out = Command::new(env!("CARGO_BIN_EXE_tallow")).arg("train").arg(file).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    dir
}

fn same_result(got: &Path, want: &Path) {
    assert_eq!(losses(got), losses(want));
    let model = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert!(model(got) == model(want), "the weights differ from the undisturbed run's");
}

#[test]
fn server_killed_ten_times_in_mid_run() {
    let root = tempfile::tempdir().unwrap();
    let config = tiny::run_config(root.path(), 1500, 500);
    let want = undisturbed(root.path(), &config);
    let data = root.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let mut server = Server::start(&data, root.path());
    let id = server.post(&config);
    server.wait_for_step(&id, 1);
    let pid = server.run(&id).unwrap()["worker_pid"].clone();
    assert!(pid.is_u64(), "{pid}");
    for kill in 1..=10 {
        server.kill();
        server = Server::start(&data, root.path());
        let run = server.run(&id).unwrap();
        assert_eq!(run["worker_pid"], pid, "kill {kill}: {run}");
        assert_eq!(run["status"], "running", "kill {kill}: {run}");
        let step = server.step(&id);
        server.wait_for_step(&id, (step + 40).min(1400));
    }
    server.wait_for_end(&id);
    same_result(&data.join("runs").join(&id), &want);
    let keys = format!("/api/v1/runs/{id}/metrics?keys=loss&points=3000");
    let (_, metrics) = request(server.at, "GET", &keys, None).unwrap();
    let steps: Vec<u64> = serde_json::from_value(metrics["loss"]["step"].clone()).unwrap();
    assert_eq!(steps, (1..=1500).collect::<Vec<_>>());
}

#[test]
fn worker_killed_at_twenty_random_moments() {
    let root = tempfile::tempdir().unwrap();
    let config = tiny::run_config(root.path(), 300, 10);
    let want = undisturbed(root.path(), &config);
    let data = root.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let server = Server::start(&data, root.path());
    let mut random = 0x2545_F491_4F6C_DD1Du64;
    for _ in 0..5 {
        let id = server.post(&config);
        for kill in 0..4u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Between checkpoints, and in the middle of writing one.
            server.wait_for_step(&id, 20 + kill * 60 + (random >> 33) % 40);
            std::thread::park_timeout(Duration::from_micros((random >> 20) % 30_000));
            let Some(pid) = server.run(&id).and_then(|r| r["worker_pid"].as_u64()) else {
                continue;
            };
            let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
            assert!(killed.success());
            wait_for("another worker", LIMIT, || {
                let run = server.run(&id)?;
                let other = run["worker_pid"].as_u64().is_some_and(|p| p != pid);
                (other || run["status"] == "finished").then_some(())
            });
        }
        server.wait_for_end(&id);
        same_result(&data.join("runs").join(&id), &want);
    }
    assert_eq!(config["threads"], json!(1));
}
