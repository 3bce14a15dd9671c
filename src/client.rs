//! The HTTP client: http and https, HTTP/1.1 and HTTP/2, bounded in time and in what it reads.

mod connection;
mod proxy;

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;
use std::vec;

use anyhow::bail;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{HeaderMap, PROXY_AUTHORIZATION, RETRY_AFTER};
use hyper::http::Extensions;
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::{CaptureConnection, HttpConnector, capture_connection};
use hyper_util::client::legacy::{Client, Error as LegacyError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::fmt::rfc2822;
use rustls::ClientConfig;
use tokio::time::timeout;
use tower_service::Service;

use self::connection::{Activity, WatchedConnector};
use self::proxy::{Proxies, ProxyConnector};
use crate::core::network::is_public;
use crate::tls::certificate_problem;

/// What all requests say who sends them.
pub const USER_AGENT: &str = concat!("eventctl/", env!("CARGO_PKG_VERSION"));

/// How much of a response's body is read, in bytes; the connection of a longer one is given up.
const RESPONSE_LIMIT_BYTES: usize = 256 << 10;

/// How many bytes of a response's body are kept where the status is what counts.
const BEGINNING_LIMIT_BYTES: usize = 4 << 10;

/// How often a connection of HTTP/2 is asked whether it is alive, and how long it may take to answer: a stream of events is
/// noticed to be lost within ten seconds.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the body of a response is waited for whose status says all that is asked for.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// The longest wait that a receiver can ask for with `Retry-After`.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(3600);

/// Connections that are kept alive, and what bounds them. A clone shares them.
#[derive(Clone)]
pub struct HttpClient {
    client: PooledClient,
    /// The same, with a new connection for each request.
    fresh: PooledClient,
    proxies: Proxies,
    timeout: Duration,
    reach: Reach,
    /// The setting that names authorities.
    cacert_flag: &'static str,
}

type PooledClient =
    Client<WatchedConnector<HttpsConnector<ProxyConnector<HttpConnector<Resolver>>>>, Full<Bytes>>;

impl HttpClient {
    /// A client that keeps so many connections open, and gives a response up after `timeout`.
    pub fn new(tls: ClientConfig, idle_connections: usize, timeout: Duration) -> HttpClient {
        let proxies = Proxies::from_environment();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector(&proxies, Reach::Anywhere, timeout));
        let connector = WatchedConnector(connector);
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

    /// A client for webhooks: over HTTP/1.1 and a connection for each request, to addresses within reach only.
    pub fn for_webhooks(tls: ClientConfig, reach: Reach, timeout: Duration) -> HttpClient {
        let proxies = Proxies::from_environment();
        // Beside the connection there is time for the exchange.
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector(&proxies, reach, timeout / 2));
        let connector = WatchedConnector(connector);
        let fresh = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        HttpClient { client: fresh.clone(), fresh, proxies, timeout, reach, cacert_flag: "--alert-cacert" }
    }

    /// Sends a request and reads the response, of its body no more than 256 KiB. Redirects are not followed.
    ///
    /// # Errors
    /// The connection fails, or the response does not arrive in time.
    pub async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        self.read(request, RESPONSE_LIMIT_BYTES).await
    }

    /// Sends a request and reads the response, whose body must not be longer than the limit.
    ///
    /// # Errors
    /// The connection fails, or the response is too long or does not arrive in time.
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

    /// Sends a request whose response goes on: its head.
    ///
    /// # Errors
    /// The connection fails, or there is no response in time.
    pub async fn open(&self, mut request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        let connection = capture_connection(&mut request);
        self.in_time(&connection, self.request(request)).await
    }

    /// Sends a request whose response's head is all that counts: once it is there, a body that does not end
    /// changes nothing.
    ///
    /// # Errors
    /// The connection fails, or there is no response in time.
    pub async fn deliver(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Beginning>> {
        let (head, body) = self.open(request).await?.into_parts();
        Ok(Response::from_parts(head, read_beginning(body).await))
    }

    async fn read(
        &self,
        mut request: Request<Full<Bytes>>,
        limit_bytes: usize,
    ) -> anyhow::Result<Response<Bytes>> {
        let connection = capture_connection(&mut request);
        self.in_time(&connection, async {
            let (head, body) = self.request(request).await?.into_parts();
            let body = read_to_end(body, limit_bytes).await?;
            if let Some(activity) = head.extensions.get::<Activity>() {
                activity.obey_keep_alive(&head.headers);
            }
            Ok(Response::from_parts(head, body))
        })
        .await
    }

    /// Sends a request; at once again on a connection of its own where the server closed an idle one just then.
    ///
    /// RFC 9112, section 9.3.1, allows that for what may be repeated, as all may that is sent here: reads, requests for
    /// tokens, and events with their key. Whether the server has begun with it is not known.
    async fn request(&self, mut request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        // The connector asks no resolver for an address.
        let host = request.uri().host().unwrap_or_default().trim_matches(['[', ']']);
        if host.parse().is_ok_and(|address| !self.reach.allows(address)) {
            bail!(OUT_OF_REACH);
        }
        let authorization = self.proxies.authorization(request.uri());
        request.headers_mut().extend(authorization.map(|value| (PROXY_AUTHORIZATION, value)));
        let again = request.clone();
        let response = match self.client.request(request).await {
            Err(error) if was_closed_between_requests(&error) => self.fresh.request(again).await,
            response => response,
        };
        response.map_err(|error| problem_of(error, self.cacert_flag))
    }

    /// Gives an exchange up when its time is over. No other request goes to a connection on which one was given up: requests
    /// share a connection of HTTP/2, and the network may have lost it.
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

fn was_closed_between_requests(error: &LegacyError) -> bool {
    let mut extensions = Extensions::new();
    if let Some(connection) = error.connect_info() {
        connection.get_extras(&mut extensions);
    }
    extensions.get::<Activity>().is_some_and(Activity::was_closed_between_requests)
}

/// Why a host is not connected to.
const OUT_OF_REACH: &str = "the host is not on the public internet: see --alert-allow-private";

/// Connects to the addresses of both families in turn (RFC 8305), and shares the time limit among the addresses of
/// a family: one that does not answer keeps nobody from the next.
fn connector(
    proxies: &Proxies,
    reach: Reach,
    time_limit: Duration,
) -> ProxyConnector<HttpConnector<Resolver>> {
    let within = |reach| {
        let mut connector =
            HttpConnector::new_with_resolver(Resolver { resolver: GaiResolver::new(), reach });
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(time_limit));
        connector
    };
    ProxyConnector { direct: within(reach), to_proxy: within(Reach::Anywhere), proxies: proxies.clone() }
}

