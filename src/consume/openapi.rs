//! `GET /openapi.json`: what this server takes and answers, for machines and people.

use hyper::StatusCode;

use super::routes::{Answer, json_response};

/// OpenAPI 3.1. `tests/it/openapi.rs` holds it against the server.
const DOCUMENT: &str = include_str!("openapi.json");

/// The document, which is the same for everyone.
pub fn answer() -> Answer {
    json_response(StatusCode::OK, DOCUMENT)
}
