//! /api/v1/models: what is on this machine, and names to choose from.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::error::Result;
use super::super::extract::Params;
use super::super::state::AppState;
use crate::db::list::{self, Filter};
use crate::db::runs::RunRow;
use crate::library::models::OnDisk;
use crate::library::registry;

/// A model on disk.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// What `model_name_or_path` (of an adapter `adapter_name_or_path`) takes.
    name: String,
    /// folder, hub, gguf or adapter.
    kind: String,
    /// The architecture, as its files name it.
    architecture: String,
    /// How many parameters it has.
    parameters: Option<u64>,
    /// The format of its weights.
    dtype: String,
    /// Bytes of its weights.
    size: u64,
    /// Longest sequence it was made for.
    context: Option<u64>,
    /// A template that fits, where one could be told.
    template: Option<String>,
    /// Of an adapter: the model it belongs to.
    base: Option<String>,
    /// The run that made it.
    run: Option<String>,
    /// Why it cannot be trained.
    problem: Option<String>,
}

/// The models on this machine.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Folders, hub snapshots, GGUF files, adapters.
    models: Vec<Model>,
}

/// Lists the models below the data folder, the allowed folders and the hubs' caches.
///
/// # Errors
/// Where the database fails.
#[utoipa::path(get, path = "/api/v1/models", responses((status = 200, body = ModelList)))]
pub async fn list(State(state): State<AppState>) -> Result<Json<ModelList>> {
    let made = made(&state).await?;
    let model = |found: OnDisk| {
        let inside = &found.inside;
        Model {
            kind: found.kind.as_str().to_owned(),
            architecture: inside.arch.clone(),
            parameters: inside.parameters,
            dtype: inside.dtype.clone(),
            size: inside.size,
            context: inside.context,
            template: inside.template.clone(),
            base: inside.base.clone(),
            run: made.get(found.path.to_string_lossy().as_ref()).map(|run| run.id.clone()),
            problem: inside.problem.clone(),
            name: found.name,
        }
    };
    let models = state.library.models().await?.into_iter().map(model).collect();
    Ok(Json(ModelList { models }))
}

/// The newest runs by their folders: what lies there is theirs.
///
/// # Errors
/// Where the database fails.
pub async fn made(state: &AppState) -> Result<HashMap<String, RunRow>> {
    let rows = list::list(&state.db, &Filter { limit: 1000, ..Filter::default() }).await?;
    Ok(rows.into_iter().map(|row| (row.output_dir.clone(), row)).collect())
}

/// What to look for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NamesQuery {
    /// Words that the name or an id contains; all names unless given.
    #[serde(default)]
    q: String,
}

/// A model by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelName {
    /// Its name.
    name: &'static str,
    /// Its id on Hugging Face.
    huggingface: &'static str,
    /// Its id on ModelScope; empty where it is not there.
    modelscope: &'static str,
    /// Its template; empty for a base model.
    template: &'static str,
}

/// Names to choose from.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelNames {
    /// The names.
    names: Vec<ModelName>,
}

/// Names of models of the architectures that can be trained, with hub ids and templates.
#[utoipa::path(get, path = "/api/v1/models/names", params(NamesQuery), responses((status = 200, body = ModelNames)))]
pub async fn names(Params(query): Params<NamesQuery>) -> Json<ModelNames> {
    let name = |named: &'static registry::Named| ModelName {
        name: &named.name,
        huggingface: &named.hf,
        modelscope: &named.ms,
        template: &named.template,
    };
    Json(ModelNames { names: registry::search(&query.q).into_iter().map(name).collect() })
}
