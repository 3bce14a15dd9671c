//! Claims: the next events of a subscription are leased to a worker.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::super::backend::PAGE_LIMIT_BYTES;
use super::super::error::DatabaseError;
use super::super::statements::{Statements, Value, event_of, in_powers_of_two};
use super::definition::{Definition, Order, Subscription};
use super::token::Token;
use crate::core::event::StoredEvent;
use crate::core::timestamp::Timestamp;

/// How many stored events a claim looks through at once, and how often at most.
const SCANNED: usize = 1000;
const SCANS: usize = 10;

/// How many of the last claims are known: so many later, a repeated acknowledgement is refused.
const KNOWN_CLAIMS: i64 = 10_000;

/// How long a subscription that nobody gets events from may seem unclaimed before a claim is noted.
const CLAIM_NOTE: Duration = Duration::from_secs(60);

/// Why an event is parked whose last worker never came back.
const LEASE_ENDED: &str = "the lease ended without an acknowledgement";

/// The events of a claim, in the order of their ids.
#[derive(Debug)]
pub struct Claim {
    pub token: Token,
    pub events: Vec<ClaimedEvent>,
    /// When the lease ends.
    pub until: Timestamp,
}

#[derive(Debug)]
pub struct ClaimedEvent {
    pub event: StoredEvent,
    /// How often it was handed out, this time included.
    pub attempts: i64,
}

/// An event that was handed out before, and is again.
struct Returned {
    id: i64,
    token: i64,
    attempts: i64,
}

/// Claims up to so many events for the lease of the subscription. None without any.
pub fn claim(
    statements: &mut dyn Statements,
    subscription: Subscription,
    limit: usize,
    now: Timestamp,
) -> Result<Option<Claim>, DatabaseError> {
    let Subscription { name, definition, position, token: last, .. } = &subscription;
    let (returned, is_open) = returned(statements, name, definition, limit, now)?;
    let (returned, is_open) = park_exhausted(statements, name, definition, returned, is_open, now)?;
    let mut bytes = 0;
    let mut fits = |length: i64| {
        let is_first = bytes == 0;
        bytes += length.max(1);
        is_first || bytes <= PAGE_LIMIT_BYTES as i64
    };
    let lengths = lengths_of(statements, &returned)?;
    let count = returned.iter().take_while(|event| fits(*lengths.get(&event.id).unwrap_or(&0))).count();
    let room = if is_open && count == returned.len() { limit - count } else { 0 };
    let returned = &returned[..count];
    let (position, new) = match room {
        0 => (*position, Vec::new()),
        room => new_events(statements, definition, *position, room, fits)?,
    };
    let token = last + 1;
    let until = now.after(definition.lease);
    let is_empty = returned.is_empty() && new.is_empty();
    let is_recent = subscription.claimed_at.after(CLAIM_NOTE) > now;
    if is_empty && position == subscription.position && is_recent {
        return Ok(None);
    }
    let update = "UPDATE subscriptions SET position = ?, token = ?, claimed_at = ? WHERE name = ?";
    let values = [position.into(), token.into(), now.as_microseconds().into(), name.as_str().into()];
    statements.execute(update, &values)?;
    if is_empty {
        return Ok(None);
    }
    lease_returned(statements, name, returned, token, until)?;
    lease_new(statements, name, &new, token, until)?;
    note_claim(statements, name, token)?;
    let mut events = Vec::with_capacity(returned.len() + new.len());
    let handed_out =
        returned.iter().map(|event| (event.id, event.attempts + 1)).chain(new.iter().map(|id| (*id, 1)));
    let handed_out: Vec<(i64, i64)> = handed_out.collect();
    let ids: Vec<i64> = handed_out.iter().map(|(id, _)| *id).collect();
    let mut gone = Vec::new();
    // Events of all types follow each other.
    let are_consecutive = returned.is_empty() && definition.event_type.is_none();
    let stored = if are_consecutive { read_range(statements, &ids)? } else { read_events(statements, &ids)? };
    let mut stored = stored.into_iter().peekable();
    for (id, attempts) in handed_out {
        match stored.next_if(|event| event.id == id) {
            Some(event) => events.push(ClaimedEvent { event, attempts }),
            None => gone.push(id),
        }
    }
    forget(statements, name, &gone)?;
    let token = Token { epoch: subscription.epoch(), number: token };
    Ok((!events.is_empty()).then_some(Claim { token, events, until }))
}

