//! Retention: what the limits name is deleted, some events at a time.
//!
//! - The newest events are kept, by number and by bytes: ids have gaps, so events are counted. The totals stand in the
//!   only row of `retention`, whose lock each step holds until its commit. So all processes of a store share them, and
//!   count each event once. Where they are wrong because others have deleted events, the next count of all events mends
//!   them; an event that is not yet counted only makes for fewer deletions.
//! - An event with an open delivery stays, and so does one that a subscription has not passed, or that is not acknowledged
//!   there, unless the subscription does without. They take places among those that are kept.
//! - An event with a time in the future is not old. It is passed, as is any young event between old ones; a sweep ends
//!   at the first step in which there is nothing to delete and nothing from the future.
//! - An idempotency key stays as long as any event of its request. What is deleted is noted in `deleted_events`, with
//!   its time; when the note has come of age, the keys whose events are all gone are deleted.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::backend::Backend;
use super::error::{DatabaseError, WriteError};
use super::statements::{Statements, Value};
use crate::core::timestamp::Timestamp;

/// How many events are counted, checked or deleted at once: a step takes some milliseconds. A store that has no more
/// is counted anew each time.
const STEP: usize = 1000;

/// How old the note that the clock was believed may become before it is renewed.
const BELIEF_LIFETIME: Duration = Duration::from_secs(600);

/// The keys that begin in a range, have no event left, and of which no event is in a note that is too young: neither one
/// that ends among their events, nor the one that has their last.
const EXPIRED_KEYS: &str = "\
    FROM idempotency_keys WHERE first_id >= ? AND first_id <= ? AND NOT EXISTS \
        (SELECT 1 FROM events WHERE events.id >= idempotency_keys.first_id \
            AND events.id < idempotency_keys.first_id + idempotency_keys.event_count) \
    AND NOT EXISTS \
        (SELECT 1 FROM deleted_events WHERE deleted_events.received_at >= ? \
            AND deleted_events.last_id >= idempotency_keys.first_id \
            AND deleted_events.last_id < idempotency_keys.first_id + idempotency_keys.event_count) \
    AND coalesce((SELECT deleted_events.received_at FROM deleted_events \
        WHERE deleted_events.last_id >= idempotency_keys.first_id + idempotency_keys.event_count - 1 \
        ORDER BY deleted_events.last_id LIMIT 1), 0) < ?";

/// Whether an event has to stay, whatever the limits say.
const IS_HELD: &str = "(EXISTS (SELECT 1 FROM deliveries \
        WHERE deliveries.event_id = events.id AND deliveries.due_at IS NOT NULL) \
    OR EXISTS (SELECT 1 FROM subscriptions WHERE subscriptions.retains = 1 AND subscriptions.position < events.id) \
    OR EXISTS (SELECT 1 FROM subscriptions JOIN subscription_events \
            ON subscription_events.subscription = subscriptions.name AND subscription_events.event_id = events.id \
        WHERE subscriptions.retains = 1))";

/// What is kept, at a moment.
#[derive(Debug, Clone, Copy)]
pub struct RetentionLimits {
    pub now: Timestamp,
    /// Whether the clock is believed; if not, nothing is deleted by age.
    pub is_clock_believed: bool,
    /// Events that were received before this instant are deleted.
    pub received_before: Option<Timestamp>,
    /// How many of the newest events are kept.
    pub events: Option<i64>,
    /// How many bytes of types and payloads of the newest events are kept.
    pub bytes: Option<i64>,
    /// The keys of deleted events that were received before this instant are deleted; all, where there is none.
    pub keys_before: Option<Timestamp>,
    pub recount: Recount,
}

/// When all events are counted anew, in case that somebody else has deleted some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recount {
    /// Not in the middle of a sweep.
    Never,
    /// Where there are so few that it costs nothing.
    IfSmall,
    Always,
}

/// The events that a sweep has checked, and that stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// All up to this id have been checked or deleted.
    pub until: i64,
    pub events: i64,
    /// The bytes of their types and payloads.
    pub bytes: i64,
}

/// What a step of retention has deleted, and where the next begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    pub by_age: u64,
    pub by_count: u64,
    pub by_bytes: u64,
    pub keys: u64,
    /// Where the next step begins.
    pub passed: Passed,
    /// Whether there may be more to delete at once.
    pub more: bool,
}

