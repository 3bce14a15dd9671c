//! What is read of the outbox.

use super::super::backend::StoreReader;
use super::super::error::ReadError;
use super::super::statements::Value;
use super::message::{AlertOutcome, Delivery, DeliveryState};
use crate::core::timestamp::Timestamp;

/// The deliveries of the newest events, in the order of their ids.
pub fn newest_deliveries(reader: &mut dyn StoreReader, limit: usize) -> Result<Vec<Delivery>, ReadError> {
    let select = format!(
        "SELECT deliveries.event_id, deliveries.channel, events.event_type, deliveries.state, \
            deliveries.attempts, deliveries.created_at, deliveries.due_at, deliveries.settled_at, \
            deliveries.repeats, deliveries.last_error FROM deliveries \
            LEFT JOIN events ON events.id = deliveries.event_id \
            ORDER BY deliveries.event_id DESC, deliveries.channel DESC LIMIT {limit}"
    );
    let instant = |value: &Value| value.number_or_null().map(Timestamp::from_microseconds);
    let delivery = |row: [Value; 10]| {
        let [event_id, channel, event_type, state, attempts, created_at, due_at, settled_at, repeats, error] =
            row;
        Delivery {
            event_id: event_id.number(),
            channel: channel.into_text(),
            event_type: event_type.into_text_or_null(),
            state: DeliveryState::of(&state.into_text()),
            attempts: attempts.number(),
            created_at: Timestamp::from_microseconds(created_at.number()),
            due_at: instant(&due_at),
            settled_at: instant(&settled_at),
            repeats: repeats.number_or_null(),
            last_error: error.into_text_or_null(),
        }
    };
    let mut deliveries: Vec<Delivery> =
        reader.run(|statements| statements.query::<10>(&select, &[]))?.into_iter().map(delivery).collect();
    deliveries.reverse();
    Ok(deliveries)
}

/// How many deliveries are open, by channel.
pub fn open_deliveries(reader: &mut dyn StoreReader) -> Result<Vec<(String, i64)>, ReadError> {
    let select = "SELECT channel, count(*) FROM deliveries WHERE due_at IS NOT NULL GROUP BY channel";
    let rows = reader.run(|statements| statements.query::<2>(select, &[]))?;
    Ok(rows.into_iter().map(|[channel, count]| (channel.into_text(), count.number())).collect())
}

/// What became of the alerts of an event.
pub fn alert_outcome(reader: &mut dyn StoreReader, event_id: i64) -> Result<AlertOutcome, ReadError> {
    let select = "SELECT deliveries.state, coalesce(original.state, deliveries.state) FROM deliveries \
        LEFT JOIN deliveries original \
        ON original.event_id = deliveries.repeats AND original.channel = deliveries.channel \
        WHERE deliveries.event_id = ?";
    let rows = reader.run(|statements| statements.query::<2>(select, &[event_id.into()]))?;
    let states = rows.into_iter().map(|row| row.map(|state| DeliveryState::of(&state.into_text())));
    let states: Vec<[DeliveryState; 2]> = states.collect();
    let any = |wanted: DeliveryState| states.iter().any(|[_, original]| *original == wanted);
    // Of an original that is deleted nothing is known.
    let is_open =
        [DeliveryState::Pending, DeliveryState::Sending, DeliveryState::Repeated].into_iter().any(any);
    let is_repetition = |[own, _]: &[DeliveryState; 2]| *own == DeliveryState::Repeated;
    Ok(match states.as_slice() {
        _ if is_open => AlertOutcome::Open,
        _ if any(DeliveryState::Dead) => AlertOutcome::GivenUp,
        [_, ..] if states.iter().all(is_repetition) => AlertOutcome::AlreadySent,
        _ => AlertOutcome::Sent,
    })
}
