//! Decides which connections are served, which are answered 503 because there are too many, and which are closed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::network::network_of;

/// At most this many connections beyond a limit are open at once, to be answered 503.
const REFUSED_CONNECTIONS: usize = 64;

pub struct Admission {
    served: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    networks: Arc<Networks>,
}

/// The right to have a connection open; given back when dropped.
pub struct Admitted {
    _permit: OwnedSemaphorePermit,
    is_served: bool,
    /// None where the connection is refused, or its client has no IP address.
    _network: Option<CountedConnection>,
}

impl Admitted {
    /// Whether the connection is served, or answered 503.
    pub fn is_served(&self) -> bool {
        self.is_served
    }
}

impl Admission {
    pub fn new(maximum: usize, maximum_per_network: usize) -> Admission {
        Admission {
            served: Arc::new(Semaphore::new(maximum)),
            refused: Arc::new(Semaphore::new(REFUSED_CONNECTIONS)),
            networks: Arc::new(Networks { maximum: maximum_per_network, open: Mutex::new(HashMap::new()) }),
        }
    }

    /// Waits until there is room for a connection among those that are served, or among those that are refused.
    ///
    /// A network above its limit makes nobody wait: none where too many connections are being refused already.
    pub async fn admit(&self, address: Option<IpAddr>) -> Option<Admitted> {
        let network =
            address.map(|address| Networks::count(&self.networks, network_of(address)).ok_or(TooMany));
        let Ok(network) = network.transpose() else {
            let permit = Arc::clone(&self.refused).try_acquire_owned().ok()?;
            return Some(Admitted { _permit: permit, is_served: false, _network: None });
        };
        let served = Arc::clone(&self.served).acquire_owned();
        let refused = Arc::clone(&self.refused).acquire_owned();
        let (permit, is_served) = tokio::select! {
            biased;
            permit = served => (permit, true),
            permit = refused => (permit, false),
        };
        let permit = permit.expect("the semaphores are never closed");
        Some(Admitted { _permit: permit, is_served, _network: network.filter(|_| is_served) })
    }
}

struct TooMany;

struct Networks {
    maximum: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that counts for its network until it is dropped.
struct CountedConnection {
    networks: Arc<Networks>,
    network: IpAddr,
}

impl Networks {
    fn count(networks: &Arc<Networks>, network: IpAddr) -> Option<CountedConnection> {
        let mut open = networks.open.lock();
        let count = open.entry(network).or_default();
        if *count >= networks.maximum {
            return None;
        }
        *count += 1;
        Some(CountedConnection { networks: Arc::clone(networks), network })
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut open = self.networks.open.lock();
        let Some(count) = open.get_mut(&self.network) else { return };
        *count -= 1;
        if *count == 0 {
            open.remove(&self.network);
        }
    }
}
