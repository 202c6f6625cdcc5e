//! The preview's numbers: rows at this cutoff, steps, tokens, layers reached, disk and time. Counted, not guessed; what
//! is not known yet is left out or says so.

use run::config::Config;
use run::estimate::{Estimate, Part};
use serde_json::{Map, Value};

use super::super::format::{bytes, count, duration, whole};
use super::super::text::Lang;
use super::super::view::argument;
use crate::db::speed;
use crate::library::plan::Plan;
use crate::library::{LibraryError, Patience};
use crate::web::error::Result;
use crate::web::state::AppState;

/// A number with its name, and a class where it wants to be seen.
pub struct Fact {
    pub label: String,
    pub value: String,
    pub class: &'static str,
}

/// The part of the preview that is worked out from the data.
#[derive(Default)]
pub struct PlanView {
    pub facts: Vec<Fact>,
    /// It is being counted; the page asks again.
    pub busy: bool,
    /// Why it cannot be told.
    pub problem: Option<String>,
    /// How much memory it will take.
    pub memory: Option<MemoryView>,
    /// What may go wrong with numbers like these; no error.
    pub warnings: Vec<String>,
}

/// Memory as a bar: lowest, expected and highest against what the machine has.
pub struct MemoryView {
    /// Expected.
    pub expected: String,
    /// From the lowest to the highest.
    pub range: String,
    /// Free, of all.
    pub free: String,
    /// The largest part and its size.
    pub largest: String,
    /// More than is free: `fail` where the expected is, `warn` where the highest is.
    pub class: &'static str,
    /// Places on the bar, in percent of its length.
    pub low: u64,
    pub mid: u64,
    pub high: u64,
    pub mark: u64,
    /// Name and size of every part, the largest first.
    pub parts: Vec<(String, String)>,
}

/// A value that suits the model, and that the form does not have.
pub struct Suggestion {
    pub text: String,
    /// `name=value`.
    pub set: String,
}

/// The numbers of a configuration that would run.
pub async fn of(state: &AppState, config: &Config, lang: Lang) -> Result<PlanView> {
    if config.dataset.is_empty() {
        return Ok(PlanView::default());
    }
    let plan = match state.library.plan(config, Patience::Glance).await {
        Ok(plan) => plan,
        Err(LibraryError::Busy) => return Ok(PlanView { busy: true, ..PlanView::default() }),
        Err(LibraryError::Io(cause)) => return Err(crate::web::error::Error::internal(cause)),
        Err(error) => {
            return Ok(PlanView { problem: Some(error.to_string()), ..PlanView::default() });
        }
    };
    let map = config.to_map();
    let model = argument(&map, "model_name_or_path");
    let method = argument(&map, "finetuning_type");
    let speed = speed::measured(&state.db, &model, &method).await?;
    let memory = plan.memory.as_ref().map(|found| memory(found, plan.ram, lang));
    let mut warnings = Vec::new();
    if let Some(seen) = memory.as_ref().filter(|seen| !seen.class.is_empty()) {
        let key = if seen.class == "fail" { "plan.memory.over" } else { "plan.memory.near" };
        warnings.push(lang.fill(key, &[&seen.expected, &seen.free]));
    }
    if let (Some(needed), Some(free)) = (disk(&plan), plan.free)
        && needed > free
    {
        warnings.push(lang.fill("plan.disk.over", &[&bytes(needed), &bytes(free)]));
    }
    let facts = facts(&plan, speed, lang);
    Ok(PlanView { facts, memory, warnings, ..PlanView::default() })
}

