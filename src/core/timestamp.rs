//! Instants on the wall clock, in microseconds UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

use super::duration::parse_duration;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    pub fn now() -> Timestamp {
        let now = jiff::Timestamp::try_from(SystemTime::now());
        Timestamp(now.unwrap_or(jiff::Timestamp::MAX).as_microsecond())
    }

    pub fn from_microseconds(microseconds: i64) -> Timestamp {
        Timestamp(microseconds)
    }

    pub fn as_microseconds(self) -> i64 {
        self.0
    }

    pub fn after(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(microseconds_of(duration)))
    }

    pub fn before(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(microseconds_of(duration)))
    }

    /// The time from an earlier instant to this one; zero if that is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default())
    }

    /// Negative if the other instant is earlier.
    pub fn microseconds_until(self, other: Timestamp) -> i64 {
        other.0.saturating_sub(self.0)
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

/// Reads RFC 3339, Unix seconds of ten digits (2001 to 2286), or a duration back from now such as `5m` or `1h 30m`.
impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Timestamp, String> {
        if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
            return Ok(Timestamp(timestamp.as_microsecond()));
        }
        if let Some(timestamp) = parse_unix_seconds(text) {
            return Ok(timestamp);
        }
        if let Ok(back) = parse_duration(text) {
            return Ok(Timestamp::now().before(back));
        }
        const EXPECTED: &str = "expected a duration back from now such as `5m`, RFC 3339 such as \
                                `2024-01-15T12:00:00Z`, or Unix seconds such as `1705320000`";
        Err(match why_not_rfc_3339(text) {
            Some(reason) => format!("{reason}; {EXPECTED}"),
            None => EXPECTED.to_owned(),
        })
    }
}

/// Ten digits, with or without a fraction: as a duration back from now they would be decades.
fn parse_unix_seconds(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.len() != 10 || !is_number(seconds) || !is_number(fraction) {
        return None;
    }
    let microseconds: String = fraction.chars().chain("000000".chars()).take(6).collect();
    format!("{seconds}{microseconds}").parse().ok().map(Timestamp)
}

/// What is missing in a text that is almost an instant.
fn why_not_rfc_3339(text: &str) -> Option<&'static str> {
    if let Some((start, offset)) = text.rsplit_once(' ')
        && format!("{start}+{offset}").parse::<jiff::Timestamp>().is_ok()
    {
        return Some("a space stands for the `+` of its offset, which is `%2B` in a URL");
    }
    let is_local = matches!(text, "today" | "yesterday") || parse_civil(text).is_some();
    is_local.then_some("a date or a time without its offset from UTC is another instant for everyone")
}

/// A date, or a date and a time, without an offset.
fn parse_civil(text: &str) -> Option<DateTime> {
    let time = text.get(10..)?;
    // The parser would ignore an offset or a time zone after it.
    let is_time = time.chars().all(|character| character.is_ascii_digit() || "Tt :.".contains(character));
    is_time.then(|| text.parse().ok()).flatten()
}

/// An instant as people type it: everything that [`Timestamp`] reads, and dates and times in the local time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTimestamp {
    pub timestamp: Timestamp,
    /// The local time zone and its offset at that time, if the text needed one.
    pub zone: Option<String>,
}

impl LocalTimestamp {
    fn parse_in(text: &str, zone: &TimeZone, now: Timestamp) -> Result<LocalTimestamp, String> {
        let today = now.in_jiff().to_zoned(zone.clone()).date();
        let civil = match text {
            "today" => Some(today.into()),
            "yesterday" => today.yesterday().ok().map(DateTime::from),
            _ => parse_civil(text),
        };
        let Some(civil) = civil else {
            let timestamp = text
                .parse()
                .map_err(|error| format!("{error}, or a local time such as `2024-01-15 12:00`"))?;
            return Ok(LocalTimestamp { timestamp, zone: None });
        };
        let zoned = civil.to_zoned(zone.clone()).map_err(|_| "expected a time of the calendar".to_owned())?;
        let offset = zoned.strftime("%:z");
        let zone_name = match zone.iana_name() {
            _ if zone.is_unknown() => "UTC, as no other time zone is set".to_owned(),
            Some(name) => format!("{name} ({offset})"),
            None => format!("UTC{offset}"),
        };
        Ok(LocalTimestamp { timestamp: Timestamp(zoned.timestamp().as_microsecond()), zone: Some(zone_name) })
    }
}

