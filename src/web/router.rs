//! One table of routes. The router is built from it, and so are the tests of the guard: a route cannot be outside.

use axum::Router;
use axum::extract::{DefaultBodyLimit, OriginalUri, Request};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;

use super::error::{self, Error};
use super::state::AppState;
use super::{api, assets, auth, base, guard, openapi, pages, sse};
use crate::db::team::Role;

/// What kind of thing answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// HTML for people.
    Page,
    /// JSON under /api/v1.
    Api,
    /// An event stream.
    Sse,
    /// A file of the binary.
    Static,
    /// /healthz: the one place without a token.
    Health,
    /// The login form's target.
    Login,
}

/// The methods in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Reads.
    Get,
    /// Changes.
    Post,
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// GET or POST.
    pub verb: Verb,
    /// The path in axum's notation.
    pub path: &'static str,
    /// What answers.
    pub kind: Kind,
    /// What whoever asks must at least be.
    pub least: Role,
    /// Only for whoever started the run of that `{id}`, and for admins.
    pub owned: bool,
    /// The handler, as a router of one method.
    pub handler: fn() -> MethodRouter<AppState>,
}

const fn route(
    verb: Verb,
    path: &'static str,
    kind: Kind,
    handler: fn() -> MethodRouter<AppState>,
) -> Route {
    let least = match verb {
        Verb::Get => Role::Viewer,
        Verb::Post => Role::Editor,
    };
    Route { verb, path, kind, least, owned: false, handler }
}

impl Route {
    const fn by(self, least: Role) -> Self {
        Self { least, ..self }
    }

    const fn by_owner(self) -> Self {
        Self { owned: true, ..self }
    }

    /// What the audit calls a change by this route; `None` where nothing is changed for others.
    #[must_use]
    pub fn act(&self) -> Option<&'static str> {
        if self.verb == Verb::Get {
            return None;
        }
        let path = self.path.strip_prefix("/api/v1").unwrap_or(self.path);
        Some(match path {
            "/runs" | "/demo" => "start",
            "/runs/{id}/stop" => "stop",
            "/runs/{id}/resume" => "resume",
            "/runs/{id}/wish" => "ask",
            "/runs/{id}/edit" => "edit",
            "/queue" => "queue",
            "/queue/{id}/move" => "move",
            "/runs/new/check" | "/settings/language" | "/settings/theme" | "/login" | "/logout" => {
                return None;
            }
            "/runs/new/convert" | "/runs/convert" | "/runs/preview" => return None,
            path if path.trim_start_matches("/settings").starts_with("/webhooks") => "webhooks",
            path if path.starts_with("/settings") || path.starts_with("/users") => "team",
            path if path.starts_with("/tokens") => "team",
            path if path.starts_with("/datasets") || path.starts_with("/uploads") => "data",
            _ => "other",
        })
    }
}

use Kind::{Api, Health, Login, Page, Sse, Static};
use Verb::{Get, Post};

