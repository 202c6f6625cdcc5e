//! `/runs/new`: the form, its live check, its YAML and command, and Start.

mod convert;
mod plan;

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use run::config::Config;
use run::fields::Field;
use serde::Deserialize;
use serde_json::{Map, Value};

use convert::{Asked, Unread};
use plan::{PlanView, Suggestion};

use super::link;
use super::shell::Shell;
use super::text::Lang;
use super::view::argument;
use super::{Htmx, go, html};
use crate::db::list::{self, Filter};
use crate::db::runs;
use crate::jobs::{CreateError, Prepared};
use crate::library::models::Kind;
use crate::web::error::{Error, FieldProblem, Result};
use crate::web::extract::Caller;
use crate::web::forms::{self, Dressing, GroupView, Typed};
use crate::web::presets::Preset;
use crate::web::state::AppState;

/// The URL's query.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    /// The run to copy.
    from: Option<String>,
    /// The field to start in.
    #[serde(default)]
    focus: String,
    /// Values to start with: `/runs/new?from=ID&learning_rate=1e-5` is a copy with another learning rate.
    #[serde(flatten)]
    values: BTreeMap<String, String>,
}

/// A run that a form is a copy of.
struct From {
    id: String,
    name: String,
}

/// An error with the field's name for people.
struct Wrong {
    field: String,
    label: String,
    message: String,
}

/// The preview at the side.
struct Check {
    button: String,
    blocked: bool,
    errors: Vec<Wrong>,
    notices: Vec<String>,
    facts: Vec<(String, String)>,
    plan: PlanView,
    suggestions: Vec<Suggestion>,
    yaml: String,
    cli: String,
    curl: String,
    unread: Unread,
}

#[derive(Template)]
#[template(path = "pages/new.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    from: Option<From>,
    errors: Vec<Wrong>,
    start_id: String,
    unseen: Vec<(String, String)>,
    sections: Vec<GroupView>,
    groups: Vec<GroupView>,
    changed: usize,
    check: Check,
    /// Key, name, what it does, and the page that starts with it.
    presets: Vec<(&'static str, String, String, String)>,
}

#[derive(Template)]
#[template(path = "parts/plan.html")]
struct PlanPart {
    shell: Shell,
    check: Check,
}

#[derive(Template)]
#[template(path = "parts/check.html")]
struct Preview {
    shell: Shell,
    check: Check,
}

