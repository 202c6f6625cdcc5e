//! `/runs/{id}`: one run, live. The page holds everything up to event number `seq`; the stream goes on from there.

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use run::config::Config;
use run::fields::Field;
use serde::Deserialize;
use serde_json::Value;

use super::curve::Curve;
use super::format::{count, number, whole};
use super::shell::Shell;
use super::text::Lang;
use super::view::{RunView, plain};
use super::{Htmx, go, html};
use crate::db::events::{self, EventRow};
use crate::db::metrics::{self, Series};
use crate::db::runs::{self, RunRow, Status};
use crate::jobs::StopMode;
use crate::web::error::{Error, Result};
use crate::web::state::AppState;

/// Log lines of the first paint.
const LINES: usize = 300;
/// Log lines of an error card.
const LAST_LINES: usize = 40;
/// Rows of the curve as a table.
const TABLE: usize = 50;
/// The curves of the page.
const KEYS: [&str; 5] = ["loss", "eval_loss", "lr", "grad_norm", "tokens_per_s"];

/// The URL's query.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    #[serde(default)]
    tab: String,
    #[serde(default)]
    part: String,
}

struct Small {
    key: &'static str,
    title: String,
    last: String,
    curve: Option<Curve>,
}

struct Line {
    text: String,
    class: &'static str,
}

/// What the model answered to one prompt, before and (so far) last.
struct Sample {
    prompt: String,
    before_label: String,
    before: String,
    after_label: String,
    after: String,
    /// Whether the second answer is still to come, or will not.
    open: bool,
}

struct Failure {
    title: String,
    reason: String,
    place: String,
    log: String,
    resume: String,
    diagnostics: String,
}

struct Setting {
    name: String,
    value: String,
    default: String,
}

#[derive(Template)]
#[template(path = "pages/run.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    run: RunView,
    tab: &'static str,
    live: Option<Live>,
    config: Option<Settings>,
}

/// The overview.
struct Live {
    seq: i64,
    link: &'static str,
    phase: String,
    bar_max: i64,
    bar_value: i64,
    percent: String,
    marks: String,
    loss_curve: Option<Curve>,
    small: Vec<Small>,
    log: Vec<Line>,
    samples: Vec<Sample>,
    error: Option<Failure>,
    table: Vec<Vec<String>>,
}

/// The config tab.
struct Settings {
    rows: Vec<Setting>,
    yaml: String,
    cli: String,
}

/// What changes with the status: pill, buttons, error card.
#[derive(Template)]
#[template(path = "parts/run_head.html")]
struct Head {
    shell: Shell,
    run: RunView,
    error: Option<Failure>,
}