/// Deletes what the limits name among the next events after those that were checked, and idempotency keys whose time has come.
pub fn delete_expired(
    backend: &mut dyn Backend,
    limits: &RetentionLimits,
    passed: Passed,
) -> Result<Deleted, WriteError> {
    backend.prepare_deletion()?;
    backend.run(|statements| step(statements, limits, passed))
}

/// When retention last believed the clock; where it never has, when the newest event was received.
pub fn last_known_time(backend: &mut dyn Backend) -> Result<Option<Timestamp>, WriteError> {
    backend.run(|statements| {
        let believed = statements.query::<1>("SELECT believed_at FROM retention", &[])?;
        let newest = statements.query::<1>("SELECT received_at FROM events ORDER BY id DESC LIMIT 1", &[])?;
        let time = |rows: Vec<[Value; 1]>| rows.first().and_then(|[time]| time.number_or_null());
        Ok(time(believed).or(time(newest)).map(Timestamp::from_microseconds))
    })
}

fn step(
    statements: &mut dyn Statements,
    limits: &RetentionLimits,
    passed: Passed,
) -> Result<Deleted, DatabaseError> {
    let stored = Totals::locked(statements)?;
    let mut totals = stored;
    let mut is_counting = false;
    if limits.events.is_some() || limits.bytes.is_some() {
        let recounts = match limits.recount {
            Recount::Never => false,
            Recount::IfSmall => totals.events <= STEP as i64,
            Recount::Always => true,
        };
        if recounts {
            totals = Totals { believed_at: totals.believed_at, ..Totals::default() };
        }
        is_counting = totals.count(statements)?;
    }
    let events = oldest(statements, passed.until)?;
    let plan = Plan::of(&events, limits, totals, passed, is_counting);
    for range in &plan.ranges {
        delete(statements, range)?;
    }
    totals.subtract(&events, &plan);
    note_deleted(statements, &events, &plan, limits.now)?;
    let keys = delete_keys(statements, limits)?;
    totals.renew_belief(limits);
    if totals != stored {
        totals.store(statements)?;
    }
    Ok(Deleted { keys: keys.unwrap_or_default(), more: plan.deleted.more || keys.is_some(), ..plan.deleted })
}

/// How many events there are up to an id, and the bytes of their types and payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    counted_until: i64,
    events: i64,
    bytes: i64,
    believed_at: Option<i64>,
}

impl Totals {
    /// Those that all processes share, which nobody else changes before the commit.
    fn locked(statements: &mut dyn Statements) -> Result<Totals, DatabaseError> {
        let select = format!(
            "SELECT counted_until, event_count, event_bytes, believed_at FROM retention{}",
            statements.for_update()
        );
        let rows = statements.query::<4>(&select, &[])?;
        Ok(rows.first().map_or_else(Totals::default, |[until, events, bytes, believed_at]| Totals {
            counted_until: until.number(),
            events: events.number(),
            bytes: bytes.number(),
            believed_at: believed_at.number_or_null(),
        }))
    }

    fn store(&self, statements: &mut dyn Statements) -> Result<(), DatabaseError> {
        statements.execute(
            "UPDATE retention SET counted_until = ?, event_count = ?, event_bytes = ?, believed_at = ?",
            &[self.counted_until.into(), self.events.into(), self.bytes.into(), self.believed_at.into()],
        )
    }

    /// Adds the next events; whether there may be more.
    fn count(&mut self, statements: &mut dyn Statements) -> Result<bool, DatabaseError> {
        let select = format!(
            "SELECT id, octet_length(event_type) + octet_length(event_payload) FROM events \
                WHERE id > ? ORDER BY id LIMIT {STEP}"
        );
        let events = statements.query::<2>(&select, &[self.counted_until.into()])?;
        self.events += events.len() as i64;
        self.bytes += events.iter().map(|[_, bytes]| bytes.number()).sum::<i64>();
        if let Some([id, _]) = events.last() {
            self.counted_until = id.number();
        }
        Ok(events.len() == STEP)
    }

