//! Conditions under which a run counts as failed: `p99 > 50ms`, `undelivered > 0`, `failed > 1%`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::duration::parse_duration_with_unit;
use super::measurement::{Distribution, Summary};

const EXPECTED: &str =
    "expected a condition such as `p99 > 50ms`, `jitter.p99.9 > 1ms`, `undelivered > 0`, `failed > 1%`";

const COUNTS: &str = "expected one of sent, delivered, rejected, undelivered, missed, retries, failed, or a percentile such as \
    p99, max, jitter.p99, schedule.p99";

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    text: String,
    measure: Measure,
    comparison: Comparison,
    limit: f64,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Measure {
    Count(Count),
    /// Of the events that were sent, those that were not delivered, in percent.
    FailedPercent,
    /// In seconds.
    Quantile(Times, f64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Count {
    Sent,
    Delivered,
    Rejected,
    Undelivered,
    Missed,
    Retries,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Times {
    Jitter,
    Latency,
    LatencyFromSchedule,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Condition {
    /// What is compared, as it is shown, if the condition holds for a run.
    pub fn reason(&self, summary: &Summary) -> Option<String> {
        let value = self.measure.of(summary);
        let holds = match self.comparison {
            Comparison::Greater => value > self.limit,
            Comparison::GreaterOrEqual => value >= self.limit,
            Comparison::Less => value < self.limit,
            Comparison::LessOrEqual => value <= self.limit,
        };
        holds.then(|| self.measure.shown(value))
    }
}

impl Measure {
    fn of(self, summary: &Summary) -> f64 {
        match self {
            Measure::Count(count) => count.of(summary) as f64,
            Measure::FailedPercent => {
                let failed = Count::Failed.of(summary) as f64;
                let all = failed + summary.delivered as f64;
                if all == 0.0 { 0.0 } else { 100.0 * failed / all }
            }
            Measure::Quantile(times, share) => times.of(summary).quantile(share).as_secs_f64(),
        }
    }

    fn shown(self, value: f64) -> String {
        match self {
            Measure::Count(_) => value.to_string(),
            Measure::FailedPercent => format!("{value:.2}%"),
            Measure::Quantile(..) => format!("{:.3}ms", value * 1e3),
        }
    }
}

impl Count {
    fn of(self, summary: &Summary) -> u64 {
        match self {
            Count::Sent => summary.sent,
            Count::Delivered => summary.delivered,
            Count::Rejected => summary.rejected,
            Count::Undelivered => summary.undelivered,
            Count::Missed => summary.missed_ticks,
            Count::Retries => summary.retries,
            Count::Failed => summary.rejected + summary.undelivered,
        }
    }
}

impl Times {
    fn of(self, summary: &Summary) -> &Distribution {
        match self {
            Times::Jitter => &summary.jitter,
            Times::Latency => &summary.latency,
            Times::LatencyFromSchedule => &summary.latency_from_schedule,
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        let at = text.find(['<', '>']).ok_or(EXPECTED)?;
        let (name, rest) = (text[..at].trim(), &text[at..]);
        let or_equal = rest[1..].starts_with('=');
        let comparison = match (rest.starts_with('>'), or_equal) {
            (true, false) => Comparison::Greater,
            (true, true) => Comparison::GreaterOrEqual,
            (false, false) => Comparison::Less,
            (false, true) => Comparison::LessOrEqual,
        };
        let limit = rest[1 + usize::from(or_equal)..].trim();
        let (measure, limit) = match (name, limit.strip_suffix('%')) {
            ("failed", Some(percent)) => (Measure::FailedPercent, number(percent)?),
            _ => {
                let measure = measure_of(name)?;
                let limit = match measure {
                    Measure::Quantile(..) => duration(limit)?.as_secs_f64(),
                    Measure::Count(_) | Measure::FailedPercent => number(limit)?,
                };
                (measure, limit)
            }
        };
        Ok(Condition { text: text.trim().to_owned(), measure, comparison, limit })
    }
}

fn measure_of(name: &str) -> Result<Measure, String> {
    let count = match name {
        "sent" => Some(Count::Sent),
        "delivered" => Some(Count::Delivered),
        "rejected" => Some(Count::Rejected),
        "undelivered" => Some(Count::Undelivered),
        "missed" => Some(Count::Missed),
        "retries" => Some(Count::Retries),
        "failed" => Some(Count::Failed),
        _ => None,
    };
    if let Some(count) = count {
        return Ok(Measure::Count(count));
    }
    let (times, quantile) = match name.split_once('.') {
        Some(("jitter", quantile)) => (Times::Jitter, quantile),
        Some(("latency", quantile)) => (Times::Latency, quantile),
        Some(("schedule", quantile)) => (Times::LatencyFromSchedule, quantile),
        _ => (Times::Latency, name),
    };
    let percent = match quantile.strip_prefix('p') {
        _ if quantile == "max" => Some(100.0),
        Some(digits) => digits.parse().ok().filter(|percent| (0.0..=100.0).contains(percent)),
        None => None,
    };
    let percent: f64 = percent.ok_or_else(|| format!("{COUNTS}, not `{name}`"))?;
    Ok(Measure::Quantile(times, percent / 100.0))
}

fn number(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.trim().parse().ok();
    number.filter(|number| number.is_finite() && *number >= 0.0).ok_or_else(|| EXPECTED.to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration_with_unit(text).map_err(|error| format!("{error}; {EXPECTED}"))
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let mut summary = Summary {
            sent: 100,
            delivered: 96,
            rejected: 3,
            undelivered: 1,
            missed_ticks: 7,
            ..Summary::default()
        };
        (1..=100).for_each(|number| summary.latency.record(Duration::from_millis(number)));
        summary.jitter.record(Duration::from_micros(500));
        summary
    }

    #[test]
    fn conditions_hold_as_they_say() {
        for (text, reason) in [
            ("p99 > 50ms", Some("99")),
            ("latency.p99>=99ms", Some("99")),
            ("p50 > 51ms", None),
            ("max > 99ms", Some("100")),
            ("jitter.p99.9 > 400us", Some("0.5")),
            ("jitter.max > 1ms", None),
            ("schedule.p99 > 0s", None),
            ("undelivered > 0", Some("1")),
            ("rejected<=3", Some("3")),
            ("rejected < 3", None),
            ("delivered < 100", Some("96")),
            ("missed > 6", Some("7")),
            ("failed > 3%", Some("4.00%")),
            ("failed > 4%", None),
            ("failed >= 4", Some("4")),
        ] {
            let condition: Condition = text.parse().unwrap();
            let found = condition.reason(&summary());
            let matches = match (&found, reason) {
                (Some(found), Some(reason)) => found.starts_with(reason),
                (found, reason) => found.is_none() == reason.is_none(),
            };
            assert!(matches, "{text}: {found:?}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for wrong in [
            "",
            "p99",
            "p99 > 50",
            "p99 = 5ms",
            "p101 > 1ms",
            "x > 1",
            "sent > x",
            "sent > -1",
            "p > 1s",
            "sent > 1%",
            "jitter > 1ms",
        ] {
            assert!(wrong.parse::<Condition>().is_err(), "{wrong}");
        }
    }
}
