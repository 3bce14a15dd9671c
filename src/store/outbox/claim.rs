//! Claims: the next message of a channel is leased to one process.

use std::time::Duration;

use super::super::backend::Backend;
use super::super::error::{DatabaseError, WriteError};
use super::super::statements::{Statements, Value, event_of};
use super::message::{Claim, Claimed, Message};
use super::pause::{Pause, lock, pause_of, set_pause};
use crate::core::timestamp::Timestamp;

/// How many deliveries a digest has at most, and how many bytes their events.
const DIGEST_LIMIT: i64 = 1000;
const DIGEST_LIMIT_BYTES: i64 = 1 << 20;

/// Over what time messages are counted.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// Claims the next message of a channel that is due, unless the channel has had as many as it may. Nobody else gets the
/// message before its lease runs out.
pub fn claim(backend: &mut dyn Backend, claim: &Claim) -> Result<Claimed, WriteError> {
    let earliest_due = backend.run(|statements| earliest_due(statements, &claim.channel))?;
    // Most often nothing is due: no lock is needed to see that.
    if earliest_due.is_none_or(|due_at| due_at > claim.now) {
        return Ok(Claimed::Nothing { until: earliest_due });
    }
    // In another transaction: what is read behind the lock must not be what was seen before it.
    backend.run(|statements| {
        lock(statements)?;
        let pause = pause_of(statements, &claim.channel, claim.now)?;
        match opens_at(statements, claim, &pause)? {
            Some(until) => {
                hold_back(statements, claim)?;
                Ok(Claimed::Nothing { until: Some(until) })
            }
            None => claim_at_pace(statements, claim, &pause),
        }
    })
}

fn earliest_due(statements: &mut dyn Statements, channel: &str) -> Result<Option<Timestamp>, DatabaseError> {
    let select = "SELECT min(due_at) FROM deliveries WHERE channel = ?";
    let rows = statements.query::<1>(select, &[channel.into()])?;
    let due_at = rows.first().and_then(|[due_at]| due_at.number_or_null());
    Ok(due_at.map(Timestamp::from_microseconds))
}

/// When the pause of a channel, or the rate that it is limited to, lets it have the next message; none where it may now.
fn opens_at(
    statements: &mut dyn Statements,
    claim: &Claim,
    pause: &Pause,
) -> Result<Option<Timestamp>, DatabaseError> {
    match pause {
        Pause::Until(end) => Ok(Some(*end)),
        Pause::None | Pause::Over => limited_until(statements, claim, claim.rate, RATE_WINDOW),
    }
}

/// Holds back what is due, for a digest.
fn hold_back(statements: &mut dyn Statements, claim: &Claim) -> Result<(), DatabaseError> {
    let hold = "UPDATE deliveries SET held = 1 WHERE channel = ? AND due_at <= ? AND held = 0";
    statements.execute(hold, &[(&*claim.channel).into(), claim.now.as_microseconds().into()])
}

/// Claims a message unless the channel's service takes none yet; that alone makes no digest.
fn claim_at_pace(
    statements: &mut dyn Statements,
    claim: &Claim,
    pause: &Pause,
) -> Result<Claimed, DatabaseError> {
    let limited_until = match claim.pace {
        Some(pace) => limited_until(statements, claim, pace.messages, pace.window)?,
        None => None,
    };
    match limited_until {
        Some(until) => Ok(Claimed::Nothing { until: Some(until) }),
        None => claim_message(statements, claim, pause),
    }
}

/// When the channel may have its next message, if it has had `limit` messages within the window.
fn limited_until(
    statements: &mut dyn Statements,
    claim: &Claim,
    limit: usize,
    window: Duration,
) -> Result<Option<Timestamp>, DatabaseError> {
    let select = "SELECT message_id, max(attempted_at) FROM deliveries WHERE channel = ? AND attempted_at > ? \
        GROUP BY message_id ORDER BY 2";
    let since = claim.now.before(window).as_microseconds();
    let messages = statements.query::<2>(select, &[(&*claim.channel).into(), since.into()])?;
    let beyond = messages.len().checked_sub(limit);
    let leaves_last = beyond.and_then(|beyond| messages.get(beyond));
    Ok(leaves_last.map(|[_, at]| Timestamp::from_microseconds(at.number()).after(window)))
}

