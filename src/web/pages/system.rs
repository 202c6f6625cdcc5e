//! `/system`: what this server runs on, and whether all is well.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::format::{bytes, duration, whole};
use super::link;
use super::shell::Shell;
use super::{Htmx, html};
use crate::gpu::Gpu;
use crate::web::error::Result;
use crate::web::extract::Caller;
use crate::web::state::AppState;
use crate::web::system::{Check, System};

/// Something that is used up to a part.
struct Gauge {
    name: String,
    used: u64,
    size: u64,
    text: String,
    low: bool,
}

#[derive(Template)]
#[template(path = "pages/system.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    system: System,
    checks: Vec<(bool, String)>,
    device: String,
    gauges: Vec<Gauge>,
    facts: Vec<(String, String)>,
    curl: String,
}

/// GET /system
///
/// # Errors
/// Where the database fails.
pub async fn show(State(state): State<AppState>, htmx: Htmx, caller: Caller) -> Result<Response> {
    let shell = Shell::load(&state, &caller, "system").await?;
    let system = System::look(&state).await?;
    let bad = |name: &str| system.health.iter().any(|check| check.name == name && !check.good);
    let gauge = |name: &str, size: u64, free: u64| Gauge {
        name: shell.t(&format!("system.{name}")).to_owned(),
        used: (size - free.min(size)) >> 20,
        size: (size >> 20).max(1),
        text: shell.lang.fill("system.free", &[&bytes(free), &bytes(size)]),
        low: bad(name),
    };
    let gpu = |gpu: &Gpu| {
        let free = shell
            .lang
            .fill("system.free", &[&bytes(gpu.size.saturating_sub(gpu.used)), &bytes(gpu.size)]);
        Gauge {
            name: gpu.name.clone(),
            used: gpu.used >> 20,
            size: (gpu.size >> 20).max(1),
            text: format!("{} · {free}", shell.f("system.busy", gpu.busy)),
            low: false,
        }
    };
    let fact = |key: &str, value: String| (shell.t(key).to_owned(), value);
    let mut facts = vec![
        fact("system.version", format!("Tallow {}", system.version)),
        fact("system.sqlite", system.sqlite.clone()),
        fact("system.uptime", duration(Some(system.uptime_s))),
        fact("system.folder", system.data_dir.clone()),
        fact("system.database", bytes(system.database_bytes)),
        fact("system.runs", whole(system.runs)),
    ];
    if !system.allowed_folders.is_empty() {
        facts.push(fact("system.allowed", system.allowed_folders.join(", ")));
    }
    facts.push(fact("system.login", shell.t(&format!("system.login.{}", system.login)).to_owned()));
    let check = |check: &Check| {
        let key = format!("system.{}.{}", if check.good { "good" } else { "off" }, check.name);
        (check.good, shell.t(&key).to_owned())
    };
    let mut device = shell.f("system.cores", system.cores);
    for feature in system.devices.iter().flat_map(|device| &device.features) {
        device += &format!(" · {feature}");
    }
    if let Some(load) = system.load {
        device += &format!(" · {}", shell.f("system.load", format!("{load:.2}")));
    }
    let page = Page {
        checks: system.health.iter().map(check).collect(),
        device,
        gauges: [
            gauge("memory", system.memory_bytes, system.memory_free_bytes),
            gauge("disk", system.disk_bytes, system.disk_free_bytes),
        ]
        .into_iter()
        .chain(system.gpus.iter().map(gpu))
        .collect(),
        facts,
        curl: link::curl(&caller, "/api/v1/system"),
        system,
        shell,
    };
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}