/// Bytes on the disk: checkpoints and what is written at the end.
fn disk(plan: &Plan) -> Option<u64> {
    let kept = plan.checkpoints.map_or(0, |(kept, one)| kept.saturating_mul(one));
    plan.output.map(|output| output.saturating_add(kept))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes, not negative")]
fn memory(found: &Estimate, (free, all): (u64, u64), lang: Lang) -> MemoryView {
    let total = found.total();
    let [low, mid, high] = [total.low, total.expected, total.high].map(|size| size as u64);
    let name = |part: &Part| lang.text(&format!("memory.{}", part.name)).to_owned();
    let mut parts: Vec<&Part> = found.parts.iter().collect();
    parts.sort_by(|a, b| b.expected.total_cmp(&a.expected));
    let largest = parts.first().map(|part| {
        let share = (100.0 * part.expected / total.expected.max(1.0)).round();
        lang.fill("plan.memory.largest", &[&name(part), &share])
    });
    let long = high.max(all).max(1);
    let at = |size: u64| 100 * size.min(long) / long;
    MemoryView {
        expected: bytes(mid),
        range: lang.fill("plan.memory.range", &[&bytes(low), &bytes(high)]),
        free: bytes(free),
        largest: largest.unwrap_or_default(),
        class: match free {
            free if mid > free => "fail",
            free if high > free => "warn",
            _ => "",
        },
        low: at(low),
        mid: at(mid),
        high: at(high),
        mark: at(free),
        parts: parts.into_iter().map(|part| (name(part), bytes(part.expected as u64))).collect(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn facts(plan: &Plan, speed: Option<f64>, lang: Lang) -> Vec<Fact> {
    let n = |n: u64| whole(i64::try_from(n).unwrap_or(i64::MAX));
    let about = |text: String| if plan.rough { lang.fill("plan.about", &[&text]) } else { text };
    let mut facts = Vec::new();
    let mut add = |key: &str, value: String, class| {
        facts.push(Fact { label: lang.text(key).to_owned(), value, class });
    };
    add("plan.rows", about(n(plan.rows)), "");
    add("plan.kept", n(plan.kept), "");
    add("plan.truncated", n(plan.truncated), if plan.truncated > 0 { "warn" } else { "" });
    add("plan.dropped", n(plan.dropped), if plan.dropped > 0 { "warn" } else { "" });
    if plan.held_out > 0 {
        add("plan.held", n(plan.held_out), "");
    }
    add("plan.steps", about(n(plan.steps)), "");
    let tokens = plan.tokens as f64;
    add("plan.tokens", about(lang.fill("data.tokens", &[&count(Some(tokens))])), "");
    if let (Some(parameters), Some(trained)) = (plan.parameters, plan.trained) {
        let [trained, all] = [trained, parameters].map(|n| count(Some(n as f64)));
        add("plan.parameters", lang.fill("plan.parameters.value", &[&trained, &all]), "");
    }
    if let Some((reached, layers)) = plan.badam {
        let class = if reached < layers { "warn" } else { "" };
        add("plan.badam", lang.fill("plan.badam.value", &[&reached, &layers]), class);
    }
    let short = disk(plan).zip(plan.free).is_some_and(|(needed, free)| needed > free);
    let class = if short { "fail" } else { "" };
    if let Some((kept, one)) = plan.checkpoints {
        let all = kept.saturating_mul(one);
        add("plan.disk", lang.fill("plan.disk.value", &[&bytes(all), &kept, &bytes(one)]), class);
    }
    if let Some(output) = plan.output {
        add("plan.output", bytes(output), class);
    }
    if let Some(free) = plan.free {
        add("plan.free", bytes(free), "");
    }
    match speed.filter(|speed| *speed > 0.0) {
        Some(speed) => {
            let seconds = tokens * plan.epochs / speed;
            let time = duration(Some(seconds));
            add("plan.time", lang.fill("plan.time.value", &[&time, &count(Some(speed))]), "");
        }
        None => add("plan.time", lang.text("plan.time.unknown").to_owned(), ""),
    }
    facts
}

/// What suits the model and the method better than what stands in the form.
pub async fn suggestions(
    state: &AppState,
    config: &Map<String, Value>,
    lang: Lang,
) -> Vec<Suggestion> {
    let mut found = Vec::new();
    let model = argument(config, "model_name_or_path");
    if model.is_empty() {
        return found;
    }
    let template = argument(config, "template");
    let revision = argument(config, "model_revision");
    let inside = state.library.model(&model, &revision).await.ok();
    let fits = inside.and_then(|inside| inside.template.clone());
    if let Some(fits) = fits.filter(|fits| *fits != template && template.is_empty()) {
        found.push(Suggestion {
            text: lang.fill("new.suggest.template", &[&fits]),
            set: format!("template={fits}"),
        });
    }
    let full = argument(config, "finetuning_type") == "full";
    // LLaMA-Factory's examples: 1e-4 for adapters, 1e-5 for whole models
    let (usual, badam) = (if full { "1e-5" } else { "1e-4" }, argument(config, "use_badam"));
    if !config.contains_key("learning_rate") && badam != "true" {
        found.push(Suggestion {
            text: lang.fill("new.suggest.rate", &[&usual]),
            set: format!("learning_rate={usual}"),
        });
    }
    found
}
