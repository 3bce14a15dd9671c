//! Statements of a transaction that go to the server together.

use std::mem;

use mysql::prelude::Queryable;
use mysql::{Row, Value as Sql};

use super::link::Link;

use crate::core::event::Event;
use crate::store::servers::batch::{Batch, KnownKeys};

/// How long a query may be at most: it is held in memory.
const QUERY_BYTES: usize = 4 << 20;

/// How many rows one statement inserts or looks up at most.
const ROWS_PER_STATEMENT: usize = 256;

pub const INSERT_EVENTS: &str = "INSERT INTO events (id, received_at, event_type, event_payload) VALUES ";

const SELECT_KEYS: &str =
    "SELECT idempotency_key, body_digest, first_id FROM idempotency_keys WHERE idempotency_key IN";

/// Statements that go to the server together: in one query, so in one round trip, or in few.
pub struct Script<'a> {
    /// Where they go; what is added must be run before anything else is.
    pub connection: &'a mut Link,
    /// How long a query may be.
    pub query_bytes: usize,
    text: String,
    /// What the first statement has noted: the id of the last event.
    pub last_insert_id: i64,
    rows: Vec<Row>,
}

impl Script<'_> {
    pub fn new(connection: &mut Link, packet_bytes: usize) -> Script<'_> {
        let query_bytes = (packet_bytes / 2).min(QUERY_BYTES);
        Script { connection, query_bytes, text: String::new(), last_insert_id: 0, rows: Vec::new() }
    }

    /// Adds a statement.
    pub fn add(&mut self, statement: &str) -> mysql::Result<()> {
        if self.text.len() + statement.len() > self.query_bytes {
            self.run()?;
        }
        if !self.text.is_empty() {
            self.text.push_str("; ");
        }
        self.text.push_str(statement);
        Ok(())
    }

    /// Inserts rows, as many with a statement as a query has room for.
    pub fn insert(&mut self, insert: &str, rows: impl Iterator<Item = String>) -> mysql::Result<()> {
        let mut is_open = false;
        for row in rows {
            if is_open && self.text.len() + row.len() < self.query_bytes {
                self.text.push_str(", ");
                self.text.push_str(&row);
            } else {
                self.add(&format!("{insert}{row}"))?;
                is_open = true;
            }
        }
        Ok(())
    }

    /// Inserts many events, or large ones, as many with a statement as it takes.
    pub fn insert_prepared(
        &mut self,
        before: i64,
        received_at: i64,
        events: &[(i64, &Event)],
    ) -> mysql::Result<()> {
        let mut rest = events;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(_, event): &&(i64, &Event)| {
                bytes += size_of(event);
                bytes < self.query_bytes
            };
            let fit = rest.iter().take_while(fits).count();
            // Powers of two, so that few statements are prepared.
            let count = 1 << fit.clamp(1, ROWS_PER_STATEMENT).ilog2();
            let (now, later) = rest.split_at(count);
            let values: Vec<Sql> = now
                .iter()
                .flat_map(|(position, event)| -> [Sql; 4] {
                    let id = before + position + 1;
                    [id.into(), received_at.into(), event.event_type().into(), event.event_payload().into()]
                })
                .collect();
            let rows = ", (?, ?, ?, ?)".repeat(count - 1);
            let insert = format!("{INSERT_EVENTS}(?, ?, ?, ?){rows}");
            self.connection.call(move |connection| connection.exec_drop(insert, values))?;
            rest = later;
        }
        Ok(())
    }

    /// Locks the ids until the commit, and finds which keys of a batch the store has; the last id that was given.
    pub fn lock_ids(&mut self, batch: &Batch<'_>, known: &mut KnownKeys) -> mysql::Result<i64> {
        self.add("SELECT id FROM last_event FOR UPDATE")?;
        for keys in batch.keys.chunks(ROWS_PER_STATEMENT) {
            let keys: Vec<String> = keys.iter().map(|key| quoted(key.key)).collect();
            self.add(&format!("{SELECT_KEYS} ({})", keys.join(", ")))?;
        }
        self.run()?;
        let mut rows = self.rows.drain(..);
        let last_id = rows.next().map(mysql::from_row::<i64>).unwrap_or_default();
        let keys = rows.map(mysql::from_row::<(String, Vec<u8>, i64)>);
        known.extend(keys.map(|(key, digest, first_id)| (key, (digest, first_id))));
        Ok(last_id)
    }

    /// Runs what has been added, up to the first statement that fails.
    pub fn run(&mut self) -> mysql::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let text = mem::take(&mut self.text);
        let (last_insert_id, mut rows) = self.connection.call(move |connection| {
            let mut results = connection.query_iter(text)?;
            let last_insert_id = results.last_insert_id().unwrap_or_default() as i64;
            // `query_drop` would not tell what became of any statement but the first.
            let mut all = Vec::new();
            while let Some(rows) = results.iter() {
                for row in rows {
                    all.push(row?);
                }
            }
            Ok((last_insert_id, all))
        })?;
        if self.last_insert_id == 0 {
            self.last_insert_id = last_insert_id;
        }
        self.rows.append(&mut rows);
        Ok(())
    }
}

/// The strings of an event, in bytes.
pub fn size_of(event: &Event) -> usize {
    event.event_type().len() + event.event_payload().len()
}

/// A literal. The mode of our connections has backslashes escape.
pub fn quoted(value: impl Into<Sql>) -> String {
    value.into().as_sql(false)
}
