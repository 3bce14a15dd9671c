//! `GET /health`, `GET /ready` and `GET /metrics`.

use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde_json::json;

use super::state::AppState;
use crate::consume::answer::{Answer, add_vary, json_response, response_of, uncached};
use crate::consume::problem::Problem;
use crate::core::timestamp::Timestamp;
use crate::exposition;

/// Liveness: the process answers.
pub fn health() -> Answer {
    let timestamp = Timestamp::now().to_health_format();
    let body = json!({"status": "OK", "timestamp": timestamp}).to_string();
    uncached(json_response(StatusCode::OK, body))
}

/// Readiness: the store accepts writes, and the service is not about to stop.
pub async fn ready(state: &AppState, is_stopping: bool) -> Result<Answer, Problem> {
    if is_stopping {
        return Err(Problem::unavailable("the service is stopping"));
    }
    match state.store.ready(state.store_timeout).await {
        Ok(()) => Ok(uncached(json_response(StatusCode::OK, r#"{"status":"OK"}"#))),
        Err(reason) => Err(Problem::unavailable(reason.to_string())),
    }
}

pub async fn metrics(state: &AppState, headers: &HeaderMap) -> Answer {
    let format = exposition::Format::accepted(headers);
    let text = state.metrics.text(&state.store, format).await;
    let mut response = uncached(response_of(StatusCode::OK, format.content_type(), text));
    add_vary(&mut response, "Accept");
    response
}
