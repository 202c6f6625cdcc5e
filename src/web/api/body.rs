//! JSON bodies, and what is said of wrong ones.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use super::super::error::Error;
use super::super::guard::is_json;

/// A body of application/json.
pub struct JsonBody<T>(pub T);

/// The same, but nothing at all counts as the default.
pub struct OptionalBody<T>(pub T);

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

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Error> {
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| {
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
    serde_json::from_slice(bytes)
        .map_err(|error| Error::bad_request(format!("The body is not what is expected: {error}.")))
}
