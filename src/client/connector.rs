//! Connects to hosts: DNS with a guard against addresses that requests must not reach, proxies, TCP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

use super::proxy::{Proxies, ProxyConnector};
use crate::core::network::is_public;

pub const OUT_OF_REACH: &str = "the host is not on the public internet: see --alert-allow-private";

/// Tries the addresses of both families in parallel (RFC 8305), and shares the time limit among the addresses of a
/// family, so that a dead address does not block the others.
pub fn connector(
    proxies: &Proxies,
    reach: Reach,
    time_limit: Duration,
) -> ProxyConnector<HttpConnector<GuardedResolver>> {
    let within = |reach| {
        let resolver = GuardedResolver { resolver: GaiResolver::new(), reach };
        let mut connector = HttpConnector::new_with_resolver(resolver);
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(time_limit));
        connector
    };
    ProxyConnector { direct: within(reach), to_proxy: within(Reach::Anywhere), proxies: proxies.clone() }
}

/// Which addresses requests may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Anywhere,
    /// The public internet only, whatever the URL's host resolves to.
    PublicOnly,
}

impl Reach {
    pub fn allows(self, address: IpAddr) -> bool {
        self == Reach::Anywhere || is_public(address)
    }
}

/// Resolves host names, without the addresses that are out of reach. The connector connects to these very addresses,
/// so DNS rebinding does not get around the check.
#[derive(Clone)]
pub struct GuardedResolver {
    resolver: GaiResolver,
    reach: Reach,
}

impl Service<Name> for GuardedResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.resolver.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.reach;
        let resolving = self.resolver.call(name);
        Box::pin(async move {
            let addresses: Vec<SocketAddr> =
                resolving.await?.filter(|address| reach.allows(address.ip())).collect();
            if addresses.is_empty() {
                return Err(io::Error::other(OUT_OF_REACH));
            }
            Ok(addresses.into_iter())
        })
    }
}
