//! The metrics of `consume`, as Prometheus text or OpenMetrics.
//!
//! No label comes from what clients send: routes and outcomes are a fixed few, and of the subscriptions only some are shown.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::timeout;

use super::route::Target;
use crate::alert::{DeliveryMetrics, kind_of};
use crate::core::measurement::DURATION_BUCKETS;
use crate::core::timestamp::Timestamp;
use crate::exposition;
use crate::store::Store;
use crate::store::outbox::open_deliveries;
use crate::store::subscriptions::{Progress, Subscription, all_with_progress};

/// The most subscriptions that have metrics, the first by name.
const SUBSCRIPTION_LIMIT: usize = 100;

/// How long a scrape waits for the store; beyond, the store's own metrics keep their last values.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    events: Family<OutcomeLabels, Counter>,
    pub connections: Gauge,
    pub event_streams: Gauge,
    queue_events: Gauge,
    queue_bytes: Gauge,
    last_commit: Gauge<f64, AtomicU64>,
    database_bytes: Gauge,
    log_bytes: Gauge,
    open_deliveries: Family<ChannelLabels, Gauge>,
    subscriptions: SubscriptionMetrics,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOutcome {
    Stored,
    /// Stored by an earlier request with the same key.
    Repeated,
    /// Not stored: the key was used with another body.
    KeyReused,
    /// Not stored, or unknown.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SubscriptionLabels {
    subscription: String,
}

/// How far the subscriptions of the store are.
#[derive(Default)]
struct SubscriptionMetrics {
    lag: Family<SubscriptionLabels, Gauge>,
    in_flight: Family<SubscriptionLabels, Gauge>,
    parked: Family<SubscriptionLabels, Gauge>,
    oldest: Family<SubscriptionLabels, Gauge<f64, AtomicU64>>,
}

impl SubscriptionMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "subscription_lag",
            "Events that a subscription has not handed out, at most 10000",
            self.lag.clone(),
        );
        registry.register(
            "subscription_in_flight",
            "Events of a subscription that workers have",
            self.in_flight.clone(),
        );
        registry.register(
            "subscription_parked",
            "Events that a subscription has parked",
            self.parked.clone(),
        );
        registry.register_with_unit(
            "subscription_oldest_timestamp",
            "When the oldest event that is not acknowledged was received",
            Unit::Seconds,
            self.oldest.clone(),
        );
    }

    fn set(&self, subscriptions: Vec<(Subscription, Progress)>) {
        self.lag.clear();
        self.in_flight.clear();
        self.parked.clear();
        self.oldest.clear();
        for (subscription, progress) in subscriptions {
            let labels = SubscriptionLabels { subscription: subscription.name };
            self.lag.get_or_create(&labels).set(progress.lag);
            self.in_flight.get_or_create(&labels).set(progress.in_flight);
            self.parked.get_or_create(&labels).set(progress.parked);
            if let Some(oldest) = progress.oldest {
                self.oldest.get_or_create(&labels).set(oldest.as_microseconds() as f64 / 1e6);
            }
        }
    }
}

impl Metrics {
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
            subscriptions: SubscriptionMetrics::default(),
        };
        metrics.register(store, deliveries);
        metrics
    }

    fn register(&mut self, store: &Store, deliveries: &DeliveryMetrics) {
        let registry = &mut self.registry;
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        registry.register("http_requests", "Answered requests", self.requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Time from the headers of a request to its response",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register("event_streams", "Open event streams", self.event_streams.clone());
        registry.register("events", "Events that clients sent, by outcome", self.events.clone());
        let writer = store.metrics();
        registry.register_with_unit(
            "commit_duration",
            "Duration of commits of events",
            Unit::Seconds,
            writer.commit_seconds.clone(),
        );
        registry.register("commit_events", "Events in a commit", writer.commit_events.clone());
        registry.register(
            "store_failures",
            "Times that the store stopped accepting writes",
            writer.failures.clone(),
        );
        registry.register("queue_events", "Events that wait for a commit", self.queue_events.clone());
        registry.register_with_unit(
            "queue_size",
            "Memory of requests that are being read or wait for a commit",
            Unit::Bytes,
            self.queue_bytes.clone(),
        );
        registry.register_with_unit(
            "last_commit_timestamp",
            "Time of the last commit",
            Unit::Seconds,
            self.last_commit.clone(),
        );
        registry.register_with_unit(
            "store_size",
            "Size of the database",
            Unit::Bytes,
            self.database_bytes.clone(),
        );
        registry.register_with_unit(
            "store_log_size",
            "Size of the write-ahead log",
            Unit::Bytes,
            self.log_bytes.clone(),
        );
        let asynchronous_replicas = Gauge::<i64>::default();
        asynchronous_replicas.set(store.has_asynchronous_replicas.into());
        registry.register(
            "asynchronous_replicas",
            "1 where the server of the store had replicas at the start and its commits wait for none",
            asynchronous_replicas,
        );
        self.subscriptions.register(registry);
        registry.register(
            "alert_deliveries",
            "Attempts to deliver alerts, by kind of channel and outcome",
            deliveries.attempts.clone(),
        );
        registry.register(
            "alert_deliveries_open",
            "Pending alert deliveries, by kind of channel",
            self.open_deliveries.clone(),
        );
    }

    pub fn answered(&self, target: Target, status: StatusCode, took: Duration) {
        let Target { route, method } = target;
        self.requests.get_or_create(&RequestLabels { route, method, status: status.as_u16() }).inc();
        self.request_seconds.get_or_create(&RouteLabels { route }).observe(took.as_secs_f64());
    }

    pub fn settled(&self, outcome: EventOutcome, count: usize) {
        let outcome = match outcome {
            EventOutcome::Stored => "stored",
            EventOutcome::Repeated => "repeated",
            EventOutcome::KeyReused => "key_reused",
            EventOutcome::Failed => "failed",
        };
        self.events.get_or_create(&OutcomeLabels { outcome }).inc_by(count as u64);
    }

    /// The metrics as text, with the current state of the store.
    pub async fn text(&self, store: &Store, format: exposition::Format) -> String {
        let backlog = store.backlog();
        self.queue_events.set(as_gauge(backlog.events));
        self.queue_bytes.set(as_gauge(backlog.bytes));
        if let Some(ago) = backlog.last_commit {
            self.last_commit.set(Timestamp::now().before(ago).as_microseconds() as f64 / 1e6);
        }
        let reading = store.read(|reader| {
            Ok((reader.size()?, open_deliveries(reader)?, all_with_progress(reader, SUBSCRIPTION_LIMIT)?))
        });
        if let Ok(Ok((size, open, subscriptions))) = timeout(STORE_TIMEOUT, reading).await {
            self.database_bytes.set(size.database_bytes);
            self.log_bytes.set(size.log_bytes.unwrap_or_default());
            self.open_deliveries.clear();
            for (channel, count) in open {
                let channel = kind_of(&channel);
                self.open_deliveries.get_or_create(&ChannelLabels { channel }).inc_by(count);
            }
            self.subscriptions.set(subscriptions);
        }
        exposition::text_of(&self.registry, format)
    }
}

fn request_buckets() -> Histogram {
    Histogram::new(DURATION_BUCKETS)
}

fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
