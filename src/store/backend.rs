//! What a database must do to be a store: a [`Backend`] writes and a [`StoreReader`] reads. One suite of tests runs over
//! all of them (`tests/it/stores`).

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::cancellation::Cancellation;
use super::error::{DatabaseError, ReadError, WriteError};
use super::statements::Statements;
use super::statistics::Statistics;
use crate::core::event::{Event, StoredEvent};
use crate::core::query::Query;
use crate::core::text::hex;
use crate::core::timestamp::Timestamp;

/// A page of events ends early at this size, so that a reader's memory is bounded.
pub const PAGE_LIMIT_BYTES: usize = 4 << 20;

/// Statements that belong together.
pub type Work<'a> = dyn FnMut(&mut dyn Statements) -> Result<(), DatabaseError> + 'a;

/// The writing side of a store. The writer's thread owns it, and makes one call at a time.
///
/// After `WriteError::Full` and `WriteError::Unavailable` it is not asked to write before [`Backend::recover`] has
/// succeeded; the store takes more after `WriteError::Refused`.
pub trait Backend: Send {
    /// Whether the store had replicas when it was opened, and acknowledges events that none of them has.
    fn has_asynchronous_replicas(&self) -> bool {
        false
    }

    /// Stores the appends, of which there is at least one, in one transaction, and returns once it is durable: their
    /// outcomes, in their order.
    ///
    /// Ids are above all that were ever given, and become visible in their order, whoever else writes. An append whose
    /// key the store has, or that follows another of the batch with the same key, stores nothing and takes no ids.
    ///
    /// # Errors
    /// After `Full` and `Refused` nothing is stored; the writer then repeats a refused batch append by append. After
    /// `Unavailable` all of the batch is stored or nothing, and is never repeated by the store itself.
    fn append(&mut self, appends: &[&Append], received_at: Timestamp) -> Result<Vec<Outcome>, WriteError>;

    /// Runs statements in a transaction of their own, and returns once it is durable. Where the database breaks it off
    /// for the sake of another, they are run again.
    ///
    /// # Errors
    /// As with [`Backend::append`]. Statements that fail leave nothing behind.
    fn transact(&mut self, work: &mut Work<'_>) -> Result<(), WriteError>;

    /// Makes room for a transaction that deletes, where a full disk would leave none. Called before each.
    ///
    /// # Errors
    /// Why nothing may be deleted now.
    fn prepare_deletion(&mut self) -> Result<(), WriteError> {
        Ok(())
    }

    /// Proves that the store takes durable writes, by one that nobody sees and that takes no id.
    fn probe(&mut self) -> Result<(), WriteError>;

    /// Makes the store take writes again, relying on nothing that was not durable before the failure. It is called until
    /// it succeeds, so one that fails must be repeatable.
    fn recover(&mut self) -> Result<(), WriteError>;

    /// Tidies up while there is nothing to store. Returns whether all is done until the next write; if not, it is called
    /// again after a pause.
    fn tidy(&mut self) -> Result<bool, WriteError> {
        Ok(true)
    }

    /// Leaves the store as somebody who copies it wants to find it. The last call.
    ///
    /// # Errors
    /// What is left undone. All that was acknowledged is stored nevertheless.
    fn close(&mut self) -> Result<(), WriteError> {
        Ok(())
    }
}

impl dyn Backend + '_ {
    /// [`Backend::transact`], with a result.
    pub fn run<T>(
        &mut self,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, DatabaseError>,
    ) -> Result<T, WriteError> {
        let mut result = None;
        self.transact(&mut |statements| {
            result = Some(work(statements)?);
            Ok(())
        })?;
        Ok(result.expect("a transaction that is committed has run its statements"))
    }
}

/// Reads events: those of a store, or of another `consume`.
pub trait EventReader: Send {
    /// The events of a page, in the order of their ids: at most `PAGE_LIMIT_BYTES`, but for a single event.
    fn page(&mut self, query: &Query) -> Result<Page, ReadError>;

    /// The event with this id, if there is one.
    fn get(&mut self, id: i64) -> Result<Option<StoredEvent>, ReadError>;

    /// Whether the store has given this id, or one above it, to an event: one that is not there any more was deleted.
    fn has_given(&mut self, id: i64) -> Result<bool, ReadError>;

