//! What handlers take out of a request, with a problem instead of axum's plain text where it is wrong.

use std::convert::Infallible;
use std::fmt::Display;
use std::ops::{Deref, RangeInclusive};

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::error::Error;
use super::guard::is_json;
use super::team::Who;

/// Who asks for a page, as it was found out before, and with which headers.
pub struct Caller {
    /// Nobody where that was not asked for.
    pub who: Who,
    headers: HeaderMap,
}

impl Deref for Caller {
    type Target = HeaderMap;

    fn deref(&self) -> &HeaderMap {
        &self.headers
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let who = parts.extensions.get::<Who>().cloned().unwrap_or_else(Who::nobody);
        Ok(Self { who, headers: parts.headers.clone() })
    }
}

/// The id in a path; one that is no text is the id of nothing (404).
pub struct Id(pub String);

/// The query of a URL.
pub struct Params<T>(pub T);

/// A body of application/json.
pub struct JsonBody<T>(pub T);

/// The same, but nothing at all counts as the default.
pub struct OptionalBody<T>(pub T);

/// The body of a change that needs none: `{}`, or nothing at all.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let declared = is_json(request.headers());
        let bytes = read(request, state).await?;
        parse(&bytes, declared).map(Self)
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let declared = is_json(request.headers());
        let bytes = read(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        parse(&bytes, declared).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(id)| Self(id)).map_err(|_| Error::not_found("run", "?"))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|rejection| {
            Error::bad_request(format!(
                "The query is not what is expected: {}.",
                rejection.body_text()
            ))
        })
    }
}

/// A number of a query, or what it is unless told.
///
/// # Errors
/// 400 where it is out of range.
pub fn within<T: PartialOrd + Display>(
    name: &str,
    value: Option<T>,
    unless: T,
    range: RangeInclusive<T>,
) -> Result<T, Error> {
    let value = value.unwrap_or(unless);
    if range.contains(&value) {
        return Ok(value);
    }
    let detail = format!("{name}: {value} is not within {} to {}.", range.start(), range.end());
    Err(Error::bad_request(detail))
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Error> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        let status = rejection.status();
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            Error::new(status, "The body is larger than 1 MiB.")
        } else {
            Error::bad_request("The body could not be read to its end.")
        }
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8], declared: bool) -> Result<T, Error> {
    if !declared {
        let detail = "The body must be JSON, sent as Content-Type: application/json.";
        return Err(Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    // serde would take a list for a struct, its values in order
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(Error::bad_request("The body must be a JSON object."));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Error::bad_request(format!("The body is not what is expected: {error}.")))
}
