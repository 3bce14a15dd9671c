//! `PUT`, `GET` and `DELETE /subscription/{name}`, and the list of all.

use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use super::request::{JsonDuration, LONGEST_LEASE, ask, json, no_subscription, read};
use crate::consume::answer::{Answer, uncached};
use crate::consume::body::Content;
use crate::consume::problem::Problem;
use crate::consume::request_body::RequestBody;
use crate::consume::routes::state::AppState;
use crate::core::duration::in_units;
use crate::core::glob::Glob;
use crate::core::timestamp::Timestamp;
use crate::core::type_filter::PermittedTypes;
use crate::store::subscriptions::{
    Answer as Answered, Definition, Order, Progress, Request, Start, Subscription, all_with_progress,
    progress,
};

/// What `PUT` takes; all is optional.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    #[serde(rename = "type")]
    event_type: Option<String>,
    from: Option<WantedStart>,
    order: WantedOrder,
    lease: Option<JsonDuration>,
    max_attempts: Option<u32>,
    on_parked: OnParked,
    retain: Option<bool>,
    expires: Option<JsonDuration>,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum WantedOrder {
    #[default]
    Parallel,
    Strict,
}

/// What a strict subscription does after a parked event.
#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum OnParked {
    #[default]
    Stop,
    Skip,
}

struct WantedStart(Start);

impl<'de> Deserialize<'de> for WantedStart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WantedStart, D::Error> {
        const EXPECTED: &str =
            "expected \"beginning\", \"now\", an id, or a time such as \"2026-01-15T12:00:00Z\"";
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Id(i64),
            Text(String),
        }
        let start = match Written::deserialize(deserializer).map_err(|_| D::Error::custom(EXPECTED))? {
            Written::Id(id) if id > 0 => Start::Id(id),
            Written::Id(_) => return Err(D::Error::custom(EXPECTED)),
            Written::Text(text) => match text.as_str() {
                "beginning" => Start::Beginning,
                "now" => Start::Now,
                _ => Start::Time(text.parse().map_err(|_| D::Error::custom(EXPECTED))?),
            },
        };
        Ok(WantedStart(start))
    }
}

impl Wanted {
    fn into_definition(self) -> Result<(Definition, Start), Problem> {
        let refuse = |member: &str, detail: &str| Problem::bad_request(format!("`{member}`: {detail}"));
        let default = Definition::default();
        let lease = self.lease.map_or(default.lease, |lease| lease.0);
        if lease.is_zero() || lease > LONGEST_LEASE {
            return Err(refuse("lease", "expected a duration of at most a day, above zero"));
        }
        let expires = self.expires.map_or(default.expires, |expires| expires.0);
        if expires < lease {
            return Err(refuse("expires", "expected a duration no shorter than the lease"));
        }
        let max_attempts = self.max_attempts.unwrap_or(default.max_attempts);
        if max_attempts == 0 {
            return Err(refuse("max_attempts", "expected a number of 1 or more"));
        }
        let event_type = self.event_type.map(|glob| glob.parse()).transpose();
        let event_type: Option<Glob> = event_type.map_err(|error: String| refuse("type", &error))?;
        if event_type.as_ref().is_some_and(|glob| glob.as_str().contains('\0')) {
            return Err(refuse("type", "expected a pattern without U+0000"));
        }
        let definition = Definition {
            event_type: event_type.filter(|glob| !glob.matches_all()),
            order: match self.order {
                WantedOrder::Parallel => Order::Parallel,
                WantedOrder::Strict => Order::Strict,
            },
            skips_parked: matches!(self.on_parked, OnParked::Skip),
            retains: self.retain.unwrap_or(default.retains),
            lease,
            max_attempts,
            expires,
        };
        Ok((definition, self.from.map_or(Start::Beginning, |start| start.0)))
    }
}

/// A subscription as it is shown.
#[derive(Serialize)]
struct Shown {
    name: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    order: WantedOrder,
    lease: String,
    max_attempts: u32,
    on_parked: OnParked,
    retain: bool,
    expires: String,
    position: i64,
    lag: i64,
    oldest: Option<Timestamp>,
    in_flight: i64,
    waiting: i64,
    parked: i64,
    created_at: Timestamp,
    claimed_at: Timestamp,
}

impl Shown {
    fn of(subscription: Subscription, progress: Progress) -> Shown {
        let Subscription { name, definition, position, created_at, claimed_at, .. } = subscription;
        let Progress { lag, oldest, in_flight, waiting, parked } = progress;
        Shown {
            name,
            event_type: definition.event_type.map(|glob| glob.as_str().to_owned()),
            order: match definition.order {
                Order::Parallel => WantedOrder::Parallel,
                Order::Strict => WantedOrder::Strict,
            },
            lease: in_units(definition.lease),
            max_attempts: definition.max_attempts,
            on_parked: if definition.skips_parked { OnParked::Skip } else { OnParked::Stop },
            retain: definition.retains,
            expires: in_units(definition.expires),
            position,
            lag,
            oldest,
            in_flight,
            waiting,
            parked,
            created_at,
            claimed_at,
        }
    }
}

pub async fn define(
    state: &AppState,
    name: String,
    head: &Parts,
    body: &mut RequestBody,
    permitted: &PermittedTypes,
) -> Result<Answer, Problem> {
    let wanted: Wanted = read(state, head, body).await?;
    let (definition, start) = wanted.into_definition()?;
    check_definition(&definition, permitted)?;
    let answer = ask(state, name.clone(), Request::Define { definition, start }).await?;
    let is_new = matches!(answer, Answered::Defined { is_new: true });
    let mut answer = show(state, &name).await?;
    *answer.status_mut() = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer)
}

pub async fn show(state: &AppState, name: &str) -> Result<Answer, Problem> {
    let name = name.to_owned();
    let read = state.store.read(move |reader| {
        reader.run(|statements| {
            let Some(subscription) = Subscription::read(statements, &name)? else { return Ok(None) };
            let progress = progress(statements, &subscription)?;
            Ok(Some(Shown::of(subscription, progress)))
        })
    });
    let shown = read.await?.ok_or_else(no_subscription)?;
    Ok(uncached(json(StatusCode::OK, &shown)))
}

/// # Errors
/// 403 where there is a subscription of this name, with types that the client may not use.
pub async fn check_types(state: &AppState, name: &str, permitted: &PermittedTypes) -> Result<(), Problem> {
    let name = name.to_owned();
    let read = state.store.read(move |reader| reader.run(|statements| Subscription::read(statements, &name)));
    match read.await? {
        Some(subscription) => check_definition(&subscription.definition, permitted),
        None => Ok(()),
    }
}

fn check_definition(definition: &Definition, permitted: &PermittedTypes) -> Result<(), Problem> {
    match permitted.cover(definition.event_type.as_ref()) {
        true => Ok(()),
        false => Err(Problem::type_not_permitted("the subscription has types")),
    }
}

/// `GET /subscription`: those whose types the client may use.
pub async fn list(state: &AppState, permitted: &PermittedTypes) -> Result<Answer, Problem> {
    let all = state.store.read(|reader| all_with_progress(reader, usize::MAX)).await?;
    let all = all
        .into_iter()
        .filter(|(subscription, _)| permitted.cover(subscription.definition.event_type.as_ref()));
    let shown = all.map(|(subscription, progress)| Shown::of(subscription, progress));
    Ok(uncached(json(StatusCode::OK, &shown.collect::<Vec<_>>())))
}

pub async fn remove(state: &AppState, name: String) -> Result<Answer, Problem> {
    ask(state, name, Request::Remove).await?;
    let mut response = Response::new(Content::from(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
