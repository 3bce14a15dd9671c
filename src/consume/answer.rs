//! Responses, and the headers that they have in common.

use hyper::body::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};

use super::body::Content;

/// Fetch standard, section 3.7.
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

pub type Answer = Response<Content>;

pub fn json_response(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    response_of(status, "application/json", body.into())
}

/// Browsers neither sniff another type nor give the response to pages of other sites.
pub fn response_of(status: StatusCode, content_type: &'static str, content: impl Into<Content>) -> Answer {
    let mut response = Response::new(content.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Forbids caches to store the response.
pub fn uncached(mut response: Answer) -> Answer {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Adds `Location`, a reference relative to the request's URL (RFC 9110, section 10.2.2).
pub fn with_location(mut response: Answer, reference: String) -> Answer {
    let location = HeaderValue::try_from(reference).expect("paths of events are ASCII");
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Tells caches that the response depends on a request header (RFC 9110, section 12.5.5).
pub fn add_vary(response: &mut Answer, name: &'static str) {
    let value = match response.headers().get(VARY).and_then(|value| value.to_str().ok()) {
        None => HeaderValue::from_static(name),
        Some(others) => HeaderValue::try_from(format!("{others}, {name}")).expect("header names are ASCII"),
    };
    response.headers_mut().insert(VARY, value);
}
