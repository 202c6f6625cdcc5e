//! What stands before every handler: the Host that was asked for, the origin of a change, the headers of an answer.
//!
//! - A Host that is neither a loopback name nor `--public-url`'s is refused (421): DNS rebinding ends here.
//! - A change that says where it comes from (`Sec-Fetch-Site`, `Origin`) must come from ourselves in each of them. One
//!   that says nothing comes from no browser: allowed under /api/v1 as `application/json` (and to /api/v1/uploads as
//!   `application/octet-stream`), which no browser sends to another site unasked.
//! - Nothing here ever sends an `Access-Control-*` header.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::Error;
use super::state::AppState;
use crate::config::PublicUrl;
use crate::library::upload;

/// The content security policy of every answer.
pub const CSP: &str = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Far more than the 1 MiB that bodies may have.
const FAR: u64 = 16 << 20;
/// What a form has around the file in it.
const FORM: u64 = 1 << 20;

/// Refuses a request for another host.
pub async fn known_host(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match check_host(request.headers(), request.uri(), state.config.public_url.as_ref()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Refuses a change that another site asks for.
pub async fn own_origin(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let verdict = check_origin(
        request.method(),
        request.uri().path(),
        request.headers(),
        state.config.public_url.as_ref(),
    );
    match verdict {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Refuses a body that declares far more than any handler takes, before any of it is read. Of one that is a little too
/// long the handler tells, after reading: an answer in the middle of what is being sent can be lost.
pub async fn declared_length(request: Request, next: Next) -> Response {
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let limit = match request.uri().path() {
        "/datasets" | "/api/v1/uploads" => upload::LARGEST + FORM,
        _ => FAR,
    };
    if length > limit {
        let detail = format!("The body is far too large: more than {} MiB.", limit >> 20);
        return Error::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into_response();
    }
    next.run(request).await
}

/// Adds the security headers to every answer.
pub async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // the token's page has a policy of its own, narrower than this one
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(CSP));
    // what a handler says of caching stands; nothing else is kept by anyone
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn check_host(headers: &HeaderMap, uri: &Uri, public: Option<&PublicUrl>) -> Result<(), Error> {
    let refused = || {
        Error::new(
            StatusCode::MISDIRECTED_REQUEST,
            "This server answers only to loopback names and to the address given as --public-url.",
        )
    };
    let host = single(headers, &header::HOST).map_err(|()| refused())?.ok_or_else(refused)?;
    let absolute = uri.authority().map(|authority| authority.as_str().to_ascii_lowercase());
    for host in [Some(host.to_ascii_lowercase()), absolute].into_iter().flatten() {
        if !is_own(&host, public) {
            return Err(refused());
        }
    }
    Ok(())
}

fn is_own(host: &str, public: Option<&PublicUrl>) -> bool {
    is_loopback(host) || public.is_some_and(|public| public.authority == host)
}

/// True for `localhost`, 127.0.0.0/8 and `[::1]`, each with or without a port. Lower case expected.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((inside, tail)) = rest.split_once(']') else {
                return false;
            };
            if inside.parse() != Ok(Ipv6Addr::LOCALHOST) {
                return false;
            }
            ("localhost", tail)
        }
        None => match host.find(':') {
            Some(colon) => host.split_at(colon),
            None => (host, ""),
        },
    };
    let port_is_fine = port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| {
            digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        });
    port_is_fine && (name == "localhost" || name.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback()))
}

fn check_origin(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    public: Option<&PublicUrl>,
) -> Result<(), Error> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let foreign = || Error::new(StatusCode::FORBIDDEN, "This request comes from another site.");
    let site =
        single(headers, &HeaderName::from_static("sec-fetch-site")).map_err(|()| foreign())?;
    let origin = single(headers, &header::ORIGIN).map_err(|()| foreign())?;
    if site.is_some_and(|site| site != "same-origin") {
        return Err(foreign());
    }
    if let Some(origin) = origin {
        let host = single(headers, &header::HOST).ok().flatten().unwrap_or_default();
        let host = host.to_ascii_lowercase();
        let origin = origin.to_ascii_lowercase();
        let own =
            origin.strip_prefix("http://").is_some_and(|rest| rest == host && is_loopback(&host))
                || public.is_some_and(|public| public.origin == origin && public.authority == host);
        if !own {
            return Err(foreign());
        }
    }
    if site.is_some() || origin.is_some() {
        return Ok(());
    }
    if path.starts_with("/api/v1/") && is_json(headers) {
        return Ok(());
    }
    if path == "/api/v1/uploads" && is_kind(headers, "application/octet-stream") {
        return Ok(());
    }
    Err(Error::new(
        StatusCode::FORBIDDEN,
        "A change that names no origin is taken only under /api/v1, with Content-Type: application/json.",
    ))
}

