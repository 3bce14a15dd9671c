//! What a database must do to be a store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use super::cancellation::Cancellation;
use crate::core::event::{Event, StoredEvent};
use crate::core::query::Query;
use crate::core::timestamp::Timestamp;

/// The writing side of a store, owned by one thread.
pub trait Backend: Send {
    /// Stores all appends in one transaction and returns once it is durable.
    ///
    /// The outcomes stand in the order of the appends. An append whose key is known stores nothing.
    ///
    /// # Errors
    /// Nothing of the transaction is acknowledged; whether it is stored depends on the error.
    fn append(&mut self, appends: &[&Append], received_at: Timestamp) -> Result<Vec<Outcome>, StoreError>;

    /// Makes sure that the store takes durable writes, by a write that changes nothing.
    ///
    /// # Errors
    /// Why it does not.
    fn probe(&mut self) -> Result<(), StoreError>;

    /// The key that signs access tokens: the one that the store has, or else the candidate, which the store
    /// has from then on.
    ///
    /// # Errors
    /// Why there is none.
    fn signing_key(&mut self, candidate: [u8; 32]) -> Result<[u8; 32], StoreError>;

    /// Keeps the first refresh token of a family, and forgets all tokens that have expired.
    ///
    /// # Errors
    /// Why it is not kept.
    fn add_refresh_token(&mut self, token: &RefreshToken, now: Timestamp) -> Result<(), StoreError>;

    /// Exchanges a refresh token for its successor (its digest, and when it expires). A token that had been
    /// exchanged before is known to two parties, one of whom has stolen it: its whole family is revoked.
    ///
    /// # Errors
    /// Why nothing has changed.
    fn rotate_refresh_token(
        &mut self,
        digest: [u8; 32],
        successor: ([u8; 32], Timestamp),
        now: Timestamp,
    ) -> Result<Rotation, StoreError>;

    /// Claims the next message of a channel that is due, unless the channel has had as many as it may.
    ///
    /// # Errors
    /// Why nothing is claimed.
    fn claim(&mut self, claim: &Claim) -> Result<Claimed, StoreError>;

    /// Notes what became of a message, unless another process has taken it over.
    ///
    /// # Errors
    /// Why it is not noted: the message will be sent again.
    fn settle(
        &mut self,
        message: &Message,
        settlement: &Settlement,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Deletes what the limits name among some of the events behind a position, and some idempotency keys that have
    /// outlived their events.
    ///
    /// # Errors
    /// Why none are deleted.
    fn delete_expired(&mut self, limits: &RetentionLimits, passed: Passed) -> Result<Deleted, StoreError>;

    /// When retention last believed the clock; where it never has, when the newest event was received.
    ///
    /// # Errors
    /// Why the store does not answer.
    fn last_known_time(&mut self) -> Result<Option<Timestamp>, StoreError>;

    /// Makes the alerts of an event, or all, that were given up be sent again, as if they were new.
    ///
    /// # Errors
    /// Why none is sent again.
    fn resend(&mut self, event_id: Option<i64>, now: Timestamp) -> Result<Resent, StoreError>;

    /// Starts afresh after an error, relying on nothing that was not synced before it.
    ///
    /// # Errors
    /// Why the store still does not take writes.
    fn recover(&mut self) -> Result<(), StoreError>;

    /// Tidies up while there is nothing to store; whether all is done until the next write.
    ///
    /// # Errors
    /// Why the store takes no more writes.
    fn tidy(&mut self) -> Result<bool, StoreError>;

    /// Leaves the store as whoever copies it wants to find it. Nothing is written afterwards.
    ///
    /// # Errors
    /// What is left undone. All that was acknowledged is stored.
    fn close(&mut self) -> Result<(), StoreError>;
}

/// The reading side of a store: a connection of its own, and no transaction between two calls.
pub trait Reader: Send {
    /// Lets the reads from here on stop early once they are cancelled, as refused.
    fn cancel_with(&mut self, _cancellation: Cancellation) {}

    /// The events of a page, in the order of their ids.
    ///
    /// # Errors
    /// Why the store does not answer.
    fn page(&mut self, query: &Query) -> Result<Page, StoreError>;

    /// One event, if there is one with this id.
    ///
    /// # Errors
    /// Why the store does not answer.
    fn get(&mut self, id: i64) -> Result<Option<StoredEvent>, StoreError>;

    /// How many events of which types there are, over time, among those that a query selects.
    ///
    /// # Errors
    /// Why the store does not answer.
    fn statistics(&mut self, query: &Query) -> Result<Statistics, StoreError>;

    /// At most so many deliveries, those of the newest events, in the order of the events' ids.
    ///
    /// # Errors
    /// Why the store does not answer.
    fn deliveries(&mut self, limit: usize) -> Result<Vec<Delivery>, StoreError>;

