//! `--base-path /tuner`: the server behind a proxy that gives it a part of its address.
//!
//! Inside, every path is as if there were none. Here the base is taken off what comes in (a proxy that has taken it off
//! already is fine too) and put before every own address that goes out: in pages, redirects and cookies. Scripts find
//! it in `html[data-base]`.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::middleware::{Next, map_request};
use axum::response::{IntoResponse, Response};
use tower::Layer;

use super::error::Error;
use super::state::AppState;

/// Attributes that hold an address of ours.
const ATTRIBUTES: &[&str] =
    &["href=\"/", "src=\"/", "action=\"/", "hx-get=\"/", "hx-post=\"/", "data-live=\"/"];
/// A page is far smaller.
const PAGE: usize = 64 << 20;

/// Takes the base off every request before it is routed.
pub fn under(base: &str, inner: Router) -> Router {
    if base.is_empty() {
        return inner;
    }
    let base = base.to_owned();
    let strip = map_request(move |mut request: Request| {
        if let Some(uri) = without(&base, request.uri()) {
            *request.uri_mut() = uri;
        }
        std::future::ready(request)
    });
    Router::new().fallback_service(strip.layer(inner))
}

/// The address inside; `None` where it has no base.
fn without(base: &str, uri: &Uri) -> Option<Uri> {
    let rest = uri.path().strip_prefix(base)?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return None;
    }
    let path = if rest.is_empty() { "/" } else { rest };
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    text.parse().ok()
}

/// Puts the base before every address of ours in what goes out.
pub async fn put(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let base = &state.config.base_path;
    if base.is_empty() {
        return response;
    }
    put_in_headers(base, response.headers_mut());
    let kind = response.headers().get(header::CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html")) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, PAGE).await else {
        return Error::internal("a page could not be read").into_response();
    };
    let text = put_in_page(base, &String::from_utf8_lossy(&bytes));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(text))
}

fn put_in_page(base: &str, page: &str) -> String {
    let mut text = page.replacen("data-base=\"\"", &format!("data-base=\"{base}\""), 1);
    for attribute in ATTRIBUTES {
        let short = attribute.strip_suffix('/').unwrap_or(attribute);
        text = text.replace(attribute, &format!("{short}{base}/"));
    }
    text
}

fn put_in_headers(base: &str, headers: &mut HeaderMap) {
    for name in ["location", "hx-redirect"] {
        let own = headers.get(name).and_then(|value| value.to_str().ok());
        // the way back to a page, taken from its own address, has it already
        let own = own.filter(|path| path.starts_with('/') && without(base, &uri(path)).is_none());
        if let Some(value) = own.and_then(|path| format!("{base}{path}").parse().ok()) {
            headers.insert(name, value);
        }
    }
    let cookies: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    headers.remove(header::SET_COOKIE);
    for cookie in cookies {
        let text = cookie.to_str().unwrap_or_default();
        let moved = text.replace("; Path=/", &format!("; Path={base}/"));
        headers.append(header::SET_COOKIE, moved.parse().unwrap_or(cookie));
    }
}

fn uri(path: &str) -> Uri {
    path.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_in() {
        for (path, expected) in [
            ("/tuner/runs?q=a", Some("/runs?q=a")),
            ("/tuner", Some("/")),
            ("/tuner/", Some("/")),
            ("/tuner?q=a", Some("/?q=a")),
            ("/tunerx", None),
            ("/runs", None),
        ] {
            let got = without("/tuner", &uri(path)).map(|uri| uri.to_string());
            assert_eq!(got.as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn addresses_go_out() {
        let page = "<html data-base=\"\"><a href=\"/runs\"> <a href=\"#x\"> <use href=\"/a.svg#b\"> =\"/no";
        let expected = "<html data-base=\"/t\"><a href=\"/t/runs\"> <a href=\"#x\"> <use href=\"/t/a.svg#b\"> =\"/no";
        assert_eq!(put_in_page("/t", page), expected);
        for (path, expected) in
            [("/runs", "/t/runs"), ("/t/runs", "/t/runs"), ("http://a/", "http://a/")]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, HeaderValue::from_static(path));
            headers.append(
                header::SET_COOKIE,
                HeaderValue::from_static("a=b; HttpOnly; Path=/; Secure"),
            );
            put_in_headers("/t", &mut headers);
            assert_eq!(headers[header::LOCATION], expected);
            assert_eq!(headers[header::SET_COOKIE], "a=b; HttpOnly; Path=/t/; Secure");
        }
    }
}
