//! Files of the binary: styles, scripts, fonts, the icon. Read from disk in debug builds.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::error::Error;

/// Everything below static/.
#[derive(RustEmbed)]
#[folder = "static/"]
pub struct Assets;

/// Length of the hash in a name.
const HASH: usize = 10;

/// The URL of a file below static/ with its hash in the name: `/assets/app.0123456789.css`. Such an answer may be kept
/// for ever.
#[must_use]
pub fn url(name: &str) -> String {
    let hash = Assets::get(name).map(|file| short_hash(&file)).unwrap_or_default();
    match name.rsplit_once('.') {
        Some((stem, suffix)) if !hash.is_empty() => format!("/assets/{stem}.{hash}.{suffix}"),
        _ => format!("/assets/{name}"),
    }
}

/// GET /assets/{file}: by its plain name, or with its hash in it.
pub async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    if let Some(file) = Assets::get(&name) {
        return send(&name, &file, false, &headers);
    }
    let hashed = name.rsplit_once('.').and_then(|(rest, suffix)| {
        let (stem, hash) = rest.rsplit_once('.')?;
        Some((format!("{stem}.{suffix}"), hash.to_owned()))
    });
    if let Some((plain, hash)) = hashed
        && let Some(file) = Assets::get(&plain)
        && short_hash(&file) == hash
    {
        return send(&plain, &file, true, &headers);
    }
    Error::not_found("file", &name).into_response()
}

/// GET /favicon.ico and /favicon.svg.
pub async fn favicon(headers: HeaderMap) -> Response {
    match Assets::get("favicon.svg") {
        Some(file) => send("favicon.svg", &file, false, &headers),
        None => Error::not_found("file", "favicon.svg").into_response(),
    }
}

fn send(name: &str, file: &EmbeddedFile, for_ever: bool, headers: &HeaderMap) -> Response {
    let etag = format!("\"{}\"", short_hash(file));
    let keep = if for_ever { "public, max-age=31536000, immutable" } else { "no-cache" };
    let known =
        headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        file.data.clone().into_owned().into_response()
    };
    let kind = match name.rsplit_once('.').map(|(_, suffix)| suffix) {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("woff2") => "font/woff2",
        Some("ttf") => "font/ttf",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("txt" | "md") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    if let Ok(etag) = HeaderValue::try_from(etag) {
        out.insert(header::ETAG, etag);
    }
    response
}

fn short_hash(file: &EmbeddedFile) -> String {
    let hex: String =
        file.metadata.sha256_hash().iter().map(|byte| format!("{byte:02x}")).collect();
    hex.chars().take(HASH).collect()
}