    /// How many events of which types there are, over time, among those that a query selects.
    fn statistics(&mut self, query: &Query) -> Result<Statistics, ReadError>;

    /// Whether these are the events of a replica, which may be behind those that were read before.
    fn is_replica(&mut self) -> Result<bool, ReadError> {
        Ok(false)
    }
}

/// The reading side of a store: a connection of its own, and no transaction between two calls. It connects anew where its
/// connection was lost, and can be used after every error but `ReadError::Unavailable`.
pub trait StoreReader: EventReader {
    /// Makes the reads from here on end with `ReadError::TooSlow` once they are cancelled.
    fn cancel_with(&mut self, cancellation: Cancellation);

    /// Runs statements that change nothing, and perhaps repeats them.
    fn select(&mut self, work: &mut Work<'_>) -> Result<(), ReadError>;

    /// How much room the store takes.
    fn size(&mut self) -> Result<StoreSize, ReadError>;
}

impl dyn StoreReader + '_ {
    /// [`StoreReader::select`], with a result.
    pub fn run<T>(
        &mut self,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, DatabaseError>,
    ) -> Result<T, ReadError> {
        let mut result = None;
        self.select(&mut |statements| {
            result = Some(work(statements)?);
            Ok(())
        })?;
        Ok(result.expect("a read that succeeded has run its statements"))
    }
}

/// The events of one request: stored together or not at all.
#[derive(Debug)]
pub struct Append {
    /// Not empty.
    pub events: Vec<Event>,
    pub key: Option<IdempotencyKey>,
    /// Other names of the same request, each once: it is a repetition where any of its keys is known.
    pub aliases: Vec<IdempotencyKey>,
    pub deliveries: Vec<NewDelivery>,
}

impl Append {
    /// The key and its aliases.
    pub fn keys(&self) -> impl Iterator<Item = &IdempotencyKey> {
        self.key.iter().chain(&self.aliases)
    }
}

/// An alert for a channel, stored in the outbox together with its event.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// The event's place among those of its append.
    pub position: usize,
    pub channel: Arc<str>,
    /// SHA-256 of type and payload, in hex.
    pub digest: String,
    /// For how long after an alert its repetitions are not sent; zero where all are.
    pub repeat_after: Duration,
}

/// A client's name for a request, with the digest of what the request said.
#[derive(Debug)]
pub struct IdempotencyKey {
    pub key: String,
    /// SHA-256 of the body.
    pub body_digest: [u8; 32],
}

impl IdempotencyKey {
    /// The longest key, in bytes.
    pub const LIMIT_BYTES: usize = 255;

    /// A key as a client gives it: printable ASCII, and no space first.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<String, String> {
        let is_printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        let fits = (1..=IdempotencyKey::LIMIT_BYTES).contains(&text.len()) && !text.starts_with(' ');
        match is_printable && fits {
            true => Ok(text.to_owned()),
            false => Err(format!(
                "expected one Idempotency-Key of 1 to {} printable ASCII characters",
                IdempotencyKey::LIMIT_BYTES
            )),
        }
    }

    /// A key that is derived from what a request holds. It stands for a request whatever its body, and begins with a space,
    /// as no key of a client does. Parts that do not fit are hashed.
    pub fn of_parts(parts: &[&str]) -> IdempotencyKey {
        let mut key: String = parts.iter().map(|part| format!(" {part}")).collect();
        let fits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
        if key.len() > IdempotencyKey::LIMIT_BYTES || !parts.iter().all(fits) {
            let mut digest = Sha256::new();
            for part in parts {
                digest.update((part.len() as u64).to_be_bytes());
                digest.update(part);
            }
            key = format!("  {}", hex(&digest.finalize()));
        }
        IdempotencyKey { body_digest: Sha256::digest(&key).into(), key }
    }
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Stored {
        first_id: i64,
        /// Whether an earlier request with the same key stored the events.
        repeated: bool,
    },
    /// The key stands for another body; nothing was stored.
    KeyReused,
}

/// How much room a store takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreSize {
    /// Tables and indices.
    pub database_bytes: i64,
    /// The log of what is not yet copied into the database, where it is a file of its own.
    pub log_bytes: Option<i64>,
}

/// A page of events.
#[derive(Debug)]
pub struct Page {
    /// In the order of their ids.
    pub events: Vec<StoredEvent>,
    /// Whether the store holds more of them in the direction of the query.
    pub more: bool,
}