/// Reads what [`Timestamp`] does, and `2024-01-15`, `2024-01-15 12:00`, `today` and `yesterday` in local time. A day means
/// its start.
impl FromStr for LocalTimestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<LocalTimestamp, String> {
        LocalTimestamp::parse_in(text, &TimeZone::system(), Timestamp::now())
    }
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
    fn ten_digits_are_unix_seconds() {
        for (text, microseconds) in [
            ("1705320000", 1_705_320_000_000_000),
            ("1705320000.", 1_705_320_000_000_000),
            ("1705320000.25", 1_705_320_000_250_000),
            ("1705320000.1234567", 1_705_320_000_123_456),
            ("1000000000", 1_000_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Timestamp(microseconds)), "{text}");
        }
        let back: Timestamp = "999999999".parse().unwrap();
        assert!(back < Timestamp::now().before(Duration::from_secs(999_999_998)), "{back}");
        for wrong in ["1705320000000", "170532000a", "-1705320000"] {
            assert!(wrong.parse::<Timestamp>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_nearly_an_instant_is_explained() {
        for text in ["2024-01-15", "2024-01-15T12:00", "2024-01-15 12:00:00.5", "today", "yesterday"] {
            let error = text.parse::<Timestamp>().unwrap_err();
            assert!(error.starts_with("a date or a time without its offset from UTC"), "{text}: {error}");
        }
        let error = "2024-01-15T12:00:00 02:00".parse::<Timestamp>().unwrap_err();
        assert!(
            error.starts_with("a space stands for the `+` of its offset, which is `%2B` in a URL; expected"),
            "{error}"
        );
        for text in ["tomorrow", "2024-13-15", "2024-01-15 25:00", "12:00"] {
            let error = text.parse::<Timestamp>().unwrap_err();
            assert!(error.starts_with("expected a duration back from now"), "{text}: {error}");
        }
    }

    #[test]
    fn local_times_are_those_of_the_zone() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let now: Timestamp = "2024-06-15T22:30:00Z".parse().unwrap();
        let parse = |text: &str| LocalTimestamp::parse_in(text, &zone, now);
        for (text, expected, offset) in [
            ("2024-01-15", "2024-01-14T23:00:00.000000Z", "+01:00"),
            ("2024-01-15 12:30", "2024-01-15T11:30:00.000000Z", "+01:00"),
            ("2024-06-15T12:30:05.5", "2024-06-15T10:30:05.500000Z", "+02:00"),
            // It is the 16th there already.
            ("today", "2024-06-15T22:00:00.000000Z", "+02:00"),
            ("yesterday", "2024-06-14T22:00:00.000000Z", "+02:00"),
        ] {
            let local = parse(text).unwrap();
            assert_eq!(local.timestamp.to_string(), expected, "{text}");
            let said = local.zone.unwrap_or_default();
            assert_eq!(said, format!("UTC{offset}"), "{text}");
        }
        let unknown = LocalTimestamp::parse_in("2024-01-15", &TimeZone::unknown(), now).unwrap();
        assert_eq!(unknown.timestamp, "2024-01-15T00:00:00Z".parse().unwrap());
        assert_eq!(unknown.zone.as_deref(), Some("UTC, as no other time zone is set"));
        for text in ["2024-01-15T12:00:00Z", "1705320000", "2024-01-15T12:00:00+02:00"] {
            assert_eq!(parse(text), Ok(LocalTimestamp { timestamp: text.parse().unwrap(), zone: None }));
        }
        for wrong in ["2024-01-15T12:00+02:00x", "2024-01-15 12:00[Europe/Berlin]", "tomorrow", "15.1.2024"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
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
}
