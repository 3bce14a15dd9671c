//! A batch of appends as databases that decide idempotency see it.

use std::collections::{HashMap, HashSet};

use super::super::backend::{Append, IdempotencyKey, NewDelivery, Outcome};
use crate::core::event::Event;

/// Keys that the store has, with the digest of their body and the id of their first event.
pub type KnownKeys = HashMap<String, (Vec<u8>, i64)>;

/// Events with their place in the batch, which is that among its ids, and the keys that some have.
pub struct Batch<'a> {
    /// All events, with how many come before each.
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
    append: &'a Append,
    /// How many events of the batch come before its own.
    position: i64,
    /// The first of its keys that is known, or that an append before it in the batch has.
    repeats: Option<&'a IdempotencyKey>,
}

impl<'a> Batch<'a> {
    /// What of the appends is new: those whose key is known store nothing, and take no ids. Of those with the same key
    /// the first counts.
    pub fn of(appends: &[&'a Append], known: &KnownKeys) -> Batch<'a> {
        let mut batch =
            Batch { events: Vec::new(), keys: Vec::new(), appends: Vec::with_capacity(appends.len()) };
        let mut new: HashSet<&str> = HashSet::new();
        for append in appends {
            let position = batch.events.len() as i64;
            let is_taken =
                |key: &&IdempotencyKey| known.contains_key(&key.key) || new.contains(key.key.as_str());
            let repeats = append.keys().find(is_taken);
            batch.appends.push(Placed { append, position, repeats });
            if repeats.is_some() {
                continue;
            }
            let event_count = append.events.len() as i64;
            for key in append.keys() {
                new.insert(&key.key);
                batch.keys.push(BatchKey { key: &key.key, digest: &key.body_digest, position, event_count });
            }
            batch.events.extend((position..).zip(&append.events));
        }
        batch
    }

    /// Whether any event has an alert to send.
    pub fn has_deliveries(&self) -> bool {
        self.new_appends().any(|placed| !placed.append.deliveries.is_empty())
    }

    /// The deliveries of the events, with the events' ids.
    pub fn deliveries(&self, before: i64) -> impl Iterator<Item = (i64, &'a NewDelivery)> {
        self.new_appends().flat_map(move |placed| {
            let first_id = before + placed.position + 1;
            placed
                .append
                .deliveries
                .iter()
                .map(move |delivery| (first_id + delivery.position as i64, delivery))
        })
    }

    fn new_appends(&self) -> impl Iterator<Item = &Placed<'a>> {
        self.appends.iter().filter(|placed| placed.repeats.is_none())
    }

    /// What became of each append: `before` is the id before the batch's first.
    pub fn outcomes(&self, before: i64, known: &KnownKeys) -> Vec<Outcome> {
        let new: HashMap<&str, &BatchKey<'_>> = self.keys.iter().map(|key| (key.key, key)).collect();
        let outcome = |placed: &Placed<'_>| {
            let Some(key) = placed.repeats else {
                return Outcome::Stored { first_id: before + placed.position + 1, repeated: false };
            };
            let (digest, first_id) = match (known.get(&key.key), new.get(key.key.as_str())) {
                (Some((digest, first_id)), _) => (digest.as_slice(), *first_id),
                (None, Some(new)) => (new.digest, before + new.position + 1),
                (None, None) => return Outcome::KeyReused,
            };
            match digest == key.body_digest {
                true => Outcome::Stored { first_id, repeated: true },
                false => Outcome::KeyReused,
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
        Append {
            events: payloads.iter().map(event).collect(),
            key,
            aliases: Vec::new(),
            deliveries: Vec::new(),
        }
    }

    #[test]
    fn a_key_is_stored_once_whether_it_is_known_or_comes_twice_and_takes_no_ids() {
        let appends = [
            append(None, &["0"]),
            append(Some(("known", 1)), &["1", "2"]),
            append(Some(("new", 2)), &["3", "4"]),
            append(Some(("new", 2)), &["3", "4"]),
            append(Some(("new", 3)), &["5"]),
            append(Some(("known", 9)), &["6"]),
            append(None, &["7"]),
        ];
        let appends: Vec<&Append> = appends.iter().collect();
        let known = KnownKeys::from([("known".to_owned(), (vec![1; 32], 40))]);
        let batch = Batch::of(&appends, &known);
        let kept: Vec<(i64, &str)> =
            batch.events.iter().map(|(position, event)| (*position, event.event_payload())).collect();
        assert_eq!(kept, [(0, "0"), (1, "3"), (2, "4"), (3, "7")]);
        let keys: Vec<(&str, i64, i64)> =
            batch.keys.iter().map(|key| (key.key, key.position, key.event_count)).collect();
        assert_eq!(keys, [("new", 1, 2)]);
        let stored = |first_id| Outcome::Stored { first_id, repeated: false };
        let repeated = |first_id| Outcome::Stored { first_id, repeated: true };
        let reused = Outcome::KeyReused;
        let expected = [stored(101), repeated(40), stored(102), repeated(102), reused, reused, stored(104)];
        assert_eq!(batch.outcomes(100, &known), expected);
    }

    #[test]
    fn a_request_is_known_by_any_of_its_keys() {
        let named = |keys: &[&str], payloads: &[&str]| {
            let key = |key: &&str| IdempotencyKey { key: (*key).to_owned(), body_digest: [1; 32] };
            let mut keys: Vec<IdempotencyKey> = keys.iter().map(key).collect();
            Append { key: Some(keys.remove(0)), aliases: keys, ..append(None, payloads) }
        };
        let appends = [
            named(&["a", "known"], &["0"]),
            named(&["b", "c"], &["1", "2"]),
            named(&["d", "c"], &["3"]),
            named(&["a", "e"], &["4"]),
            named(&["d"], &["5"]),
        ];
        let appends: Vec<&Append> = appends.iter().collect();
        let known = KnownKeys::from([("known".to_owned(), (vec![1; 32], 40))]);
        let batch = Batch::of(&appends, &known);
        assert_eq!(batch.keys.iter().map(|key| key.key).collect::<Vec<_>>(), ["b", "c", "a", "e", "d"]);
        let stored = |first_id, repeated| Outcome::Stored { first_id, repeated };
        let expected = [(40, true), (101, false), (101, true), (103, false), (104, false)];
        let expected = expected.map(|(first_id, repeated)| stored(first_id, repeated));
        assert_eq!(batch.outcomes(100, &known), expected);
    }
}