/// GET /runs/{id}
///
/// # Errors
/// 404 where there is no such run, or where the database fails.
pub async fn show(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
    headers: HeaderMap,
    Query(wanted): Query<Wanted>,
) -> Result<Response> {
    let row = runs::get(&state.db, &id).await?.ok_or_else(|| Error::not_found("run", &id))?;
    if wanted.part == "head" {
        return head(&state, &headers, row).await;
    }
    let mut shell = Shell::load(&state, &headers, "runs").await?;
    shell.current.clone_from(&row.id);
    let run = RunView::new(&row, state.clock.now_ms(), shell.lang);
    let config = wanted.tab == "config";
    let page = Page {
        tab: if config { "config" } else { "overview" },
        live: if config { None } else { Some(Live::load(&state, &row, shell.lang).await?) },
        config: config.then(|| Settings::new(&row)),
        run,
        shell,
    };
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

/// How to stop.
#[derive(Debug, Deserialize)]
pub struct Stop {
    #[serde(default)]
    mode: String,
}

/// POST /runs/{id}/stop: `mode` is `save` (the default) or `now`.
///
/// # Errors
/// 404 where there is no such run, 409 where it is over.
pub async fn stop(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
    headers: HeaderMap,
    Form(stop): Form<Stop>,
) -> Result<Response> {
    let mode = if stop.mode == "now" { StopMode::Now } else { StopMode::Save };
    let row = state.jobs.stop(&id, mode).await?;
    if htmx.0 { head(&state, &headers, row).await } else { Ok(go(htmx, &format!("/runs/{id}"))) }
}

/// POST /runs/{id}/resume
///
/// # Errors
/// 404 where there is no such run, 409 where it is not over.
pub async fn resume(
    State(state): State<AppState>,
    Path(id): Path<String>,
    htmx: Htmx,
) -> Result<Response> {
    let row = state.jobs.resume(&id).await?;
    Ok(go(htmx, &format!("/runs/{}", row.id)))
}

async fn head(state: &AppState, headers: &HeaderMap, row: RunRow) -> Result<Response> {
    let mut shell = Shell::load(state, headers, "runs").await?;
    shell.current.clone_from(&row.id);
    let log = lines(state, &row).await?;
    let error = Failure::new(&row, &log, shell.lang);
    let run = RunView::new(&row, state.clock.now_ms(), shell.lang);
    html(StatusCode::OK, &Head { shell, run, error })
}

impl Live {
    /// Key of the connection's word.
    fn link_key(&self) -> String {
        format!("link.{}", self.link)
    }

    async fn load(state: &AppState, row: &RunRow, lang: Lang) -> Result<Self> {
        let keys = KEYS.map(str::to_owned).to_vec();
        let query =
            metrics::Query { keys, points: 600, upto: Some(row.seq), ..metrics::Query::default() };
        let curves = metrics::series(&state.db, row.num, &query).await?;
        let curve =
            |key: &str| curves.get(key).and_then(|series| Curve::new(&series.step, &series.value));
        let last =
            |key: &str| curves.get(key).and_then(|series| series.value.last().copied()).flatten();
        let small = [("lr", "plot.lr"), ("grad_norm", "plot.grad"), ("tokens_per_s", "plot.speed")];
        let log = lines(state, row).await?;
        let samples = events::of_kind(&state.db, row.num, "sample", 200).await?;
        let saved = events::of_kind(&state.db, row.num, "checkpoint", 200).await?;
        let marks: Vec<i64> =
            known(saved, row).iter().filter_map(|body| body.get("step")?.as_i64()).collect();
        let run = RunView::new(row, 0, lang);
        Ok(Self {
            seq: row.seq,
            link: if run.over { "finished" } else { "connecting" },
            phase: phase(row, lang),
            bar_max: row.total_steps.unwrap_or(1).max(1),
            bar_value: if row.total_steps.is_some() { row.step } else { 0 },
            percent: run.percent().map(|percent| format!("{percent}%")).unwrap_or_default(),
            marks: serde_json::to_string(&marks).unwrap_or_default(),
            loss_curve: curve("loss"),
            small: small
                .map(|(key, title)| Small {
                    key,
                    title: lang.text(title).to_owned(),
                    last: if key == "tokens_per_s" { count(last(key)) } else { number(last(key)) },
                    curve: curve(key),
                })
                .into(),
            error: Failure::new(row, &log, lang),
            log: log.into_iter().map(|text| Line { class: class(&text), text }).collect(),
            samples: pair_up(&known(samples, row), row.status.is_over(), lang),
            table: table(&curves),
        })
    }
}

/// The bodies of events up to the page's cursor: later ones come by the stream.
fn known(rows: Vec<EventRow>, row: &RunRow) -> Vec<Value> {
    let bodies = rows.into_iter().filter(|event| event.seq <= row.seq);
    bodies.filter_map(|event| serde_json::from_str(&event.body).ok()).collect()
}

/// The newest log lines, oldest first.
async fn lines(state: &AppState, row: &RunRow) -> Result<Vec<String>> {
    let rows = events::of_kind(&state.db, row.num, "log", 300).await?;
    let text = |line: &Value| line.get("text").and_then(Value::as_str).map(str::to_owned);
    let flushes = known(rows, row);
    let mut all: Vec<String> =
        flushes.iter().filter_map(Value::as_array).flatten().filter_map(text).collect();
    all.drain(..all.len().saturating_sub(LINES));
    Ok(all)
}

/// How a log line is drawn; static/live.js has the same rule.
fn class(text: &str) -> &'static str {
    let lower = text.to_ascii_lowercase();
    if lower.contains("error") || lower.contains("panicked") { "bad" } else { "" }
}

