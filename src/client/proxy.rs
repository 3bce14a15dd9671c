//! HTTP proxies from `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case.
//!
//! https goes through a CONNECT tunnel, so the proxy cannot read it. http is sent to the proxy, which forwards it.
//! Loopback destinations never use a proxy.

use std::env;
use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tower_service::Service;
use tracing::warn;

use crate::core::network::is_this_machine;

/// The proxies that the environment names.
#[derive(Clone)]
pub struct Proxies(Arc<Matcher>);

impl Proxies {
    pub fn from_environment() -> Proxies {
        warn_of_unusable_variables();
        Proxies(Arc::new(Matcher::from_env()))
    }

    fn proxy_for(&self, destination: &Uri) -> Option<Intercept> {
        let is_local = destination.host().is_none_or(is_this_machine);
        if is_local { None } else { self.0.intercept(destination) }
    }

    fn forwarding_proxy_for(&self, destination: &Uri) -> Option<Intercept> {
        self.proxy_for(destination).filter(|_| destination.scheme_str() == Some("http"))
    }

    /// Whether a proxy forwards requests to the destination, instead of opening a tunnel to it.
    pub fn forward(&self, destination: &Uri) -> bool {
        self.forwarding_proxy_for(destination).is_some()
    }

    /// The `Proxy-Authorization` of a request that a proxy forwards. A tunnel authenticates with its CONNECT request.
    pub fn authorization(&self, destination: &Uri) -> Option<HeaderValue> {
        self.forwarding_proxy_for(destination)?.basic_auth().cloned()
    }
}

/// The matcher ignores what it cannot parse, and requests would silently bypass the proxy.
fn warn_of_unusable_variables() {
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { continue };
        // The value may hold a password.
        let matcher = value.to_str().map(|value| Matcher::builder().all(value).build());
        let probe = Uri::from_static("http://destination.example");
        if matcher.is_none_or(|matcher| matcher.intercept(&probe).is_none()) {
            warn!("`{name}` is ignored: expected a proxy such as `http://proxy.example:3128`");
        }
    }
}

/// Connects to destinations, directly or through a proxy.
#[derive(Clone)]
pub struct ProxyConnector<C> {
    pub direct: C,
    /// Connects to proxies, which may have addresses that are forbidden to destinations.
    pub to_proxy: C,
    pub proxies: Proxies,
}

impl<C> Service<Uri> for ProxyConnector<C>
where
    C: Service<Uri> + Clone,
    C::Response: Read + Write + Unpin + Send + 'static,
    C::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let Some(proxy) = self.proxies.proxy_for(&destination) else {
            let connecting = self.direct.call(destination);
            return Box::pin(async { connecting.await.map_err(Into::into) });
        };
        let address = proxy.uri().clone();
        if address.scheme_str() != Some("http") {
            let scheme = address.scheme_str().unwrap_or_default().to_owned();
            return Box::pin(async move {
                Err(format!("unsupported proxy scheme `{scheme}`: name an http proxy").into())
            });
        }
        let name = address.authority().map_or("", |authority| authority.as_str()).to_owned();
        if destination.scheme_str() == Some("http") {
            let connecting = self.to_proxy.call(address);
            return Box::pin(async move { connecting.await.map_err(|error| failure(&name, &error.into())) });
        }
        let tunnel = Tunnel::new(address, self.to_proxy.clone());
        let mut tunnel = match proxy.basic_auth() {
            Some(authorization) => tunnel.with_auth(authorization.clone()),
            None => tunnel,
        };
        let connecting = tunnel.call(destination);
        Box::pin(async move { connecting.await.map_err(|error| failure(&name, &error)) })
    }
}

fn failure(proxy: &str, error: &dyn Display) -> Box<dyn std::error::Error + Send + Sync> {
    format!("the proxy `{proxy}`: {error}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_password_does_not_pass_the_tunnel() {
        let matcher = Matcher::builder().all("http://user:secret@proxy.example:3128").build();
        let proxies = Proxies(Arc::new(matcher));
        let authorization = |destination: &'static str| proxies.authorization(&Uri::from_static(destination));
        assert!(authorization("http://events.example/event").is_some(), "the proxy itself reads it");
        assert_eq!(authorization("https://events.example/event"), None);
        assert_eq!(authorization("http://localhost/event"), None);
    }
}
