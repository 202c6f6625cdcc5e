//! Ten thousand runs and a run of a million points: what is shown is right, and it is fast. The limits here are wide,
//! so that a busy machine does not fail them; `--nocapture` prints what was measured.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/million.rs"]
mod million;
mod support;

use std::time::{Duration, Instant};

use million::{HOLE, LONG, POINTS, SPIKE, a_million_points};
use serde_json::Value;
use support::{Data, Server};

/// Fills the database of a server that runs.
fn seed(data: &Data, statements: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(million::write(&data.path(), statements));
}

fn ten_thousand_runs() -> String {
    "with recursive n (x) as (values (1) union all select x + 1 from n where x < 10000)
     insert into run (id, name, status, config, output_dir, created_ms, queue_pos, model, dataset, method, search, spark)
     select printf('01JZ%022d', x), 'sweep ' || x,
       case x % 5 when 0 then 'failed' when 1 then 'stopped' else 'finished' end,
       '{\"model_name_or_path\":\"/models/m' || (x % 7) || '\",\"dataset\":\"d' || (x % 11) || '\",\"learning_rate\":0.0001,
         \"lora_rank\":16,\"per_device_train_batch_size\":4,\"num_train_epochs\":3.0,\"template\":\"qwen\",\"cutoff_len\":2048}',
       '/r/' || x, 1795506192000 + x, x, '/models/m' || (x % 7), 'd' || (x % 11), case x % 2 when 0 then 'lora' else 'full' end,
       'sweep ' || x || char(10) || '/models/m' || (x % 7) || char(10) || 'd' || (x % 11), '3.1 2.2 1.9 1.7 1.65 1.6' from n;
     insert into tag (name, run) select 'rare', num from run where num % 1000 = 0;"
        .to_owned()
}

/// The slowest but one in twenty, over some requests.
fn p95(server: &Server, what: &str, paths: impl Iterator<Item = String>) -> Duration {
    let mut times: Vec<Duration> = paths
        .map(|path| {
            let began = Instant::now();
            let reply = server.get(&path);
            assert_eq!(reply.status, 200, "{path}: {}", reply.body);
            began.elapsed()
        })
        .collect();
    times.sort();
    let place = (times.len() * 95 / 100).min(times.len() - 1);
    println!("{what}: median {:.1?}, p95 {:.1?}", times[times.len() / 2], times[place]);
    times[place]
}

#[test]
fn ten_thousand_runs_are_listed_and_found() {
    let data = Data::new();
    let server = data.serve(&[]);
    seed(&data, &[ten_thousand_runs()]);
    let ids = |query: &str| -> Vec<String> {
        let list = server.get(&format!("/api/v1/runs?{query}")).json();
        let runs = list["runs"].as_array().unwrap().iter();
        runs.map(|run| run["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("q=sweep+4321"), ["sweep 4321"]);
    assert_eq!(ids("tag=rare&limit=3"), ["sweep 10000", "sweep 9000", "sweep 8000"]);
    assert_eq!(ids("model=/models/m3&dataset=d4&method=lora&limit=1000").len(), 65);
    // every run once over all pages
    let (mut seen, mut before) = (0, String::new());
    loop {
        let page = server.get(&format!("/api/v1/runs?limit=1000{before}")).json();
        seen += page["runs"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    assert_eq!(seen, 10_000);
    let limit = Duration::from_millis(1500);
    let page = |query: &'static str| {
        move |n: i32| format!("/runs?{}", query.replace("{n}", &n.to_string()))
    };
    for (what, query) in [
        ("list", ""),
        ("search", "q=sweep+{n}"),
        ("search without a hit", "q=nothing+{n}"),
        ("filter", "model=/models/m3&dataset=d4&status=failed"),
        ("filter by a rare tag", "tag=rare"),
        ("a page in the middle", "before=01JZ0000000000000000005000"),
    ] {
        assert!(p95(&server, what, (1000..1040).map(page(query))) < limit, "{what}");
    }
}

#[test]
fn a_million_points_are_seen() {
    let data = Data::new();
    let server = data.serve(&[]);
    seed(&data, &a_million_points());
    let loss = |query: &str| -> Value {
        server.get(&format!("/api/v1/runs/{LONG}/metrics?keys=loss{query}")).json()["loss"].clone()
    };
    let highest = |curve: &Value| {
        let values = curve.get("max").unwrap_or(&curve["value"]).as_array().unwrap().clone();
        values.iter().filter_map(Value::as_f64).fold(f64::NEG_INFINITY, f64::max)
    };
    // zoomed out: the spike shows, the hole is told, the ends are exact
    let all = loss("");
    let steps: Vec<i64> = serde_json::from_value(all["step"].clone()).unwrap();
    assert!((500..=1502).contains(&steps.len()) && steps.is_sorted(), "{}", steps.len());
    assert_eq!((steps[0], *steps.last().unwrap()), (1, POINTS));
    assert_eq!(highest(&all), 99.5);
    assert_eq!(all["bad"].as_array().unwrap().len(), 1);
    assert!((all["value"][0].as_f64().unwrap() - 2.919).abs() < 1e-9);
    // closer and closer: each time the spike is there where it is, and nothing from outside
    for half in [400_000_i64, 100_000, 30_000, 5_000, 700, 3] {
        let (x0, x1) = ((SPIKE - half).max(1), (SPIKE + half).min(POINTS));
        let near = loss(&format!("&x0={x0}&x1={x1}"));
        assert_eq!(highest(&near), 99.5, "{half}");
        let steps: Vec<i64> = serde_json::from_value(near["step"].clone()).unwrap();
        assert!(steps.len() <= 1502 && steps.is_sorted(), "{half}: {}", steps.len());
        assert!(steps.iter().all(|step| (x0..=x1).contains(step)), "{half}");
        assert_eq!((steps[0], *steps.last().unwrap()), (x0, x1), "{half}");
        let beside = loss(&format!("&x0={}&x1={}", SPIKE + 1, SPIKE + half + 1));
        assert!(highest(&beside) < 3.0, "{half}");
    }
    let exact = loss(&format!("&x0={}&x1={}", SPIKE - 3, SPIKE + 3));
    assert_eq!((exact["step"][3].as_i64(), exact["value"][3].as_f64()), (Some(SPIKE), Some(99.5)));
    assert_eq!(loss(&format!("&x0={HOLE}&x1={HOLE}"))["bad"], serde_json::json!([HOLE]));

    let limit = Duration::from_secs(3);
    let path = |query: &str| {
        format!("/api/v1/runs/{LONG}/metrics?keys=loss,eval_loss,lr,grad_norm,tokens_per_s{query}")
    };
    assert!(
        p95(&server, "first paint: the page", (0..10).map(|_| format!("/runs/{LONG}"))) < limit
    );
    assert!(p95(&server, "first paint: the curves", (0..10).map(|_| path(""))) < limit);
    for half in [400_000_i64, 100_000, 45_000, 5_000] {
        let window = path(&format!("&x0={}&x1={}", (SPIKE - half).max(1), SPIKE + half));
        assert!(
            p95(&server, &format!("zoom to {}", 2 * half), (0..10).map(|_| window.clone())) < limit
        );
    }
    let compare = format!("/api/v1/compare?runs={LONG}");
    assert!(p95(&server, "best and last of it", (0..5).map(|_| compare.clone())) < limit);
}
