//! Which connections are served, which are told that there are too many, and which are closed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::network::network_of;

/// Connections beyond a limit that are open at once, to be told 503.
const REFUSED_CONNECTIONS: usize = 64;

/// The limits on connections.
pub struct Admission {
    admitted: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    networks: Arc<Networks>,
}

/// The place of a connection; given up when dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    admitted: bool,
    /// None where the connection is refused, or is not one of a network.
    _network: Option<Counted>,
}

impl Place {
    /// Whether the connection is served.
    pub fn is_admitted(&self) -> bool {
        self.admitted
    }
}

impl Admission {
    /// So many connections in all, and of one network.
    pub fn new(maximum: usize, maximum_per_network: usize) -> Admission {
        Admission {
            admitted: Arc::new(Semaphore::new(maximum)),
            refused: Arc::new(Semaphore::new(REFUSED_CONNECTIONS)),
            networks: Arc::new(Networks { maximum: maximum_per_network, open: Mutex::new(HashMap::new()) }),
        }
    }

    /// A place for a connection: among those that are served, or else among those that are refused. A
    /// network that has too many does not make others wait: none where it has too many refused ones, too. Those without
    /// an address of their own have but the limit for all.
    pub async fn admit(&self, address: Option<IpAddr>) -> Option<Place> {
        let network =
            address.map(|address| Networks::count(&self.networks, network_of(address)).ok_or(TooMany));
        let Ok(network) = network.transpose() else {
            let permit = Arc::clone(&self.refused).try_acquire_owned().ok()?;
            return Some(Place { _permit: permit, admitted: false, _network: None });
        };
        let admitted = Arc::clone(&self.admitted).acquire_owned();
        let refused = Arc::clone(&self.refused).acquire_owned();
        let (permit, admitted) = tokio::select! {
            biased;
            permit = admitted => (permit, true),
            permit = refused => (permit, false),
        };
        let permit = permit.expect("the semaphores are never closed");
        Some(Place { _permit: permit, admitted, _network: network.filter(|_| admitted) })
    }
}

/// A network has as many connections as it may.
struct TooMany;

/// How many connections each network has.
struct Networks {
    maximum: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of a network.
struct Counted {
    networks: Arc<Networks>,
    network: IpAddr,
}

impl Networks {
    fn count(networks: &Arc<Networks>, network: IpAddr) -> Option<Counted> {
        let mut open = networks.lock();
        let count = open.entry(network).or_default();
        if *count >= networks.maximum {
            return None;
        }
        *count += 1;
        Some(Counted { networks: Arc::clone(networks), network })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.networks.lock();
        let Some(count) = open.get_mut(&self.network) else { return };
        *count -= 1;
        if *count == 0 {
            open.remove(&self.network);
        }
    }
}
