//! The Prometheus metrics of a run.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::attempt::{Attempt, Fate};
use crate::core::measurement::DURATION_BUCKETS;

/// Counters and histograms; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    attempts: Family<AttemptLabels, Counter>,
    events: Family<OutcomeLabels, Counter>,
    missed_ticks: Counter,
    jitter: Histogram,
    latency: Histogram,
    latency_from_schedule: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl Metrics {
    /// The metrics, and the registry that exposes them.
    pub fn new() -> (Metrics, Registry) {
        let histogram = || Histogram::new(DURATION_BUCKETS);
        let metrics = Metrics {
            attempts: Family::default(),
            events: Family::default(),
            missed_ticks: Counter::default(),
            jitter: histogram(),
            latency: histogram(),
            latency_from_schedule: histogram(),
        };
        let mut registry = Registry::with_prefix("eventctl_propagate");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        registry.register("attempts", "Attempts, by class of the response status", metrics.attempts.clone());
        registry.register("events", "Events, by outcome", metrics.events.clone());
        let missed = "Scheduled sends that did not happen";
        registry.register("missed_ticks", missed, metrics.missed_ticks.clone());
        let mut add = |name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        add("jitter", "From the scheduled time of an event to its first attempt", &metrics.jitter);
        add("latency", "From an attempt to its response", &metrics.latency);
        let help = "From the scheduled time of an event to its last response";
        add("latency_from_schedule", help, &metrics.latency_from_schedule);
        (metrics, registry)
    }

    pub fn record_attempt(&self, attempt: &Attempt) {
        let status = match attempt.status {
            Ok(200..=299) => "2xx",
            Ok(300..=399) => "3xx",
            Ok(400..=499) => "4xx",
            Ok(500..=599) => "5xx",
            Ok(_) => "other",
            Err(_) => "none",
        };
        self.attempts.get_or_create(&AttemptLabels { status }).inc();
        if attempt.retry == 0 {
            self.jitter.observe(attempt.jitter.as_secs_f64());
        }
        if attempt.status.is_ok() {
            self.latency.observe(attempt.latency.as_secs_f64());
        }
        if let Some(fate) = attempt.fate {
            if attempt.status.is_ok() {
                self.latency_from_schedule.observe(attempt.latency_from_schedule.as_secs_f64());
            }
            self.record_fate(fate);
        }
    }

    pub fn record_fate(&self, fate: Fate) {
        let outcome = match fate {
            Fate::Delivered => "delivered",
            Fate::Rejected => "rejected",
            Fate::Undelivered => "undelivered",
        };
        self.events.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub fn add_missed_ticks(&self, ticks: u64) {
        self.missed_ticks.inc_by(ticks);
    }
}
