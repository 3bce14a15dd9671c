//! Rate limits for wrong passwords.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Wrong attempts that are allowed at once.
const BURST: u32 = 10;

/// The time after which one more is allowed.
const INTERVAL: Duration = Duration::from_secs(6);

/// Bounds the table to some hundred KiB.
const KEY_LIMIT: usize = 4096;

/// Allows each key a burst of wrong attempts, and then one for each interval.
///
/// Source: the generic cell rate algorithm (ITU-T I.371), which keeps one instant for each key.
pub struct RateLimit<K> {
    /// When a key has its full burst again.
    recovered_at: Mutex<HashMap<K, Instant>>,
}

impl<K: Copy + Eq + Hash> RateLimit<K> {
    pub fn new() -> RateLimit<K> {
        RateLimit { recovered_at: Mutex::new(HashMap::new()) }
    }

    /// Counts an attempt as wrong until the returned guard is dropped. The error is the time to wait.
    pub fn take(&self, key: K, now: Instant) -> Result<Attempt<'_, K>, Duration> {
        let mut table = self.recovered_at.lock();
        let recovered_at = table.get(&key).copied().unwrap_or(now).max(now) + INTERVAL;
        let excess = (recovered_at - now).saturating_sub(INTERVAL * BURST);
        if !excess.is_zero() {
            return Err(excess);
        }
        if table.len() >= KEY_LIMIT && !table.contains_key(&key) {
            make_room(&mut table, now);
        }
        table.insert(key, recovered_at);
        Ok(Attempt { limit: self, key, wrong: false })
    }

    fn give_back(&self, key: K) {
        if let Some(recovered_at) = self.recovered_at.lock().get_mut(&key) {
            *recovered_at -= INTERVAL;
        }
    }
}

/// An attempt in progress. Dropping it gives the attempt back, also when the request is cancelled, unless it was wrong.
#[must_use]
pub struct Attempt<'a, K: Copy + Eq + Hash> {
    limit: &'a RateLimit<K>,
    key: K,
    wrong: bool,
}

impl<K: Copy + Eq + Hash> Attempt<'_, K> {
    pub fn was_wrong(mut self) {
        self.wrong = true;
    }
}

impl<K: Copy + Eq + Hash> Drop for Attempt<'_, K> {
    fn drop(&mut self) {
        if !self.wrong {
            self.limit.give_back(self.key);
        }
    }
}

/// Removes the keys that have recovered, or else the one that will recover first.
fn make_room<K: Copy + Eq + Hash>(table: &mut HashMap<K, Instant>, now: Instant) {
    table.retain(|_, recovered_at| *recovered_at > now);
    if table.len() < KEY_LIMIT {
        return;
    }
    let nearest = table.iter().min_by_key(|(_, recovered_at)| **recovered_at).map(|(key, _)| *key);
    if let Some(key) = nearest {
        table.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wrong guess: how long to wait, where it is one too many.
    fn guess<K: Copy + Eq + Hash>(limit: &RateLimit<K>, key: K, now: Instant) -> Result<(), Duration> {
        limit.take(key, now).map(Attempt::was_wrong)
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_in_an_interval() {
        let limit = RateLimit::new();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(guess(&limit, "a", start), Ok(()));
        }
        assert_eq!(guess(&limit, "a", start), Err(INTERVAL));
        assert_eq!(guess(&limit, "b", start), Ok(()));
        assert_eq!(guess(&limit, "a", start + INTERVAL / 2), Err(INTERVAL / 2));
        assert_eq!(guess(&limit, "a", start + INTERVAL), Ok(()));
        assert_eq!(guess(&limit, "a", start + INTERVAL), Err(INTERVAL));
    }

    #[test]
    fn attempts_that_are_not_wrong_or_are_dropped_do_not_count() {
        let limit = RateLimit::new();
        let start = Instant::now();
        for _ in 0..10 * BURST {
            assert!(limit.take("a", start).is_ok());
        }
        // Attempts in progress count.
        let in_progress: Vec<_> = (0..BURST).map(|_| limit.take("a", start).map_err(drop)).collect();
        assert!(in_progress.iter().all(Result::is_ok));
        assert_eq!(guess(&limit, "a", start), Err(INTERVAL));
        drop(in_progress);
        assert_eq!(guess(&limit, "a", start), Ok(()));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_those_who_guess_most() {
        let limit = RateLimit::new();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(guess(&limit, usize::MAX, start), Ok(()));
        }
        for key in 0..3 * KEY_LIMIT {
            assert_eq!(guess(&limit, key, start), Ok(()));
        }
        assert!(limit.recovered_at.lock().len() <= KEY_LIMIT);
        assert_eq!(guess(&limit, usize::MAX, start), Err(INTERVAL));
    }
}
