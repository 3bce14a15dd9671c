//! `OPTIONS`: the question of CloudEvents whether events may be sent here.

use hyper::header::{ALLOW, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::consume::answer::Answer;
use crate::consume::body::Content;
use crate::consume::problem::Problem;
use crate::consume::route::Route;

const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// Allows any sender that asks: what it sends is still authenticated.
///
/// Source: HTTP 1.1 Web Hooks for Event Delivery 1.0.2, section 4.
pub fn answer(headers: &HeaderMap, route: Route) -> Result<Answer, Problem> {
    let mut response = Response::new(Content::from(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answers = response.headers_mut();
    answers.insert(ALLOW, HeaderValue::from_static(route.methods()));
    let mut origins = headers.get_all(REQUEST_ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(origin), None) if !origin.is_empty() => {
            answers.insert(ALLOWED_ORIGIN, origin.clone());
            answers.insert(ALLOWED_RATE, HeaderValue::from_static("*"));
        }
        (None, _) => {}
        (Some(_), _) => return Err(Problem::bad_request("expected one WebHook-Request-Origin")),
    }
    Ok(response)
}
