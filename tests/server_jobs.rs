//! Runs from queue to end, with a worker that only speaks the protocol: order, stop, resume, death, adoption.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::{Data, Server, command, config, kill};

fn losses(server: &Server, id: &str) -> Vec<i64> {
    let metrics = server.get(&format!("/api/v1/runs/{id}/metrics?keys=loss")).json();
    serde_json::from_value(metrics["loss"]["step"].clone()).unwrap()
}

fn pid(run: &Value) -> u32 {
    u32::try_from(run["worker_pid"].as_u64().unwrap_or_else(|| panic!("no worker: {run}"))).unwrap()
}

#[test]
fn a_run_from_queue_to_end() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("finish");
    let run = server.until_status(&id, "finished");
    assert_eq!((run["step"].as_i64(), run["total_steps"].as_i64()), (Some(9), Some(10)));
    assert_eq!(run["worker_pid"], Value::Null);
    assert_eq!(run["checkpoint_step"], 2);
    assert_eq!(losses(&server, &id), (1..=9).collect::<Vec<_>>());
    let folder = data.path().join("runs").join(&id);
    assert_eq!(run["output_dir"], folder.display().to_string());
    let log = server.get(&format!("/api/v1/runs/{id}/log?tail=500")).json();
    assert_eq!(log["lines"][0], "fake worker: finish ");
    let frozen: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("run.json")).unwrap()).unwrap();
    assert_eq!(frozen["id"], id);
    assert_eq!(frozen["config"]["plot_loss"], true);
    let refused = server.post(&format!("/api/v1/runs/{id}/resume"), &json!({}));
    assert_eq!(refused.status, 409);
}

#[test]
fn one_at_a_time_in_order() {
    let data = Data::new();
    let server = data.serve(&[]);
    let [first, second, third] = ["hang", "hang", "finish"].map(|name| server.create(name));
    server.until_status(&first, "running");
    let stopped = server.post(&format!("/api/v1/runs/{second}/stop"), &json!({"mode": "save"}));
    assert_eq!((stopped.status, stopped.json()["status"].as_str()), (202, Some("stopped")));
    assert_eq!(server.run(&third)["status"], "queued");
    server.until(&first, |run| run["step"] == 4);
    assert_eq!(server.post(&format!("/api/v1/runs/{first}/stop"), &json!({})).status, 202);
    server.until_status(&first, "stopped");
    server.until_status(&third, "finished");
    // the first goes on from its checkpoint, each step once
    assert_eq!(server.post(&format!("/api/v1/runs/{first}/resume"), &json!({})).status, 202);
    server.until(&first, |run| run["status"] == "running" && run["step"] == 4);
    assert_eq!(losses(&server, &first), [1, 2, 3, 4]);
    assert_eq!(
        server.post(&format!("/api/v1/runs/{first}/stop"), &json!({"mode": "now"})).status,
        202
    );
    server.until_status(&first, "stopped");
    assert_eq!(server.post(&format!("/api/v1/runs/{first}/stop"), &json!({})).status, 409);
}

#[test]
fn bad_input_is_not_tried_again() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("bad");
    let run = server.until_status(&id, "failed");
    assert_eq!(run["reason"], "data.json: row 3 has no column output");
    assert_eq!(run["restarts"], 0);
    let id = server.create("silent");
    let run = server.until_status(&id, "failed");
    assert_eq!(run["reason"], "the loss or a gradient is not finite");
}

#[test]
fn a_worker_that_always_dies_is_given_up() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("die");
    let run = server.until_status(&id, "failed");
    assert_eq!(run["restarts"], 3);
    assert!(run["reason"].as_str().unwrap().contains("signal 9"), "{run}");
    let log = server.get(&format!("/api/v1/runs/{id}/log")).json();
    let lines: Vec<_> =
        log["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().trim()).collect();
    assert_eq!(
        lines,
        [
            "fake worker: die",
            "fake worker: die --resume",
            "fake worker: die --resume",
            "fake worker: die --resume"
        ]
    );
    assert_eq!(losses(&server, &id), [1, 2, 3, 4]);
    assert_eq!(server.post(&format!("/api/v1/runs/{id}/resume"), &json!({})).status, 202);
    server.until(&id, |run| run["restarts"] == 1);
}