    /// How many deliveries are open, by channel.
    ///
    /// # Errors
    /// Why the store does not answer.
    fn open_deliveries(&mut self) -> Result<Vec<(String, i64)>, StoreError>;

    /// How much room the store takes.
    ///
    /// # Errors
    /// Why the store does not answer.
    fn size(&mut self) -> Result<StoreSize, StoreError>;

    /// What became of the alerts of an event.
    ///
    /// # Errors
    /// Why the store does not answer.
    fn alert_outcome(&mut self, event_id: i64) -> Result<AlertOutcome, StoreError>;
}

/// The events of one request: stored together or not at all.
#[derive(Debug)]
pub struct Append {
    /// What to store; not empty.
    pub events: Vec<Event>,
    /// What makes a repetition recognisable.
    pub key: Option<IdempotencyKey>,
    /// Who is to be told of which of them.
    pub deliveries: Vec<NewDelivery>,
}

/// A channel that is to be told of an event.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// The event's place among those of its append.
    pub position: usize,
    /// What the channel is known by.
    pub channel: Arc<str>,
    /// SHA-256 of type and payload, in hex.
    pub digest: String,
    /// For how long the channel need not be told the same again; always, where it is zero.
    pub repeat_after: Duration,
}

/// A client's name for a request, with the digest of what the request said.
#[derive(Debug)]
pub struct IdempotencyKey {
    /// The header's value.
    pub key: String,
    /// SHA-256 of the body.
    pub body_digest: [u8; 32],
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The events are on disk, now or since an earlier request with the same key.
    Stored {
        /// The id of the first of them.
        first_id: i64,
        /// Whether they have been since an earlier request.
        repeated: bool,
    },
    /// The key stands for another body; nothing was stored.
    KeyReused,
}

/// A refresh token (RFC 6749, section 1.5) as a store keeps it.
#[derive(Debug, Clone)]
pub struct RefreshToken {
    /// What it is known by.
    pub digest: [u8; 32],
    /// What all tokens that stem from one login have in common.
    pub family: [u8; 16],
    /// When it can no longer be exchanged.
    pub expires_at: Timestamp,
}

/// What became of a refresh token that was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Its successor has taken its place.
    Rotated,
    /// It had been exchanged before; its family is revoked.
    Reused,
    /// It was never given, has expired or was revoked.
    Unknown,
}

/// What a process asks of the outbox.
#[derive(Debug, Clone)]
pub struct Claim {
    /// What the channel is known by.
    pub channel: Arc<str>,
    /// The process.
    pub claimant: String,
    /// The present.
    pub now: Timestamp,
    /// After what time another process may take the message over.
    pub lease: Duration,
    /// How many messages a minute the channel has at most; 1 or more.
    pub rate: usize,
    /// How fast the channel's service takes messages, where that is known.
    pub pace: Option<Pace>,
}

/// How many messages a service takes within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// 1 or more.
    pub messages: usize,
    /// The time.
    pub window: Duration,
}

/// What the outbox has for a channel.
#[derive(Debug)]
pub enum Claimed {
    /// Nothing before this instant, as far as is known.
    Nothing {
        /// None where nothing waits.
        until: Option<Timestamp>,
    },
    /// A message to send.
    Message(Message),
}

/// A message that is claimed: one event, or several that were held back for a digest.
#[derive(Debug, Clone)]
pub struct Message {
    /// The id of its first event.
    pub id: i64,
    /// What its channel is known by.
    pub channel: Arc<str>,
    /// The process that has claimed it.
    pub claimant: String,
    /// When it did.
    pub claimed_at: Timestamp,
    /// The ids of its events.
    pub event_ids: Vec<i64>,
    /// When the alert of each of them was stored.
    pub created_at: Vec<Timestamp>,
    /// Those events that the store still has.
    pub events: Vec<StoredEvent>,
    /// How often it has been tried, this time included.
    pub attempts: u32,
    /// Whether it is the first after a pause that the channel had asked for: no other is sent beside it.
    pub is_probe: bool,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The channel has taken it.
    Sent,
    /// It is to be tried again, but for those of its alerts that are too old.
    Retry {
        /// Not before then.
        at: Timestamp,
        /// What is wrong.
        reason: String,
        /// Alerts that were stored before this instant are given up.
        give_up_before: Timestamp,
        /// Whether the channel wants no message at all before then.
        closes: bool,
    },
    /// It is given up.
    Dead {
        /// What is wrong.
        reason: String,
    },
}

impl Settlement {
    /// Whether the channel asks for a pause.
    pub fn closes(&self) -> bool {
        matches!(self, Settlement::Retry { closes: true, .. })
    }
}

/// What became of the alerts of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertOutcome {
    /// A channel is still to take one, or the one that it repeats.
    Open,
    /// All channels have taken theirs.
    Sent,
    /// All repeat alerts that the channels had taken before.
    AlreadySent,
    /// Nothing is left to be tried, and not all channels have taken theirs.
    GivenUp,
}

