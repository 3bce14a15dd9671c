//! Statements that every database understands, and what they take and give.

use super::error::DatabaseError;
use crate::core::event::StoredEvent;
use crate::core::timestamp::Timestamp;

/// How many rows a statement has at most. There are as many statements to prepare as there are powers of two up to it.
const ROWS_PER_STATEMENT: usize = 256;

/// A value of a statement or of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    /// An id, an instant or a number of rows.
    Number(i64),
    Text(String),
    /// A digest, or a key.
    Bytes(Vec<u8>),
}

impl Value {
    /// The number, or 0 where there is none.
    pub fn number(&self) -> i64 {
        self.number_or_null().unwrap_or_default()
    }

    pub fn number_or_null(&self) -> Option<i64> {
        match self {
            Value::Number(number) => Some(*number),
            Value::Null | Value::Text(_) | Value::Bytes(_) => None,
        }
    }

    /// The bytes, or none where there are none.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Null | Value::Number(_) | Value::Text(_) => Vec::new(),
        }
    }

    pub fn into_text(self) -> String {
        self.into_text_or_null().unwrap_or_default()
    }

    pub fn into_text_or_null(self) -> Option<String> {
        match self {
            Value::Text(text) => Some(text),
            Value::Null | Value::Number(_) | Value::Bytes(_) => None,
        }
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Value {
        Value::Bytes(bytes.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Number(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl<V: Into<Value>> From<Option<V>> for Value {
    fn from(value: Option<V>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// Runs statements of the dialect that all databases share; `?` stands for a value in each of them.
pub trait Statements {
    /// Ends a SELECT whose rows nobody else may change before the commit. Empty where a transaction is alone anyway.
    fn for_update(&self) -> &'static str;

    /// Runs a statement that gives no rows.
    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<(), DatabaseError>;

    /// Runs a statement that gives rows of `columns` values each: the values of all rows, row by row.
    fn values(
        &mut self,
        statement: &str,
        values: &[Value],
        columns: usize,
    ) -> Result<Vec<Value>, DatabaseError>;
}

impl dyn Statements + '_ {
    /// Runs a statement that gives rows.
    pub fn query<const COLUMNS: usize>(
        &mut self,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<[Value; COLUMNS]>, DatabaseError> {
        let mut values = self.values(statement, values, COLUMNS)?.into_iter();
        let mut rows = Vec::with_capacity(values.len() / COLUMNS);
        while values.len() >= COLUMNS {
            rows.push(std::array::from_fn(|_| values.next().unwrap_or(Value::Null)));
        }
        Ok(rows)
    }
}

impl dyn Statements + '_ {
    /// Runs a statement for ids, some at a time: `{ids}` stands for their places, which come after those of the values.
    pub fn execute_for(
        &mut self,
        statement: &str,
        values: &[Value],
        ids: &[i64],
    ) -> Result<(), DatabaseError> {
        for chunk in in_powers_of_two(ids) {
            let (statement, values) = with_ids(statement, values, chunk);
            self.execute(&statement, &values)?;
        }
        Ok(())
    }

    /// The same for a statement that gives rows.
    pub fn query_for<const COLUMNS: usize>(
        &mut self,
        statement: &str,
        ids: &[i64],
    ) -> Result<Vec<[Value; COLUMNS]>, DatabaseError> {
        let mut rows = Vec::with_capacity(ids.len());
        for chunk in in_powers_of_two(ids) {
            let (statement, values) = with_ids(statement, &[], chunk);
            rows.extend(self.query::<COLUMNS>(&statement, &values)?);
        }
        Ok(rows)
    }
}

fn with_ids(statement: &str, values: &[Value], ids: &[i64]) -> (String, Vec<Value>) {
    let places = vec!["?"; ids.len()].join(", ");
    let ids = ids.iter().map(|id| Value::from(*id));
    (statement.replace("{ids}", &places), values.iter().cloned().chain(ids).collect())
}

/// Conditions of the events of the request with a key, of which each has it as its value.
pub const OF_KEY: [&str; 2] = [
    "id >= (SELECT first_id FROM idempotency_keys WHERE idempotency_key = ?)",
    "id < (SELECT first_id + event_count FROM idempotency_keys WHERE idempotency_key = ?)",
];

/// The last id that a store in SQLite has given to an event.
pub const LAST_ID_IN_SQLITE: &str = "SELECT seq FROM sqlite_sequence WHERE name = 'events'";

/// The same in a database server.
pub const LAST_ID_IN_SERVERS: &str = "SELECT id FROM last_event";

/// The number in the first row; 0 without one.
pub fn number(statements: &mut dyn Statements, select: &str) -> Result<i64, DatabaseError> {
    Ok(statements.query::<1>(select, &[])?.first().map_or(0, |[number]| number.number()))
}

/// The event of a row: id, received_at, type and payload.
pub fn event_of([id, received_at, event_type, event_payload]: [Value; 4]) -> StoredEvent {
    StoredEvent {
        id: id.number(),
        received_at: Timestamp::from_microseconds(received_at.number()),
        event_type: event_type.into_text(),
        event_payload: event_payload.into_text(),
    }
}

/// Parts of a list, each as long as a power of two, and no longer than a statement may be.
pub fn in_powers_of_two<T>(mut rest: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let power = rest.len().min(ROWS_PER_STATEMENT).checked_ilog2()?;
        let (part, later) = rest.split_at(1 << power);
        rest = later;
        Some(part)
    })
}