/// GET /runs/new
///
/// # Errors
/// 404 where the run to copy is not there, or where the database fails.
pub async fn form(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> Result<Response> {
    let (typed, from) = match wanted.from.filter(|id| !id.is_empty()) {
        None => (Typed::fresh(), None),
        Some(id) => {
            let row =
                runs::get(&state.db, &id).await?.ok_or_else(|| Error::not_found("run", &id))?;
            (Typed::clone_of(&row.config_map()), Some(From { id: row.id, name: row.name }))
        }
    };
    let mut typed = typed;
    for (name, value) in wanted.values {
        if Field::find(&name).is_some_and(|field| !field.secret) {
            typed.set(name, value);
        }
    }
    let drawing = Drawing {
        typed,
        from,
        focus: &wanted.focus,
        start_id: new_start_id(),
        errors: None,
        unread: Unread::default(),
    };
    let page = drawing.page(&state, &caller).await?;
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

/// POST /runs/new/check: the preview of what is typed, with everything that is wrong.
///
/// # Errors
/// Where the database fails.
pub async fn check(
    State(state): State<AppState>,
    caller: Caller,
    Query(part): Query<Part>,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response> {
    let mut typed = Typed::sent(pairs);
    typed.take("start_id");
    Asked::take(&mut typed);
    let shell = Shell::load(&state, &caller, "new").await?;
    let check = Check::new(&state, &typed, &caller, shell.lang).await?;
    match part.part.as_str() {
        "plan" => html(StatusCode::OK, &PlanPart { shell, check }),
        _ => html(StatusCode::OK, &Preview { shell, check }),
    }
}

/// Which part of the preview.
#[derive(Debug, Default, Deserialize)]
pub struct Part {
    /// `plan`: the numbers alone.
    #[serde(default)]
    part: String,
}

/// POST /runs/new/convert: the page after the YAML, the command or a preset changed the form.
///
/// # Errors
/// Where the database fails.
pub async fn convert(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response> {
    let mut typed = Typed::sent(pairs);
    let start_id = sent_start_id(&mut typed);
    let start_id = start_id.unwrap_or_else(new_start_id);
    let (typed, unread) = match Asked::take(&mut typed).apply(typed) {
        Ok(typed) => (typed, Unread::default()),
        Err((typed, unread)) => (typed, unread),
    };
    // what the text has and is wrong is shown; what it lacks is asked for when it is started
    let errors = match Config::from_pairs(&typed.pairs()) {
        Err(error) => Some(error.errors.into_iter().map(FieldProblem::from).collect()),
        Ok(_) => None,
    };
    let wrong = unread.any() || errors.is_some();
    let status = if wrong { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let drawing = Drawing { typed, from: None, focus: "", start_id, errors, unread };
    let page = drawing.page(&state, &caller).await?;
    if htmx.0 { html(status, &page.as_main()) } else { html(status, &page) }
}

/// POST /runs: 303 to the run, or 422 with the form as it was typed.
///
/// # Errors
/// Where the database fails.
pub async fn create(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response> {
    let mut typed = Typed::sent(pairs);
    let start_id = sent_start_id(&mut typed);
    Asked::take(&mut typed);
    match state.jobs.create(&typed.pairs(), start_id.clone()).await {
        Ok((row, _)) => Ok(go(htmx, &format!("/runs/{}", row.id))),
        Err(CreateError::Invalid(errors)) => {
            let errors = errors.into_iter().map(FieldProblem::from).collect();
            let start_id = start_id.unwrap_or_else(new_start_id);
            let unread = Unread::default();
            let errors = Some(errors);
            let drawing = Drawing { typed, from: None, focus: "", start_id, errors, unread };
            let page = drawing.page(&state, &caller).await?;
            if htmx.0 {
                html(StatusCode::UNPROCESSABLE_ENTITY, &page.as_main())
            } else {
                html(StatusCode::UNPROCESSABLE_ENTITY, &page)
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// What makes two clicks on Start one run, as the form sent it.
fn sent_start_id(typed: &mut Typed) -> Option<String> {
    typed.take("start_id").filter(|id| !id.is_empty() && id.len() <= 100)
}

fn new_start_id() -> String {
    ulid::Ulid::new().to_string()
}

/// What the page is drawn from.
struct Drawing<'a> {
    typed: Typed,
    from: Option<From>,
    focus: &'a str,
    start_id: String,
    /// After a Start that was refused.
    errors: Option<Vec<FieldProblem>>,
    /// After a text that could not be read.
    unread: Unread,
}

impl Drawing<'_> {
    async fn page(self, state: &AppState, caller: &Caller) -> Result<Page> {
        let shell = Shell::load(state, caller, "new").await?;
        let lang = shell.lang;
        let errors = self.errors.unwrap_or_default();
        let known = Known::of(state).await?;
        let dressing = Dressing {
            errors: &errors,
            focus: self.focus,
            datasets: &known.datasets,
            models: &known.models,
        };
        let groups = self.typed.groups(lang, dressing);
        let mut check = Check::new(state, &self.typed, caller, lang).await?;
        check.unread = self.unread;
        let preset = |preset: &Preset| {
            let text = |tail: &str| lang.text(&format!("preset.{}{tail}", preset.key)).to_owned();
            let values: Vec<_> = preset.values().collect();
            (preset.key, text(""), text(".text"), format!("/runs/new{}", link::query(&values)))
        };
        Ok(Page {
            presets: Preset::all().map(preset).collect(),
            from: self.from,
            start_id: self.start_id,
            unseen: self
                .typed
                .unseen()
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            sections: self.typed.sections(lang, dressing),
            changed: groups.iter().map(|group| group.changed).sum(),
            groups,
            check,
            errors: errors
                .into_iter()
                .map(|error| Wrong::new(error.field, error.message, lang))
                .collect(),
            shell,
        })
    }
}

impl Wrong {
    fn new(field: String, message: String, lang: Lang) -> Self {
        Self { label: forms::label(&field, lang), field, message }
    }
}

impl Check {
    async fn new(state: &AppState, typed: &Typed, headers: &HeaderMap, lang: Lang) -> Result<Self> {
        let pairs = typed.pairs();
        let (prepared, errors) = match state.jobs.check(&pairs).await {
            Ok(prepared) => (Some(prepared), Vec::new()),
            Err(CreateError::Invalid(errors)) => (None, errors),
            Err(error) => return Err(error.into()),
        };
        // what is wrong is left out of the preview; the rest stays in step
        let config: Map<String, Value> = match &prepared {
            Some(prepared) => prepared.map.clone(),
            None => pairs
                .into_iter()
                .filter(|(name, _)| !errors.iter().any(|error| error.field == *name))
                .collect(),
        };
        let written = written(&config);
        let ahead: i64 = {
            let counts = runs::counts(&state.db).await?;
            counts.iter().filter(|(status, _)| !status.is_over()).map(|(_, n)| n).sum()
        };
        let notices = prepared
            .iter()
            .flat_map(|prepared| &prepared.notices)
            .map(|notice| notice.text.clone())
            .collect();
        let facts = facts(&config, prepared.as_ref(), lang);
        let plan = match &prepared {
            Some(prepared) => plan::of(state, &prepared.config, lang).await?,
            None => PlanView::default(),
        };
        let suggestions = plan::suggestions(state, &config, lang).await;
        let errors: Vec<Wrong> =
            errors.into_iter().map(|error| Wrong::new(error.field, error.message, lang)).collect();
        let button = match errors.first() {
            Some(_) if typed.get("model_name_or_path").unwrap_or_default().is_empty() => {
                lang.text("new.choose_model").to_owned()
            }
            Some(_) if typed.get("dataset").unwrap_or_default().is_empty() => {
                lang.text("new.choose_data").to_owned()
            }
            Some(first) => lang.fill("new.fix", &[&first.label]),
            None if ahead > 0 => lang.fill("new.ahead", &[&ahead]),
            None => lang.text("new.start").to_owned(),
        };
        Ok(Self {
            button,
            blocked: !errors.is_empty(),
            errors,
            notices,
            facts,
            plan,
            suggestions,
            yaml: written.0,
            cli: written.1,
            curl: link::start_by_curl(headers, config),
            unread: Unread::default(),
        })
    }
}

/// YAML and command line of a configuration; empty where it cannot be read.
fn written(config: &Map<String, Value>) -> (String, String) {
    Config::from_map(config)
        .map(|(config, _)| (config.to_yaml(), config.to_command()))
        .unwrap_or_default()
}

/// Numbers that follow from the configuration alone.
fn facts(
    config: &Map<String, Value>,
    prepared: Option<&Prepared>,
    lang: Lang,
) -> Vec<(String, String)> {
    let number = |name: &str| argument(config, name).parse::<f64>().unwrap_or(0.0);
    let batch = number("per_device_train_batch_size") * number("gradient_accumulation_steps");
    let length = if number("max_steps") > 0.0 {
        lang.fill("new.length.steps", &[&argument(config, "max_steps")])
    } else {
        let epochs = number("num_train_epochs");
        #[expect(clippy::float_cmp, reason = "exactly one epoch has another word")]
        let key = if epochs == 1.0 { "new.length.epoch" } else { "new.length.epochs" };
        lang.fill(key, &[&epochs])
    };
    let mut facts = vec![
        (lang.text("new.length").to_owned(), length),
        (lang.text("new.batch").to_owned(), lang.fill("new.batch.value", &[&batch])),
    ];
    if let Some(prepared) = prepared {
        let folder =
            prepared.output_dir.clone().unwrap_or_else(|| lang.text("new.output.own").to_owned());
        facts.push((lang.text("new.output").to_owned(), folder));
    }
    facts
}

/// Models and data sets of the newest runs and of the disk, to propose.
struct Known {
    models: Vec<String>,
    datasets: Vec<String>,
}

impl Known {
    async fn of(state: &AppState) -> Result<Self> {
        let rows = list::list(&state.db, &Filter { limit: 50, ..Filter::default() }).await?;
        let configs: Vec<_> = rows.iter().map(crate::db::runs::RunRow::config_map).collect();
        let distinct = |name: &str| {
            let values: BTreeSet<String> = configs
                .iter()
                .map(|config| argument(config, name))
                .filter(|value| !value.is_empty())
                .collect();
            values.into_iter().collect()
        };
        let mut known =
            Self { models: distinct("model_name_or_path"), datasets: distinct("dataset") };
        for model in state.library.models().await.unwrap_or_default() {
            let whole = model.kind != Kind::Adapter && model.inside.problem.is_none();
            if whole && !known.models.contains(&model.name) {
                known.models.push(model.name);
            }
        }
        if let Ok(home) = state.library.home("") {
            for listed in state.library.list(home).await.unwrap_or_default() {
                if listed.problem.is_none() && !known.datasets.contains(&listed.name) {
                    known.datasets.push(listed.name);
                }
            }
        }
        Ok(known)
    }
}
