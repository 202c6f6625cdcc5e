//! /api/v1/users, tokens, me and audit: who may do what, and who did.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::error::{Error, Problem, Result};
use super::super::extract::{JsonBody, Nothing, OptionalBody, Params, within};
use super::super::state::AppState;
use super::super::team::{self, Who};
use crate::db;

/// Whoever asks.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// The name; `local` at the machine itself, `token` with the server's token.
    pub name: String,
    /// viewer, editor or admin.
    pub role: &'static str,
}

/// A person.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserState {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// viewer, editor or admin.
    pub role: &'static str,
    /// Milliseconds since 1970.
    pub created_ms: i64,
}

impl From<db::team::User> for UserState {
    fn from(user: db::team::User) -> Self {
        let role = user.role.as_str();
        Self { id: user.id, name: user.name, role, created_ms: user.created_ms }
    }
}

/// Who asks.
#[utoipa::path(get, path = "/api/v1/me", responses((status = 200, body = Me)))]
pub async fn me(Extension(who): Extension<Who>) -> Json<Me> {
    Json(Me { role: who.role.as_str(), name: who.name })
}

/// Everybody who can log in. Admins only.
///
/// # Errors
/// Where the database fails.
#[utoipa::path(get, path = "/api/v1/users", responses((status = 200, body = Vec<UserState>), (status = 403, body = Problem)))]
pub async fn users(State(state): State<AppState>) -> Result<Json<Vec<UserState>>> {
    let users = db::team::users(&state.db).await?;
    Ok(Json(users.into_iter().map(UserState::from).collect()))
}

/// A person to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// 1 to 40 letters, digits and . _ - @
    name: String,
    /// viewer, editor or admin.
    role: String,
    /// 10 to 200 characters.
    password: String,
}

/// Adds a person. Admins only.
///
/// # Errors
/// 422 where name, role or password will not do.
#[utoipa::path(post, path = "/api/v1/users", request_body = NewUser,
    responses((status = 201, body = UserState), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 422, body = Problem)))]
pub async fn add(
    State(state): State<AppState>,
    JsonBody(new): JsonBody<NewUser>,
) -> Result<(StatusCode, Json<UserState>)> {
    let user = team::add(&state, &new.name, &new.role, &new.password).await?;
    Ok((StatusCode::CREATED, Json(user.into())))
}

/// What changes of a person; what is left out stays.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UserChange {
    /// viewer, editor or admin.
    role: Option<String>,
    /// 10 to 200 characters; it ends every session.
    password: Option<String>,
}

/// Changes a person's role or password. Admins only.
///
/// # Errors
/// 404 where there is no such person, 422 where role or password will not do.
#[utoipa::path(post, path = "/api/v1/users/{id}", params(("id" = String, Path)), request_body = UserChange,
    responses((status = 204), (status = 400, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 422, body = Problem)))]
pub async fn change(
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonBody(change): JsonBody<UserChange>,
) -> Result<StatusCode> {
    let (role, password) = (change.role.unwrap_or_default(), change.password.unwrap_or_default());
    team::change(&state, number("user", &id)?, &role, &password).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a person. Admins only.
///
/// # Errors
/// 404 where there is no such person.
#[utoipa::path(post, path = "/api/v1/users/{id}/delete", params(("id" = String, Path)), request_body = Option<Nothing>,
    responses((status = 204), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn remove(
    State(state): State<AppState>,
    Path(id): Path<String>,
    OptionalBody(Nothing {}): OptionalBody<Nothing>,
) -> Result<StatusCode> {
    team::remove(&state, number("user", &id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenState {
    /// Its number.
    pub id: i64,
    /// What it is for.
    pub name: String,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// Milliseconds since 1970, to the hour.
    pub used_ms: Option<i64>,
}

/// The tokens of whoever asks.
///
/// # Errors
/// 409 where nobody in particular asks.
#[utoipa::path(get, path = "/api/v1/tokens", responses((status = 200, body = Vec<TokenState>), (status = 409, body = Problem)))]
pub async fn tokens(
    State(state): State<AppState>,
    Extension(who): Extension<Who>,
) -> Result<Json<Vec<TokenState>>> {
    let Some(user) = who.user else {
        return Ok(Json(Vec::new()));
    };
    let tokens = db::team::tokens(&state.db, user).await?.into_iter();
    let token = |token: db::team::ApiToken| TokenState {
        id: token.id,
        name: token.name,
        created_ms: token.created_ms,
        used_ms: token.used_ms,
    };
    Ok(Json(tokens.map(token).collect()))
}

/// A token to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is for.
    name: String,
}

/// A token that was made just now.
#[derive(Serialize, ToSchema)]
pub struct MadeToken {
    /// Its number.
    id: i64,
    /// What to send as `Authorization: Bearer`; shown this once.
    token: String,
}

/// Makes a token for whoever asks.
///
/// # Errors
/// 409 where nobody in particular asks, 422 where the name will not do.
#[utoipa::path(post, path = "/api/v1/tokens", request_body = NewToken,
    responses((status = 201, body = MadeToken), (status = 400, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
pub async fn add_token(
    State(state): State<AppState>,
    Extension(who): Extension<Who>,
    JsonBody(new): JsonBody<NewToken>,
) -> Result<(StatusCode, Json<MadeToken>)> {
    let (id, token) = team::add_token(&state, &who, &new.name).await?;
    Ok((StatusCode::CREATED, Json(MadeToken { id, token })))
}

/// Removes a token of whoever asks.
///
/// # Errors
/// 404 where there is none, 409 where nobody in particular asks.
#[utoipa::path(post, path = "/api/v1/tokens/{id}/delete", params(("id" = String, Path)), request_body = Option<Nothing>,
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn remove_token(
    State(state): State<AppState>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    OptionalBody(Nothing {}): OptionalBody<Nothing>,
) -> Result<StatusCode> {
    team::remove_token(&state, &who, number("token", &id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only lines before the one of this number.
    before: Option<i64>,
    /// At most so many; 100 unless told.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// What somebody did.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActState {
    /// Its number.
    pub id: i64,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// Who.
    pub who: String,
    /// start, stop, resume, edit, ask, queue, move or team.
    pub act: String,
    /// The path of the request.
    pub path: String,
    /// The run that it was about.
    pub run: Option<String>,
}

/// Who did what, newest first. Admins only.
///
/// # Errors
/// Where the database fails.
#[utoipa::path(get, path = "/api/v1/audit", params(AuditQuery),
    responses((status = 200, body = Vec<ActState>), (status = 400, body = Problem), (status = 403, body = Problem)))]
pub async fn audit(
    State(state): State<AppState>,
    Params(query): Params<AuditQuery>,
) -> Result<Json<Vec<ActState>>> {
    let limit = within("limit", query.limit, 100, 1..=1000)?;
    let acts = db::team::acts(&state.db, query.before, limit).await?.into_iter();
    let act = |act: db::team::Act| ActState {
        id: act.id,
        at_ms: act.at_ms,
        who: act.who,
        act: act.act,
        path: act.path,
        run: act.run,
    };
    Ok(Json(acts.map(act).collect()))
}

/// A number in a path; one that is none is the number of nothing.
///
/// # Errors
/// 404 where it is no number.
pub fn number(what: &str, text: &str) -> Result<i64> {
    text.parse().map_err(|_| Error::not_found(what, text))
}
