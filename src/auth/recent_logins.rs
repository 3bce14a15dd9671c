//! Networks with a recent successful login.
//!
//! An attacker who guesses passwords uses up the attempts of a name for everybody else. Networks where the owner of the
//! name has logged in have a rate limit of their own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// As long as a refresh token lives.
const RECENT: Duration = Duration::from_secs(7 * 24 * 3600);

const NETWORK_LIMIT: usize = 1024;

#[derive(Default)]
pub struct RecentLogins(Mutex<HashMap<IpAddr, Instant>>);

impl RecentLogins {
    pub fn record(&self, network: IpAddr, now: Instant) {
        let mut logins = self.0.lock();
        if logins.len() >= NETWORK_LIMIT && !logins.contains_key(&network) {
            let oldest = logins.iter().min_by_key(|(_, at)| **at).map(|(network, _)| *network);
            oldest.map(|oldest| logins.remove(&oldest));
        }
        logins.insert(network, now);
    }

    pub fn include(&self, network: IpAddr, now: Instant) -> bool {
        self.0.lock().get(&network).is_some_and(|at| now.saturating_duration_since(*at) < RECENT)
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
        logins.record(network(0), start);
        assert!(logins.include(network(0), start + RECENT - Duration::from_secs(1)));
        assert!(!logins.include(network(0), start + RECENT));
        assert!(!logins.include(network(1), start));
        for number in 1..=NETWORK_LIMIT {
            logins.record(network(number), start + Duration::from_secs(1));
        }
        assert!(!logins.include(network(0), start));
        assert!(logins.include(network(NETWORK_LIMIT), start));
        assert_eq!(logins.0.lock().len(), NETWORK_LIMIT);
    }
}
