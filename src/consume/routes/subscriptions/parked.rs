//! `/subscription/{name}/parked`: events that failed too often.

use hyper::StatusCode;
use hyper::http::request::Parts;
use serde::{Deserialize, Serialize};

use super::request::{ask, json, no_subscription, read};
use crate::consume::answer::{Answer, uncached};
use crate::consume::problem::Problem;
use crate::consume::query_string::parse_position_query;
use crate::consume::request_body::RequestBody;
use crate::consume::routes::state::AppState;
use crate::core::event::StoredEvent;
use crate::core::timestamp::Timestamp;
use crate::store::subscriptions::{Answer as Answered, ParkedEvent, Request, Subscription, Unpark, parked};

#[derive(Serialize)]
struct ShownParked {
    #[serde(flatten)]
    event: StoredEvent,
    attempts: i64,
    parked_at: Timestamp,
    reason: Option<String>,
}

impl From<ParkedEvent> for ShownParked {
    fn from(ParkedEvent { event, attempts, parked_at, reason }: ParkedEvent) -> ShownParked {
        ShownParked { event, attempts, parked_at, reason }
    }
}

pub async fn list(state: &AppState, name: &str, query: &str) -> Result<Answer, Problem> {
    let (after, limit) = parse_position_query(query).map_err(Problem::bad_request)?;
    let name = name.to_owned();
    let read = state.store.read(move |reader| {
        reader.run(|statements| {
            let is_known = Subscription::read(statements, &name)?.is_some();
            is_known.then(|| parked(statements, &name, after, limit)).transpose()
        })
    });
    let shown: Vec<ShownParked> =
        read.await?.ok_or_else(no_subscription)?.into_iter().map(ShownParked::from).collect();
    Ok(uncached(json(StatusCode::OK, &shown)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedUnpark {
    action: WantedAction,
    ids: Option<Vec<i64>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WantedAction {
    Replay,
    Skip,
}

#[derive(Serialize)]
struct ShownCount {
    count: u64,
}

pub async fn unpark(
    state: &AppState,
    name: String,
    head: &Parts,
    body: &mut RequestBody,
) -> Result<Answer, Problem> {
    let WantedUnpark { action, ids } = read(state, head, body).await?;
    let action = match action {
        WantedAction::Replay => Unpark::Replay,
        WantedAction::Skip => Unpark::Skip,
    };
    match ask(state, name, Request::Unpark { ids, action }).await? {
        Answered::Unparked { count } => Ok(uncached(json(StatusCode::OK, &ShownCount { count }))),
        other => unreachable!("parked events are answered by their number, not {other:?}"),
    }
}
