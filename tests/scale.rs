//! Ten thousand runs and a run of a million points: what is shown is right, and asked of the database in as many
//! statements as if there were few. How fast it is tells `cargo run --release --example dashboard`.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/seed.rs"]
mod seed;
mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::Request;
use seed::{HOLE, LONG, POINTS, SPIKE, fill, write};
use serde_json::Value;
use support::Data;
use tallow::config::ServerConfig;
use tallow::lifecycle::Server;
use tallow::web::router::router;
use tower::ServiceExt;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

#[test]
fn ten_thousand_runs_are_listed_and_found() {
    let data = Data::new();
    let server = data.serve(&[]);
    fill(&data.path(), &[seed::ten_thousand_runs()]);
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
}

#[test]
fn a_million_points_are_seen() {
    let data = Data::new();
    let server = data.serve(&[]);
    fill(&data.path(), &seed::a_million_points());
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
}

/// Counts what is asked of the database in this process.
struct Statements(Arc<AtomicUsize>);

impl<S: Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "sqlx::query" {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test]
async fn full_tables_are_asked_as_often_as_empty_ones() {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = tracing_subscriber::registry().with(Statements(count.clone()));
    tracing::subscriber::set_global_default(counting).unwrap();
    let data = Data::new();
    let host = IpAddr::from(Ipv4Addr::LOCALHOST);
    let config = ServerConfig { host, port: 0, ..ServerConfig::new(data.path()) };
    // nothing supervises here: what is counted is the request's
    let server = Server::bind(config).await.unwrap();
    let state = server.state.clone();
    let asked = async |path: &str| {
        let before = count.load(Ordering::SeqCst);
        let request = Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
        let answer = router(state.clone()).oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        count.load(Ordering::SeqCst) - before
    };
    let small =
        "insert into run (id, name, status, config, output_dir, created_ms, queue_pos, search) \
         values ('01JA', 'sweep a', 'finished', '{}', '/r/a', 1, 0, 'sweep a'), \
         ('01JB', 'sweep b', 'queued', '{}', '/r/b', 1, 0, 'sweep b');
         insert into tag (name, run) select 'rare', num from run;";
    write(&data.path(), &[small.to_owned()]).await;
    let lists = [
        "/runs",
        "/runs?q=sweep",
        "/runs?tag=rare",
        "/api/v1/runs?limit=1000",
        "/queue",
        "/models",
    ];
    let mut few = Vec::new();
    for path in lists {
        asked(path).await; // a connection is set up once
        few.push(asked(path).await);
    }
    write(&data.path(), &[seed::ten_thousand_runs()]).await;
    for (path, few) in lists.into_iter().zip(few) {
        let many = asked(path).await;
        assert!(many <= few, "{path}: {many} statements, and {few} for two runs");
        assert!((1..=10).contains(&many), "{path}: {many} statements");
    }
    // a curve: as many statements whatever the window, and no value read where blocks will do
    write(&data.path(), &seed::a_million_points()).await;
    for (query, most) in
        [("", 8), ("&x0=1&x1=999999", 8), ("&x0=654000&x1=655000", 8), ("&x0=5&x1=7", 8)]
    {
        let many = asked(&format!("/api/v1/runs/{LONG}/metrics?keys=loss{query}")).await;
        assert!((1..=most).contains(&many), "{query}: {many} statements");
    }
    let many = asked(&format!("/runs/{LONG}")).await;
    assert!(many <= 40, "{many} statements for a page");
}