#[test]
fn a_killed_worker_is_started_again() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("hang");
    let before = pid(&server.until(&id, |run| run["step"] == 4));
    kill(before, "KILL");
    let run = server
        .until(&id, |run| run["worker_pid"].as_u64().is_some_and(|pid| pid != u64::from(before)));
    assert_eq!(run["status"], "running");
    assert_eq!(run["restarts"], 1);
    server.until(&id, |run| run["step"] == 4);
    assert_eq!(losses(&server, &id), [1, 2, 3, 4]);
    server.post(&format!("/api/v1/runs/{id}/stop"), &json!({}));
    server.until_status(&id, "stopped");
}

#[test]
fn a_killed_server_leaves_the_worker_to_the_next() {
    let data = Data::new();
    let mut server = data.serve(&[]);
    let id = server.create("hang");
    let worker = pid(&server.until(&id, |run| run["step"] == 4));
    for _ in 0..3 {
        server.signal("KILL");
        server.child.wait().unwrap();
        server = data.serve(&[]);
        let run = server.until_status(&id, "running");
        assert_eq!(pid(&run), worker);
        assert_eq!(losses(&server, &id), [1, 2, 3, 4]);
    }
    // killed while it is adopted: noticed by its lock
    kill(worker, "KILL");
    let run = server
        .until(&id, |run| run["worker_pid"].as_u64().is_some_and(|pid| pid != u64::from(worker)));
    assert_eq!(run["restarts"], 1);
    server.until(&id, |run| run["step"] == 4);
    server.post(&format!("/api/v1/runs/{id}/stop"), &json!({}));
    server.until_status(&id, "stopped");
}

#[test]
fn a_worker_that_ended_while_no_server_ran() {
    let data = Data::new();
    let mut server = data.serve(&[]);
    let [finished, died] = ["hang", "hang"].map(|name| server.create(name));
    let worker = pid(&server.until(&finished, |run| run["step"] == 4));
    server.signal("KILL");
    server.child.wait().unwrap();
    // its last word comes while nobody listens
    let folder = data.path().join("runs").join(&finished);
    let events = folder.join("events.jsonl");
    fs::write(folder.join("control.json"), r#"{"serial":1,"wish":"stop_and_save"}"#).unwrap();
    while Path::new(&format!("/proc/{worker}")).exists() {
        std::thread::yield_now();
    }
    assert!(fs::read_to_string(events).unwrap().contains("\"exit\""));
    server = data.serve(&[]);
    server.until_status(&finished, "stopped");
    // and this one dies without a word
    let worker = pid(&server.until(&died, |run| run["step"] == 4));
    server.signal("KILL");
    server.child.wait().unwrap();
    kill(worker, "KILL");
    server = data.serve(&[]);
    let run = server.until(&died, |run| {
        run["restarts"] == 1
            && run["worker_pid"].as_u64().is_some_and(|pid| pid != u64::from(worker))
    });
    assert_eq!(run["status"], "running");
    server.post(&format!("/api/v1/runs/{died}/stop"), &json!({}));
    server.until_status(&died, "stopped");
}

#[test]
fn one_server_a_data_folder() {
    let data = Data::new();
    let server = data.serve(&[]);
    let second = command(&data.path(), &[]).output().unwrap();
    assert_eq!(second.status.code(), Some(75));
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(text.contains(&format!("pid {}", server.child.id())), "{text}");
    assert!(text.contains(&format!(":{}", server.port)), "{text}");
}

#[test]
fn a_signal_ends_it_with_streams_open_and_workers_alive() {
    let data = Data::new();
    for signal in ["TERM", "INT"] {
        let mut server = data.serve(&[]);
        let id = server.create("hang");
        let worker = pid(&server.until(&id, |run| run["step"] == 4));
        let mut streams: Vec<_> = (0..20).map(|_| server.events(&id, 0)).collect();
        let began = std::time::Instant::now();
        server.signal(signal);
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
        assert!(began.elapsed().as_secs_f64() < 2.0, "{:?}", began.elapsed());
        for stream in &mut streams {
            while stream.next().is_some() {}
        }
        assert!(Path::new(&format!("/proc/{worker}")).exists());
        let server = data.serve(&[]);
        server.until_status(&id, "running");
        server.post(&format!("/api/v1/runs/{id}/stop"), &json!({}));
        server.until_status(&id, "stopped");
    }
}

#[test]
fn the_stream_can_be_resumed() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("finish");
    server.until_status(&id, "finished");
    let all: Vec<_> = server.events(&id, 0).collect();
    let ids: Vec<i64> = all.iter().filter_map(|event| event.id).collect();
    assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    assert_eq!(all.last().unwrap().name, "done");
    assert!(all.last().unwrap().id.is_some());
    let steps = |events: &[support::Event]| -> Vec<i64> {
        let frames = events.iter().filter(|event| event.name == "metric");
        let points =
            frames.flat_map(|event| serde_json::from_str::<Vec<Value>>(&event.data).unwrap());
        points.map(|point| point["step"].as_i64().unwrap()).collect()
    };
    assert_eq!(steps(&all), (1..=9).collect::<Vec<_>>());
    // from the middle: exactly the rest
    let last = server.run(&id)["seq"].as_i64().unwrap();
    let mut seen = 0;
    for after in 0..last {
        let rest: Vec<_> = server.events(&id, after).collect();
        seen = seen.max(9 - steps(&rest).len());
        assert_eq!(steps(&rest), (1..=9).skip(9 - steps(&rest).len()).collect::<Vec<i64>>());
    }
    assert_eq!(seen, 9);
    let events = server.events(&id, last);
    assert!(
        events.head.contains("text/event-stream") && events.head.contains("x-accel-buffering: no"),
        "{}",
        events.head
    );
    assert!(
        events.head.contains("cache-control: no-cache")
            && !events.head.contains("content-encoding")
    );
    assert_eq!(events.map(|event| event.name).collect::<Vec<_>>(), ["done"]);
    let mut config = config("finish");
    config["output_dir"] = json!(format!("runs/{id}"));
    assert_eq!(
        server.post("/api/v1/runs", &config).status,
        201,
        "a folder of a run that is over may be used again"
    );
}

