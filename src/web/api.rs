//! The JSON API under /api/v1: the functions of the pages, for programs.

pub mod compare;
pub mod curves;
pub mod datasets;
pub mod models;
pub mod plan;
pub mod queue;
pub mod rows;
pub mod runs;
pub mod system;
pub mod team;
pub mod webhooks;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use run::fields::{Class, FIELDS, Field};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::error::Result;
use super::extract::{Nothing, OptionalBody};
use super::state::AppState;
use runs::Run;

/// What /healthz says.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`; a server that cannot say so does not answer with 200.
    status: &'static str,
}

/// Is the server there, and can it read its database?
///
/// # Errors
/// 500 or 503 where the database does not answer.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Health)))]
pub async fn healthz(State(state): State<AppState>) -> Result<Json<Health>> {
    crate::db::runs::counts(&state.db).await?;
    Ok(Json(Health { status: "ok" }))
}

/// Queues the sample run: a tiny model and its data set, both in the binary.
///
/// # Errors
/// Where the files cannot be written, or the database fails.
#[utoipa::path(post, path = "/api/v1/demo", request_body = Option<Nothing>, responses((status = 201, body = Run)))]
pub async fn demo(
    State(state): State<AppState>,
    OptionalBody(Nothing {}): OptionalBody<Nothing>,
) -> Result<impl IntoResponse> {
    let row = state.jobs.demo(None).await?;
    Ok((StatusCode::CREATED, Json(Run::new(row))))
}

/// Every argument: name, type, default, class, help.
#[utoipa::path(get, path = "/api/v1/fields", responses((status = 200, body = Value)))]
pub async fn fields() -> Json<Value> {
    let fields: Vec<Value> = FIELDS.iter().map(field).collect();
    Json(json!({ "fields": fields }))
}

fn field(field: &Field) -> Value {
    let (class, why) = match field.class {
        Class::Done => ("done", None),
        Class::NoEffect(why) => ("no_effect", Some(why)),
        Class::Refused(why) => ("refused", Some(why)),
    };
    json!({
        "name": field.name,
        "group": format!("{:?}", field.group).to_lowercase(),
        "kind": format!("{:?}", field.kind).to_lowercase(),
        "default": if field.secret { Value::Null } else { field.default_value() },
        "class": class,
        "why": why,
        "level": format!("{:?}", field.level).to_lowercase(),
        "help": field.help,
        "choices": field.choices,
        "not_yet": field.not_yet,
        "min": field.min,
        "max": field.max,
        "unit": field.unit,
        "optional": field.optional,
        "needs": field.needs,
    })
}
