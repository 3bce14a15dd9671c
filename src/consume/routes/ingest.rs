//! What `POST /event` and `POST /api/v1/health-alert` share: the headers, the body, and the append.

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::http::request::Parts;
use sha2::{Digest, Sha256};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use super::attributes::Attributes;
use super::state::AppState;
use crate::consume::answer::{Answer, json_response, with_location};
use crate::consume::coding;
use crate::consume::metrics::EventOutcome;
use crate::consume::problem::Problem;
use crate::consume::request_body::RequestBody;
use crate::consume::route::PathDepth;
use crate::core::coding::Coding;
use crate::core::event::Event;
use crate::core::text::excerpt;
use crate::core::type_filter::PermittedTypes;
use crate::store::backend::{Append, IdempotencyKey, Outcome};
use crate::store::{AppendError, Reservation};

/// A request to store events: its headers are valid, and its body is in memory, decompressed.
pub struct Upload {
    pub format: Format,
    /// The attributes of a CloudEvent in binary mode.
    pub attributes: Option<Attributes>,
    pub key: Option<String>,
    pub path_depth: PathDepth,
    pub body: Bytes,
    pub reservation: Reservation,
}

impl Upload {
    pub async fn read(state: &AppState, head: Parts, body: &mut RequestBody) -> Result<Upload, Problem> {
        let attributes = Attributes::of(&head.headers)?;
        // The Content-Type of a CloudEvent in binary mode is that of its data.
        let format = if attributes.is_some() { Format::CloudEvent } else { Format::of(&head.headers)? };
        let coding = coding::of_request(&head.headers)?;
        let (key, path_depth) = (key_of(&head.headers)?, PathDepth::of(&head));
        // The headers are views of hyper's read buffer, which hyper can reuse once they are dropped.
        drop(head);
        let (body, reservation) = read_body(state, body, coding, state.body_limit_bytes).await?;
        Ok(Upload { format, attributes, key, path_depth, body, reservation })
    }
}

/// Reads and decompresses a body within its timeout and its limit.
pub async fn read_body(
    state: &AppState,
    body: &mut RequestBody,
    coding: Option<Coding>,
    limit_bytes: usize,
) -> Result<(Bytes, Reservation), Problem> {
    let timed_out =
        |_| Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time: not stored"));
    let reading = body.read(&state.store, limit_bytes);
    let (body, reservation) = timeout(state.body_timeout, reading).await.unwrap_or_else(timed_out)?;
    match coding {
        None => Ok((body, reservation)),
        Some(coding) => coding::decode(coding, body, reservation, limit_bytes).await,
    }
}

/// The format of a body of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object or an array of objects.
    Json,
    /// One object per line.
    Ndjson,
    CloudEvent,
    CloudEventBatch,
}

impl Format {
    /// # Errors
    /// 415 for any other Content-Type, and without one: any web page can send a request without.
    pub fn of(headers: &HeaderMap) -> Result<Format, Problem> {
        let Some(content_type) = headers.get(CONTENT_TYPE) else {
            return Err(Problem::unsupported_media_type(
                "there is no Content-Type header: send `Content-Type: application/json`, or \
                `application/x-ndjson` for lines",
            ));
        };
        let content_type = content_type.to_str().unwrap_or_default();
        let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
        let format = match parts.next().as_deref() {
            Some("application/json") => Some(Format::Json),
            Some("application/cloudevents+json") => Some(Format::CloudEvent),
            Some("application/cloudevents-batch+json") => Some(Format::CloudEventBatch),
            Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => Some(Format::Ndjson),
            _ => None,
        };
        let is_utf8 = parts.all(|part| match part.split_once('=') {
            // `utf8` is not a registered name, but common; US-ASCII is a subset of UTF-8.
            Some(("charset", charset)) => ["utf-8", "utf8", "us-ascii"].contains(&charset.trim_matches('"')),
            _ => true,
        });
        format.filter(|_| is_utf8).ok_or_else(|| {
            let got = excerpt(content_type, 64);
            Problem::unsupported_media_type(format!(
                "expected Content-Type application/json or application/x-ndjson in UTF-8, got `{got}`"
            ))
        })
    }
}

