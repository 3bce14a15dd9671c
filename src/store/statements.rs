//! Statements that every database understands, and what they take and give.

use super::backend::StoreError;
use crate::core::event::StoredEvent;
use crate::core::timestamp::Timestamp;

/// A value of a statement or of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// An id, an instant or a number of rows.
    Number(i64),
    /// Text.
    Text(String),
    /// A digest, or a key.
    Bytes(Vec<u8>),
}

impl Value {
    /// The number, or 0 where there is none.
    pub fn number(&self) -> i64 {
        self.number_or_null().unwrap_or_default()
    }

    /// The number, if there is one.
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

    /// The text, or an empty one where there is none.
    pub fn into_text(self) -> String {
        self.into_text_or_null().unwrap_or_default()
    }

    /// The text, if there is one.
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

/// A connection that runs statements; `?` stands for a value in each of them.
pub trait Statements {
    /// What the database's client fails with.
    type Error: Into<StoreError>;

    /// Ends a SELECT whose rows nobody else may change before the commit.
    const FOR_UPDATE: &'static str;

    /// Begins a transaction.
    fn begin(&mut self) -> Result<(), Self::Error>;

    /// Makes a transaction durable.
    fn commit(&mut self) -> Result<(), Self::Error>;

    /// Runs a statement that gives no rows.
    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<(), Self::Error>;

    /// Runs a statement that gives rows of so many columns.
    fn query<const COLUMNS: usize>(
        &mut self,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<[Value; COLUMNS]>, Self::Error>;
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
