//! Durations, as settings and query strings write them.

use std::time::Duration;

/// The longest duration, 1000 years: instants that far from now can still be computed.
const DURATION_LIMIT: Duration = Duration::from_secs(1000 * 31_557_600);

/// Reads a duration of at most 1000 years: `5s`, `250ms`, `1m 30s`, or a bare number of seconds such as `0.5`.
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

/// Refuses zero.
pub fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration.is_zero() {
        return Err("expected a duration above zero, such as `5s` or `250ms`".to_owned());
    }
    Ok(duration)
}

/// Refuses bare numbers: what is deleted must not depend on a guessed unit.
pub fn parse_duration_with_unit(text: &str) -> Result<Duration, String> {
    if text.trim().parse::<f64>().is_ok() {
        return Err(format!("expected a unit: `{0}d` for days, `{0}s` for seconds", text.trim()));
    }
    parse_duration(text).map_err(|_| "expected a duration such as `30d`, `12h` or `1h 30m`".to_owned())
}

/// Refuses zero and bare numbers.
pub fn parse_positive_duration_with_unit(text: &str) -> Result<Duration, String> {
    let duration = parse_duration_with_unit(text)?;
    if duration.is_zero() {
        return Err("expected a duration above zero, such as `30d`".to_owned());
    }
    Ok(duration)
}

/// A duration in its two largest units, as settings write it: `30d`, `1h 30m`, `250ms`.
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
