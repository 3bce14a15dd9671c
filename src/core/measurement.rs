//! Measurements of a run: counts, a window of recent responses, distributions of durations.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

/// How many recent responses the failure rate covers.
const WINDOW: usize = 100;

/// The decimal digits of precision of a distribution.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Longer durations are recorded as this one: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The upper bounds of Prometheus histogram buckets, in seconds.
pub const DURATION_BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// A distribution of durations, to three significant digits.
pub struct Distribution {
    /// In nanoseconds.
    histogram: Histogram<u64>,
}

impl Default for Distribution {
    fn default() -> Distribution {
        let histogram =
            Histogram::new(SIGNIFICANT_DIGITS).expect("three digits are within hdrhistogram's range");
        Distribution { histogram }
    }
}

impl Distribution {
    pub fn record(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.min(LONGEST).as_nanos()).unwrap_or(u64::MAX);
        self.histogram.record(nanoseconds).expect("the histogram grows to the longest duration");
    }

    /// The duration that this share of all durations (0 to 1) does not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_quantile(share))
    }

    /// In nanoseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// p50, p90, p99 and the maximum.
    pub fn percentiles(&self) -> [Duration; 4] {
        [0.5, 0.9, 0.99, 1.0].map(|share| self.quantile(share))
    }
}

/// `{"p50_ms": …, "p90_ms": …, "p99_ms": …, "max_ms": …}`, or null where nothing was recorded.
impl Serialize for Distribution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.histogram.is_empty() {
            return serializer.serialize_none();
        }
        let milliseconds = self.percentiles().map(|duration| duration.as_secs_f64() * 1e3);
        let mut object = serializer.serialize_struct("Distribution", milliseconds.len())?;
        object.serialize_field("p50_ms", &milliseconds[0])?;
        object.serialize_field("p90_ms", &milliseconds[1])?;
        object.serialize_field("p99_ms", &milliseconds[2])?;
        object.serialize_field("max_ms", &milliseconds[3])?;
        object.end()
    }
}

/// The most recent responses: whether each was good.
#[derive(Debug, Default)]
pub struct Window {
    recent: VecDeque<bool>,
    good: usize,
}

impl Window {
    pub fn record(&mut self, good: bool) {
        if self.recent.len() == WINDOW && self.recent.pop_front() == Some(true) {
            self.good -= 1;
        }
        self.recent.push_back(good);
        self.good += usize::from(good);
    }

    pub fn good(&self) -> usize {
        self.good
    }

    /// At most 100.
    pub fn size(&self) -> usize {
        self.recent.len()
    }

    pub fn failure_percent(&self) -> f64 {
        if self.recent.is_empty() {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "both are at most 100")]
        let share = (self.size() - self.good) as f64 / self.size() as f64;
        share * 100.0
    }
}

#[derive(Default, Serialize)]
pub struct Summary {
    /// Events that were sent at least once.
    pub sent: u64,
    /// Events that were answered 2xx.
    pub delivered: u64,
    /// Events that failed permanently, and input that was not an event.
    pub rejected: u64,
    /// Events whose attempts all failed transiently, or that were abandoned.
    pub undelivered: u64,
    /// Scheduled sends that did not happen.
    pub missed_ticks: u64,
    /// Attempts beyond the first of an event.
    pub retries: u64,
    /// From the scheduled time of an event to its first attempt.
    pub jitter: Distribution,
    /// From an attempt to its response.
    pub latency: Distribution,
    /// From the scheduled time of an event to its last response.
    pub latency_from_schedule: Distribution,
}

impl Summary {
    /// Whether every event was delivered.
    pub fn is_complete(&self) -> bool {
        self.rejected == 0 && self.undelivered == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_holds_the_last_100_responses() {
        let mut window = Window::default();
        window.record(false);
        assert_eq!((window.good(), window.size(), window.failure_percent()), (0, 1, 100.0));
        for _ in 0..99 {
            window.record(true);
        }
        assert_eq!((window.good(), window.size(), window.failure_percent()), (99, 100, 1.0));
        window.record(true);
        assert_eq!((window.good(), window.size(), window.failure_percent()), (100, 100, 0.0));
    }

    #[test]
    fn distributions_keep_three_digits() {
        let mut distribution = Distribution::default();
        for milliseconds in 1..=100 {
            distribution.record(Duration::from_millis(milliseconds));
        }
        let percentiles = distribution.percentiles().map(|duration| duration.as_secs_f64() * 1e3);
        for (measured, expected) in percentiles.into_iter().zip([50.0, 90.0, 99.0, 100.0]) {
            assert!((measured / expected - 1.0).abs() < 1e-3, "{percentiles:?}");
        }
        let object = serde_json::to_value(&distribution).unwrap();
        for (name, measured) in ["p50_ms", "p90_ms", "p99_ms", "max_ms"].iter().zip(percentiles) {
            assert_eq!(object[name], measured);
        }
    }
}