/// True where the body is declared as application/json, with or without parameters.
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    is_kind(headers, "application/json")
}

/// True where the body is declared as `wanted`, with or without parameters.
fn is_kind(headers: &HeaderMap, wanted: &str) -> bool {
    let kind = single(headers, &header::CONTENT_TYPE).ok().flatten().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(wanted)
}

/// The one value of a header; an error where it comes twice or is no text.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(());
    }
    first.map(|value| value.to_str().map_err(|_| ())).transpose()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap())
        };
        let mut map = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    #[test]
    fn hosts() {
        let public: PublicUrl = "https://tune.example".parse().unwrap();
        let check = |host: &[(&str, &str)], uri: &str, expected: bool| {
            let got = check_host(&map(host), &uri.parse().unwrap(), Some(&public)).is_ok();
            assert_eq!(got, expected, "{host:?} {uri}");
        };
        for own in [
            "localhost",
            "LOCALHOST:7860",
            "127.0.0.1:80",
            "127.9.9.9",
            "[::1]",
            "[::1]:7860",
            "tune.example",
        ] {
            check(&[("host", own)], "/", true);
        }
        for foreign in [
            "evil.test",
            "evil.test:7860",
            "localhost.evil.test",
            "[::1]evil",
            "[::1",
            "",
            "localhost:",
            "localhost:x",
            "localhost:99999",
            "localhost.",
            "127.0.0.1.evil.test",
            "0.0.0.0",
            "10.0.0.1",
            "tune.example:1",
            "a@localhost",
            "localhost:80:80",
            "[::2]",
            "2130706433",
            "127.1",
        ] {
            check(&[("host", foreign)], "/", false);
        }
        check(&[], "/", false);
        check(&[("host", "localhost"), ("host", "evil.test")], "/", false);
        check(&[("host", "localhost")], "http://evil.test/", false);
        check(&[("host", "localhost")], "http://localhost/", true);
    }

    #[test]
    fn origins() {
        let public: PublicUrl = "https://tune.example".parse().unwrap();
        let check = |path: &str, pairs: &[(&str, &str)], expected: bool| {
            let mut headers = map(pairs);
            headers.entry("host").or_insert(HeaderValue::from_static("localhost:7860"));
            let got = check_origin(&Method::POST, path, &headers, Some(&public)).is_ok();
            assert_eq!(got, expected, "{path} {pairs:?}");
            assert!(check_origin(&Method::GET, path, &headers, Some(&public)).is_ok());
        };
        let json = ("content-type", "application/json; charset=utf-8");
        let (own, site) = (("origin", "http://localhost:7860"), ("sec-fetch-site", "same-origin"));
        for path in ["/runs", "/api/v1/runs"] {
            check(path, &[own], true);
            check(path, &[site], true);
            check(path, &[own, site], true);
            check(path, &[("host", "tune.example"), ("origin", "https://tune.example")], true);
            for foreign in [
                "http://evil.test",
                "null",
                "",
                "http://localhost:7861",
                "https://localhost:7860",
                "http://localhost",
                "http://tune.example",
            ] {
                check(path, &[("origin", foreign), json], false);
                check(path, &[("origin", foreign), site, json], false);
            }
            for foreign in ["cross-site", "same-site", "none", "", "same-origin, cross-site"] {
                check(path, &[("sec-fetch-site", foreign), json], false);
                check(path, &[("sec-fetch-site", foreign), own, json], false);
            }
            check(path, &[own, own, json], false);
            check(path, &[], false);
            check(path, &[("content-type", "text/plain")], false);
            check(path, &[("content-type", "application/jsonp")], false);
        }
        let bytes = ("content-type", "application/octet-stream");
        check("/api/v1/uploads", &[bytes], true);
        check("/api/v1/runs", &[bytes], false);
        check("/api/v1/runs", &[json], true);
        check("/runs", &[json], false);
    }
}
