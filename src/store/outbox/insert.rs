//! New deliveries, stored together with their events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::super::backend::NewDelivery;
use super::super::error::DatabaseError;
use super::super::statements::{Statements, Value, in_powers_of_two};
use super::message::DeliveryState;
use crate::core::timestamp::Timestamp;

/// Keeps the deliveries of events that are about to be stored, within the same transaction: many with a statement, as all
/// writers wait for the transaction.
pub fn insert(
    statements: &mut dyn Statements,
    deliveries: &[(i64, &NewDelivery)],
    now: Timestamp,
) -> Result<(), DatabaseError> {
    let mut originals = originals_of(statements, deliveries, now)?;
    let now = now.as_microseconds();
    let rows: Vec<[Value; 8]> = deliveries
        .iter()
        .map(|(event_id, delivery)| {
            let alert = (&*delivery.channel, delivery.digest.as_str());
            let original = originals.get(&alert).copied().filter(|_| !delivery.repeat_after.is_zero());
            if original.is_none() {
                originals.insert(alert, *event_id);
            }
            let state = if original.is_some() { DeliveryState::Repeated } else { DeliveryState::Pending };
            let (due_at, settled_at) = if original.is_some() { (None, Some(now)) } else { (Some(now), None) };
            [
                (*event_id).into(),
                alert.0.into(),
                alert.1.into(),
                state.as_str().into(),
                now.into(),
                due_at.into(),
                settled_at.into(),
                original.into(),
            ]
        })
        .collect();
    for chunk in in_powers_of_two(&rows) {
        let places = ", (?, ?, ?, ?, ?, ?, ?, ?)".repeat(chunk.len() - 1);
        let insert = format!(
            "INSERT INTO deliveries (event_id, channel, digest, state, created_at, due_at, settled_at, repeats) \
                VALUES (?, ?, ?, ?, ?, ?, ?, ?){places}"
        );
        statements.execute(&insert, &chunk.concat())?;
    }
    Ok(())
}

/// The events whose deliveries new ones would only repeat, by channel and digest.
fn originals_of<'a>(
    statements: &mut dyn Statements,
    deliveries: &[(i64, &'a NewDelivery)],
    now: Timestamp,
) -> Result<HashMap<(&'a str, &'a str), i64>, DatabaseError> {
    let mut wanted: BTreeMap<(&str, Duration), BTreeSet<&str>> = BTreeMap::new();
    for (_, delivery) in deliveries.iter().filter(|(_, delivery)| !delivery.repeat_after.is_zero()) {
        wanted.entry((&delivery.channel, delivery.repeat_after)).or_default().insert(&delivery.digest);
    }
    let mut originals = HashMap::new();
    for ((channel, repeat_after), digests) in wanted {
        let since = now.before(repeat_after).as_microseconds();
        let digests: Vec<&str> = digests.into_iter().collect();
        for chunk in in_powers_of_two(&digests) {
            let places = ", ?".repeat(chunk.len() - 1);
            let select = format!(
                "SELECT digest, max(event_id) FROM deliveries WHERE channel = ? AND created_at > ? \
                    AND state IN ('pending', 'sending', 'sent') AND digest IN (?{places}) GROUP BY digest"
            );
            let mut values = vec![channel.into(), since.into()];
            values.extend(chunk.iter().map(|digest| Value::from(*digest)));
            for [digest, original] in statements.query::<2>(&select, &values)? {
                let digest = digest.into_text();
                if let Some(known) = chunk.iter().find(|known| **known == digest) {
                    originals.insert((channel, *known), original.number());
                }
            }
        }
    }
    Ok(originals)
}