fn claim_message(
    statements: &mut dyn Statements,
    claim: &Claim,
    pause: &Pause,
) -> Result<Claimed, DatabaseError> {
    let (held, range) = match due(statements, claim, true)? {
        Some(range) => (true, range),
        None => match due(statements, claim, false)? {
            Some(range) => (false, range),
            None => return Ok(Claimed::Nothing { until: None }),
        },
    };
    let channel: Value = (&*claim.channel).into();
    let (claimant, now): (Value, Value) =
        (claim.claimant.as_str().into(), claim.now.as_microseconds().into());
    let update = "UPDATE deliveries SET state = 'sending', attempts = attempts + 1, attempted_at = ?, due_at = ?, \
        claimed_by = ?, message_id = ? WHERE channel = ? AND due_at <= ? AND held = ? AND event_id BETWEEN ? AND ?";
    let lease = claim.now.after(claim.lease).as_microseconds();
    let values = [
        now.clone(),
        lease.into(),
        claimant.clone(),
        range.first.into(),
        channel.clone(),
        now.clone(),
        i64::from(held).into(),
        range.first.into(),
        range.last.into(),
    ];
    statements.execute(update, &values)?;
    let select = "SELECT deliveries.event_id, deliveries.attempts, deliveries.created_at, events.id, \
        events.received_at, events.event_type, events.event_payload FROM deliveries \
        LEFT JOIN events ON events.id = deliveries.event_id \
        WHERE deliveries.channel = ? AND deliveries.attempted_at = ? AND deliveries.claimed_by = ? \
            AND deliveries.state = 'sending' ORDER BY deliveries.event_id";
    let rows = statements.query::<7>(select, &[channel, now, claimant])?;
    let is_probe = matches!(pause, Pause::Over);
    if is_probe {
        // Until it is settled, or its lease runs out, no other is sent.
        set_pause(statements, &claim.channel, Some(claim.now.after(claim.lease)))?;
    }
    let mut message = Message {
        id: range.first,
        channel: claim.channel.clone(),
        claimant: claim.claimant.clone(),
        claimed_at: claim.now,
        event_ids: Vec::with_capacity(rows.len()),
        created_at: Vec::with_capacity(rows.len()),
        events: Vec::with_capacity(rows.len()),
        attempts: 0,
        is_probe,
    };
    for [event_id, attempts, created_at, id, received_at, event_type, event_payload] in rows {
        message.event_ids.push(event_id.number());
        message.created_at.push(Timestamp::from_microseconds(created_at.number()));
        message.attempts = message.attempts.max(u32::try_from(attempts.number()).unwrap_or(u32::MAX));
        // An event that is gone has left its delivery behind.
        if id != Value::Null {
            message.events.push(event_of([id, received_at, event_type, event_payload]));
        }
    }
    Ok(Claimed::Message(message))
}

/// Ids of events, both ends included.
struct IdRange {
    first: i64,
    last: i64,
}

/// The events of the next message: one, or those that are held back for a digest.
fn due(statements: &mut dyn Statements, claim: &Claim, held: bool) -> Result<Option<IdRange>, DatabaseError> {
    let select = format!(
        "SELECT deliveries.event_id, octet_length(events.event_payload) FROM deliveries \
            LEFT JOIN events ON events.id = deliveries.event_id \
            WHERE deliveries.channel = ? AND deliveries.due_at <= ? AND deliveries.held = ? \
            ORDER BY deliveries.event_id LIMIT {}",
        if held { DIGEST_LIMIT } else { 1 }
    );
    let now = claim.now.as_microseconds();
    let rows =
        statements.query::<2>(&select, &[(&*claim.channel).into(), now.into(), i64::from(held).into()])?;
    let Some([first, _]) = rows.first() else { return Ok(None) };
    let mut bytes = 0;
    let fits = |[_, length]: &&[Value; 2]| {
        bytes += length.number();
        bytes <= DIGEST_LIMIT_BYTES
    };
    // A single event is sent however long it is.
    let last = rows.iter().take_while(fits).last().map_or(first, |[last, _]| last);
    Ok(Some(IdRange { first: first.number(), last: last.number() }))
}
