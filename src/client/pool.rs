//! A pool of connections, and requests over it.

use std::error::Error;
use std::io;
use std::time::Duration;

use anyhow::bail;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::PROXY_AUTHORIZATION;
use hyper::http::Extensions;
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{CaptureConnection, HttpConnector, capture_connection};
use hyper_util::client::legacy::{Client, Error as RequestError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::connection::{Activity, TrackingConnector};
use super::connector::{GuardedResolver, OUT_OF_REACH, Reach, connector};
use super::proxy::{Proxies, ProxyConnector};
use super::response::{BodyPrefix, RESPONSE_LIMIT_BYTES, read_to_end};
use crate::tls::certificate_problem;

/// How often an HTTP/2 connection gets a PING, and how long the reply may take: a dead event stream is noticed within
/// ten seconds.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A pool of connections. Clones share it.
#[derive(Clone)]
pub struct HttpClient {
    client: PooledClient,
    fresh: PooledClient,
    proxies: Proxies,
    timeout: Duration,
    reach: Reach,
    /// The setting for CA certificates, for error messages.
    cacert_flag: &'static str,
}

type PooledClient =
    Client<TrackingConnector<HttpsConnector<ProxyConnector<HttpConnector<GuardedResolver>>>>, Full<Bytes>>;

impl HttpClient {
    /// Keeps up to `idle_connections` connections open, and fails a request after `timeout`.
    pub fn new(tls: ClientConfig, idle_connections: usize, timeout: Duration) -> HttpClient {
        let proxies = Proxies::from_environment();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector(&proxies, Reach::Anywhere, timeout));
        let connector = TrackingConnector { connector, proxies: proxies.clone() };
        let client = |idle_connections| {
            Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(idle_connections)
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .http2_keep_alive_interval(PING_INTERVAL)
                .http2_keep_alive_timeout(PING_TIMEOUT)
                .http2_keep_alive_while_idle(true)
                .build(connector.clone())
        };
        let (client, fresh) = (client(idle_connections), client(0));
        HttpClient { client, fresh, proxies, timeout, reach: Reach::Anywhere, cacert_flag: "--cacert" }
    }

    /// A client for webhooks: HTTP/1.1, only to addresses within reach. Keeps up to `idle_connections` open.
    pub fn for_webhooks(
        tls: ClientConfig,
        reach: Reach,
        timeout: Duration,
        idle_connections: usize,
    ) -> HttpClient {
        let proxies = Proxies::from_environment();
        // Half of the time is for connecting, the rest for the exchange.
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector(&proxies, reach, timeout / 2));
        let connector = TrackingConnector { connector, proxies: proxies.clone() };
        let client = |idle_connections| {
            Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(idle_connections)
                .pool_timer(TokioTimer::new())
                .build(connector.clone())
        };
        let (client, fresh) = (client(idle_connections), client(0));
        HttpClient { client, fresh, proxies, timeout, reach, cacert_flag: "--alert-cacert" }
    }

    /// Sends a request and reads the response with up to 256 KiB of its body. Redirects are not followed.
    pub async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        self.read(request, RESPONSE_LIMIT_BYTES).await
    }

    /// Sends a request and reads the response; a body above the limit is an error.
    pub async fn exchange_within(
        &self,
        request: Request<Full<Bytes>>,
        limit_bytes: usize,
    ) -> anyhow::Result<Response<Bytes>> {
        let response = self.read(request, limit_bytes).await?;
        if response.body().len() > limit_bytes {
            bail!("the response is longer than {limit_bytes} bytes");
        }
        Ok(response)
    }

    /// Sends a request and returns when the response headers are there; the timeout ends with them.
    pub async fn open(&self, mut request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        let connection = capture_connection(&mut request);
        self.in_time(&connection, self.request(request)).await
    }

    /// Sends a request of whose response only the status and headers matter: a body that does not end is no error.
    pub async fn deliver(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<BodyPrefix>> {
        let (parts, body) = self.open(request).await?.into_parts();
        Ok(Response::from_parts(parts, BodyPrefix::read(body).await))
    }

    async fn read(
        &self,
        mut request: Request<Full<Bytes>>,
        limit_bytes: usize,
    ) -> anyhow::Result<Response<Bytes>> {
        let connection = capture_connection(&mut request);
        self.in_time(&connection, async {
            let (parts, body) = self.request(request).await?.into_parts();
            let body = read_to_end(body, limit_bytes).await?;
            if let Some(activity) = parts.extensions.get::<Activity>() {
                activity.obey_keep_alive(&parts.headers);
            }
            Ok(Response::from_parts(parts, body))
        })
        .await
    }

    /// Sends a request. If the server closed the idle connection at that moment, retries at once on a new connection.
    ///
    /// RFC 9112, section 9.3.1, allows this for idempotent requests, and all of ours are: reads, token requests, and
    /// events with an idempotency key. The server may have processed the first attempt.
    async fn request(&self, mut request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        // The connector does not pass IP literals to the resolver.
        let host = request.uri().host().unwrap_or_default().trim_matches(['[', ']']);
        if host.parse().is_ok_and(|address| !self.reach.allows(address)) {
            bail!(OUT_OF_REACH);
        }
        let authorization = self.proxies.authorization(request.uri());
        request.headers_mut().extend(authorization.map(|value| (PROXY_AUTHORIZATION, value)));
        let retry = request.clone();
        let response = match self.client.request(request).await {
            Err(error) if was_closed_between_requests(&error) => self.fresh.request(retry).await,
            response => response,
        };
        response.map_err(|error| problem_of(error, self.cacert_flag))
    }

    /// Fails an exchange after the timeout. Its connection gets no other request: HTTP/2 requests share a connection,
    /// and the network may have lost it.
    async fn in_time<T>(
        &self,
        connection: &CaptureConnection,
        exchange: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        if let Ok(result) = timeout(self.timeout, exchange).await {
            return result;
        }
        if let Some(connected) = connection.connection_metadata().as_ref() {
            connected.poison();
        }
        bail!("no response within {}", humantime::format_duration(self.timeout))
    }
}

fn was_closed_between_requests(error: &RequestError) -> bool {
    let mut extensions = Extensions::new();
    if let Some(connection) = error.connect_info() {
        connection.get_extras(&mut extensions);
    }
    extensions.get::<Activity>().is_some_and(Activity::was_closed_between_requests)
}

/// Why a request failed, in a few words.
fn problem_of(error: RequestError, cacert_flag: &str) -> anyhow::Error {
    if let Some(problem) = certificate_problem(&error, cacert_flag) {
        return anyhow::anyhow!(problem);
    }
    if !error.is_connect() {
        return error.into();
    }
    let mut cause: &(dyn Error + 'static) = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let io_error = cause.downcast_ref::<io::Error>();
    match io_error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
        true => anyhow::anyhow!("cannot connect: no address of the host answers"),
        false => anyhow::anyhow!("cannot connect: {cause}"),
    }
}
