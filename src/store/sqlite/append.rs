//! How a batch of appends is written.

use std::sync::OnceLock;

use rusqlite::{OptionalExtension, params};

use super::super::backend::{Append, Outcome};
use super::super::error::DatabaseError;
use super::super::outbox;
use super::SqliteBackend;
use crate::core::event::Event;
use crate::core::timestamp::Timestamp;

/// How many events one statement inserts at most; a statement costs as much as some of its rows.
const ROWS_PER_INSERT: usize = 32;

const SELECT_LAST_ID: &str = "SELECT seq FROM sqlite_sequence WHERE name = 'events'";
const SELECT_KEY: &str = "SELECT body_digest, first_id FROM idempotency_keys WHERE idempotency_key = ?1";
const INSERT_KEY: &str = "INSERT INTO idempotency_keys \
    (idempotency_key, body_digest, first_id, event_count) VALUES (?1, ?2, ?3, ?4)";

impl SqliteBackend {
    /// Stores all appends and commits.
    pub fn store(
        &mut self,
        appends: &[&Append],
        received_at: Timestamp,
    ) -> Result<Vec<Outcome>, DatabaseError> {
        self.begin()?;
        // No other connection writes before the COMMIT: ids can be given before the events are inserted.
        let last_id: Option<i64> =
            self.connection.prepare_cached(SELECT_LAST_ID)?.query_row([], |row| row.get(0)).optional()?;
        let mut next_id = last_id.unwrap_or(0) + 1;
        let first_new_id = next_id;
        let mut outcomes = Vec::with_capacity(appends.len());
        let mut events = Vec::with_capacity(appends.len());
        let mut all_deliveries = Vec::new();
        for append in appends {
            if let Some(outcome) = self.outcome_of_keys(append)? {
                outcomes.push(outcome);
                continue;
            }
            self.remember_keys(append, next_id)?;
            outcomes.push(Outcome::Stored { first_id: next_id, repeated: false });
            let deliveries = append.deliveries.iter();
            all_deliveries.extend(deliveries.map(|delivery| (next_id + delivery.position as i64, delivery)));
            events.extend(&append.events);
            next_id += append.events.len() as i64;
        }
        outbox::insert(&mut self.connection, &all_deliveries, received_at)?;
        self.insert(&events, first_new_id, received_at)?;
        self.commit()?;
        Ok(outcomes)
    }

    /// Inserts events with consecutive ids, as many with a statement as it takes.
    fn insert(&self, events: &[&Event], first_id: i64, received_at: Timestamp) -> rusqlite::Result<()> {
        let received_at = received_at.as_microseconds();
        let mut id = first_id;
        let mut rest = events;
        while !rest.is_empty() {
            // Powers of two, so that few statements are prepared.
            let rows = 1 << rest.len().min(ROWS_PER_INSERT).ilog2();
            let (now, later) = rest.split_at(rows);
            let mut insert = self.connection.prepare_cached(insert_statement(rows))?;
            insert.raw_bind_parameter(1, received_at)?;
            for (position, event) in now.iter().enumerate() {
                insert.raw_bind_parameter(3 * position + 2, id)?;
                insert.raw_bind_parameter(3 * position + 3, event.event_type())?;
                insert.raw_bind_parameter(3 * position + 4, event.event_payload())?;
                id += 1;
            }
            insert.raw_execute()?;
            rest = later;
        }
        Ok(())
    }

    /// What an earlier request with one of the keys was answered, or is about to be in this transaction.
    fn outcome_of_keys(&self, append: &Append) -> rusqlite::Result<Option<Outcome>> {
        for key in append.keys() {
            let mut select = self.connection.prepare_cached(SELECT_KEY)?;
            let known = select.query_row([&key.key], |row| {
                let same_body = row.get_ref(0)?.as_blob()? == key.body_digest;
                let stored = |first_id| Outcome::Stored { first_id, repeated: true };
                Ok(if same_body { stored(row.get(1)?) } else { Outcome::KeyReused })
            });
            if let Some(outcome) = known.optional()? {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    fn remember_keys(&self, append: &Append, first_id: i64) -> rusqlite::Result<()> {
        for key in append.keys() {
            let mut insert = self.connection.prepare_cached(INSERT_KEY)?;
            insert.execute(params![key.key, key.body_digest, first_id, append.events.len()])?;
        }
        Ok(())
    }
}

/// Inserts so many events: a power of two, at most [`ROWS_PER_INSERT`].
fn insert_statement(rows: usize) -> &'static str {
    static STATEMENTS: OnceLock<Vec<String>> = OnceLock::new();
    let statements = STATEMENTS.get_or_init(|| {
        let of_rows = |rows: usize| {
            let row = |row: usize| format!("(?{}, ?1, ?{}, ?{})", 3 * row + 2, 3 * row + 3, 3 * row + 4);
            let rows: Vec<String> = (0..rows).map(row).collect();
            format!(
                "INSERT INTO events (id, received_at, event_type, event_payload) VALUES {}",
                rows.join(", ")
            )
        };
        (0..=ROWS_PER_INSERT.ilog2()).map(|power| of_rows(1 << power)).collect()
    });
    &statements[rows.ilog2() as usize]
}
