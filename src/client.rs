//! The HTTP client: http and https, HTTP/1.1 and HTTP/2, bounded in time and in what it reads.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jiff::fmt::rfc2822;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::core::network::is_public;
use crate::tls::certificate_problem;

/// What all requests say who sends them.
pub const USER_AGENT: &str = concat!("eventctl/", env!("CARGO_PKG_VERSION"));

/// How much of a response's body is read, in bytes; the connection of a longer one is given up.
const RESPONSE_LIMIT_BYTES: usize = 256 << 10;

/// How long the body of a response is waited for whose status says all that is asked for.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// The longest wait that a receiver can ask for with `Retry-After`.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(3600);

/// Connections that are kept alive, and what bounds them. A clone shares them.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

impl HttpClient {
    /// A client that keeps so many connections open, and gives a response up after `timeout`.
    pub fn new(tls: ClientConfig, idle_connections: usize, timeout: Duration) -> HttpClient {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(idle_connections)
            .pool_timer(TokioTimer::new())
            .build(connector);
        HttpClient { client, timeout }
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
    pub async fn open(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        self.in_time(self.request(request)).await
    }

    async fn read(
        &self,
        request: Request<Full<Bytes>>,
        limit_bytes: usize,
    ) -> anyhow::Result<Response<Bytes>> {
        self.in_time(async {
            let (head, body) = self.request(request).await?.into_parts();
            Ok(Response::from_parts(head, read_to_end(body, limit_bytes).await?))
        })
        .await
    }

    async fn request(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        let response = self.client.request(request).await;
        response.map_err(|error| match certificate_problem(&error, "--cacert") {
            Some(problem) => anyhow::anyhow!(problem),
            None => error.into(),
        })
    }

    async fn in_time<T>(&self, exchange: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        timeout(self.timeout, exchange)
            .await
            .unwrap_or_else(|_| bail!("no response within {}", humantime::format_duration(self.timeout)))
    }
}

/// Which addresses a request may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Any.
    Anywhere,
    /// Those of the public internet, whatever the URL's host stands for.
    PublicOnly,
}

/// Sends a request over a connection of its own, to an address that was looked at before: a host that stands for
/// another address from one moment to the next is of no use. Redirects are not followed.
///
/// The head of the response is all that counts: once it is there, a body that does not end changes nothing.
///
/// # Errors
/// The address is out of reach, the connection fails, or the head does not arrive in time.
pub async fn send_once(
    url: &Url,
    mut request: Request<Full<Bytes>>,
    tls: &Arc<ClientConfig>,
    reach: Reach,
    time_limit: Duration,
) -> anyhow::Result<Response<()>> {
    let host = url.host_str().context("the URL has no host")?;
    *request.uri_mut() = url[url::Position::BeforePath..url::Position::AfterQuery].parse()?;
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    request.headers_mut().insert(HOST, authority.parse()?);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let exchange = async {
        let stream = connect(url, reach).await?;
        if url.scheme() == "http" {
            return exchange_on(stream, request).await;
        }
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
        let stream = connecting.map_err(|error| match certificate_problem(&error, "--alert-cacert") {
            Some(problem) => anyhow::anyhow!(problem),
            None => anyhow::Error::new(error).context("cannot encrypt"),
        })?;
        exchange_on(stream, request).await
    };
    timeout(time_limit, exchange)
        .await
        .unwrap_or_else(|_| bail!("no response within {}", humantime::format_duration(time_limit)))
}

async fn connect(url: &Url, reach: Reach) -> anyhow::Result<TcpStream> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or_default();
    let addresses = lookup_host((host, port)).await.context("cannot look the host up")?;
    let mut problem = anyhow::anyhow!("the host has no address");
    for address in addresses {
        if reach == Reach::PublicOnly && !is_public(address.ip()) {
            problem = anyhow::anyhow!("the host is not on the public internet: see --alert-allow-private");
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => problem = anyhow::Error::new(error).context("cannot connect"),
        }
    }
    Err(problem)
}

async fn exchange_on(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Response<()>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        // Some receivers take it amiss when they cannot finish what they say.
        let _ = timeout(LINGER_TIME, read_to_end(body, RESPONSE_LIMIT_BYTES)).await;
        Ok(Response::from_parts(head, ()))
    };
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        response = &mut exchange => {
            // What the connection fails with at its end is of no interest.
            let _ = timeout(LINGER_TIME, connection).await;
            response
        }
        // It ends first where it fails, or has read all of the response; the exchange knows which.
        _ = &mut connection => exchange.await,
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

/// How long a response asks to wait (RFC 9110, section 10.2.3: a number of seconds, or a date), up to an hour.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = rfc2822::parse(value).ok()?;
            let left = date.timestamp().duration_since(jiff::Timestamp::now());
            Duration::try_from(left).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_AFTER_LIMIT))
}

#[cfg(test)]
mod tests {
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