/// Every route of the server.
pub const ROUTES: &[Route] = &[
    route(Get, "/", Page, || get(pages::home::home)),
    route(Post, "/demo", Page, || post(pages::home::demo)),
    route(Get, "/runs", Page, || get(pages::runs::list)),
    route(Post, "/runs", Page, || post(pages::new::create)),
    route(Get, "/runs/new", Page, || get(pages::new::form)),
    route(Post, "/runs/new/check", Page, || post(pages::new::check)).by(Role::Viewer),
    route(Get, "/runs/{id}", Page, || get(pages::run::show)),
    route(Post, "/runs/{id}/stop", Page, || post(pages::run::stop)).by_owner(),
    route(Post, "/runs/{id}/resume", Page, || post(pages::run::resume)).by_owner(),
    route(Post, "/runs/{id}/wish", Page, || post(pages::run::wish)).by_owner(),
    route(Post, "/runs/{id}/edit", Page, || post(pages::run::edit)),
    route(Get, "/queue", Page, || get(pages::queue::show)),
    route(Post, "/queue", Page, || post(pages::queue::set)),
    route(Post, "/queue/{id}/move", Page, || post(pages::queue::shift)),
    route(Get, "/runs/{id}/events", Sse, || get(sse::run_events)),
    route(Get, "/compare", Page, || get(pages::compare::show)),
    route(Get, "/system", Page, || get(pages::system::show)),
    route(Get, "/settings", Page, || get(pages::settings::show)),
    route(Post, "/settings/theme", Page, || post(pages::settings::theme)).by(Role::Viewer),
    route(Post, "/settings/language", Page, || post(pages::settings::language)).by(Role::Viewer),
    route(Post, "/settings/password", Page, || post(pages::team::password)).by(Role::Viewer),
    route(Post, "/settings/tokens", Page, || post(pages::team::add_token)).by(Role::Viewer),
    route(Post, "/settings/tokens/{id}/delete", Page, || post(pages::team::remove_token))
        .by(Role::Viewer),
    route(Post, "/settings/users", Page, || post(pages::team::add)).by(Role::Admin),
    route(Post, "/settings/users/{id}", Page, || post(pages::team::change)).by(Role::Admin),
    route(Post, "/settings/users/{id}/delete", Page, || post(pages::team::remove)).by(Role::Admin),
    route(Get, "/settings/audit", Page, || get(pages::team::audit)).by(Role::Admin),
    route(Post, "/logout", Page, || post(auth::logout)).by(Role::Viewer),
    route(Get, "/api/v1/me", Api, || get(api::team::me)),
    route(Get, "/api/v1/users", Api, || get(api::team::users)).by(Role::Admin),
    route(Post, "/api/v1/users", Api, || post(api::team::add)).by(Role::Admin),
    route(Post, "/api/v1/users/{id}", Api, || post(api::team::change)).by(Role::Admin),
    route(Post, "/api/v1/users/{id}/delete", Api, || post(api::team::remove)).by(Role::Admin),
    route(Get, "/api/v1/tokens", Api, || get(api::team::tokens)),
    route(Post, "/api/v1/tokens", Api, || post(api::team::add_token)).by(Role::Viewer),
    route(Post, "/api/v1/tokens/{id}/delete", Api, || post(api::team::remove_token))
        .by(Role::Viewer),
    route(Get, "/api/v1/audit", Api, || get(api::team::audit)).by(Role::Admin),
    route(Post, "/settings/webhooks", Page, || post(pages::webhooks::add)).by(Role::Admin),
    route(Post, "/settings/webhooks/stalled", Page, || post(pages::webhooks::stalled))
        .by(Role::Admin),
    route(Post, "/settings/webhooks/{id}/test", Page, || post(pages::webhooks::test))
        .by(Role::Admin),
    route(Post, "/settings/webhooks/{id}/delete", Page, || post(pages::webhooks::remove))
        .by(Role::Admin),
    route(Get, "/api/v1/webhooks", Api, || get(api::webhooks::list)).by(Role::Admin),
    route(Post, "/api/v1/webhooks", Api, || post(api::webhooks::add)).by(Role::Admin),
    route(Post, "/api/v1/webhooks/stalled", Api, || post(api::webhooks::stalled)).by(Role::Admin),
    route(Post, "/api/v1/webhooks/{id}/test", Api, || post(api::webhooks::test)).by(Role::Admin),
    route(Post, "/api/v1/webhooks/{id}/delete", Api, || post(api::webhooks::remove))
        .by(Role::Admin),
    route(Get, "/datasets", Page, || get(pages::datasets::list)),
    route(Post, "/datasets", Page, || {
        post(pages::datasets::add).layer(DefaultBodyLimit::disable())
    }),
    route(Get, "/datasets/{name}", Page, || get(pages::dataset::show)),
    route(Post, "/datasets/{name}", Page, || post(pages::dataset::edit)),
    route(Post, "/runs/new/convert", Page, || post(pages::new::convert)).by(Role::Viewer),
    route(Post, "/api/v1/runs/convert", Api, || post(api::plan::convert)).by(Role::Viewer),
    route(Post, "/api/v1/runs/preview", Api, || post(api::plan::preview)).by(Role::Viewer),
    route(Get, "/models", Page, || get(pages::models::list)),
    route(Get, "/api/v1/models", Api, || get(api::models::list)),
    route(Get, "/api/v1/models/names", Api, || get(api::models::names)),
    route(Get, "/api/v1/datasets", Api, || get(api::datasets::list)),
    route(Post, "/api/v1/datasets", Api, || post(api::datasets::register)),
    route(Post, "/api/v1/uploads", Api, || post(api::datasets::send)),
    route(Get, "/api/v1/datasets/{name}", Api, || get(api::datasets::show)),
    route(Post, "/api/v1/datasets/{name}", Api, || post(api::datasets::edit)),
    route(Post, "/api/v1/datasets/{name}/remove", Api, || post(api::datasets::remove)),
    route(Get, "/api/v1/datasets/{name}/rows", Api, || get(api::rows::page)),
    route(Get, "/api/v1/datasets/{name}/report", Api, || get(api::rows::report)),
    route(Get, "/api/v1/datasets/{name}/lengths", Api, || get(api::rows::lengths)),
    route(Get, "/api/v1/datasets/{name}/tokens", Api, || get(api::rows::tokens)),
    route(Get, "/api/v1/runs", Api, || get(api::runs::list)),
    route(Post, "/api/v1/runs", Api, || post(api::runs::create)),
    route(Get, "/api/v1/runs/{id}", Api, || get(api::runs::show)),
    route(Get, "/api/v1/runs/{id}/metrics", Api, || get(api::curves::metrics)),
    route(Get, "/api/v1/runs/{id}/log", Api, || get(api::curves::log)),
    route(Post, "/api/v1/runs/{id}/stop", Api, || post(api::runs::stop)).by_owner(),
    route(Post, "/api/v1/runs/{id}/resume", Api, || post(api::runs::resume)).by_owner(),
    route(Post, "/api/v1/runs/{id}/edit", Api, || post(api::runs::edit)),
    route(Post, "/api/v1/runs/{id}/wish", Api, || post(api::runs::wish)).by_owner(),
    route(Get, "/api/v1/compare", Api, || get(api::compare::show)),
    route(Get, "/api/v1/compare/export", Api, || get(api::compare::export)),
    route(Get, "/api/v1/system", Api, || get(api::system::show)),
    route(Get, "/api/v1/queue", Api, || get(api::queue::show)),
    route(Post, "/api/v1/queue", Api, || post(api::queue::set)),
    route(Post, "/api/v1/queue/{id}/move", Api, || post(api::queue::shift)),
    route(Post, "/api/v1/demo", Api, || post(api::demo)),
    route(Get, "/api/v1/fields", Api, || get(api::fields)),
    route(Get, "/api/v1/openapi.json", Api, || get(openapi::document)),
    route(Get, "/healthz", Health, || get(api::healthz)),
    route(Post, "/login", Login, || post(auth::login)),
    route(Get, "/favicon.ico", Static, || get(assets::favicon)),
    route(Get, "/favicon.svg", Static, || get(assets::favicon)),
    route(Get, "/assets/{*file}", Static, || get(assets::file)),
];