/// # Errors
/// 400 for a key that is empty, too long, repeated or not printable ASCII.
fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = IdempotencyKey::parse(value.to_str().unwrap_or_default()).map_err(Problem::bad_request)?;
    match values.next() {
        None => Ok(Some(key)),
        Some(_) => Err(Problem::bad_request("expected one Idempotency-Key, and not several")),
    }
}

/// # Errors
/// 403 where the client may not store events of one of these types.
pub fn check_types<'a>(
    events: impl IntoIterator<Item = &'a Event, IntoIter: ExactSizeIterator>,
    permitted: &PermittedTypes,
) -> Result<(), Problem> {
    let mut events = events.into_iter();
    let count = events.len();
    match events.position(|event| !permitted.include(event.event_type())) {
        None => Ok(()),
        Some(_) if count == 1 => Err(Problem::type_not_permitted("`/event_type` is a type")),
        Some(position) => Err(Problem::type_not_permitted(&format!("`/{position}/event_type` is a type"))),
    }
}

/// Pairs the key with a digest of the body.
pub fn digested(key: String, body: &[u8]) -> IdempotencyKey {
    IdempotencyKey { key, body_digest: Sha256::digest(body).into() }
}

/// The outcome, if the store reported it in time.
pub type Appended = Result<Result<Outcome, AppendError>, Elapsed>;

/// Stores events, and wakes the alert dispatcher if there are alerts among them.
pub async fn append(state: &AppState, append: Append, reservation: Reservation) -> Appended {
    let is_alert = !append.deliveries.is_empty();
    let appended = timeout(state.store_timeout, state.store.append(append, reservation)).await;
    if is_alert {
        state.alerts.wake_workers();
    }
    appended
}

/// Stores events of which each has a key of its own, in their order. A repeated one changes nothing for the others.
pub async fn append_each(state: &AppState, appends: Vec<Append>, reservation: Reservation) -> Vec<Appended> {
    let has_alerts = appends.iter().any(|append| !append.deliveries.is_empty());
    let deadline = Instant::now() + state.store_timeout;
    let waiting = state.store.append_each(appends, reservation);
    let mut appended = Vec::with_capacity(waiting.len());
    for append in waiting {
        appended.push(timeout_at(deadline, append).await);
    }
    if has_alerts {
        state.alerts.wake_workers();
    }
    appended
}

/// Counts events by their outcome, and returns the id of the first.
pub fn settle(state: &AppState, appended: Appended, count: usize) -> Result<i64, Problem> {
    let (outcome, first_id) = match appended {
        Ok(Ok(Outcome::Stored { first_id, repeated: false })) => {
            state.hub.notify();
            (EventOutcome::Stored, Ok(first_id))
        }
        Ok(Ok(Outcome::Stored { first_id, repeated: true })) => (EventOutcome::Repeated, Ok(first_id)),
        Ok(Ok(Outcome::KeyReused)) => {
            let detail = "the Idempotency-Key was used with another body: not stored";
            (EventOutcome::KeyReused, Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)))
        }
        Ok(Err(error)) => (EventOutcome::Failed, Err(error.into())),
        Err(_) => {
            let detail = "the store did not answer in time: repeat the request with the same Idempotency-Key";
            (EventOutcome::Failed, Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail)))
        }
    };
    state.metrics.settled(outcome, count);
    first_id
}

/// Answers that one event is stored.
pub fn stored(path_depth: PathDepth, id: i64) -> Answer {
    let response = json_response(StatusCode::CREATED, r#"{"status":"success"}"#);
    with_location(response, path_depth.event(id))
}

/// Answers that all events of a list are stored.
pub fn stored_list(count: usize) -> Answer {
    json_response(StatusCode::CREATED, format!(r#"{{"status":"success","count":{count}}}"#))
}
