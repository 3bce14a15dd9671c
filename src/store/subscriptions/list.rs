//! How far subscriptions are, and the events that they have parked.

use super::super::backend::StoreReader;
use super::super::error::{DatabaseError, ReadError};
use super::super::statements::{Statements, Value, event_of};
use super::definition::Subscription;
use crate::core::event::StoredEvent;
use crate::core::glob::Glob;
use crate::core::timestamp::Timestamp;

/// Events that wait are counted up to this number.
const LAG_LIMIT: usize = 10_000;

/// How far a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many events were never handed out: at most 10,000.
    pub lag: i64,
    /// When the oldest event that is not acknowledged was received.
    pub oldest: Option<Timestamp>,
    /// How many events workers have.
    pub in_flight: i64,
    /// How many were given back and are handed out again.
    pub waiting: i64,
    pub parked: i64,
}

/// An event that failed too often.
#[derive(Debug)]
pub struct ParkedEvent {
    pub event: StoredEvent,
    pub attempts: i64,
    pub parked_at: Timestamp,
    pub reason: Option<String>,
}

/// What becomes of parked events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpark {
    /// They are handed out again, as often as new ones.
    Replay,
    /// They count as acknowledged.
    Skip,
}

pub fn progress(
    statements: &mut dyn Statements,
    subscription: &Subscription,
) -> Result<Progress, DatabaseError> {
    let name = [Value::from(subscription.name.as_str())];
    let count = "SELECT count(due_at), count(CASE WHEN is_leased = 1 THEN 1 END), count(*), min(event_id) \
        FROM subscription_events WHERE subscription = ?";
    let rows = statements.query::<4>(count, &name)?;
    let [open, leased, all, first] =
        rows.into_iter().next().unwrap_or([Value::Null, Value::Null, Value::Null, Value::Null]);
    let (lag, next) = lag(statements, subscription)?;
    let oldest = [first.number_or_null(), next].into_iter().flatten().min();
    let received = "SELECT received_at FROM events WHERE id = ?";
    let oldest = match oldest {
        Some(id) => statements.query::<1>(received, &[id.into()])?.first().map(|[time]| time.number()),
        None => None,
    };
    Ok(Progress {
        lag,
        oldest: oldest.map(Timestamp::from_microseconds),
        in_flight: leased.number(),
        waiting: open.number() - leased.number(),
        parked: all.number() - open.number(),
    })
}

/// How far the first so many subscriptions are, by name.
pub fn all_with_progress(
    reader: &mut dyn StoreReader,
    limit: usize,
) -> Result<Vec<(Subscription, Progress)>, ReadError> {
    reader.run(|statements| {
        let all = Subscription::read_all(statements)?.into_iter().take(limit);
        all.map(|subscription| {
            let progress = progress(statements, &subscription)?;
            Ok((subscription, progress))
        })
        .collect()
    })
}

/// How many events come after the position, and the first of them.
fn lag(
    statements: &mut dyn Statements,
    subscription: &Subscription,
) -> Result<(i64, Option<i64>), DatabaseError> {
    let position = [subscription.position.into()];
    let Some(glob) = &subscription.definition.event_type else {
        let count = format!(
            "SELECT count(*), min(id) FROM (SELECT id FROM events WHERE id > ? ORDER BY id LIMIT {LAG_LIMIT}) AS next"
        );
        let rows = statements.query::<2>(&count, &position)?;
        return Ok(rows.first().map_or((0, None), |[count, first]| (count.number(), first.number_or_null())));
    };
    let select = format!("SELECT id, event_type FROM events WHERE id > ? ORDER BY id LIMIT {LAG_LIMIT}");
    let rows = statements.query::<2>(&select, &position)?;
    let is_selected = |[_, event_type]: &&[Value; 2]| selects(glob, event_type);
    let mut selected = rows.iter().filter(is_selected);
    let first = selected.next().map(|[id, _]| id.number());
    let count = selected.count() as i64 + i64::from(first.is_some());
    Ok((count, first))
}

fn selects(glob: &Glob, event_type: &Value) -> bool {
    matches!(event_type, Value::Text(event_type) if glob.matches(event_type))
}

/// Whether a claim may have events: some are due, or some were stored after the position.
pub fn may_have_work(
    statements: &mut dyn Statements,
    name: &str,
    now: Timestamp,
) -> Result<bool, DatabaseError> {
    let next = "SELECT events.id FROM subscriptions JOIN events ON events.id > subscriptions.position \
        WHERE subscriptions.name = ? LIMIT 1";
    if !statements.query::<1>(next, &[name.into()])?.is_empty() {
        return Ok(true);
    }
    let due = "SELECT event_id FROM subscription_events WHERE subscription = ? AND due_at <= ? LIMIT 1";
    Ok(!statements.query::<1>(due, &[name.into(), now.as_microseconds().into()])?.is_empty())
}

/// The parked events after an id, in the order of their ids.
pub fn parked(
    statements: &mut dyn Statements,
    name: &str,
    after: i64,
    limit: usize,
) -> Result<Vec<ParkedEvent>, DatabaseError> {
    let select = format!(
        "SELECT subscription_events.attempts, subscription_events.parked_at, subscription_events.reason, events.id, \
            events.received_at, events.event_type, events.event_payload FROM subscription_events \
            JOIN events ON events.id = subscription_events.event_id \
            WHERE subscription_events.subscription = ? AND subscription_events.event_id > ? \
                AND subscription_events.due_at IS NULL ORDER BY subscription_events.event_id LIMIT {limit}"
    );
    let rows = statements.query::<7>(&select, &[name.into(), after.into()])?;
    let parked =
        |[attempts, parked_at, reason, id, received_at, event_type, payload]: [Value; 7]| ParkedEvent {
            event: event_of([id, received_at, event_type, payload]),
            attempts: attempts.number(),
            parked_at: Timestamp::from_microseconds(parked_at.number()),
            reason: reason.into_text_or_null(),
        };
    Ok(rows.into_iter().map(parked).collect())
}

/// Replays or skips parked events, those with these ids or all: how many.
pub fn unpark(
    statements: &mut dyn Statements,
    name: &str,
    ids: Option<&[i64]>,
    action: Unpark,
    now: Timestamp,
) -> Result<u64, DatabaseError> {
    let select = "SELECT event_id FROM subscription_events WHERE subscription = ? AND due_at IS NULL";
    let parked = statements.query::<1>(select, &[name.into()])?;
    let parked = parked.iter().map(|[id]| id.number());
    let chosen: Vec<i64> = parked.filter(|id| ids.is_none_or(|ids| ids.contains(id))).collect();
    match action {
        Unpark::Skip => {
            let delete = "DELETE FROM subscription_events WHERE subscription = ? AND event_id IN ({ids})";
            statements.execute_for(delete, &[name.into()], &chosen)?;
        }
        Unpark::Replay => {
            let update = "UPDATE subscription_events SET attempts = 0, due_at = ?, parked_at = NULL \
                WHERE subscription = ? AND event_id IN ({ids})";
            statements.execute_for(update, &[now.as_microseconds().into(), name.into()], &chosen)?;
        }
    }
    Ok(chosen.len() as u64)
}