fn phase(row: &RunRow, lang: Lang) -> String {
    let key = row
        .phase
        .as_deref()
        .filter(|_| row.status == Status::Running)
        .unwrap_or(row.status.as_str());
    lang.text(&format!("phase.{key}")).to_owned()
}

/// One entry a prompt: the first answer and the last.
fn pair_up(samples: &[Value], over: bool, lang: Lang) -> Vec<Sample> {
    let mut all: Vec<Sample> = Vec::new();
    for sample in samples {
        let text =
            |name: &str| sample.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let step = sample.get("step").and_then(Value::as_i64).unwrap_or_default();
        let when = if step == 0 {
            lang.text("samples.before").to_owned()
        } else {
            lang.fill("samples.after", &[&whole(step)])
        };
        let prompt = text("prompt");
        match all.iter_mut().find(|known| known.prompt == prompt) {
            Some(known) => {
                (known.after_label, known.after, known.open) = (when, text("text"), false)
            }
            None => all.push(Sample {
                prompt,
                before_label: when,
                before: text("text"),
                after_label: lang.text("samples.later").to_owned(),
                after: lang.text(if over { "samples.none" } else { "samples.wait" }).to_owned(),
                open: true,
            }),
        }
    }
    all
}

impl Failure {
    /// The card of a run that failed or was lost.
    fn new(row: &RunRow, log: &[String], lang: Lang) -> Option<Self> {
        let title = match row.status {
            Status::Failed => "error.failed",
            Status::Lost => "error.lost",
            _ => return None,
        };
        let reason = row.reason.clone().unwrap_or_else(|| lang.text("error.unknown").to_owned());
        let at = match row.total_steps {
            Some(total) => lang.fill("error.step", &[&whole(row.step), &whole(total)]),
            None => lang.text("error.start").to_owned(),
        };
        let (saved, resume) = match row.checkpoint_step {
            Some(step) => (
                lang.fill("error.saved", &[&whole(step)]),
                lang.fill("error.resume", &[&whole(step)]),
            ),
            None => (lang.text("error.nosave").to_owned(), lang.text("error.again").to_owned()),
        };
        let log = log.get(log.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n");
        let diagnostics = format!(
            "tallow {}\nrun {} {}: {reason}\n{at} {saved}\n\n{}\n{log}\n",
            env!("CARGO_PKG_VERSION"),
            row.id,
            row.status,
            written(row).0,
        );
        Some(Self {
            title: lang.text(title).to_owned(),
            reason,
            place: format!("{at} {saved}"),
            log,
            resume,
            diagnostics,
        })
    }
}

impl Settings {
    fn new(row: &RunRow) -> Self {
        let default = |name: &str| {
            Field::find(name).map(|field| plain(&field.default_value())).unwrap_or_default()
        };
        let setting = |(name, value): (String, Value)| Setting {
            default: default(&name),
            value: plain(&value),
            name,
        };
        let (yaml, cli) = written(row);
        Self { rows: row.config_map().into_iter().map(setting).collect(), yaml, cli }
    }
}

/// The configuration as YAML and as a command.
fn written(row: &RunRow) -> (String, String) {
    Config::from_map(&row.config_map())
        .map(|(config, _)| (config.to_yaml(), config.to_command()))
        .unwrap_or_default()
}

/// At most [`TABLE`] steps with all their values, the first and the last among them.
fn table(curves: &indexmap::IndexMap<String, Series>) -> Vec<Vec<String>> {
    let Some(loss) = curves.get("loss") else {
        return Vec::new();
    };
    let every = loss.step.len().div_ceil(TABLE).max(1);
    let value = |key: &str, step: i64| {
        let series = curves.get(key)?;
        let place = series.step.binary_search(&step).ok()?;
        series.value.get(place).copied()
    };
    let cell = |key: &str, step: i64| {
        value(key, step).map(|value| number(value.or(Some(f64::NAN)))).unwrap_or_default()
    };
    let last = loss.step.len().saturating_sub(1);
    let steps =
        loss.step.iter().enumerate().filter(|(place, _)| place % every == 0 || *place == last);
    steps
        .map(|(_, step)| {
            let cells = ["loss", "lr", "grad_norm", "eval_loss"].map(|key| cell(key, *step));
            std::iter::once(whole(*step)).chain(cells).collect()
        })
        .collect()
}
