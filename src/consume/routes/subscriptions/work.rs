//! `POST /subscription/{name}/claim`, `/ack`, `/nack` and `/extend`: what workers ask.

use std::time::Duration;

use hyper::StatusCode;
use hyper::http::request::Parts;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::request::{JsonDuration, LONGEST_LEASE, ask, json, read};
use crate::consume::answer::{Answer, uncached};
use crate::consume::problem::Problem;
use crate::consume::request_body::RequestBody;
use crate::consume::routes::state::AppState;
use crate::consume::routes::stream::News;
use crate::core::event::StoredEvent;
use crate::core::timestamp::Timestamp;
use crate::store::subscriptions::{
    Answer as Answered, Attempt, ClaimedEvent, Rejection, Request, Selected, Token, may_have_work,
};

const DEFAULT_LIMIT: usize = 100;
const MAXIMUM_LIMIT: usize = 1000;
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const LONGEST_DELAY: Duration = Duration::from_secs(7 * 86_400);

/// The longest reason that is kept, in characters.
const REASON_LIMIT: usize = 1000;

/// How often a waiting claim looks for events that are handed out again, and for those of other processes.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WantedClaim {
    limit: Option<usize>,
    wait: Option<JsonDuration>,
}

#[derive(Serialize)]
struct ShownClaim {
    /// Null without events.
    token: Option<String>,
    until: Option<Timestamp>,
    events: Vec<ShownEvent>,
}

#[derive(Serialize)]
struct ShownEvent {
    #[serde(flatten)]
    event: StoredEvent,
    attempts: i64,
}

pub async fn claim(
    state: &AppState,
    name: String,
    head: &Parts,
    body: &mut RequestBody,
) -> Result<Answer, Problem> {
    let wanted: WantedClaim = read(state, head, body).await?;
    let limit = wanted.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAXIMUM_LIMIT).contains(&limit) {
        return Err(Problem::bad_request("`limit`: expected a number from 1 to 1000"));
    }
    let wait = wanted.wait.map_or(Duration::ZERO, |wait| wait.0).min(LONGEST_WAIT);
    let deadline = Instant::now() + wait;
    let mut news = state.hub.news();
    loop {
        let answer = ask(state, name.clone(), Request::Claim { limit }).await?;
        let Answered::Claimed(claim) = answer else { unreachable!("a claim is answered by a claim") };
        let left = deadline.saturating_duration_since(Instant::now());
        let shown = match claim {
            Some(claim) => ShownClaim {
                token: Some(claim.token.to_string()),
                until: Some(claim.until),
                events: claim.events.into_iter().map(shown_of).collect(),
            },
            None if left.is_zero() => ShownClaim { token: None, until: None, events: Vec::new() },
            None => {
                wait_for_work(state, &name, &mut news, deadline).await?;
                continue;
            }
        };
        return Ok(uncached(json(StatusCode::OK, &shown)));
    }
}

fn shown_of(ClaimedEvent { event, attempts }: ClaimedEvent) -> ShownEvent {
    ShownEvent { event, attempts }
}

/// Waits until there may be events to claim, or the time is over.
async fn wait_for_work(
    state: &AppState,
    name: &str,
    news: &mut News,
    deadline: Instant,
) -> Result<(), Problem> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        if news.within(left.min(LOOK_INTERVAL)).await {
            return Err(Problem::unavailable("the service is stopping"));
        }
        let name = name.to_owned();
        let now = Timestamp::now();
        let read =
            state.store.read(move |reader| reader.run(|statements| may_have_work(statements, &name, now)));
        if read.await? {
            return Ok(());
        }
    }
}

/// Which events of a claim: those with these ids, those up to one, or all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledged {
    token: String,
    ids: Option<Vec<i64>>,
    up_to: Option<i64>,
}

pub async fn acknowledge(
    state: &AppState,
    name: String,
    head: &Parts,
    body: &mut RequestBody,
) -> Result<Answer, Problem> {
    let Acknowledged { token, ids, up_to } = read(state, head, body).await?;
    let request = Request::Acknowledge { token: token_of(&token)?, selected: selected_of(ids, up_to)? };
    ask(state, name, request).await?;
    Ok(done())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rejected {
    token: String,
    ids: Option<Vec<i64>>,
    up_to: Option<i64>,
    delay: Option<JsonDuration>,
    reason: Option<String>,
    #[serde(default)]
    release: bool,
}

pub async fn reject(
    state: &AppState,
    name: String,
    head: &Parts,
    body: &mut RequestBody,
) -> Result<Answer, Problem> {
    let Rejected { token, ids, up_to, delay, reason, release } = read(state, head, body).await?;
    let rejection = Rejection {
        delay: delay.map_or(Duration::ZERO, |delay| delay.0).min(LONGEST_DELAY),
        reason: reason.map(|reason| reason.replace('\0', "\u{fffd}").chars().take(REASON_LIMIT).collect()),
        attempt: if release { Attempt::None } else { Attempt::Failed },
    };
    let (token, selected) = (token_of(&token)?, selected_of(ids, up_to)?);
    ask(state, name, Request::Reject { token, selected, rejection }).await?;
    Ok(done())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extended {
    token: String,
    lease: Option<JsonDuration>,
}

#[derive(Serialize)]
struct ShownLease {
    until: Timestamp,
}

pub async fn extend(
    state: &AppState,
    name: String,
    head: &Parts,
    body: &mut RequestBody,
) -> Result<Answer, Problem> {
    let Extended { token, lease } = read(state, head, body).await?;
    let lease = lease.map(|lease| lease.0);
    if lease.is_some_and(|lease| lease.is_zero() || lease > LONGEST_LEASE) {
        return Err(Problem::bad_request("`lease`: expected a duration of at most a day, above zero"));
    }
    match ask(state, name, Request::Extend { token: token_of(&token)?, lease }).await? {
        Answered::Extended { until } => Ok(uncached(json(StatusCode::OK, &ShownLease { until }))),
        other => unreachable!("a lease is answered by its end, not {other:?}"),
    }
}

/// A text that never was a token is as good as one that is over.
fn token_of(text: &str) -> Result<Token, Problem> {
    text.parse().map_err(|()| Problem::new(StatusCode::CONFLICT, "this is no token of a claim"))
}

fn selected_of(ids: Option<Vec<i64>>, up_to: Option<i64>) -> Result<Selected, Problem> {
    match (ids, up_to) {
        (Some(_), Some(_)) => Err(Problem::bad_request("expected either `ids` or `up_to`")),
        (Some(ids), None) => Ok(Selected::Ids(ids)),
        (None, Some(id)) => Ok(Selected::UpTo(id)),
        (None, None) => Ok(Selected::All),
    }
}

fn done() -> Answer {
    uncached(json(StatusCode::OK, &serde_json::json!({"status": "success"})))
}
