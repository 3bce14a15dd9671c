//! A batch of appends as databases that decide idempotency see it.

use std::collections::HashMap;

use super::backend::{Append, IdempotencyKey, NewDelivery, Outcome};
use crate::core::event::Event;

/// Keys that the store has, with the digest of their body and the id of their first event.
pub type KnownKeys = HashMap<String, (Vec<u8>, i64)>;

/// Events with their place in the batch, which is that among its ids, and the keys that some have.
pub struct Batch<'a> {
    /// All events, with how many come before each; ids may be left out, and are never given twice.
    pub events: Vec<(i64, &'a Event)>,
    /// Each key once.
    pub keys: Vec<BatchKey<'a>>,
    appends: Vec<Placed<'a>>,
}

/// A key of a batch.
pub struct BatchKey<'a> {
    /// The key.
    pub key: &'a str,
    /// SHA-256 of its body.
    pub digest: &'a [u8],
    /// How many events of the batch come before its first.
    pub position: i64,
    /// How many it has.
    pub event_count: i64,
}

struct Placed<'a> {
    position: i64,
    key: Option<&'a IdempotencyKey>,
    deliveries: &'a [NewDelivery],
    /// Whether an append before it in the batch has the same key.
    is_repetition: bool,
}

impl<'a> Batch<'a> {
    /// Of appends with the same key the first counts, and the others store nothing.
    pub fn of(appends: &[&'a Append]) -> Batch<'a> {
        let mut batch =
            Batch { events: Vec::new(), keys: Vec::new(), appends: Vec::with_capacity(appends.len()) };
        let mut first_with_key: HashMap<&str, i64> = HashMap::new();
        for append in appends {
            let position = batch.events.len() as i64;
            let key = append.key.as_ref();
            if let Some(key) = key {
                let first = *first_with_key.entry(&key.key).or_insert(position);
                if first != position {
                    let deliveries = &[];
                    batch.appends.push(Placed {
                        position: first,
                        key: Some(key),
                        deliveries,
                        is_repetition: true,
                    });
                    continue;
                }
                let event_count = append.events.len() as i64;
                batch.keys.push(BatchKey { key: &key.key, digest: &key.body_digest, position, event_count });
            }
            let deliveries = &append.deliveries;
            batch.appends.push(Placed { position, key, deliveries, is_repetition: false });
            batch.events.extend((position..).zip(&append.events));
        }
        batch
    }

    /// The key of each event, if it has one.
    pub fn event_keys(&self) -> Vec<Option<&'a str>> {
        let mut event_keys = vec![None; self.events.len()];
        for key in &self.keys {
            let events = key.position as usize..(key.position + key.event_count) as usize;
            event_keys[events].fill(Some(key.key));
        }
        event_keys
    }

    /// Leaves out what a known key stands for; the others keep their places. PostgreSQL does so by itself.
    #[cfg(any(feature = "mysql", test))]
    pub fn leave_out(&mut self, known: &KnownKeys) {
        if known.is_empty() {
            return;
        }
        let event_keys = self.event_keys();
        self.events.retain(|(position, _)| {
            event_keys[*position as usize].is_none_or(|key| !known.contains_key(key))
        });
        self.keys.retain(|key| !known.contains_key(key.key));
    }

    /// Whether anyone is to be told of an event.
    pub fn has_deliveries(&self) -> bool {
        self.appends.iter().any(|append| !append.deliveries.is_empty())
    }

    /// The deliveries of the events that are new, with the events' ids.
    pub fn deliveries(&self, before: i64, known: &KnownKeys) -> impl Iterator<Item = (i64, &'a NewDelivery)> {
        let is_new = |append: &&Placed<'_>| append.key.is_none_or(|key| !known.contains_key(&key.key));
        self.appends.iter().filter(is_new).flat_map(move |append| {
            let first_id = before + append.position + 1;
            append.deliveries.iter().map(move |delivery| (first_id + delivery.position as i64, delivery))
        })
    }

    /// What became of each append: `before` is the id before the batch's first.
    pub fn outcomes(&self, before: i64, known: &KnownKeys) -> Vec<Outcome> {
        let new: HashMap<&str, &BatchKey<'_>> = self.keys.iter().map(|key| (key.key, key)).collect();
        let outcome = |append: &Placed<'_>| {
            let here = before + append.position + 1;
            let Some(key) = append.key else { return Outcome::Stored { first_id: here, repeated: false } };
            let (digest, first_id, repeated) = match (known.get(&key.key), new.get(key.key.as_str())) {
                (Some((digest, first_id)), _) => (digest.as_slice(), *first_id, true),
                (None, Some(new)) => (new.digest, here, append.is_repetition),
                (None, None) => return Outcome::KeyReused,
            };
            if digest == key.body_digest {
                Outcome::Stored { first_id, repeated }
            } else {
                Outcome::KeyReused
            }
        };
        self.appends.iter().map(outcome).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(key: Option<(&str, u8)>, payloads: &[&str]) -> Append {
        let event = |payload: &&str| {
            Event::parse(format!(r#"{{"event_type":"a","event_payload":"{payload}"}}"#).as_bytes()).unwrap()
        };
        let key = key.map(|(key, digest)| IdempotencyKey { key: key.to_owned(), body_digest: [digest; 32] });
        Append { events: payloads.iter().map(event).collect(), key, deliveries: Vec::new() }
    }

    #[test]
    fn a_key_is_stored_once_whether_it_is_known_or_comes_twice() {
        let appends = [
            append(None, &["0"]),
            append(Some(("known", 1)), &["1", "2"]),
            append(Some(("new", 2)), &["3", "4"]),
            append(Some(("new", 2)), &["3", "4"]),
            append(Some(("new", 3)), &["5"]),
            append(Some(("known", 9)), &["6"]),
            append(None, &["7"]),
        ];
        let mut batch = Batch::of(&appends.iter().collect::<Vec<_>>());
        let new = Some("new");
        assert_eq!(batch.event_keys(), [None, Some("known"), Some("known"), new, new, None]);
        let known = KnownKeys::from([("known".to_owned(), (vec![1; 32], 40))]);
        batch.leave_out(&known);
        let kept: Vec<(i64, &str)> =
            batch.events.iter().map(|(position, event)| (*position, event.event_payload())).collect();
        assert_eq!(kept, [(0, "0"), (3, "3"), (4, "4"), (5, "7")]);
        let stored = |first_id| Outcome::Stored { first_id, repeated: false };
        let repeated = |first_id| Outcome::Stored { first_id, repeated: true };
        let reused = Outcome::KeyReused;
        let expected = [stored(101), repeated(40), stored(104), repeated(104), reused, reused, stored(106)];
        assert_eq!(batch.outcomes(100, &known), expected);
    }
}
