//! Deliveries, and the messages that they make up.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::core::event::StoredEvent;
use crate::core::timestamp::Timestamp;

/// What a process asks of the outbox.
#[derive(Debug, Clone)]
pub struct Claim {
    pub channel: Arc<str>,
    pub claimant: String,
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
    Message(Message),
}

/// A message that is claimed: one event, or several that were held back for a digest.
#[derive(Debug, Clone)]
pub struct Message {
    /// The id of its first event.
    pub id: i64,
    pub channel: Arc<str>,
    /// The process that claims it.
    pub claimant: String,
    pub claimed_at: Timestamp,
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
        reason: String,
        /// Alerts that were stored before this instant are given up.
        give_up_before: Timestamp,
        /// Whether the channel wants no message at all before then.
        closes: bool,
    },
    /// It is given up.
    Dead { reason: String },
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
    pub event_id: i64,
    /// Its type; none where the event is gone.
    pub event_type: Option<String>,
    pub channel: String,
    /// How far it is.
    pub state: DeliveryState,
    /// How often it has been tried.
    pub attempts: i64,
    pub created_at: Timestamp,
    /// When it is tried next, or its claim runs out.
    pub due_at: Option<Timestamp>,
    pub settled_at: Option<Timestamp>,
    /// The event of which the same alert was sent shortly before.
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
    /// Not sent, as the same alert was sent to the channel shortly before.
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