    fn subtract(&mut self, events: &[OldEvent], plan: &Plan) {
        let counted_until = self.counted_until;
        for event in plan.deleted_of(events).filter(|event| event.id <= counted_until) {
            self.events -= 1;
            self.bytes -= event.bytes;
        }
    }

    fn renew_belief(&mut self, limits: &RetentionLimits) {
        let renews_at = self.believed_at.map(|at| Timestamp::from_microseconds(at).after(BELIEF_LIFETIME));
        if limits.is_clock_believed && renews_at.is_none_or(|renews_at| renews_at <= limits.now) {
            self.believed_at = Some(limits.now.as_microseconds());
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct OldEvent {
    id: i64,
    received_at: Timestamp,
    bytes: i64,
    is_held: bool,
}

fn oldest(statements: &mut dyn Statements, after: i64) -> Result<Vec<OldEvent>, DatabaseError> {
    let select = format!(
        "SELECT id, received_at, octet_length(event_type) + octet_length(event_payload), \
            CASE WHEN {IS_HELD} THEN 1 ELSE 0 END \
            FROM events WHERE id > ? ORDER BY id LIMIT {STEP}"
    );
    let event = |[id, received_at, bytes, is_held]: [Value; 4]| OldEvent {
        id: id.number(),
        received_at: Timestamp::from_microseconds(received_at.number()),
        bytes: bytes.number(),
        is_held: is_held.number() != 0,
    };
    Ok(statements.query::<4>(&select, &[after.into()])?.into_iter().map(event).collect())
}

enum Reason {
    Age,
    Count,
    Bytes,
}

/// What is deleted of some events in the order of their ids.
struct Plan {
    /// The ids of the deleted; no other event has one of them.
    ranges: Vec<RangeInclusive<i64>>,
    /// What is said of it.
    deleted: Deleted,
}

impl Plan {
    /// While not all events are counted, it ends at the first that may have to be deleted once they are.
    fn of(
        events: &[OldEvent],
        limits: &RetentionLimits,
        totals: Totals,
        passed: Passed,
        is_counting: bool,
    ) -> Plan {
        let mut plan = Plan { ranges: Vec::new(), deleted: Deleted { passed, ..Deleted::default() } };
        let Deleted { passed, by_age, by_count, by_bytes, more, .. } = &mut plan.deleted;
        let mut is_range_open = false;
        let mut has_future = false;
        let mut deleted = Passed::default();
        for event in events {
            let newer = totals.events - passed.events - deleted.events - 1;
            let bytes_from_here = totals.bytes - passed.bytes - deleted.bytes;
            let reason = reason_to_delete(event, limits, newer, bytes_from_here);
            if is_counting && reason.is_none() {
                break;
            }
            let reason = reason.filter(|_| !event.is_held);
            has_future |= event.received_at > limits.now;
            passed.until = event.id;
            let place = if reason.is_some() { &mut deleted } else { &mut *passed };
            place.events += 1;
            place.bytes += event.bytes;
            match reason {
                Some(Reason::Age) => *by_age += 1,
                Some(Reason::Count) => *by_count += 1,
                Some(Reason::Bytes) => *by_bytes += 1,
                None => {}
            }
            match plan.ranges.last_mut() {
                Some(range) if reason.is_some() && is_range_open => *range = *range.start()..=event.id,
                _ if reason.is_some() => plan.ranges.push(event.id..=event.id),
                _ => {}
            }
            is_range_open = reason.is_some();
        }
        *more = is_counting || events.len() == STEP && (has_future || deleted.events > 0);
        plan
    }

    fn deleted_of<'a>(&'a self, events: &'a [OldEvent]) -> impl Iterator<Item = &'a OldEvent> {
        events.iter().filter(|event| self.ranges.iter().any(|range| range.contains(&event.id)))
    }
}

/// Why an event is deleted, if it is: so many others are newer, and it and they have so many bytes.
fn reason_to_delete(
    event: &OldEvent,
    limits: &RetentionLimits,
    newer: i64,
    bytes_from_here: i64,
) -> Option<Reason> {
    let received_before = limits.received_before.filter(|_| limits.is_clock_believed);
    if received_before.is_some_and(|before| event.received_at < before) {
        return Some(Reason::Age);
    }
    if limits.events.is_some_and(|limit| newer >= limit) {
        return Some(Reason::Count);
    }
    limits.bytes.is_some_and(|limit| bytes_from_here > limit).then_some(Reason::Bytes)
}

/// Deletes the events of a range, and what else is known of them. One may have to stay since it was checked.
fn delete(statements: &mut dyn Statements, range: &RangeInclusive<i64>) -> Result<(), DatabaseError> {
    let ids = [Value::from(*range.start()), Value::from(*range.end())];
    statements.execute(&format!("DELETE FROM events WHERE id >= ? AND id <= ? AND NOT {IS_HELD}"), &ids)?;
    let claimed = "DELETE FROM subscription_events WHERE event_id >= ? AND event_id <= ? \
        AND subscription IN (SELECT name FROM subscriptions WHERE retains = 0) \
        AND NOT EXISTS (SELECT 1 FROM events WHERE events.id = subscription_events.event_id)";
    statements.execute(claimed, &ids)?;
    let deliveries = "DELETE FROM deliveries WHERE event_id >= ? AND event_id <= ? AND due_at IS NULL";
    statements.execute(deliveries, &ids)
}

/// Notes which events were deleted, for their keys: once in the range of each note that there is, as of an event that
/// stayed when those around it were deleted.
fn note_deleted(
    statements: &mut dyn Statements,
    events: &[OldEvent],
    plan: &Plan,
    now: Timestamp,
) -> Result<(), DatabaseError> {
    let mut deleted = plan.deleted_of(events).peekable();
    while let Some(first) = deleted.peek() {
        let select =
            "SELECT last_id, received_at FROM deleted_events WHERE last_id > ? ORDER BY last_id LIMIT 1";
        let note = statements.query::<2>(select, &[first.id.into()])?;
        let (end, mut newest) =
            note.first().map_or((i64::MAX, 0), |[last_id, newest]| (last_id.number(), newest.number()));
        let mut last_id = first.id;
        while let Some(event) = deleted.next_if(|event| event.id < end) {
            last_id = event.id;
            newest = newest.max(event.received_at.min(now).as_microseconds());
        }
        let insert = "INSERT INTO deleted_events (last_id, received_at) VALUES (?, ?)";
        statements.execute(insert, &[last_id.into(), newest.into()])?;
    }
    Ok(())
}

/// Deletes the keys of the first note that has come of age, unless any of their events is left; how many, if there is
/// such a note.
///
/// The ids of requests do not overlap. So the keys of a note are those that begin in its range, and the last one before
/// it, whose events may reach into it. The note stays, without a time, as the beginning of the next one's range.
fn delete_keys(
    statements: &mut dyn Statements,
    limits: &RetentionLimits,
) -> Result<Option<u64>, DatabaseError> {
    let before = match limits.keys_before {
        Some(_) if !limits.is_clock_believed => return Ok(None),
        Some(before) => before.as_microseconds(),
        None => i64::MAX,
    };
    let mut number = |select: &str, value: i64| -> Result<Option<i64>, DatabaseError> {
        let rows = statements.query::<1>(select, &[value.into()])?;
        Ok(rows.first().and_then(|[number]| number.number_or_null()))
    };
    let note = "SELECT last_id FROM deleted_events WHERE received_at < ? ORDER BY last_id LIMIT 1";
    let Some(note) = number(note, before)? else { return Ok(None) };
    let note_before = number("SELECT max(last_id) FROM deleted_events WHERE last_id < ?", note)?;
    let first = "SELECT max(first_id) FROM idempotency_keys WHERE first_id <= ?";
    let first = number(first, note_before.unwrap_or_default())?.unwrap_or_default();
    let values = [first, note, before, before].map(Value::from);
    let counted = statements.query::<1>(&format!("SELECT count(*) {EXPIRED_KEYS}"), &values)?;
    let keys = counted.first().map_or(0, |[count]| count.number());
    if keys > 0 {
        statements.execute(&format!("DELETE {EXPIRED_KEYS}"), &values)?;
    }
    let settled = "DELETE FROM deleted_events WHERE last_id < ? AND received_at IS NULL";
    statements.execute(settled, &[note.into()])?;
    statements.execute("UPDATE deleted_events SET received_at = NULL WHERE last_id = ?", &[note.into()])?;
    Ok(Some(u64::try_from(keys).unwrap_or_default()))
}
