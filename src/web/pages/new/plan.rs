//! The preview's numbers: rows at this cutoff, steps, tokens, layers reached, disk and time. Counted, not guessed; what
//! is not known yet is left out or says so.

use run::config::Config;
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
    Ok(PlanView { facts: facts(&plan, speed, lang), busy: false, problem: None })
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
    if let Some(parameters) = plan.parameters {
        add("plan.parameters", count(Some(parameters as f64)), "");
    }
    if let Some((reached, layers)) = plan.badam {
        let class = if reached < layers { "warn" } else { "" };
        add("plan.badam", lang.fill("plan.badam.value", &[&reached, &layers]), class);
    }
    if let Some((kept, one)) = plan.checkpoints {
        let all = kept.saturating_mul(one);
        let class = if plan.free.is_some_and(|free| all > free) { "fail" } else { "" };
        add("plan.disk", lang.fill("plan.disk.value", &[&bytes(all), &kept, &bytes(one)]), class);
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
