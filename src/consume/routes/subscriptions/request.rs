//! What the requests of subscriptions have in common: a small JSON object, and what the store answers.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use serde::de::{DeserializeOwned, Deserializer, Error};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::consume::answer::{Answer, json_response};
use crate::consume::coding;
use crate::consume::problem::Problem;
use crate::consume::request_body::RequestBody;
use crate::consume::routes::ingest::{Format, read_body};
use crate::consume::routes::state::AppState;
use crate::core::duration::parse_duration;
use crate::core::event::ParseError;
use crate::core::text::{excerpt, str_without_byte_order_mark};
use crate::store::subscriptions::{Answer as Answered, Refusal, Request};

/// The longest lease that a subscription or a worker may ask for.
pub const LONGEST_LEASE: Duration = Duration::from_secs(86_400);

/// The longest detail of an error, in characters.
const DETAIL_LIMIT: usize = 200;

/// Reads the object of a request; without a body, that with all members left out.
///
/// # Errors
/// 415 for a body that is not JSON by its type; 400 for one that does not fit.
pub async fn read<T: DeserializeOwned>(
    state: &AppState,
    head: &Parts,
    body: &mut RequestBody,
) -> Result<T, Problem> {
    let coding = coding::of_request(&head.headers)?;
    let (bytes, _reservation) = read_body(state, body, coding, state.body_limit_bytes).await?;
    if !bytes.is_empty() || head.headers.contains_key(CONTENT_TYPE) {
        match Format::of(&head.headers)? {
            Format::Json => {}
            _ => return Err(Problem::unsupported_media_type("expected Content-Type application/json")),
        }
    }
    let text =
        std::str::from_utf8(&bytes).map_err(|error| ParseError::Encoding { offset: error.valid_up_to() })?;
    let text = str_without_byte_order_mark(text);
    let text = if text.trim_ascii().is_empty() { "{}" } else { text };
    let fits = text.trim_ascii_start().starts_with('{') && !text.contains('\0');
    let misfit = |reason: &str| {
        Problem::bad_request(format!("the body does not fit: {}", excerpt(reason, DETAIL_LIMIT)))
    };
    if !fits {
        return Err(misfit("expected an object"));
    }
    serde_json::from_str(text).map_err(|error| misfit(&error.to_string()))
}

/// Asks the store, and waits for its commit.
///
/// # Errors
/// 404 without the subscription, 409 where the claim is over.
pub async fn ask(state: &AppState, name: String, request: Request) -> Result<Answered, Problem> {
    let asked = timeout(state.store_timeout, state.store.subscription(name, request)).await;
    let timed_out =
        |_| Problem::new(StatusCode::GATEWAY_TIMEOUT, "the store did not answer in time: repeat the request");
    match asked.map_err(timed_out)?? {
        Answered::NoSubscription => Err(no_subscription()),
        Answered::Refused(Refusal::Stale) => Err(Problem::new(
            StatusCode::CONFLICT,
            "the claim is over for some of these events: another worker may have them",
        )),
        Answered::Refused(Refusal::OutOfOrder) => Err(Problem::new(
            StatusCode::CONFLICT,
            "in strict order an event is acknowledged together with those before it, or after them",
        )),
        answer => Ok(answer),
    }
}

pub fn no_subscription() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no subscription of this name: PUT makes one")
}

pub fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    json_response(status, serde_json::to_vec(body).expect("strings and numbers always serialize"))
}

/// `"30s"`, or a number of seconds.
#[derive(Debug, Clone, Copy)]
pub struct JsonDuration(pub Duration);

impl<'de> Deserialize<'de> for JsonDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonDuration, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a duration such as \"30s\", or a number of seconds")]
        enum Written {
            Text(String),
            Seconds(f64),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Seconds(seconds) => seconds.to_string(),
        };
        parse_duration(&text).map(JsonDuration).map_err(D::Error::custom)
    }
}