/// Which addresses a request may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Any.
    Anywhere,
    /// Those of the public internet, whatever the URL's host stands for.
    PublicOnly,
}

impl Reach {
    /// Whether a request may go to this address.
    pub fn allows(self, address: IpAddr) -> bool {
        self == Reach::Anywhere || is_public(address)
    }
}

/// Looks hosts up, and leaves out the addresses that are out of reach: as it is the connector's own, a host that
/// stands for another address from one moment to the next is of no use.
#[derive(Clone)]
struct Resolver {
    resolver: GaiResolver,
    reach: Reach,
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
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

/// The start of a response's body.
#[derive(Debug, Default)]
pub struct Beginning {
    /// What arrived soon, up to a limit.
    pub bytes: Vec<u8>,
    /// Whether that is all.
    pub is_whole: bool,
}

/// Reads a body to its end where that comes soon, and keeps its start.
async fn read_beginning(mut body: Incoming) -> Beginning {
    let mut beginning = Beginning::default();
    let reading = async {
        let mut length = 0;
        // Some receivers take it amiss when they cannot finish what they say.
        while length <= RESPONSE_LIMIT_BYTES {
            let Some(frame) = body.frame().await else {
                beginning.is_whole = length == beginning.bytes.len();
                return;
            };
            let Ok(frame) = frame else { return };
            let data = frame.data_ref().map_or(&[][..], |data| data);
            length += data.len();
            let room = BEGINNING_LIMIT_BYTES - beginning.bytes.len();
            beginning.bytes.extend_from_slice(&data[..room.min(data.len())]);
        }
    };
    let _ = timeout(LINGER_TIME, reading).await;
    beginning
}

/// Says in a few words what a request failed with; `flag` is the setting that names authorities.
fn problem_of(error: hyper_util::client::legacy::Error, flag: &str) -> anyhow::Error {
    if let Some(problem) = certificate_problem(&error, flag) {
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

/// Reads a body so that its connection can be used again, unless it is too long: then somewhat more than the limit.
async fn read_to_end(
    mut body: impl Body<Data = Bytes, Error = hyper::Error> + Unpin,
    limit_bytes: usize,
) -> anyhow::Result<Bytes> {
    let mut content: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        content.extend_from_slice(frame?.data_ref().map_or(&[], |data| data));
        if content.len() > limit_bytes {
            break;
        }
    }
    Ok(content.into())
}

/// Whether another attempt may be answered otherwise: 408, 425, 429 and 5xx.
pub fn is_transient(status: StatusCode) -> bool {
    let transient =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    transient || status.is_server_error()
}

/// How long a response asks to wait, up to an hour: a date, or a number of seconds (RFC 9110, section 10.2.3), which some
/// receivers give with a fraction.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        true => Duration::try_from_secs_f64(value.parse().ok()?).unwrap_or(RETRY_AFTER_LIMIT),
        false => {
            let date = rfc2822::parse(value).ok()?;
            let left = date.timestamp().duration_since(jiff::Timestamp::now());
            Duration::try_from(left).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_AFTER_LIMIT))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn wait_for(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        retry_after(&headers)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(wait_for("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait_for("99999999999"), Some(RETRY_AFTER_LIMIT));
        assert_eq!(wait_for(&"9".repeat(400)), Some(RETRY_AFTER_LIMIT));
        assert_eq!(wait_for(" 1.5 "), Some(Duration::from_millis(1500)));
        assert_eq!(wait_for("0.25"), Some(Duration::from_millis(250)));
        for wrong in ["-1", "1e3", "inf", "NaN", "1.2.3", ".", ""] {
            assert_eq!(wait_for(wrong), None, "{wrong}");
        }
        assert_eq!(wait_for("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
        let soon = soon.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let wait = wait_for(&soon).unwrap();
        assert!((Duration::from_secs(50)..=Duration::from_secs(60)).contains(&wait), "{wait:?}");
        assert_eq!(wait_for("soon"), None);
    }

    #[test]
    fn only_what_may_pass_is_transient() {
        for status in [408, 425, 429, 500, 502, 503, 504, 507] {
            assert!(is_transient(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [302, 400, 401, 404, 409, 413, 415, 422] {
            assert!(!is_transient(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
