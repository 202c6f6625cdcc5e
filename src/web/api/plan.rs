//! /api/v1/runs/convert and /preview: a configuration in every form, and what it would be, before it starts.

use axum::Json;
use axum::extract::State;
use run::config::Config;
use run::estimate::{Estimate, Part};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::super::error::{Error, FieldProblem, Problem, Result};
use super::super::extract::JsonBody;
use super::super::state::AppState;
use crate::library::Patience;

/// A configuration in one of three forms.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Convert {
    /// The text of a YAML file.
    yaml: Option<String>,
    /// A command: `tallow train --stage sft ...`.
    command: Option<String>,
    /// Names and values.
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
}

/// The same configuration in all of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Converted {
    /// The arguments that are not at their defaults.
    #[schema(value_type = Object)]
    config: Map<String, Value>,
    /// As a YAML file.
    yaml: String,
    /// As a command.
    command: String,
    /// Arguments without effect here, and why.
    notices: Vec<String>,
}

/// Turns a configuration from one form into all of them. Nothing is started, no file is looked at.
///
/// # Errors
/// 422 with every wrong argument, or where not exactly one form is given.
#[utoipa::path(post, path = "/api/v1/runs/convert", request_body = Convert,
    responses((status = 200, body = Converted), (status = 400, body = Problem), (status = 422, body = Problem)))]
pub async fn convert(JsonBody(given): JsonBody<Convert>) -> Result<Json<Converted>> {
    let read = match (given.yaml, given.command, given.config) {
        (Some(yaml), None, None) => Config::pairs_of_yaml(&yaml),
        (None, Some(command), None) => Config::pairs_of_command(&command),
        (None, None, Some(config)) => Ok(config.into_iter().collect()),
        _ => {
            let message = "give one of yaml, command and config".to_owned();
            return Err(Error::invalid(vec![FieldProblem { field: "yaml".to_owned(), message }]));
        }
    };
    let wrong = |error: run::config::ConfigError| {
        Error::invalid(error.errors.into_iter().map(FieldProblem::from).collect())
    };
    let (config, notices) = Config::from_pairs(&read.map_err(wrong)?).map_err(wrong)?;
    Ok(Json(Converted {
        config: config.to_map(),
        yaml: config.to_yaml(),
        command: config.to_command(),
        notices: notices.into_iter().map(|notice| notice.text).collect(),
    }))
}

/// What a run would be.
#[derive(Debug, Serialize, ToSchema)]
pub struct Preview {
    /// Rows that are read.
    rows: u64,
    /// Rows that stay whole.
    kept: u64,
    /// Rows that `cutoff_len` shortens.
    truncated: u64,
    /// Rows that are left out.
    dropped: u64,
    /// Rows held out for evaluation.
    held_out: u64,
    /// Tokens of an epoch.
    tokens: u64,
    /// Optimiser steps.
    steps: u64,
    /// Whether the counts are those of a share of the rows, scaled up, or of packs that are not made yet.
    rough: bool,
    /// Parameters of the model.
    parameters: Option<u64>,
    /// Layers that BAdam trains within these steps, of all.
    badam_layers: Option<(usize, usize)>,
    /// Bytes of the checkpoints that will lie on the disk at once.
    checkpoint_bytes: Option<u64>,
    /// Bytes of the model or adapter that is written at the end.
    output_bytes: Option<u64>,
    /// Bytes that are free there.
    free_bytes: Option<u64>,
    /// Parameters that are trained.
    trained: Option<u64>,
    /// How much memory it will take.
    memory: Option<Memory>,
    /// Bytes of memory that are free.
    memory_free_bytes: u64,
    /// Bytes of memory in all.
    memory_bytes: u64,
}

/// The memory of a run to be, in bytes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Memory {
    /// At least.
    low: u64,
    /// Most likely.
    expected: u64,
    /// At most.
    high: u64,
    /// Its parts.
    parts: Vec<MemoryPart>,
}

/// A part of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemoryPart {
    /// `weights`, `adapter`, `gradients`, `moments`, `activations`, `logits`, `data` or `program`.
    name: &'static str,
    /// At least.
    low: u64,
    /// Most likely.
    expected: u64,
    /// At most.
    high: u64,
}

impl From<&Estimate> for Memory {
    fn from(found: &Estimate) -> Self {
        let part = |part: &Part| MemoryPart {
            name: part.name,
            low: whole(part.low),
            expected: whole(part.expected),
            high: whole(part.high),
        };
        let MemoryPart { low, expected, high, .. } = part(&found.total());
        Self { low, expected, high, parts: found.parts.iter().map(part).collect() }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes, not negative")]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

/// What a run of this configuration would be: rows, cuts, steps, tokens. Nothing is started.
///
/// # Errors
/// 422 with every wrong field, or where model, template or data cannot be used.
#[utoipa::path(post, path = "/api/v1/runs/preview", request_body(content = Object),
    responses((status = 200, body = Preview), (status = 400, body = Problem), (status = 422, body = Problem)))]
pub async fn preview(
    State(state): State<AppState>,
    JsonBody(config): JsonBody<Map<String, Value>>,
) -> Result<Json<Preview>> {
    let prepared = state.jobs.check(&config.into_iter().collect()).await?;
    let plan = state.library.plan(&prepared.config, Patience::End).await?;
    Ok(Json(Preview {
        rows: plan.rows,
        kept: plan.kept,
        truncated: plan.truncated,
        dropped: plan.dropped,
        held_out: plan.held_out,
        tokens: plan.tokens,
        steps: plan.steps,
        rough: plan.rough,
        parameters: plan.parameters,
        badam_layers: plan.badam,
        checkpoint_bytes: plan.checkpoints.map(|(kept, one)| kept.saturating_mul(one)),
        output_bytes: plan.output,
        free_bytes: plan.free,
        trained: plan.trained,
        memory: plan.memory.as_ref().map(Memory::from),
        memory_free_bytes: plan.ram.0,
        memory_bytes: plan.ram.1,
    }))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn the_document_says_what_may_be_null() {
        let schema = serde_json::to_value(Convert::schema()).unwrap();
        for name in ["yaml", "command", "config"] {
            let kinds = schema["properties"][name]["type"].as_array().unwrap();
            assert!(kinds.contains(&Value::from("null")), "{name}: {kinds:?}");
            let given = serde_json::json!({ name: null });
            assert!(serde_json::from_value::<Convert>(given).is_ok(), "{name}");
        }
    }
}
