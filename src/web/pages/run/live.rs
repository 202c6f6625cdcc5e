//! The overview of a run as it stands at one event number: curves, readings, samples, log.

use serde_json::Value;

use super::outcome::Outcome;
use crate::db::events::{self, EventRow};
use crate::db::metrics::{self, Series};
use crate::db::runs::{RunRow, Status};
use crate::jobs::vitals::Vitals;
use crate::web::error::Result;
use crate::web::pages::curve::Curve;
use crate::web::pages::format::{bytes, count, number, whole};
use crate::web::pages::queue::reason;
use crate::web::pages::text::Lang;
use crate::web::pages::view::RunView;
use crate::web::state::AppState;

/// Log lines of the first paint.
const LINES: usize = 300;
/// Rows of the curve as a table.
const TABLE: usize = 50;
/// The curves of the page.
const KEYS: [&str; 5] = ["loss", "eval_loss", "lr", "grad_norm", "tokens_per_s"];

/// The overview.
pub struct Live {
    pub seq: i64,
    pub link: &'static str,
    pub phase: String,
    pub bar_max: i64,
    pub bar_value: i64,
    pub percent: String,
    pub marks: String,
    pub loss_curve: Option<Curve>,
    pub small: Vec<Small>,
    pub log: Vec<Line>,
    pub samples: Vec<Sample>,
    pub outcome: Option<Outcome>,
    pub table: Vec<Vec<String>>,
    /// What its worker uses, or nothing.
    pub usage: String,
}

/// A small chart.
pub struct Small {
    pub key: &'static str,
    pub title: String,
    pub last: String,
    pub curve: Option<Curve>,
}

/// A log line.
pub struct Line {
    pub text: String,
    pub class: &'static str,
}

/// What the model answered to one prompt, step after step.
pub struct Sample {
    pub prompt: String,
    pub answers: Vec<Answer>,
    /// What stands in place of an answer that is still to come, or will not.
    pub open: Option<&'static str>,
}

/// One answer.
pub struct Answer {
    pub step: i64,
    pub label: String,
    pub text: String,
}

impl Live {
    /// Key of the connection's word.
    pub fn link_key(&self) -> String {
        format!("link.{}", self.link)
    }

    /// Everything up to event number `row.seq`.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn load(state: &AppState, row: &RunRow, lang: Lang) -> Result<Self> {
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
            phase: phase(state, row, lang).await?,
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
            outcome: Outcome::load(state, row, lang).await?,
            log: log.into_iter().map(|text| Line { class: class(&text), text }).collect(),
            samples: pair_up(&known(samples, row), row.status.is_over(), lang),
            table: table(&curves),
            usage: state.jobs.vitals(&row.id).map(|vitals| usage(vitals, lang)).unwrap_or_default(),
        })
    }
}

/// The bodies of events up to the page's cursor: later ones come by the stream.
fn known(rows: Vec<EventRow>, row: &RunRow) -> Vec<Value> {
    let bodies = rows.into_iter().filter(|event| event.seq <= row.seq);
    bodies.filter_map(|event| serde_json::from_str(&event.body).ok()).collect()
}

/// The newest log lines, oldest first.
pub async fn lines(state: &AppState, row: &RunRow) -> Result<Vec<String>> {
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
    if lower.contains("error") || lower.contains("panicked") {
        "bad"
    } else if lower.contains("warning") {
        "warn"
    } else {
        ""
    }
}

/// What it does at present; while it waits, why.
async fn phase(state: &AppState, row: &RunRow, lang: Lang) -> Result<String> {
    if row.status == Status::Queued {
        let queue = state.jobs.queue().await?;
        let place = queue.waiting.iter().position(|waiting| waiting.id == row.id);
        return Ok(reason(queue.why(place.unwrap_or(0)), lang));
    }
    let phase = row.phase.as_deref().filter(|_| row.status == Status::Running);
    let key = phase.unwrap_or(row.status.as_str());
    Ok(lang.text(&format!("phase.{key}")).to_owned())
}

/// One entry a prompt, its answers by step; one that comes again replaces the old.
fn pair_up(samples: &[Value], over: bool, lang: Lang) -> Vec<Sample> {
    let mut all: Vec<Sample> = Vec::new();
    for sample in samples {
        let text =
            |name: &str| sample.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let step = sample.get("step").and_then(Value::as_i64).unwrap_or_default();
        let label = if step == 0 {
            lang.text("samples.before").to_owned()
        } else {
            lang.fill("samples.after", &[&whole(step)])
        };
        let (prompt, answer) = (text("prompt"), Answer { step, label, text: text("text") });
        match all.iter_mut().find(|known| known.prompt == prompt) {
            Some(known) => {
                known.answers.retain(|old| old.step != step);
                known.answers.push(answer);
            }
            None => all.push(Sample { prompt, answers: vec![answer], open: None }),
        }
    }
    for sample in all.iter_mut().filter(|sample| sample.answers.len() == 1) {
        sample.open = Some(if over { "samples.none" } else { "samples.wait" });
    }
    all
}

/// `1.9 cores · 412 MiB · GPU 87% · 12 GiB of 139 GiB`
fn usage(vitals: Vitals, lang: Lang) -> String {
    let memory = bytes(vitals.resident);
    let own = match vitals.cores {
        Some(cores) => lang.fill("run.usage", &[&format!("{cores:.1}"), &memory]),
        None => memory,
    };
    let gpu = vitals
        .gpu
        .map(|gpu| lang.fill("run.gpu", &[&gpu.busy, &bytes(gpu.used), &bytes(gpu.size)]));
    [own].into_iter().chain(gpu).collect::<Vec<_>>().join(" · ")
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
