//! Metrics on an address of their own: OpenMetrics text over HTTP, for whoever scrapes it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::core::hint::Hint;

/// What OpenMetrics' specification 1.0.0 calls its text.
pub const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections that are served at once; further ones wait.
const CONNECTIONS: usize = 16;

/// How long a connection may last.
const CONNECTION_TIME: Duration = Duration::from_secs(30);

/// How long a client may take to send a head.
const HEADER_TIME: Duration = Duration::from_secs(10);

/// How long to wait when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// All that is registered, as text.
pub fn text_of(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).expect("memory takes all text");
    text
}

/// Listens on an address such as `127.0.0.1:9100`, and says where.
///
/// # Errors
/// The address cannot be listened on.
pub async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for metrics"))
        .hint(
            "give --metrics an address and a port of this machine that nobody uses, such as 127.0.0.1:9100",
        )?;
    let address = listener.local_addr().context("cannot tell the address")?;
    info!(%address, "metrics on http://{address}/metrics");
    Ok(listener)
}

/// Serves `GET /metrics` for as long as it is polled; `expose` gives the text.
pub async fn serve<F: Future<Output = String> + Send + 'static>(
    listener: TcpListener,
    expose: impl Fn() -> F + Clone + Send + Sync + 'static,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let expose = expose.clone();
                connections.spawn(async move {
                    let _ = timeout(CONNECTION_TIME, serve_connection(stream, expose)).await;
                    drop(place);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection<F: Future<Output = String>>(stream: TcpStream, expose: impl Fn() -> F) {
    let service = service_fn(|request: Request<Incoming>| {
        let expose = &expose;
        async move { Ok::<_, Infallible>(answer(&request, expose).await) }
    });
    // How a client ends its connection is its own affair.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer<F: Future<Output = String>>(
    request: &Request<Incoming>,
    expose: impl Fn() -> F,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    } else {
        *response.body_mut() = Full::from(expose().await);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT));
    }
    response
}
