//! How a batch of appends is written: in one statement, and so in one round trip, unless it has deliveries.

use tokio_postgres::types::ToSql;

use super::BEGIN;
use super::connection::Connection;
use super::error::PostgresError;
use crate::core::timestamp::Timestamp;
use crate::store::backend::{Append, Outcome};
use crate::store::error::DatabaseError;
use crate::store::outbox;
use crate::store::servers::batch::{Batch, KnownKeys};

/// $1: how many ids, $2: received_at, $3, $4: types and payloads of the events.
const APPEND: &str = "\
    WITH ids AS (UPDATE last_event SET id = id + $1 RETURNING id - $1 AS before), \
    stored AS (INSERT INTO events (id, received_at, event_type, event_payload) \
        SELECT ids.before + event.position, $2, event.event_type, event.event_payload \
        FROM ids, unnest($3::text[], $4::text[]) WITH ORDINALITY AS event (event_type, event_payload, position)) \
    SELECT before FROM ids";

/// The same for events of which some have keys, unless any of the keys is known: then it changes nothing, and gives
/// what is known. $5 to $8: the keys, their digests, how many events come before theirs, and how many have it.
///
/// A key that another process has stored since the statement began violates the table's primary key.
const APPEND_WITH_KEYS: &str = "\
    WITH known AS (SELECT idempotency_key, body_digest, first_id FROM idempotency_keys \
        WHERE idempotency_key = ANY($5)), \
    ids AS (UPDATE last_event SET id = id + $1 WHERE NOT EXISTS (SELECT FROM known) RETURNING id - $1 AS before), \
    fresh AS (INSERT INTO idempotency_keys (idempotency_key, body_digest, first_id, event_count) \
        SELECT key.idempotency_key, key.body_digest, ids.before + key.position + 1, key.event_count \
        FROM ids, unnest($5::text[], $6::bytea[], $7::bigint[], $8::bigint[]) \
            AS key (idempotency_key, body_digest, position, event_count)), \
    stored AS (INSERT INTO events (id, received_at, event_type, event_payload) \
        SELECT ids.before + event.position, $2, event.event_type, event.event_payload \
        FROM ids, unnest($3::text[], $4::text[]) WITH ORDINALITY AS event (event_type, event_payload, position)) \
    SELECT before, NULL, NULL, NULL FROM ids \
    UNION ALL SELECT first_id, idempotency_key, body_digest, first_id FROM known";

/// Stores all appends and commits.
pub fn append(
    connection: &mut Connection,
    appends: &[&Append],
    received_at: Timestamp,
) -> Result<Vec<Outcome>, DatabaseError> {
    let mut known = KnownKeys::new();
    let has_deliveries = appends.iter().any(|append| !append.deliveries.is_empty());
    if has_deliveries {
        connection.run(BEGIN)?;
    }
    loop {
        let batch = Batch::of(appends, &known);
        let inserted = if batch.events.is_empty() { Ok(0) } else { insert(connection, &batch, received_at)? };
        let before = match inserted {
            Ok(before) => before,
            Err(keys) => {
                known.extend(keys);
                continue;
            }
        };
        if has_deliveries {
            let deliveries: Vec<_> = batch.deliveries(before).collect();
            outbox::insert(connection, &deliveries, received_at)?;
            connection.run("COMMIT")?;
        }
        return Ok(batch.outcomes(before, &known));
    }
}

/// Inserts a batch, and gives the id before its first; or else inserts nothing, and gives the keys that are known.
fn insert(
    connection: &mut Connection,
    batch: &Batch<'_>,
    received_at: Timestamp,
) -> Result<Result<i64, KnownKeys>, PostgresError> {
    let count = batch.events.len() as i64;
    let received_at = received_at.as_microseconds();
    let types: Vec<&str> = batch.events.iter().map(|(_, event)| event.event_type()).collect();
    let payloads: Vec<&str> = batch.events.iter().map(|(_, event)| event.event_payload()).collect();
    if batch.keys.is_empty() {
        let values: [&(dyn ToSql + Sync); 4] = [&count, &received_at, &types, &payloads];
        return Ok(Ok(connection.query_one(APPEND, &values)?.get(0)));
    }
    let keys: Vec<&str> = batch.keys.iter().map(|key| key.key).collect();
    let digests: Vec<&[u8]> = batch.keys.iter().map(|key| key.digest).collect();
    let positions: Vec<i64> = batch.keys.iter().map(|key| key.position).collect();
    let counts: Vec<i64> = batch.keys.iter().map(|key| key.event_count).collect();
    let values: [&(dyn ToSql + Sync); 8] =
        [&count, &received_at, &types, &payloads, &keys, &digests, &positions, &counts];
    let rows = connection.query(APPEND_WITH_KEYS, &values)?;
    let known: KnownKeys = rows
        .iter()
        .filter_map(|row| Some((row.get::<_, Option<String>>(1)?, (row.get(2), row.get(3)))))
        .collect();
    let before = rows.first().map(|row| row.get(0)).filter(|_| known.is_empty());
    Ok(before.ok_or(known))
}
