//! Deliveries of messages: their errors, ids and metrics.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use thiserror::Error;

use crate::store::outbox::Message;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeliveryError {
    #[error("{reason}")]
    Transient {
        reason: String,
        /// How long the channel asks to wait.
        retry_after: Duration,
        /// Whether it asks for a pause of all messages.
        pauses_channel: bool,
    },
    #[error("{0}")]
    Permanent(String),
}

impl DeliveryError {
    pub fn transient(reason: String) -> DeliveryError {
        DeliveryError::Transient { reason, retry_after: Duration::ZERO, pauses_channel: false }
    }
}

/// Identifies a message to its receiver, also when it is sent again. The time tells events of different stores apart.
pub fn message_id(message: &Message) -> String {
    let received_at = message.events.first().map_or(0, |event| event.received_at.as_microseconds());
    match message.event_ids.as_slice() {
        [first, .., last] => format!("events-{first}-{last}-{received_at:x}"),
        _ => format!("event-{}-{received_at:x}", message.id),
    }
}

/// Clones share the figures.
#[derive(Debug, Clone, Default)]
pub struct DeliveryMetrics {
    pub attempts: Family<AttemptLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    pub channel: &'static str,
    pub outcome: &'static str,
}