#[test]
fn a_locked_database_delays_and_loses_nothing() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("hang");
    let worker = pid(&server.until(&id, |run| run["step"] == 4));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = format!("sqlite://{}", data.path().join("tallow.db").display());
    use sqlx::Connection;
    let mut other = runtime.block_on(sqlx::SqliteConnection::connect(&url)).unwrap();
    runtime.block_on(sqlx::raw_sql("begin exclusive").execute(&mut other)).unwrap();
    // the worker says its last word while nobody can store it; reading goes on
    fs::write(
        data.path().join("runs").join(&id).join("control.json"),
        r#"{"serial":1,"wish":"stop_and_save"}"#,
    )
    .unwrap();
    while Path::new(&format!("/proc/{worker}/exe")).exists() {
        assert_eq!(server.run(&id)["status"], "running");
    }
    assert_eq!(server.run(&id)["status"], "running");
    runtime.block_on(sqlx::raw_sql("rollback").execute(&mut other)).unwrap();
    let run = server.until_status(&id, "stopped");
    assert_eq!((run["step"].as_i64(), run["restarts"].as_i64()), (Some(4), Some(0)));
    assert_eq!(losses(&server, &id), [1, 2, 3, 4]);
}

#[test]
fn a_run_whose_folder_is_gone_is_lost() {
    let data = Data::new();
    let server = data.serve(&[]);
    let id = server.create("hang");
    let worker = pid(&server.until(&id, |run| run["step"] == 4));
    let folder = data.path().join("runs").join(&id);
    fs::rename(&folder, data.path().join("elsewhere")).unwrap();
    kill(worker, "KILL");
    let run = server.until_status(&id, "lost");
    assert_eq!(run["reason"], "its folder is gone");
    assert_eq!(server.get(&format!("/api/v1/runs/{id}/log")).json()["lines"], json!([]));
    fs::rename(data.path().join("elsewhere"), &folder).unwrap();
    assert_eq!(server.post(&format!("/api/v1/runs/{id}/resume"), &json!({})).status, 202);
    server.until(&id, |run| run["status"] == "running" && run["step"] == 4);
    server.post(&format!("/api/v1/runs/{id}/stop"), &json!({}));
    server.until_status(&id, "stopped");
}
