//! `/runs/new`: the form, its live check, and Start.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use run::config::Config;
use run::fields::Field;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::shell::Shell;
use super::text::Lang;
use super::view::argument;
use super::{Htmx, go, html};
use crate::db::list::{self, Filter};
use crate::db::runs;
use crate::jobs::{CreateError, Prepared};
use crate::web::error::{Error, FieldProblem, Result};
use crate::web::forms::{self, Dressing, GroupView, Typed};
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
    yaml: String,
    cli: String,
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
    headers: HeaderMap,
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
        start_id: ulid::Ulid::new().to_string(),
        errors: None,
    };
    let page = drawing.page(&state, &headers).await?;
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

/// POST /runs/new/check: the preview of what is typed, with everything that is wrong.
///
/// # Errors
/// Where the database fails.
pub async fn check(
    State(state): State<AppState>,
    headers: HeaderMap,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response> {
    let mut typed = Typed::sent(pairs);
    typed.take("start_id");
    let shell = Shell::bare(&headers);
    let check = Check::new(&state, &typed, shell.lang).await?;
    html(StatusCode::OK, &Preview { shell, check })
}

/// POST /runs: 303 to the run, or 422 with the form as it was typed.
///
/// # Errors
/// Where the database fails.
pub async fn create(
    State(state): State<AppState>,
    htmx: Htmx,
    headers: HeaderMap,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response> {
    let mut typed = Typed::sent(pairs);
    let start_id = typed.take("start_id").filter(|id| !id.is_empty() && id.len() <= 100);
    match state.jobs.create(&typed.pairs(), start_id.clone()).await {
        Ok((row, _)) => Ok(go(htmx, &format!("/runs/{}", row.id))),
        Err(CreateError::Invalid(errors)) => {
            let errors = errors
                .into_iter()
                .map(|error| FieldProblem { field: error.field, message: error.message })
                .collect();
            let start_id = start_id.unwrap_or_else(|| ulid::Ulid::new().to_string());
            let drawing = Drawing { typed, from: None, focus: "", start_id, errors: Some(errors) };
            let page = drawing.page(&state, &headers).await?;
            if htmx.0 {
                html(StatusCode::UNPROCESSABLE_ENTITY, &page.as_main())
            } else {
                html(StatusCode::UNPROCESSABLE_ENTITY, &page)
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// What the page is drawn from.
struct Drawing<'a> {
    typed: Typed,
    from: Option<From>,
    focus: &'a str,
    start_id: String,
    /// After a Start that was refused.
    errors: Option<Vec<FieldProblem>>,
}

impl Drawing<'_> {
    async fn page(self, state: &AppState, headers: &HeaderMap) -> Result<Page> {
        let shell = Shell::load(state, headers, "new").await?;
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
        Ok(Page {
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
            check: Check::new(state, &self.typed, lang).await?,
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
    async fn new(state: &AppState, typed: &Typed, lang: Lang) -> Result<Self> {
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
            yaml: written.0,
            cli: written.1,
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
        lang.fill("new.length.epochs", &[&number("num_train_epochs")])
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

/// Models and data sets of the newest runs, to propose.
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
        Ok(Self { models: distinct("model_name_or_path"), datasets: distinct("dataset") })
    }
}
