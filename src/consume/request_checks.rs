//! Checks of what hyper lets pass, before a request has a route.

use hyper::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{StatusCode, Version};

use super::problem::Problem;

/// hyper's own limit over HTTP/1.1, where it answers 431 by itself.
const MAXIMUM_HEADERS: usize = 100;

/// HTTP/2 gets the limit that hyper has over HTTP/1.1.
pub fn check_header_count(head: &Parts) -> Result<(), Problem> {
    if head.headers.len() <= MAXIMUM_HEADERS {
        return Ok(());
    }
    let detail = format!("expected at most {MAXIMUM_HEADERS} headers, got {}", head.headers.len());
    Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail))
}

/// RFC 9112, section 3.2: 400 without exactly one valid `Host`; hyper does not insist.
/// HTTP/2 has it in the URI (RFC 9113, section 8.3.1).
pub fn check_host(head: &Parts) -> Result<(), Problem> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let valid = match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_host(host),
        (Some(_), Some(_)) => false,
        (None, _) if head.version >= Version::HTTP_2 => head.uri.authority().is_some(),
        (None, _) => head.version < Version::HTTP_11,
    };
    if valid {
        return Ok(());
    }
    Err(Problem::bad_request("expected exactly one Host header, with a host and at most a port"))
}

/// RFC 9110, section 7.2: a host and a port, either of which may be missing, and nothing else.
fn is_host(value: &HeaderValue) -> bool {
    if value.is_empty() {
        return true;
    }
    let Ok(authority) = Authority::try_from(value.as_bytes()) else { return false };
    let after_host = &authority.as_str()[authority.host().len()..];
    let port = after_host.strip_prefix(':').unwrap_or(after_host);
    !authority.as_str().contains('@') && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// RFC 9112, section 6.1: hyper removes `chunked`, and leaves other codings inside of it in the body.
pub fn check_transfer_encoding(head: &Parts) -> Result<(), Problem> {
    let codings = head.headers.get_all(TRANSFER_ENCODING);
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.iter().all(chunked) && codings.iter().count() <= 1 {
        return Ok(());
    }
    Err(Problem::bad_request("no Transfer-Encoding but chunked is understood: not stored"))
}