/// A delivery, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct Delivery {
    /// The event.
    pub event_id: i64,
    /// Its type; none where the event is gone.
    pub event_type: Option<String>,
    /// What the channel is known by.
    pub channel: String,
    /// How far it is.
    pub state: DeliveryState,
    /// How often it has been tried.
    pub attempts: i64,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When it is tried next, or its claim runs out.
    pub due_at: Option<Timestamp>,
    /// When it was settled.
    pub settled_at: Option<Timestamp>,
    /// The event that had told the same shortly before.
    pub repeats: Option<i64>,
    /// What was wrong the last time.
    pub last_error: Option<String>,
}

/// Alerts that had been given up: the event and the channel of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resent {
    /// Those that are sent again.
    pub pending: Vec<(i64, String)>,
    /// Those whose event is deleted.
    pub without_event: Vec<(i64, String)>,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// To be tried, at once or again.
    Pending,
    /// Claimed by a process that sends it.
    Sending,
    /// Taken by the channel.
    Sent,
    /// Given up.
    Dead,
    /// Not sent, as the channel had been told the same shortly before.
    Repeated,
}

impl DeliveryState {
    /// As a store has it.
    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Pending => "pending",
            DeliveryState::Sending => "sending",
            DeliveryState::Sent => "sent",
            DeliveryState::Dead => "dead",
            DeliveryState::Repeated => "repeated",
        }
    }

    /// The state that a store has written.
    pub fn of(text: &str) -> DeliveryState {
        match text {
            "sending" => DeliveryState::Sending,
            "sent" => DeliveryState::Sent,
            "dead" => DeliveryState::Dead,
            "repeated" => DeliveryState::Repeated,
            _ => DeliveryState::Pending,
        }
    }
}

/// Which events and keys are kept at a moment, and which not.
#[derive(Debug, Clone, Copy)]
pub struct RetentionLimits {
    /// The present.
    pub now: Timestamp,
    /// Whether the clock is believed; if not, nothing is deleted by age.
    pub is_clock_believed: bool,
    /// Events that were received before this instant are deleted.
    pub received_before: Option<Timestamp>,
    /// So many of the newest events are kept.
    pub events: Option<i64>,
    /// So many bytes of types and payloads of the newest events are kept.
    pub bytes: Option<i64>,
    /// The keys of deleted events that were received before this instant are deleted; all, where there is none.
    pub keys_before: Option<Timestamp>,
    /// Whether all events are counted anew.
    pub recount: Recount,
}

/// When all events are counted anew, in case that somebody else has deleted some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recount {
    /// Not in the midst of a sweep.
    Never,
    /// Where there are so few that it costs nothing.
    IfSmall,
    /// Always.
    Always,
}

/// The events that a sweep has passed and that stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// All up to this id have been passed or deleted.
    pub until: i64,
    /// How many of them stay.
    pub events: i64,
    /// The bytes of their types and payloads.
    pub bytes: i64,
}

/// What a step of retention has deleted, and where the next begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Events that were too old.
    pub by_age: u64,
    /// Events beyond the number that is kept.
    pub by_count: u64,
    /// Events beyond the bytes that are kept.
    pub by_bytes: u64,
    /// Idempotency keys.
    pub keys: u64,
    /// Where the next step begins.
    pub passed: Passed,
    /// Whether there may be more to delete at once.
    pub more: bool,
}

/// How many events of which types there are, over time.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// By type, the most frequent first.
    pub types: Vec<TypeStatistics>,
    /// In equal parts of time.
    pub counts: Vec<i64>,
    /// How long each part is; nothing where there are no events.
    pub part_microseconds: i64,
    /// When the first part begins.
    pub started_at: Option<Timestamp>,
}

/// How many events of a type there are.
#[derive(Debug, Clone, Serialize)]
pub struct TypeStatistics {
    /// The type.
    pub event_type: String,
    /// How many.
    pub count: i64,
    /// When the first of them was received.
    pub first: Timestamp,
    /// When the last of them was.
    pub last: Timestamp,
}

/// How much room a store takes, in bytes.
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

/// Why a store does not do what it was asked.
#[derive(Debug, Clone)]
pub enum StoreError {
    /// No space left: not stored.
    Full(String),
    /// The store refuses this request and may take others: not stored.
    Refused(String),
    /// The store does not answer; a write may or may not be stored.
    Unavailable(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Full(reason) | StoreError::Refused(reason) | StoreError::Unavailable(reason) => {
                formatter.write_str(reason)
            }
        }
    }
}

impl std::error::Error for StoreError {}

impl StoreError {
    /// A store that cannot be opened, with the whole reason.
    pub fn cannot_open(error: anyhow::Error) -> StoreError {
        StoreError::Unavailable(format!("{error:#}"))
    }
}
