//! Instants on the wall clock, in microseconds UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// The longest duration, 1000 years: deadlines and instants that far from now can still be reckoned.
const DURATION_LIMIT: Duration = Duration::from_secs(1000 * 31_557_600);

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The present, by the system's clock.
    pub fn now() -> Timestamp {
        let now = jiff::Timestamp::try_from(SystemTime::now());
        Timestamp(now.unwrap_or(jiff::Timestamp::MAX).as_microsecond())
    }

    /// An instant from microseconds since 1970, as stores keep it.
    pub fn from_microseconds(microseconds: i64) -> Timestamp {
        Timestamp(microseconds)
    }

    /// Microseconds since 1970.
    pub fn as_microseconds(self) -> i64 {
        self.0
    }

    /// The instant so much later.
    pub fn after(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(microseconds_of(duration)))
    }

    /// The instant so much earlier.
    pub fn before(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(microseconds_of(duration)))
    }

    /// The time from an earlier instant to this one; nothing where that is not earlier.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default())
    }

    /// `2024-01-15 12:00:00.000000`, in UTC.
    pub fn to_health_format(self) -> String {
        self.in_jiff().strftime("%Y-%m-%d %H:%M:%S%.6f").to_string()
    }

    fn in_jiff(self) -> jiff::Timestamp {
        let nearest = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(nearest)
    }
}

fn microseconds_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// RFC 3339 with six decimals and `Z`: `2024-01-15T12:00:00.000000Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.6}", self.in_jiff())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads RFC 3339, or a duration back from now such as `5m` or `1h 30m`.
impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Timestamp, String> {
        if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
            return Ok(Timestamp(timestamp.as_microsecond()));
        }
        let back = parse_duration(text).map_err(
            |_| "expected a duration back from now such as `5m`, or RFC 3339 such as `2024-01-15T12:00:00Z`",
        )?;
        Ok(Timestamp::now().before(back))
    }
}

/// Reads a duration of at most 1000 years: `5s`, `250ms`, `1m 30s`, or a bare number of seconds such as `0.5`.
///
/// # Errors
/// What would have been right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = if let Ok(seconds) = text.parse::<f64>() {
        Duration::try_from_secs_f64(seconds)
            .map_err(|_| "expected a number of seconds that is not negative".to_owned())?
    } else {
        humantime::parse_duration(text).map_err(|_| {
            "expected a duration such as `5s`, `250ms` or `1m 30s`, or a number of seconds".to_owned()
        })?
    };
    if duration > DURATION_LIMIT {
        return Err("expected a duration of at most 1000 years".to_owned());
    }
    Ok(duration)
}

/// Reads a duration that is longer than nothing.
///
/// # Errors
/// What would have been right.
pub fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration.is_zero() {
        return Err("expected a duration above zero, such as `5s` or `250ms`".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_print_as_rfc_3339_with_microseconds_and_read_back() {
        let timestamp = Timestamp::from_microseconds(1_705_320_000_000_001);
        assert_eq!(timestamp.to_string(), "2024-01-15T12:00:00.000001Z");
        assert_eq!(timestamp.to_string().parse::<Timestamp>(), Ok(timestamp));
        assert_eq!(timestamp.to_health_format(), "2024-01-15 12:00:00.000001");
        assert_eq!("2024-01-15T13:00:00.000001+01:00".parse::<Timestamp>(), Ok(timestamp));
        let whole_second = Timestamp::from_microseconds(1_705_320_000_000_000);
        assert_eq!(whole_second.to_string(), "2024-01-15T12:00:00.000000Z");
        assert_eq!(whole_second.to_health_format(), "2024-01-15 12:00:00.000000");
    }

    #[test]
    fn a_duration_reads_back_from_now() {
        let earlier: Timestamp = "1h".parse().unwrap();
        let apart = Timestamp::now().as_microseconds() - earlier.as_microseconds();
        assert!((3_600_000_000..3_660_000_000).contains(&apart), "{apart}");
        assert!("yesterday-ish".parse::<Timestamp>().is_err());
    }

    #[test]
    fn the_longest_duration_reads_back_from_now_and_the_instant_reads_back_too() {
        let earliest: Timestamp = "1000y".parse().unwrap();
        assert_eq!(earliest.to_string().parse::<Timestamp>(), Ok(earliest));
        for wrong in ["1001y", "2042022042204202204"] {
            assert!(wrong.parse::<Timestamp>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn instants_beyond_the_calendar_show_as_its_ends() {
        assert!(Timestamp::from_microseconds(i64::MIN).to_string().starts_with("-009999-01-02"));
        assert!(Timestamp::from_microseconds(i64::MAX).to_string().starts_with("9999-12-30"));
    }

    #[test]
    fn durations_are_humantime_or_bare_seconds() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["-1", "NaN", "inf", "", "5 parsecs", "-5s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_duration("1000y"), Ok(DURATION_LIMIT));
        for long in ["31557600001", "1e19", "1000y 1ns", "99999999999999999y"] {
            assert!(parse_duration(long).is_err(), "{long}");
        }
        assert!(parse_positive_duration("0").is_err());
        assert!(parse_positive_duration("0s").is_err());
    }
}
