//! Sockets become requests: accepts connections, serves each in a task of its own, and drains them.

mod admission;
mod connection;
mod deadlines;
mod http1;
mod http2;
mod listen;
mod proxies;
mod tls;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;

use self::admission::{Admission, Admitted};
use self::connection::Connection;
pub use self::connection::Phase;
use self::deadlines::ConnectionLimits;
pub use self::listen::Listeners;
use self::listen::Socket;
use self::proxies::TrustedProxies;
pub use self::tls::Tls;
use super::client_address::ClientAddress;
use super::routes::AppState;
use super::settings::{Limits, Timeouts};
use crate::core::network::TrustedProxy;

/// The pause before the next accept when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection may have one part in this many of the memory for responses.
const CONNECTION_SHARE: usize = 8;

/// For how long idle connections are kept after a lame duck has stopped accepting. A proxy without health checks learns
/// by a refused connection that this server is gone, and until then uses those that it has.
const IDLE_GRACE: Duration = Duration::from_millis(500);

pub struct Server {
    listeners: Listeners,
    proxies: Arc<TrustedProxies>,
    state: Arc<AppState>,
    tls: Option<Arc<Tls>>,
    limits: ConnectionLimits,
    admission: Admission,
    connections: JoinSet<()>,
    /// Clones change it while connections are accepted.
    pub phase: watch::Sender<Phase>,
}

impl Server {
    pub fn new(
        trusted_proxies: Vec<TrustedProxy>,
        limits: Limits,
        timeouts: Timeouts,
        listeners: Listeners,
        state: Arc<AppState>,
        tls: Option<Arc<Tls>>,
    ) -> Server {
        let connection_limits = ConnectionLimits {
            header_limit_bytes: limits.header_bytes,
            header_timeout: timeouts.header,
            response_timeout: timeouts.response,
            idle_timeout: timeouts.idle,
            response_share_bytes: limits.queue_bytes / CONNECTION_SHARE,
        };
        Server {
            listeners,
            proxies: Arc::new(TrustedProxies(trusted_proxies)),
            state,
            tls,
            limits: connection_limits,
            admission: Admission::new(limits.max_connections, limits.max_connections_per_address),
            connections: JoinSet::new(),
            phase: watch::Sender::new(Phase::Serving),
        }
    }

    /// Accepts connections. Beyond all limits they wait in the system's queue.
    pub async fn accept(&mut self) -> Infallible {
        loop {
            let accepted = self.listeners.accept().await;
            while self.connections.try_join_next().is_some() {}
            match accepted {
                Ok((socket, peer)) => self.admit(socket, peer).await,
                // The connection is gone already, or there are no more file descriptors.
                Err(error) => {
                    warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn admit(&mut self, socket: Socket, peer: ClientAddress) {
        let is_proxy = self.proxies.include(peer);
        // The limit for each address cannot hold for a proxy, which has the connections of all its clients.
        let address = peer.ip().filter(|_| !is_proxy);
        if let Some(admitted) = self.admission.admit(address).await {
            self.spawn(socket, peer, is_proxy, admitted);
        }
    }

    fn spawn(&mut self, socket: Socket, peer: ClientAddress, is_proxy: bool, admitted: Admitted) {
        let connection = Connection {
            peer,
            proxies: is_proxy.then(|| Arc::clone(&self.proxies)),
            is_served: admitted.is_served(),
            state: Arc::clone(&self.state),
            limits: self.limits,
            phase: self.phase.subscribe(),
        };
        let tls = self.tls.as_ref().map(|tls| tls.acceptor());
        let counted = Counted::new(self.state.metrics.connections.clone());
        self.connections.spawn(async move {
            // Dropped even if a request panics.
            let _guards = (admitted, counted);
            match socket {
                Socket::Tcp(stream) => connection.serve(stream, tls).await,
                Socket::Unix(stream) => connection.serve(stream, tls).await,
            }
        });
    }

    /// Stops accepting, lets the connections finish their requests, and cuts those that are open at the deadline.
    pub async fn drain(mut self, deadline: Instant) {
        for (socket, peer) in self.listeners.close() {
            // There is no time to wait for others to end.
            let _ = timeout(Duration::ZERO, self.admit(socket, peer)).await;
        }
        let Server { mut connections, phase, state, .. } = self;
        if *phase.borrow() == Phase::LameDuck {
            sleep(IDLE_GRACE).await;
        }
        phase.send_replace(Phase::Draining);
        state.hub.end();
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout_at(deadline, all).await.is_err() {
            let connections = connections.len();
            warn!(connections, "{connections} connections were cut: they did not end in time");
        }
    }
}

/// An open connection in the metrics.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Counted {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_whose_task_panics_is_no_longer_counted() {
        let gauge = Gauge::default();
        let ended = std::panic::catch_unwind(|| {
            let _counted = Counted::new(gauge.clone());
            assert_eq!(gauge.get(), 0, "this task panics");
        });
        assert!(ended.is_err());
        assert_eq!(gauge.get(), 0);
    }
}
