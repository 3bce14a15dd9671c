//! What a run of sends measured: counts, a window of recent responses, distributions of time.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

/// How many responses the failure rate looks back on.
const WINDOW: usize = 100;

/// Decimal digits that a distribution keeps of every value.
const SIGNIFICANT_DIGITS: u8 = 3;

/// The longest duration that a distribution tells from longer ones: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Upper bounds of the buckets of durations for who scrapes, in seconds.
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
    /// Adds a duration; above a year it counts as one.
    pub fn record(&mut self, duration: Duration) {
        let nanoseconds = duration.min(LONGEST).as_nanos();
        let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
        self.histogram.record(nanoseconds).expect("the histogram grows to the longest duration");
    }

    /// The duration that this share of all (0 to 1) does not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_quantile(share))
    }

    /// p50, p90, p99 and the longest.
    pub fn quartet(&self) -> [Duration; 4] {
        [0.5, 0.9, 0.99, 1.0].map(|share| self.quantile(share))
    }
}

/// `{"p50_ms": …, "p90_ms": …, "p99_ms": …, "max_ms": …}`, or null where nothing was recorded.
impl Serialize for Distribution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.histogram.is_empty() {
            return serializer.serialize_none();
        }
        let milliseconds = self.quartet().map(|duration| duration.as_secs_f64() * 1e3);
        let mut object = serializer.serialize_struct("Distribution", milliseconds.len())?;
        object.serialize_field("p50_ms", &milliseconds[0])?;
        object.serialize_field("p90_ms", &milliseconds[1])?;
        object.serialize_field("p99_ms", &milliseconds[2])?;
        object.serialize_field("max_ms", &milliseconds[3])?;
        object.end()
    }
}

/// Whether the most recent responses were good.
#[derive(Debug, Default)]
pub struct Window {
    recent: VecDeque<bool>,
    good: usize,
}

impl Window {
    /// Adds a response or its failure to arrive.
    pub fn record(&mut self, good: bool) {
        if self.recent.len() == WINDOW && self.recent.pop_front() == Some(true) {
            self.good -= 1;
        }
        self.recent.push_back(good);
        self.good += usize::from(good);
    }

    /// How many of the recent ones were good.
    pub fn good(&self) -> usize {
        self.good
    }

    /// How many there are: at most 100.
    pub fn size(&self) -> usize {
        self.recent.len()
    }

    /// The share of failures, in percent.
    pub fn failure_percent(&self) -> f64 {
        if self.recent.is_empty() {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "both are at most 100")]
        let share = (self.size() - self.good) as f64 / self.size() as f64;
        share * 100.0
    }
}

/// What a run comes to.
#[derive(Default, Serialize)]
pub struct Summary {
    /// Events that were sent at least once.
    pub sent: u64,
    /// Events that were answered 2xx.
    pub delivered: u64,
    /// Events that the receiver refused for good, and lines that were no events.
    pub rejected: u64,
    /// Events that never had an answer to rely on.
    pub undelivered: u64,
    /// Sends that the schedule had and that did not happen.
    pub missed_ticks: u64,
    /// Sends beyond the first of an event.
    pub retries: u64,
    /// How far from its scheduled time an event was sent first.
    pub jitter: Distribution,
    /// From a send to its response.
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
    fn the_window_forgets_what_is_old() {
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
        let quartet = distribution.quartet().map(|duration| duration.as_secs_f64() * 1e3);
        for (measured, expected) in quartet.into_iter().zip([50.0, 90.0, 99.0, 100.0]) {
            assert!((measured / expected - 1.0).abs() < 1e-3, "{quartet:?}");
        }
        let object = serde_json::to_value(&distribution).unwrap();
        for (name, measured) in ["p50_ms", "p90_ms", "p99_ms", "max_ms"].iter().zip(quartet) {
            assert_eq!(object[name], measured);
        }
    }
}
