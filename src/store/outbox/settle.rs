//! What became of a claimed message, and dead letters that are sent again.

use super::super::backend::Backend;
use super::super::error::{DatabaseError, WriteError};
use super::super::statements::{Statements, Value};
use super::message::{DeliveryState, Message, Resent, Settlement};
use super::pause::{lock, set_pause};
use crate::core::timestamp::Timestamp;

/// Notes what became of a message, unless its lease has run out and another process has claimed it. A message that is not
/// settled is sent again.
pub fn settle(
    backend: &mut dyn Backend,
    message: &Message,
    settlement: &Settlement,
    now: Timestamp,
) -> Result<(), WriteError> {
    backend.run(|statements| {
        if message.is_probe || settlement.closes() {
            lock(statements)?;
        }
        if message.is_probe {
            set_pause(statements, &message.channel, None)?;
        }
        match settlement {
            Settlement::Sent => {
                let sent = Settled { state: DeliveryState::Sent, ..Settled::dead(now) };
                settle_deliveries(statements, message, &sent, None)
            }
            Settlement::Dead { reason } => {
                settle_deliveries(statements, message, &Settled::dead(now), Some(reason))
            }
            Settlement::Retry { at, reason, give_up_before, closes } => {
                if *closes {
                    set_pause(statements, &message.channel, Some(*at))?;
                }
                let dead = Settled { created_before: Some(*give_up_before), ..Settled::dead(now) };
                settle_deliveries(statements, message, &dead, Some(reason))?;
                // After a pause, one message has all that waited for the channel.
                let pending = Settled::pending(*at, *closes);
                settle_deliveries(statements, message, &pending, Some(reason))
            }
        }
    })
}

/// What becomes of those deliveries of a message that are still being sent.
struct Settled {
    state: DeliveryState,
    due_at: Option<Timestamp>,
    settled_at: Option<Timestamp>,
    /// Only of those that are older than this.
    created_before: Option<Timestamp>,
    /// Whether they are from now on held back for a digest.
    holds: bool,
}

impl Settled {
    fn dead(now: Timestamp) -> Settled {
        Settled {
            state: DeliveryState::Dead,
            due_at: None,
            settled_at: Some(now),
            created_before: None,
            holds: false,
        }
    }

    fn pending(due_at: Timestamp, holds: bool) -> Settled {
        Settled {
            state: DeliveryState::Pending,
            due_at: Some(due_at),
            settled_at: None,
            created_before: None,
            holds,
        }
    }
}

fn settle_deliveries(
    statements: &mut dyn Statements,
    message: &Message,
    settled: &Settled,
    reason: Option<&String>,
) -> Result<(), DatabaseError> {
    let held = if settled.holds { "1" } else { "held" };
    let update = format!(
        "UPDATE deliveries SET state = ?, due_at = ?, settled_at = ?, last_error = ?, held = {held} \
            WHERE channel = ? AND attempted_at = ? AND claimed_by = ? AND state = 'sending' AND created_at < ?"
    );
    statements.execute(
        &update,
        &[
            settled.state.as_str().into(),
            settled.due_at.map(Timestamp::as_microseconds).into(),
            settled.settled_at.map(Timestamp::as_microseconds).into(),
            reason.map(String::as_str).into(),
            (&*message.channel).into(),
            message.claimed_at.as_microseconds().into(),
            message.claimant.as_str().into(),
            settled.created_before.map_or(i64::MAX, Timestamp::as_microseconds).into(),
        ],
    )
}

/// Sends dead letters again as if they were new: those of an event, or all.
pub fn resend(
    backend: &mut dyn Backend,
    event_id: Option<i64>,
    now: Timestamp,
) -> Result<Resent, WriteError> {
    let (first, last) = event_id.map_or((0, i64::MAX), |id| (id, id));
    let now = now.as_microseconds();
    let dead = backend.run(|statements| {
        lock(statements)?;
        let select = "SELECT deliveries.event_id, deliveries.channel, events.id FROM deliveries \
            LEFT JOIN events ON events.id = deliveries.event_id \
            WHERE deliveries.state = 'dead' AND deliveries.event_id BETWEEN ? AND ? \
            ORDER BY deliveries.event_id, deliveries.channel";
        let dead = statements.query::<3>(select, &[first.into(), last.into()])?;
        let update = "UPDATE deliveries SET state = 'pending', due_at = ?, settled_at = NULL, created_at = ?, \
            attempts = 0, held = 0 WHERE state = 'dead' AND event_id BETWEEN ? AND ? \
            AND event_id IN (SELECT id FROM events WHERE id BETWEEN ? AND ?)";
        let values = [now, now, first, last, first, last].map(Value::from);
        statements.execute(update, &values)?;
        Ok(dead)
    })?;
    let mut resent = Resent::default();
    for [event_id, channel, event] in dead {
        let list = if event == Value::Null { &mut resent.without_event } else { &mut resent.pending };
        list.push((event_id.number(), channel.into_text()));
    }
    Ok(resent)
}
