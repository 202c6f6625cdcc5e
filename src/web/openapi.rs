//! GET /api/v1/openapi.json: made from the handlers.

use axum::Json;
use utoipa::OpenApi;

use super::api;

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
        api::runs::metrics,
        api::runs::log,
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
        api::queue::set,
        api::queue::shift,
    )
)]
struct Document;

/// The description of the API, OpenAPI 3.1.
pub async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::web::router::{Kind, ROUTES, Verb};

    #[test]
    fn every_route_of_the_api_is_described() {
        let document = Document::openapi();
        let mut described = BTreeSet::new();
        for (path, item) in &document.paths.paths {
            for (verb, operation) in [("GET", &item.get), ("POST", &item.post)] {
                if operation.is_some() {
                    described.insert((verb, path.clone()));
                }
            }
        }
        let routes: BTreeSet<_> = ROUTES
            .iter()
            .filter(|route| {
                matches!(route.kind, Kind::Api | Kind::Health)
                    && !route.path.ends_with("openapi.json")
            })
            .map(|route| {
                (if route.verb == Verb::Get { "GET" } else { "POST" }, route.path.to_owned())
            })
            .collect();
        assert_eq!(described, routes);
    }
}
