//! `POST /api/v1/health-alert`: stores an alert, and answers whether it was delivered.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use tokio::time::{Instant, sleep};

use super::ingest::{Format, Upload, append, check_types, digested, settle};
use super::state::AppState;
use crate::consume::answer::{Answer, json_response, with_location};
use crate::consume::problem::Problem;
use crate::consume::request_body::RequestBody;
use crate::core::event::Event;
use crate::core::type_filter::PermittedTypes;
use crate::store::Store;
use crate::store::backend::Append;
use crate::store::outbox::{AlertOutcome, alert_outcome};

/// How long the response waits for the delivery.
const DELIVERY_TIME: Duration = Duration::from_secs(2);

/// The pauses between two checks of the outcome: each is twice as long as the previous one, within these bounds.
const FIRST_PAUSE: Duration = Duration::from_millis(15);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

pub async fn answer(
    state: &AppState,
    head: Parts,
    body: &mut RequestBody,
    permitted: &PermittedTypes,
) -> Result<Answer, Problem> {
    check_format(&head.headers)?;
    let Upload { key, path_depth, body, reservation, .. } = Upload::read(state, head, body).await?;
    let events = vec![Event::parse_health_alert(&body)?];
    check_types(&events, permitted)?;
    let key = key.map(|key| digested(key, &body));
    drop(body);
    let deliveries = state.alerts.deliveries_of(&events);
    if deliveries.is_empty() {
        let detail = "no channel for health alerts is configured: not stored";
        return Err(Problem::unavailable(detail).lasting());
    }
    let appended = append(state, Append { events, key, aliases: Vec::new(), deliveries }, reservation).await;
    let id = settle(state, appended, 1)?;
    let (status, text) = outcome(&state.store, id).await;
    Ok(with_location(json_response(status, text), path_depth.event(id)))
}

fn check_format(headers: &HeaderMap) -> Result<(), Problem> {
    match Format::of(headers) {
        Ok(Format::Json) => Ok(()),
        Ok(_) | Err(_) => Err(Problem::unsupported_media_type(
            "expected the header `Content-Type: application/json`, in UTF-8",
        )),
    }
}

/// 200 once all channels have delivered the alert, or the one that it repeats; 202 where delivery takes longer or is given
/// up.
async fn outcome(store: &Store, id: i64) -> (StatusCode, &'static str) {
    let deadline = Instant::now() + DELIVERY_TIME;
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause).await;
        // A store that does not answer says nothing about the delivery, which may be in progress.
        let outcome = store.read(move |reader| alert_outcome(reader, id)).await.unwrap_or(AlertOutcome::Open);
        return match outcome {
            AlertOutcome::Sent => (StatusCode::OK, r#"{"status":"Health alert email sent"}"#),
            AlertOutcome::AlreadySent => (StatusCode::OK, r#"{"status":"Health alert already sent"}"#),
            AlertOutcome::GivenUp => (StatusCode::ACCEPTED, r#"{"status":"Health alert not delivered"}"#),
            AlertOutcome::Open if Instant::now() + pause >= deadline => {
                (StatusCode::ACCEPTED, r#"{"status":"Health alert queued"}"#)
            }
            AlertOutcome::Open => {
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
    }
}
