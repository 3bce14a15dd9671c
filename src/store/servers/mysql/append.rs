//! How a batch of appends is written: in one query, and so in one round trip, if it is small and has no keys.

use super::link::Link;
use super::script::{INSERT_EVENTS, Script, quoted, size_of};
use crate::core::timestamp::Timestamp;
use crate::store::backend::{Append, Outcome};
use crate::store::error::{Cause, DatabaseError, FailureKind};
use crate::store::outbox;
use crate::store::servers::batch::{Batch, KnownKeys};

/// What a statement with one event takes beside it, generously.
const ROOM_IN_PACKET: usize = 256;

/// How many events go as text, which saves round trips; more are faster by prepared statements, which save the
/// server from reading them.
const EVENTS_AS_TEXT: usize = 64;

const INSERT_KEYS: &str =
    "INSERT INTO idempotency_keys (idempotency_key, body_digest, first_id, event_count) VALUES ";

/// Stores all appends and commits. `packet_bytes`: how much the server takes at once.
pub fn append(
    connection: &mut Link,
    packet_bytes: usize,
    appends: &[&Append],
    received_at: Timestamp,
) -> Result<Vec<Outcome>, DatabaseError> {
    check_sizes(appends, packet_bytes)?;
    let mut known = KnownKeys::new();
    let mut batch = Batch::of(appends, &known);
    let mut script = Script::new(connection, packet_bytes);
    if batch.keys.is_empty() {
        let count = batch.events.len();
        script.add(&format!("UPDATE last_event SET id = LAST_INSERT_ID(id + {count})"))?;
    } else {
        // What is known takes no ids: how many are taken is seen under their lock.
        let before = script.lock_ids(&batch, &mut known)?;
        batch = Batch::of(appends, &known);
        script.last_insert_id = before + batch.events.len() as i64;
        script.add(&format!("UPDATE last_event SET id = {}", script.last_insert_id))?;
    }
    let count = batch.events.len() as i64;
    // Without keys nobody knows yet what the first statement gives: `LAST_INSERT_ID()` is a value of the
    // connection.
    let last_id = script.last_insert_id;
    let id = |position: i64| match last_id {
        0 => format!("LAST_INSERT_ID() - {}", count - position - 1),
        last_id => format!("{}", last_id - (count - position - 1)),
    };
    let keys = batch.keys.iter().map(|key| {
        let [text, digest] = [quoted(key.key), quoted(key.digest)];
        format!("({text}, {digest}, {}, {})", id(key.position), key.event_count)
    });
    script.insert(INSERT_KEYS, keys)?;
    let received_at_microseconds = received_at.as_microseconds();
    // Quotes can double what is quoted.
    let bytes: usize = batch.events.iter().map(|(_, event)| 2 * size_of(event)).sum();
    if batch.events.len() <= EVENTS_AS_TEXT && bytes < script.query_bytes {
        let events = batch.events.iter().map(|(position, event)| {
            let [event_type, event_payload] = [quoted(event.event_type()), quoted(event.event_payload())];
            format!("({}, {received_at_microseconds}, {event_type}, {event_payload})", id(*position))
        });
        script.insert(INSERT_EVENTS, events)?;
    } else {
        script.run()?;
        script.insert_prepared(script.last_insert_id - count, received_at_microseconds, &batch.events)?;
    }
    if batch.has_deliveries() {
        script.run()?;
        let deliveries: Vec<_> = batch.deliveries(script.last_insert_id - count).collect();
        outbox::insert(script.connection, &deliveries, received_at)?;
    }
    script.add("COMMIT")?;
    script.run()?;
    Ok(batch.outcomes(script.last_insert_id - count, &known))
}

/// Refuses what is too large: the server would break off the connection, and so fail the neighbours too.
fn check_sizes(appends: &[&Append], packet_bytes: usize) -> Result<(), DatabaseError> {
    let mut events = appends.iter().flat_map(|append| &append.events);
    if events.any(|event| size_of(event) + ROOM_IN_PACKET > packet_bytes) {
        let reason = format!("an event is larger than max_allowed_packet, {packet_bytes} bytes");
        return Err(DatabaseError::new(FailureKind::Refused, Cause::message(reason)));
    }
    Ok(())
}
