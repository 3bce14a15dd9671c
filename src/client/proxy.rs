//! HTTP proxies, as `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name them, in capitals or not.
//!
//! Requests over https go through a tunnel (CONNECT), so that the proxy does not see them; requests over http are sent to the
//! proxy, which forwards them. What is on this machine is never asked through a proxy.

use std::env;
use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
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

    /// The proxy for a destination, if it has one.
    fn of(&self, destination: &Uri) -> Option<Intercept> {
        let is_local = destination.host().is_none_or(is_this_machine);
        if is_local { None } else { self.0.intercept(destination) }
    }

    /// What a forwarding proxy wants to see of a request: a tunnel is asked for with it.
    pub fn authorization(&self, destination: &Uri) -> Option<HeaderValue> {
        let is_forwarded = destination.scheme_str() == Some("http");
        self.of(destination).filter(|_| is_forwarded)?.basic_auth().cloned()
    }
}

/// The matcher passes over what it cannot read, and requests would go past the proxy without a word.
fn warn_of_unusable_variables() {
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { continue };
        // The value may hold a password.
        let matcher = value.to_str().map(|value| Matcher::builder().all(value).build());
        let probe = Uri::from_static("http://destination.example");
        if matcher.is_none_or(|matcher| matcher.intercept(&probe).is_none()) {
            warn!("`{name}` is passed over: expected a proxy such as `http://proxy.example:3128`");
        }
    }
}

/// Connects to destinations, to some of them by way of a proxy.
#[derive(Clone)]
pub struct ProxyConnector<C> {
    /// Connects to destinations.
    pub direct: C,
    /// Connects to proxies: they may be where destinations must not be.
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
    type Response = Proxied<C::Response>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let Some(proxy) = self.proxies.of(&destination) else {
            let connecting = self.direct.call(destination);
            return Box::pin(async {
                Ok(Proxied { stream: connecting.await.map_err(Into::into)?, forwards: false })
            });
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
            return Box::pin(async move {
                let stream = connecting.await.map_err(|error| failure(&name, &error.into()))?;
                Ok(Proxied { stream, forwards: true })
            });
        }
        let tunnel = Tunnel::new(address, self.to_proxy.clone());
        let mut tunnel = match proxy.basic_auth() {
            Some(authorization) => tunnel.with_auth(authorization.clone()),
            None => tunnel,
        };
        let connecting = tunnel.call(destination);
        Box::pin(async move {
            let stream = connecting.await.map_err(|error| failure(&name, &error))?;
            Ok(Proxied { stream, forwards: false })
        })
    }
}

fn failure(proxy: &str, error: &dyn Display) -> Box<dyn std::error::Error + Send + Sync> {
    format!("the proxy `{proxy}`: {error}").into()
}

/// A connection that may lead to a proxy.
pub struct Proxied<S> {
    stream: S,
    /// Whether the other side is a proxy that forwards requests.
    forwards: bool,
}

impl<S: Connection> Connection for Proxied<S> {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.forwards)
    }
}

impl<S: Read + Unpin> Read for Proxied<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: Write + Unpin> Write for Proxied<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_behind_a_tunnel_is_not_told_the_password_of_the_proxy() {
        let matcher = Matcher::builder().all("http://user:secret@proxy.example:3128").build();
        let proxies = Proxies(Arc::new(matcher));
        let authorization = |destination: &'static str| proxies.authorization(&Uri::from_static(destination));
        assert!(authorization("http://events.example/event").is_some(), "the proxy itself reads it");
        assert_eq!(authorization("https://events.example/event"), None);
        assert_eq!(authorization("http://localhost/event"), None);
    }
}
