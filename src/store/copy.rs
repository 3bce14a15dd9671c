//! Copies the events of a store and their idempotency keys into another, of any kind: with their ids and times.
//!
//! Events go first and keys last, each in the order of ids and in transactions of their own. So the highest id of the copy
//! says where to go on, after a break or once the original has more.

use super::backend::{Backend, StoreReader};
use super::error::DatabaseError;
use super::location::StoreLocation;
use super::statements::{LAST_ID_IN_SERVERS, LAST_ID_IN_SQLITE, Statements, Value, number};
use crate::core::event::StoredEvent;
use crate::core::query::Query;
use crate::core::timestamp::Timestamp;
use crate::error::hinted;

/// How many events or keys a transaction has at most; of events also no more than a page.
const BATCH: usize = 1000;

/// How many rows one statement inserts.
const ROWS: usize = 100;

const EVENT_COLUMNS: &str = "events (id, received_at, event_type, event_payload)";
const KEY_COLUMNS: &str = "idempotency_keys (idempotency_key, body_digest, first_id, event_count)";

/// What a copy has more than before.
#[derive(Debug, Clone, Copy)]
pub struct Copied {
    pub events: u64,
    pub keys: u64,
}

/// Copies until the original has no more; it may be in use, and nothing else may write to the copy.
///
/// # Errors
/// A store does not answer, or the copy has other events.
pub fn copy_rows(
    from: (&mut dyn StoreReader, &StoreLocation),
    to: (&mut dyn Backend, &StoreLocation),
) -> anyhow::Result<Copied> {
    let ((reader, from), (backend, to)) = (from, to);
    let mut copied = Copied { events: 0, keys: 0 };
    let mut position = backend.run(|statements| number(statements, "SELECT max(id) FROM events"))?;
    check_same(reader, backend, position, from, to)?;
    // What is stored from here on may come as an event without its key, or not at all.
    let last_id = reader.run(|statements| number(statements, last_id_query(from)))?;
    loop {
        let query = Query { after: Some(position), limit: BATCH, ..Query::default() };
        let events = reader.page(&query)?.events;
        let Some(last) = events.last() else { break };
        position = last.id;
        backend.run(|statements| {
            insert(statements, EVENT_COLUMNS, events.iter().map(values_of))?;
            set_last_id(statements, to, position)
        })?;
        copied.events += events.len() as u64;
    }
    // Ids that were given to events that are gone are not given again.
    backend.run(|statements| set_last_id(statements, to, last_id.max(position)))?;
    copied.keys = copy_keys(reader, backend, last_id)?;
    Ok(copied)
}

/// Copies the keys of the requests that begin up to an id.
fn copy_keys(reader: &mut dyn StoreReader, backend: &mut dyn Backend, until: i64) -> anyhow::Result<u64> {
    let mut position =
        backend.run(|statements| number(statements, "SELECT max(first_id) FROM idempotency_keys"))?;
    let select = format!(
        "SELECT idempotency_key, body_digest, first_id, event_count FROM idempotency_keys \
            WHERE first_id > ? AND first_id <= ? ORDER BY first_id LIMIT {BATCH}"
    );
    let mut copied = 0;
    loop {
        let keys =
            reader.run(|statements| statements.query::<4>(&select, &[position.into(), until.into()]))?;
        let Some([_, _, first_id, _]) = keys.last() else { return Ok(copied) };
        position = first_id.number();
        let rows = |[key, digest, first_id, count]: &[Value; 4]| {
            [as_text(key), digest.clone(), first_id.clone(), count.clone()]
        };
        let now = Timestamp::now().as_microseconds();
        backend.run(|statements| {
            insert(statements, KEY_COLUMNS, keys.iter().map(rows))?;
            // Has retention find those whose events are gone.
            let insert = "INSERT INTO deleted_events (last_id, received_at) VALUES (?, ?)";
            statements.execute(insert, &[position.into(), now.into()])
        })?;
        copied += keys.len() as u64;
    }
}

/// The last event of the copy must be one of the original's.
fn check_same(
    reader: &mut dyn StoreReader,
    backend: &mut dyn Backend,
    id: i64,
    from: &StoreLocation,
    to: &StoreLocation,
) -> anyhow::Result<()> {
    if id == 0 {
        return Ok(());
    }
    let select = "SELECT received_at, event_type, event_payload FROM events WHERE id = ?";
    let copy = backend.run(|statements| statements.query::<3>(select, &[id.into()]))?;
    let original = reader.get(id)?.map(|event| values_of(&event));
    let is_same = original.is_some_and(|[_, original @ ..]| copy.first() == Some(&original));
    if is_same {
        return Ok(());
    }
    let problem = format!("cannot copy `{from}` to `{to}`: event {id} there is not the same as here");
    Err(hinted(
        problem,
        "copy into an empty store, or into an earlier copy of the same one to which nothing was added",
    ))
}

/// One INSERT for some rows each.
fn insert(
    statements: &mut dyn Statements,
    columns: &str,
    rows: impl Iterator<Item = [Value; 4]>,
) -> Result<(), DatabaseError> {
    let rows: Vec<[Value; 4]> = rows.collect();
    for chunk in rows.chunks(ROWS) {
        let places = vec!["(?, ?, ?, ?)"; chunk.len()].join(", ");
        statements.execute(&format!("INSERT INTO {columns} VALUES {places}"), &chunk.concat())?;
    }
    Ok(())
}

fn values_of(event: &StoredEvent) -> [Value; 4] {
    let StoredEvent { id, received_at, event_type, event_payload } = event;
    [
        (*id).into(),
        received_at.as_microseconds().into(),
        event_type.as_str().into(),
        event_payload.as_str().into(),
    ]
}

/// MySQL keeps keys as bytes, so that they are compared as such.
fn as_text(key: &Value) -> Value {
    match key {
        Value::Bytes(bytes) => Value::Text(String::from_utf8_lossy(bytes).into_owned()),
        text => text.clone(),
    }
}

fn last_id_query(location: &StoreLocation) -> &'static str {
    match location {
        StoreLocation::Sqlite(_) => LAST_ID_IN_SQLITE,
        StoreLocation::Postgres(_) | StoreLocation::MySql(_) => LAST_ID_IN_SERVERS,
    }
}

fn set_last_id(
    statements: &mut dyn Statements,
    location: &StoreLocation,
    id: i64,
) -> Result<(), DatabaseError> {
    let update = match location {
        StoreLocation::Sqlite(_) => {
            let insert = "INSERT INTO sqlite_sequence (name, seq) SELECT 'events', 0 \
                WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'events')";
            statements.execute(insert, &[])?;
            "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'events'"
        }
        StoreLocation::Postgres(_) | StoreLocation::MySql(_) => "UPDATE last_event SET id = greatest(id, ?)",
    };
    statements.execute(update, &[id.into()])
}
