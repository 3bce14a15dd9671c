//! `POST /api/v1/health-alert`: an event that people are told of, and the answer whether they have been.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderMap;
use tokio::time::{Instant, sleep};

use super::problem::Problem;
use super::routes::{Answer, Place, json_response, located};
use super::upload::Format;
use crate::store::Store;
use crate::store::backend::AlertOutcome;

/// How long the answer waits for the delivery.
const DELIVERY_TIME: Duration = Duration::from_secs(2);

/// The first pause between two looks; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(15);

/// The longest of them.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Makes sure that a body is announced as JSON.
///
/// # Errors
/// 415 where it is not.
pub fn check_format(headers: &HeaderMap) -> Result<(), Problem> {
    match Format::of(headers) {
        Ok(Format::Json) => Ok(()),
        Ok(Format::Ndjson) | Err(_) => {
            let detail = "expected the header `Content-Type: application/json`, in UTF-8";
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
        }
    }
}

/// 503: nobody would hear of it.
pub fn no_channel() -> Problem {
    let detail = "no channel for health alerts is configured: not stored";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).lasting()
}

/// 200 once all channels have taken a stored alert, or had taken the one that it repeats; 202 where that takes longer,
/// or is given up.
pub async fn answer(store: &Store, place: Place, id: i64) -> Answer {
    let deadline = Instant::now() + DELIVERY_TIME;
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause).await;
        // A store that does not answer says nothing of the delivery, which may be under way.
        let outcome = store.read(move |reader| reader.alert_outcome(id)).await.unwrap_or(AlertOutcome::Open);
        let (status, text) = match outcome {
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
        return located(place, id, json_response(status, text));
    }
}