/// The events that are due again, and whether new ones may follow them.
fn returned(
    statements: &mut dyn Statements,
    name: &str,
    definition: &Definition,
    limit: usize,
    now: Timestamp,
) -> Result<(Vec<Returned>, bool), DatabaseError> {
    let now = now.as_microseconds();
    let (condition, values) = match definition.order {
        Order::Parallel => (" AND due_at <= ?", vec![Value::from(name), now.into()]),
        Order::Strict if definition.skips_parked => (" AND due_at IS NOT NULL", vec![name.into()]),
        Order::Strict => ("", vec![name.into()]),
    };
    // One more, to see whether any is left.
    let select = format!(
        "SELECT event_id, token, attempts, due_at FROM subscription_events WHERE subscription = ?{condition} \
            ORDER BY event_id LIMIT {}",
        limit + 1
    );
    let rows = statements.query::<4>(&select, &values)?;
    let is_due =
        |[_, _, _, due_at]: &&[Value; 4]| due_at.number_or_null().is_some_and(|due_at| due_at <= now);
    let due = rows.iter().take_while(is_due).take(limit);
    let returned: Vec<Returned> = due
        .map(|[id, token, attempts, _]| Returned {
            id: id.number(),
            token: token.number(),
            attempts: attempts.number(),
        })
        .collect();
    let is_open = returned.len() == rows.len();
    Ok((returned, is_open))
}

/// Parks those that have failed as often as they may. In strict order nothing after one of them is handed out, unless the
/// subscription skips them.
fn park_exhausted(
    statements: &mut dyn Statements,
    name: &str,
    definition: &Definition,
    returned: Vec<Returned>,
    is_open: bool,
    now: Timestamp,
) -> Result<(Vec<Returned>, bool), DatabaseError> {
    let is_exhausted = |event: &Returned| event.attempts >= i64::from(definition.max_attempts);
    let stops = definition.order == Order::Strict && !definition.skips_parked;
    let first = returned.iter().position(is_exhausted);
    let Some(first) = first else { return Ok((returned, is_open)) };
    let (exhausted, mut left): (Vec<Returned>, Vec<Returned>) = match stops {
        // Those after it wait.
        true => {
            let mut left = returned;
            left.truncate(first + 1);
            (left.split_off(first), left)
        }
        false => returned.into_iter().partition(is_exhausted),
    };
    mark_stale(statements, name, exhausted.iter().map(|event| event.token).collect())?;
    let park = "UPDATE subscription_events SET due_at = NULL, is_leased = 0, parked_at = ?, reason = coalesce(reason, ?) \
        WHERE subscription = ? AND event_id IN ({ids})";
    let values = [now.as_microseconds().into(), LEASE_ENDED.into(), name.into()];
    statements.execute_for(park, &values, &ids_of(&exhausted))?;
    left.sort_by_key(|event| event.id);
    Ok((left, is_open && !stops))
}

/// Whoever has an event of these claims has it no more.
fn mark_stale(
    statements: &mut dyn Statements,
    name: &str,
    tokens: BTreeSet<i64>,
) -> Result<(), DatabaseError> {
    let tokens: Vec<i64> = tokens.into_iter().collect();
    let update = "UPDATE subscription_claims SET is_stale = 1 WHERE subscription = ? AND token IN ({ids})";
    statements.execute_for(update, &[name.into()], &tokens)
}

fn ids_of(events: &[Returned]) -> Vec<i64> {
    events.iter().map(|event| event.id).collect()
}

/// The bytes of payloads, by id.
fn lengths_of(
    statements: &mut dyn Statements,
    events: &[Returned],
) -> Result<HashMap<i64, i64>, DatabaseError> {
    let select = "SELECT id, octet_length(event_payload) FROM events WHERE id IN ({ids})";
    let rows = statements.query_for::<2>(select, &ids_of(events))?;
    Ok(rows.iter().map(|[id, length]| (id.number(), length.number())).collect())
}

