//! Deliveries of messages: their ids and metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::store::outbox::Message;

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