/// Largest request body: a configuration is a few KiB.
pub const BODY_LIMIT: usize = 1 << 20;

/// The server's service: the table, behind the guard.
pub fn router(state: AppState) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        // after the method is known: a wrong one is 405 for everybody
        let own_origin = from_fn_with_state(state.clone(), guard::own_origin);
        let known = state.clone();
        let allowed = from_fn(move |request: Request, next: Next| {
            auth::allowed(route, known.clone(), request, next)
        });
        let handler = (route.handler)().route_layer(allowed).route_layer(own_origin);
        router = router.route(route.path, handler);
    }
    let base_path = state.config.base_path.clone();
    // the layer added last sees a request first
    let router = router
        .fallback(no_page)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(guard::declared_length))
        .layer(from_fn_with_state(state.clone(), auth::token))
        .layer(from_fn_with_state(state.clone(), guard::known_host))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(error::for_people))
        .layer(from_fn_with_state(state.clone(), base::put))
        .layer(CompressionLayer::new()) // leaves event streams alone
        .layer(from_fn(guard::headers))
        .with_state(state);
    base::under(&base_path, router)
}

async fn no_page(OriginalUri(uri): OriginalUri) -> Error {
    Error::not_found("page", uri.path())
}

async fn no_method(method: Method, OriginalUri(uri): OriginalUri) -> Error {
    Error::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}.", uri.path()))
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text =
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without text");
    axum::response::IntoResponse::into_response(Error::internal(format!("panic: {text}")))
}
