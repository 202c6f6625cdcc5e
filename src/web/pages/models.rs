//! `/models`: what is on this machine, and names to fetch.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::format::{NONE, bytes, count, whole};
use super::link::{self, encode, query};
use super::shell::Shell;
use super::{Htmx, html};
use crate::db::runs::RunRow;
use crate::library::models::{Kind, OnDisk};
use crate::library::registry::{self, Named};
use crate::web::api;
use crate::web::error::Result;
use crate::web::extract::{Caller, Params};
use crate::web::state::AppState;

/// Names that are shown before somebody asks for more.
const FEW: usize = 12;

/// The URL's query.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    /// Only names that contain these words.
    #[serde(default)]
    q: String,
    /// `all`: every name of the table.
    #[serde(default)]
    names: String,
}

/// A model as the list shows it.
struct Line {
    name: String,
    arch: String,
    parameters: String,
    dtype: String,
    size: String,
    context: String,
    template: String,
    problem: Option<String>,
    base: Option<String>,
    run: Option<(String, String)>,
    /// Where it would be trained.
    train: Option<String>,
}

/// Models of a kind.
struct Group {
    title: String,
    lines: Vec<Line>,
}

/// A name of the table.
struct NameLine {
    named: &'static Named,
    train: String,
    here: bool,
}

#[derive(Template)]
#[template(path = "pages/models.html", blocks = ["main"])]
struct Page {
    shell: Shell,
    q: String,
    groups: Vec<Group>,
    total: usize,
    names: Vec<NameLine>,
    more: Option<(usize, String)>,
    places: Vec<String>,
    curl: String,
}

/// GET /models
///
/// # Errors
/// Where the database fails.
pub async fn list(
    State(state): State<AppState>,
    htmx: Htmx,
    caller: Caller,
    Params(wanted): Params<Wanted>,
) -> Result<Response> {
    let shell = Shell::load(&state, &caller, "models").await?;
    let found = state.library.models().await?;
    let made = api::models::made(&state).await?;
    let total = found.len();
    let words: Vec<String> = wanted.q.split_whitespace().map(str::to_lowercase).collect();
    let hit = |model: &OnDisk| {
        let all = format!("{} {}", model.name, model.inside.arch).to_lowercase();
        words.iter().all(|word| all.contains(word))
    };
    let here: Vec<String> = found.iter().map(|model| model.name.to_lowercase()).collect();
    let line = |model: &OnDisk| {
        let run = made.get(model.path.to_string_lossy().as_ref());
        Line::new(model, run)
    };
    let groups =
        [Kind::Folder, Kind::Hub, Kind::Gguf, Kind::Adapter].into_iter().map(|kind| Group {
            title: shell.t(&format!("models.{}", kind.as_str())).to_owned(),
            lines: found
                .iter()
                .filter(|model| model.kind == kind && hit(model))
                .map(line)
                .collect(),
        });
    let groups = groups.filter(|group| !group.lines.is_empty()).collect();
    let mut names = registry::search(&wanted.q);
    let all = names.len();
    let few = wanted.names != "all" && all > FEW;
    if few {
        names.truncate(FEW);
    }
    let more = few.then(|| {
        let link = format!("/models{}#names", query(&[("q", &wanted.q), ("names", "all")]));
        (all, link)
    });
    let name = |named: &'static Named| NameLine {
        train: train(&named.hf, Some(&named.template)),
        here: here.contains(&named.hf.to_lowercase()),
        named,
    };
    let page = Page {
        groups,
        total,
        names: names.into_iter().map(name).collect(),
        more,
        places: state.library.model_places(),
        curl: link::curl(&caller, "/api/v1/models"),
        q: wanted.q,
        shell,
    };
    if htmx.0 { html(StatusCode::OK, &page.as_main()) } else { html(StatusCode::OK, &page) }
}

fn train(model: &str, template: Option<&str>) -> String {
    format!(
        "/runs/new{}",
        query(&[("model_name_or_path", model), ("template", template.unwrap_or_default())])
    )
}

impl Line {
    fn new(model: &OnDisk, run: Option<&RunRow>) -> Self {
        let inside = &model.inside;
        let or_none = |text: &str| if text.is_empty() { NONE.to_owned() } else { text.to_owned() };
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let parameters = count(inside.parameters.map(|n| n as f64));
        let link = match (model.kind, &inside.base) {
            (Kind::Adapter, Some(base)) => {
                let pairs =
                    [("model_name_or_path", base.as_str()), ("adapter_name_or_path", &model.name)];
                Some(format!("/runs/new{}", query(&pairs)))
            }
            (Kind::Adapter, None) => None,
            _ => Some(train(&model.name, inside.template.as_deref())),
        };
        Self {
            arch: or_none(&inside.arch),
            parameters,
            dtype: or_none(&inside.dtype),
            size: if inside.size == 0 { NONE.to_owned() } else { bytes(inside.size) },
            context: inside
                .context
                .and_then(|n| i64::try_from(n).ok())
                .map_or_else(|| NONE.to_owned(), whole),
            template: or_none(inside.template.as_deref().unwrap_or_default()),
            problem: inside.problem.clone(),
            base: inside.base.clone(),
            run: run.map(|run| (format!("/runs/{}", encode(&run.id)), run.name.clone())),
            train: link.filter(|_| inside.problem.is_none()),
            name: model.name.clone(),
        }
    }
}