/// The next events that the subscription selects, and up to where all others have been passed over.
fn new_events(
    statements: &mut dyn Statements,
    definition: &Definition,
    mut position: i64,
    room: usize,
    mut fits: impl FnMut(i64) -> bool,
) -> Result<(i64, Vec<i64>), DatabaseError> {
    let mut new = Vec::new();
    for _ in 0..SCANS {
        let limit = if definition.event_type.is_some() { SCANNED } else { room - new.len() };
        let select = format!(
            "SELECT id, event_type, octet_length(event_payload) FROM events WHERE id > ? ORDER BY id LIMIT {limit}"
        );
        let rows = statements.query::<3>(&select, &[position.into()])?;
        let count = rows.len();
        for [id, event_type, length] in rows {
            let selected =
                definition.event_type.as_ref().is_none_or(|glob| glob.matches(&event_type.into_text()));
            if selected {
                if new.len() == room || !fits(length.number()) {
                    return Ok((position, new));
                }
                new.push(id.number());
            }
            position = id.number();
        }
        if count < limit || new.len() == room {
            break;
        }
    }
    Ok((position, new))
}

fn lease_returned(
    statements: &mut dyn Statements,
    name: &str,
    returned: &[Returned],
    token: i64,
    until: Timestamp,
) -> Result<(), DatabaseError> {
    mark_stale(statements, name, returned.iter().map(|event| event.token).collect())?;
    let update = "UPDATE subscription_events SET token = ?, attempts = attempts + 1, is_leased = 1, due_at = ? \
        WHERE subscription = ? AND event_id IN ({ids})";
    let values = [token.into(), until.as_microseconds().into(), name.into()];
    statements.execute_for(update, &values, &ids_of(returned))
}

fn lease_new(
    statements: &mut dyn Statements,
    name: &str,
    new: &[i64],
    token: i64,
    until: Timestamp,
) -> Result<(), DatabaseError> {
    for chunk in in_powers_of_two(new) {
        let places = ", (?, ?, ?, 1, 1, ?)".repeat(chunk.len() - 1);
        let insert = format!(
            "INSERT INTO subscription_events (subscription, event_id, token, attempts, is_leased, due_at) \
                VALUES (?, ?, ?, 1, 1, ?){places}"
        );
        let row = |id: &i64| [name.into(), (*id).into(), token.into(), until.as_microseconds().into()];
        let values: Vec<Value> = chunk.iter().flat_map(row).collect();
        statements.execute(&insert, &values)?;
    }
    Ok(())
}

fn note_claim(statements: &mut dyn Statements, name: &str, token: i64) -> Result<(), DatabaseError> {
    let insert = "INSERT INTO subscription_claims (subscription, token, is_stale) VALUES (?, ?, 0)";
    statements.execute(insert, &[name.into(), token.into()])?;
    let old = "DELETE FROM subscription_claims WHERE subscription = ? AND token < ?";
    statements.execute(old, &[name.into(), (token - KNOWN_CLAIMS).into()])
}

fn read_events(statements: &mut dyn Statements, ids: &[i64]) -> Result<Vec<StoredEvent>, DatabaseError> {
    let select =
        "SELECT id, received_at, event_type, event_payload FROM events WHERE id IN ({ids}) ORDER BY id";
    Ok(statements.query_for::<4>(select, ids)?.into_iter().map(event_of).collect())
}

/// The same for ids between which there is no other event.
fn read_range(statements: &mut dyn Statements, ids: &[i64]) -> Result<Vec<StoredEvent>, DatabaseError> {
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(Vec::new()) };
    let select =
        "SELECT id, received_at, event_type, event_payload FROM events WHERE id >= ? AND id <= ? ORDER BY id";
    let rows = statements.query::<4>(select, &[(*first).into(), (*last).into()])?;
    Ok(rows.into_iter().map(event_of).collect())
}

/// Passes over events that somebody has deleted.
fn forget(statements: &mut dyn Statements, name: &str, ids: &[i64]) -> Result<(), DatabaseError> {
    let delete = "DELETE FROM subscription_events WHERE subscription = ? AND event_id IN ({ids})";
    statements.execute_for(delete, &[name.into()], ids)
}
