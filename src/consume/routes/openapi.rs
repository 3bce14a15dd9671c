//! `GET /openapi.json`: the API in OpenAPI 3.1.

use hyper::StatusCode;

use crate::consume::answer::{Answer, json_response};

/// `tests/it/openapi` compares it with the server.
const DOCUMENT: &str = include_str!("openapi.json");

pub fn answer() -> Answer {
    json_response(StatusCode::OK, DOCUMENT)
}
