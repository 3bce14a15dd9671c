//! Metrics as text in the format that a scraper accepts, and an HTTP server for `--metrics`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
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

use crate::core::negotiation::{weight_of, weights};
use crate::error::Hint;

/// At most this many connections are served at once; others wait.
const CONNECTIONS: usize = 16;

const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// For a client to send the headers of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text format 0.0.4, which `promtool` and pushgateways read.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// OpenMetrics if the scraper accepts it and prefers no plain text, as Prometheus does; otherwise the format that all
    /// scrapers read.
    pub fn accepted(headers: &HeaderMap) -> Format {
        let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let weights: Vec<(&str, f32)> = weights(ranges).collect();
        let open = weight_of(&weights, "application/openmetrics-text").unwrap_or(0.0);
        let plain = weight_of(&weights, "text/plain").unwrap_or(0.0);
        if open > 0.0 && open >= plain { Format::OpenMetrics } else { Format::Prometheus }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

pub fn text_of(registry: &Registry, format: Format) -> String {
    let mut text = String::new();
    encode(&mut text, registry).expect("memory takes all text");
    match format {
        Format::OpenMetrics => text,
        Format::Prometheus => prometheus_text(&text),
    }
}

/// OpenMetrics converted to Prometheus' older format: counters and infos are named by their samples, and there are neither
/// units nor an end marker.
fn prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        let described = line.strip_prefix("# ").and_then(|rest| {
            let mut words = rest.splitn(3, ' ');
            Some((words.next()?, words.next()?, words.next().unwrap_or_default()))
        });
        match described {
            Some(("HELP", _, words)) => help = Some(words),
            Some(("TYPE", family, kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                let help = help.take().unwrap_or_default();
                text += &format!("# HELP {family}{suffix} {help}\n# TYPE {family}{suffix} {kind}\n");
            }
            // Units, and the end.
            _ if line.starts_with('#') => {}
            _ => {
                text += line;
                text.push('\n');
            }
        }
    }
    text
}

/// Listens on an address such as `127.0.0.1:9100`, and logs the URL.
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

/// Serves `GET /metrics`; `expose` makes the text.
pub async fn serve<F: Future<Output = String> + Send + 'static>(
    listener: TcpListener,
    expose: impl Fn(Format) -> F + Clone + Send + Sync + 'static,
) -> Infallible {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let expose = expose.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    let _ = timeout(CONNECTION_TIMEOUT, serve_connection(stream, expose)).await;
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection<F: Future<Output = String>>(stream: TcpStream, expose: impl Fn(Format) -> F) {
    let service = service_fn(|request: Request<Incoming>| {
        let expose = &expose;
        async move { Ok::<_, Infallible>(answer(&request, expose).await) }
    });
    // An error of a connection is its client's affair.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer<F: Future<Output = String>>(
    request: &Request<Incoming>,
    expose: impl Fn(Format) -> F,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    } else {
        let format = Format::accepted(request.headers());
        *response.body_mut() = Full::from(expose(format).await);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        headers.insert(VARY, HeaderValue::from_static("Accept"));
    }
    response
}
