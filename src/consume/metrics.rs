//! What `consume` tells of itself, as Prometheus text or OpenMetrics.
//!
//! No label comes from what clients send: routes and outcomes are a fixed few.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::timeout;

use crate::alert::{DeliveryMetrics, kind_of};
use crate::core::metrics::DURATION_BUCKETS;
use crate::core::timestamp::Timestamp;
use crate::exposition;
use crate::store::Store;

/// How long a scrape waits for the store; without it, what it would have told is left as it was.
const STORE_TIME: Duration = Duration::from_secs(2);

/// What is counted and measured.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    events: Family<OutcomeLabels, Counter>,
    /// Connections that are open.
    pub connections: Gauge,
    /// Streams of events that are open.
    pub event_streams: Gauge,
    queue_events: Gauge,
    queue_bytes: Gauge,
    last_commit: Gauge<f64, AtomicU64>,
    database_bytes: Gauge,
    log_bytes: Gauge,
    open_deliveries: Family<ChannelLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChannelLabels {
    channel: &'static str,
}

/// What became of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOutcome {
    /// On disk.
    Stored,
    /// On disk since an earlier request with the same key.
    Repeated,
    /// Not stored: the key stands for another body.
    KeyReused,
    /// Not stored, or unknown: the store or the queue.
    Failed,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new(store: &Store, deliveries: &DeliveryMetrics) -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("eventctl"),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(request_buckets),
            events: Family::default(),
            connections: Gauge::default(),
            event_streams: Gauge::default(),
            queue_events: Gauge::default(),
            queue_bytes: Gauge::default(),
            last_commit: Gauge::default(),
            database_bytes: Gauge::default(),
            log_bytes: Gauge::default(),
            open_deliveries: Family::default(),
        };
        metrics.register(store, deliveries);
        metrics
    }

    fn register(&mut self, store: &Store, deliveries: &DeliveryMetrics) {
        let registry = &mut self.registry;
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        registry.register("http_requests", "Requests that were answered", self.requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Time from the head of a request to its response",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        registry.register("connections", "Connections that are open", self.connections.clone());
        registry.register("event_streams", "Streams of events that are open", self.event_streams.clone());
        registry.register("events", "Events that clients sent, by what became of them", self.events.clone());
        let writer = store.metrics();
        registry.register_with_unit(
            "commit_duration",
            "Time that commits of events took",
            Unit::Seconds,
            writer.commit_seconds.clone(),
        );
        registry.register("commit_events", "Events in a commit", writer.commit_events.clone());
        registry.register(
            "store_failures",
            "Times that the store stopped taking writes",
            writer.failures.clone(),
        );
        registry.register("queue_events", "Events that wait for their commit", self.queue_events.clone());
        registry.register_with_unit(
            "queue_size",
            "Requests that are read or wait for their commit",
            Unit::Bytes,
            self.queue_bytes.clone(),
        );
        registry.register_with_unit(
            "last_commit_timestamp",
            "When the last commit was",
            Unit::Seconds,
            self.last_commit.clone(),
        );
        registry.register_with_unit("store_size", "The database", Unit::Bytes, self.database_bytes.clone());
        registry.register_with_unit(
            "store_log_size",
            "The log that is not yet copied into the database",
            Unit::Bytes,
            self.log_bytes.clone(),
        );
        registry.register(
            "alert_deliveries",
            "Attempts to deliver alerts, by kind of channel and what became of them",
            deliveries.attempts.clone(),
        );
        registry.register(
            "alert_deliveries_open",
            "Deliveries that are still to be made, by kind of channel",
            self.open_deliveries.clone(),
        );
    }

    /// Counts a request that was answered.
    pub fn answered(&self, target: Target, status: StatusCode, took: Duration) {
        let Target { route, method } = target;
        self.requests.get_or_create(&RequestLabels { route, method, status: status.as_u16() }).inc();
        self.request_seconds.get_or_create(&RouteLabels { route }).observe(took.as_secs_f64());
    }

    /// Counts events by what became of them.
    pub fn settled(&self, outcome: EventOutcome, count: usize) {
        let outcome = match outcome {
            EventOutcome::Stored => "stored",
            EventOutcome::Repeated => "repeated",
            EventOutcome::KeyReused => "key_reused",
            EventOutcome::Failed => "failed",
        };
        self.events.get_or_create(&OutcomeLabels { outcome }).inc_by(count as u64);
    }

    /// All of it as text, with what the store tells at this moment.
    pub async fn text(&self, store: &Store, format: exposition::Format) -> String {
        let backlog = store.backlog();
        self.queue_events.set(as_gauge(backlog.events));
        self.queue_bytes.set(as_gauge(backlog.bytes));
        if let Some(ago) = backlog.last_commit {
            self.last_commit.set(Timestamp::now().before(ago).as_microseconds() as f64 / 1e6);
        }
        let asked = store.read(|reader| Ok((reader.size()?, reader.open_deliveries()?)));
        if let Ok(Ok((size, open))) = timeout(STORE_TIME, asked).await {
            self.database_bytes.set(size.database_bytes);
            self.log_bytes.set(size.log_bytes.unwrap_or_default());
            self.open_deliveries.clear();
            for (channel, count) in open {
                let channel = kind_of(&channel);
                self.open_deliveries.get_or_create(&ChannelLabels { channel }).inc_by(count);
            }
        }
        exposition::text_of(&self.registry, format)
    }
}

/// What a request asks for, as far as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// The path, with a name in place of an id.
    pub route: &'static str,
    /// The method.
    pub method: &'static str,
}

impl Target {
    /// One of a fixed few, whatever the request says.
    pub fn of(method: &Method, path: &str) -> Target {
        let route = match path.strip_suffix('/').unwrap_or(path) {
            "" => "/",
            "/event" => "/event",
            "/event/stream" => "/event/stream",
            "/api/v1/health-alert" => "/api/v1/health-alert",
            "/token" => "/token",
            "/health" => "/health",
            "/ready" => "/ready",
            "/metrics" => "/metrics",
            "/openapi.json" => "/openapi.json",
            path if path.starts_with("/event/") => "/event/{id}",
            _ => "other",
        };
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            _ => "other",
        };
        Target { route, method }
    }
}

fn request_buckets() -> Histogram {
    Histogram::new(DURATION_BUCKETS)
}

fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
