//! Instants on the wall clock, in microseconds UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
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

    /// How many microseconds from this instant to another one; negative where that is earlier.
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

/// Ten digits, with or without a fraction: as seconds back from now they would be decades.
fn parse_unix_seconds(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.len() != 10 || !is_number(seconds) || !is_number(fraction) {
        return None;
    }
    let microseconds: String = fraction.chars().chain("000000".chars()).take(6).collect();
    format!("{seconds}{microseconds}").parse().ok().map(Timestamp)
}

/// What keeps a text that is nearly an instant from being one.
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
    // An offset or a time zone behind it would be passed over.
    let is_time = time.chars().all(|character| character.is_ascii_digit() || "Tt :.".contains(character));
    is_time.then(|| text.parse().ok()).flatten()
}

/// An instant as people at a terminal write it: all that a [`Timestamp`] reads, and dates and times of their own time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTimestamp {
    /// The instant.
    pub timestamp: Timestamp,
    /// The time zone that decided which instant it is, and its offset then; none where the text says it all.
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
        let zone = match zone.iana_name() {
            _ if zone.is_unknown() => "UTC, as no other time zone is set".to_owned(),
            Some(name) => format!("{name} ({offset})"),
            None => format!("UTC{offset}"),
        };
        Ok(LocalTimestamp { timestamp: Timestamp(zoned.timestamp().as_microsecond()), zone: Some(zone) })
    }
}

/// Reads what a [`Timestamp`] does, and `2024-01-15`, `2024-01-15 12:00`, `today` and `yesterday` in local time. A day is its start.
impl FromStr for LocalTimestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<LocalTimestamp, String> {
        LocalTimestamp::parse_in(text, &TimeZone::system(), Timestamp::now())
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

/// Reads a duration that names its units, `30d` or `1h 30m`: what is deleted or given up by it must not depend on a
/// guess.
///
/// # Errors
/// What would have been right.
pub fn parse_duration_with_unit(text: &str) -> Result<Duration, String> {
    if text.trim().parse::<f64>().is_ok() {
        return Err(format!("expected a unit: `{0}d` for days, `{0}s` for seconds", text.trim()));
    }
    parse_duration(text).map_err(|_| "expected a duration such as `30d`, `12h` or `1h 30m`".to_owned())
}

/// Reads a duration that names its units and is longer than nothing.
///
/// # Errors
/// What would have been right.
pub fn parse_positive_duration_with_unit(text: &str) -> Result<Duration, String> {
    let duration = parse_duration_with_unit(text)?;
    if duration.is_zero() {
        return Err("expected a duration above zero, such as `30d`".to_owned());
    }
    Ok(duration)
}

/// A duration as it is read, by its two largest units: `30d`, `1h 30m`, `250ms`.
pub fn in_units(duration: Duration) -> String {
    const UNITS: [(&str, u128); 5] =
        [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000)];
    let mut rest = duration.as_micros();
    let mut parts = Vec::new();
    for (unit, microseconds) in UNITS {
        if rest >= microseconds && parts.len() < 2 {
            parts.push(format!("{}{unit}", rest / microseconds));
            rest %= microseconds;
        } else if !parts.is_empty() {
            break;
        }
    }
    if parts.is_empty() { format!("{rest}us") } else { parts.join(" ") }
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

    #[test]
    fn a_duration_that_deletes_names_its_unit() {
        assert_eq!(parse_positive_duration_with_unit("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse_duration_with_unit("0s"), Ok(Duration::ZERO));
        for bare in ["30", "0.5", " 30 ", "1e3", "0"] {
            let error = parse_duration_with_unit(bare).unwrap_err();
            let number = bare.trim();
            assert_eq!(error, format!("expected a unit: `{number}d` for days, `{number}s` for seconds"));
        }
        for wrong in ["", "30 parsecs", "-1d", "2000y"] {
            assert!(parse_duration_with_unit(wrong).is_err(), "{wrong}");
        }
        assert!(parse_positive_duration_with_unit("0d").is_err());
    }

    #[test]
    fn durations_are_shown_as_they_are_read() {
        for text in ["30d", "1d 1h", "1h 30m", "90d", "1m 30s", "2s 5ms", "250ms"] {
            assert_eq!(in_units(parse_duration(text).unwrap()), text);
        }
        assert_eq!(in_units(Duration::from_micros(7)), "7us");
        assert_eq!(in_units(Duration::from_secs(86_400 + 5)), "1d");
    }
}
