//! GET /api/v1/openapi.json: made from the handlers.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use run::fields::{FIELDS, Field};
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::api;
use super::router::{Kind, ROUTES, Route, Verb};
use super::state::AppState;
use crate::db::team::Role;

/// The document. A test keeps its paths equal to the route table's.
#[derive(OpenApi)]
#[openapi(
    info(title = "Tallow", description = "Fine-tuning runs: make, watch, stop, resume."),
    paths(
        api::healthz,
        api::demo,
        api::fields,
        api::datasets::list,
        api::datasets::register,
        api::datasets::send,
        api::datasets::show,
        api::datasets::edit,
        api::datasets::remove,
        api::models::list,
        api::models::names,
        api::plan::convert,
        api::plan::preview,
        api::rows::page,
        api::rows::report,
        api::rows::lengths,
        api::rows::tokens,
        api::runs::list,
        api::runs::create,
        api::runs::show,
        api::curves::metrics,
        api::curves::log,
        api::runs::stop,
        api::runs::resume,
        api::runs::edit,
        api::runs::wish,
        api::compare::show,
        api::compare::export,
        api::system::show,
        api::queue::show,
        api::team::me,
        api::team::users,
        api::team::add,
        api::team::change,
        api::team::remove,
        api::team::tokens,
        api::team::add_token,
        api::team::remove_token,
        api::team::audit,
        api::webhooks::list,
        api::webhooks::add,
        api::webhooks::test,
        api::webhooks::remove,
        api::webhooks::stalled,
        api::queue::set,
        api::queue::shift,
    )
)]
struct Document;

/// The description of the API, OpenAPI 3.1.
pub async fn document(State(state): State<AppState>) -> Json<Value> {
    Json(complete(state.config.wants_token(), &state.config.base_path))
}

/// The document with what holds for every operation: who may use it, and the problems that each can answer with.
/// `asked`: whoever calls must say who it is.
fn complete(asked: bool, base: &str) -> Value {
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    document["servers"] = json!([{ "url": if base.is_empty() { "/" } else { base } }]);
    if asked {
        document["components"]["securitySchemes"] =
            json!({ "token": { "type": "http", "scheme": "bearer" } });
    }
    document["components"]["schemas"]["RunConfig"] = arguments();
    for route in ROUTES.iter().filter(|route| is_described(route)) {
        let verb = if route.verb == Verb::Get { "get" } else { "post" };
        finish(&mut document["paths"][route.path][verb], route, asked && route.kind == Kind::Api);
    }
    document
}

/// The arguments that a configuration may have, from the one table of fields. No operation refers to it: what is taken is
/// more (text for a number, a list as one text), and what is refused says why.
fn arguments() -> Value {
    let property = |field: &Field| {
        let kind = match field.kind {
            run::fields::Kind::Bool => "boolean",
            run::fields::Kind::Int => "integer",
            run::fields::Kind::Float => "number",
            _ => "string",
        };
        (field.name.to_owned(), json!({ "type": kind, "description": field.help }))
    };
    let properties: serde_json::Map<String, Value> = FIELDS.iter().map(property).collect();
    json!({ "type": "object", "description": "The arguments of a run.", "properties": properties })
}

fn is_described(route: &Route) -> bool {
    matches!(route.kind, Kind::Api | Kind::Health) && !route.path.ends_with("openapi.json")
}

fn finish(operation: &mut Value, route: &Route, asked: bool) {
    let place = route.path.trim_start_matches("/api/v1").trim_start_matches('/');
    let tag = place.split('/').next().unwrap_or_default();
    let function = operation["operationId"].as_str().unwrap_or_default();
    // functions of different files have the same names; ids of operations must not
    let id = if function == tag { tag.to_owned() } else { format!("{tag}_{function}") };
    operation["operationId"] = id.into();
    operation["tags"] = json!([tag]);
    if asked {
        operation["security"] = json!([{ "token": [] }]);
    }
    if route.least > Role::Viewer {
        let text = operation["description"].as_str().unwrap_or_default();
        operation["description"] = format!("{text}\n\nFor {}s.", route.least).trim().into();
    }
    let body = !operation["requestBody"].is_null();
    let change = route.verb == Verb::Post;
    let mut statuses = vec![421, 500, 503];
    statuses.extend(
        [(400, body || !operation["parameters"].is_null()), (413, body)]
            .into_iter()
            .chain([(415, body), (401, asked), (403, change || route.least > Role::Viewer)])
            .filter_map(|(status, can)| can.then_some(status)),
    );
    let Some(answers) = operation["responses"].as_object_mut() else {
        return;
    };
    statuses
        .extend(answers.keys().filter_map(|key| key.parse::<u16>().ok()).filter(|it| *it >= 400));
    for status in statuses {
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let problem = json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
        answers.insert(
            status.to_string(),
            json!({ "description": title, "content": { "application/problem+json": problem } }),
        );
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_of_the_api_is_described() {
        let document = complete(true, "");
        let mut described = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (verb, operation) in item.as_object().unwrap() {
                described.insert((verb.clone(), path.clone()));
                let id = operation["operationId"].as_str().unwrap().to_owned();
                assert!(ids.insert(id), "{path}: its operationId is another one's");
            }
        }
        let routes = ROUTES.iter().filter(|route| is_described(route));
        let routes: BTreeSet<_> = routes
            .map(|route| {
                let verb = if route.verb == Verb::Get { "get" } else { "post" };
                (verb.to_owned(), route.path.to_owned())
            })
            .collect();
        assert_eq!(described, routes);
    }

    #[test]
    fn problems_and_roles_are_told() {
        let check = |asked: bool, pointer: &str, expected: Value| {
            let document = complete(asked, "/tuner");
            assert_eq!(document.pointer(pointer).unwrap_or(&Value::Null), &expected, "{pointer}");
        };
        let problem = "/content/application~1problem+json/schema/$ref";
        let at = |operation: &str, status: u16| {
            format!("/paths/~1api~1v1~1{operation}/responses/{status}{problem}")
        };
        let yes = || json!("#/components/schemas/Problem");
        check(true, &at("runs/get", 401), yes());
        check(false, &at("runs/get", 401), Value::Null);
        check(true, &at("runs/get", 403), Value::Null);
        check(true, &at("users/get", 403), yes());
        check(false, &at("runs/post", 403), yes());
        check(false, &at("runs/post", 422), yes());
        check(true, "/paths/~1api~1v1~1runs/get/security", json!([{ "token": [] }]));
        check(false, "/paths/~1api~1v1~1runs/get/security", Value::Null);
        check(true, "/paths/~1healthz/get/security", Value::Null);
        check(false, "/servers/0/url", json!("/tuner"));
        check(false, "/paths/~1api~1v1~1runs/get/parameters/0/in", json!("query"));
    }
}
