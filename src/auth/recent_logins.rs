//! Networks from which a client has recently logged in.
//!
//! An attacker who guesses passwords uses up the attempts of a name for everybody else. Networks where the owner of the
//! name has logged in have a rate limit of their own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// As long as a refresh token lives.
const RECENT: Duration = Duration::from_secs(7 * 24 * 3600);

const LOGIN_LIMIT: usize = 1024;

/// The digest of a name, and a network.
pub type LoginOrigin = ([u8; 32], IpAddr);

#[derive(Default)]
pub struct RecentLogins(Mutex<HashMap<LoginOrigin, Instant>>);

impl RecentLogins {
    pub fn record(&self, origin: LoginOrigin, now: Instant) {
        let mut logins = self.0.lock();
        if logins.len() >= LOGIN_LIMIT && !logins.contains_key(&origin) {
            let oldest = logins.iter().min_by_key(|(_, at)| **at).map(|(origin, _)| *origin);
            oldest.map(|oldest| logins.remove(&oldest));
        }
        logins.insert(origin, now);
    }

    pub fn include(&self, origin: LoginOrigin, now: Instant) -> bool {
        self.0.lock().get(&origin).is_some_and(|at| now.saturating_duration_since(*at) < RECENT)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_last_logins_are_remembered_for_a_while() {
        let (logins, start) = (RecentLogins::default(), Instant::now());
        let origin =
            |number: usize| ([1; 32], IpAddr::from(Ipv4Addr::from_bits(u32::try_from(number).unwrap())));
        logins.record(origin(0), start);
        assert!(logins.include(origin(0), start + RECENT - Duration::from_secs(1)));
        assert!(!logins.include(origin(0), start + RECENT));
        assert!(!logins.include(origin(1), start));
        // Another client has not logged in from there.
        assert!(!logins.include(([2; 32], origin(0).1), start));
        for number in 1..=LOGIN_LIMIT {
            logins.record(origin(number), start + Duration::from_secs(1));
        }
        assert!(!logins.include(origin(0), start));
        assert!(logins.include(origin(LOGIN_LIMIT), start));
        assert_eq!(logins.0.lock().len(), LOGIN_LIMIT);
    }
}
