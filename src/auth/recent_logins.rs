//! Where somebody has logged in from lately.
//!
//! Whoever guesses passwords uses up the attempts of a name for all who do not know it. Those who have shown that they
//! know it have attempts of their own, at the places where they did.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a login counts as a late one: as long as a refresh token lives.
const LATELY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Networks that are remembered.
const NETWORK_LIMIT: usize = 1024;

/// The networks of the last logins.
#[derive(Default)]
pub struct RecentLogins(Mutex<HashMap<IpAddr, Instant>>);

impl RecentLogins {
    /// Takes note of a login.
    pub fn note(&self, network: IpAddr, now: Instant) {
        let mut logins = self.lock();
        if logins.len() >= NETWORK_LIMIT && !logins.contains_key(&network) {
            let oldest = logins.iter().min_by_key(|(_, at)| **at).map(|(network, _)| *network);
            oldest.map(|oldest| logins.remove(&oldest));
        }
        logins.insert(network, now);
    }

    /// Whether there was a login from a network lately.
    pub fn include(&self, network: IpAddr, now: Instant) -> bool {
        self.lock().get(&network).is_some_and(|at| now.saturating_duration_since(*at) < LATELY)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_last_logins_are_remembered_for_a_while() {
        let (logins, start) = (RecentLogins::default(), Instant::now());
        let network = |number: usize| IpAddr::from(Ipv4Addr::from_bits(u32::try_from(number).unwrap()));
        logins.note(network(0), start);
        assert!(logins.include(network(0), start + LATELY - Duration::from_secs(1)));
        assert!(!logins.include(network(0), start + LATELY));
        assert!(!logins.include(network(1), start));
        for number in 1..=NETWORK_LIMIT {
            logins.note(network(number), start + Duration::from_secs(1));
        }
        assert!(!logins.include(network(0), start));
        assert!(logins.include(network(NETWORK_LIMIT), start));
        assert_eq!(logins.lock().len(), NETWORK_LIMIT);
    }
}
