//! Rates over time: `500/s`, `30/m`, `0/s..2000/s over 30s, 2000/s for 2m`.

use std::str::FromStr;
use std::time::Duration;

use super::duration::parse_positive_duration_with_unit;

const EXPECTED: &str =
    "expected a rate such as `500/s`, or several such as `0/s..2000/s over 30s, 2000/s for 2m`";

/// The highest rate, in events a second.
const HIGHEST: f64 = 1e6;

/// How many parts a profile has at most.
const PART_LIMIT: usize = 1000;

/// A part of a profile, in which the rate changes evenly.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    /// In events a second.
    from: f64,
    to: f64,
    /// In seconds; infinite for the last part, if it has none.
    seconds: f64,
}

impl Part {
    /// How many events the first seconds of the part have.
    fn count(&self, seconds: f64) -> f64 {
        match self.seconds.is_finite() {
            true => self.from * seconds + (self.to - self.from) * seconds * seconds / (2.0 * self.seconds),
            false => self.from * seconds,
        }
    }

    /// After how many seconds the part has had this many events, of which it has no fewer.
    fn seconds_until(&self, count: f64) -> f64 {
        if self.from == self.to {
            return if count == 0.0 { 0.0 } else { count / self.from };
        }
        // The root of slope / 2 * t² + from * t = count, in the form that is exact for small slopes.
        let slope = (self.to - self.from) / self.seconds;
        let root = (self.from * self.from + 2.0 * slope * count).max(0.0).sqrt();
        let seconds = if self.from + root == 0.0 { 0.0 } else { 2.0 * count / (self.from + root) };
        seconds.min(self.seconds)
    }
}

/// How many events a second there are, over time.
#[derive(Debug, Clone, PartialEq)]
pub struct RateProfile(Vec<Part>);

impl RateProfile {
    /// One event in every period, which is above zero.
    pub fn every(period: Duration) -> RateProfile {
        let rate = 1.0 / period.as_secs_f64();
        RateProfile(vec![Part { from: rate, to: rate, seconds: f64::INFINITY }])
    }

    /// When there have been this many events; `None` where there never are.
    pub fn time_of(&self, count: f64) -> Option<Duration> {
        let (mut begun, mut left) = (0.0, count);
        for part in &self.0 {
            let all = part.count(part.seconds);
            // What ends a part exactly belongs to the next one, if there is any.
            if left < all || part.seconds.is_infinite() && part.from > 0.0 {
                return Duration::try_from_secs_f64(begun + part.seconds_until(left)).ok();
            }
            left -= all;
            begun += part.seconds;
        }
        None
    }

    /// How many events there have been after a time.
    pub fn count_after(&self, time: Duration) -> f64 {
        let mut left = time.as_secs_f64();
        let mut count = 0.0;
        for part in &self.0 {
            let seconds = left.min(part.seconds);
            count += part.count(seconds);
            left -= seconds;
            if left <= 0.0 {
                break;
            }
        }
        count
    }

    /// The time from one event to the next where the rate is highest.
    pub fn shortest_gap(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.peak())
    }

    /// The highest rate, in events a second.
    fn peak(&self) -> f64 {
        self.0.iter().map(|part| part.from.max(part.to)).fold(0.0, f64::max)
    }
}

impl FromStr for RateProfile {
    type Err = String;

    fn from_str(text: &str) -> Result<RateProfile, String> {
        let texts: Vec<&str> = text.split(',').map(str::trim).collect();
        if texts.len() > PART_LIMIT {
            return Err(format!("expected at most {PART_LIMIT} rates"));
        }
        let mut parts = Vec::new();
        for (position, text) in texts.iter().enumerate() {
            let part = parse_part(text)?;
            if part.seconds.is_infinite() && position + 1 < texts.len() {
                return Err(format!(
                    "expected a time for `{text}`, such as `{text} for 1m`: other rates follow"
                ));
            }
            parts.push(part);
        }
        let profile = RateProfile(parts);
        if profile.peak() == 0.0 {
            return Err(format!("expected a rate above zero; {EXPECTED}"));
        }
        Ok(profile)
    }
}

fn parse_part(text: &str) -> Result<Part, String> {
    let timed = text.split_once(" over ").or_else(|| text.split_once(" for "));
    let (rates, time) = timed.map_or((text, None), |(rates, time)| (rates, Some(time)));
    let seconds = match time {
        Some(time) => parse_positive_duration_with_unit(time.trim())?.as_secs_f64(),
        None => f64::INFINITY,
    };
    let (from, to) = rates.split_once("..").unwrap_or((rates, rates));
    let (from, to) = (parse_rate(from)?, parse_rate(to)?);
    if from != to && seconds.is_infinite() {
        return Err(format!("expected a time for `{text}`, such as `{text} over 30s`"));
    }
    Ok(Part { from, to, seconds })
}

/// Events a second.
fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, unit) = text.trim().split_once('/').ok_or(EXPECTED)?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a rate a second, minute or hour: 500/s, 30/m, 7/h".to_owned()),
    };
    let number: f64 = number.trim().parse().map_err(|_| EXPECTED)?;
    let rate = number / seconds;
    match number.is_sign_positive() && (0.0..=HIGHEST).contains(&rate) {
        true => Ok(rate),
        false => Err(format!("expected a rate from 0/s to {HIGHEST}/s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(text: &str) -> RateProfile {
        text.parse().unwrap()
    }

    #[test]
    fn a_constant_rate_has_even_gaps() {
        let rate = profile("250/s");
        for count in [0, 1, 250, 251, 1_000_000] {
            let expected = Duration::from_secs_f64(f64::from(count) / 250.0);
            assert_eq!(rate.time_of(f64::from(count)), Some(expected));
        }
        assert_eq!(profile("30/m").time_of(1.0), Some(Duration::from_secs(2)));
        assert_eq!(rate.peak(), 250.0);
    }

    #[test]
    fn ramps_and_steps_have_as_many_events_as_their_areas() {
        let rate = profile("0/s..100/s over 10s, 100/s for 5s, 0/s for 2s, 100/s..20/s over 10s");
        for (seconds, count) in
            [(0, 0.0), (5, 125.0), (10, 500.0), (15, 1000.0), (17, 1000.0), (27, 1600.0), (99, 1600.0)]
        {
            let counted = rate.count_after(Duration::from_secs(seconds));
            assert!((counted - count).abs() < 1e-9, "{seconds} s: {counted}");
        }
        assert_eq!(rate.time_of(125.0), Some(Duration::from_secs(5)));
        assert_eq!(rate.time_of(1000.0), Some(Duration::from_secs(17)), "after the pause");
        assert_eq!(rate.time_of(1600.0), None, "the end");
        let mut last = Duration::ZERO;
        for count in 0..1600 {
            let time = rate.time_of(f64::from(count)).unwrap();
            let back = rate.count_after(time);
            assert!(time >= last && (back - f64::from(count)).abs() < 1e-5, "{count}: {time:?} {back}");
            last = time;
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for wrong in [
            "",
            "500",
            "500/x",
            "-1/s",
            "x/s",
            "0/s",
            "1e9/s",
            "1/s..2/s",
            "1/s, 2/s",
            "1/s for 0s",
            "1/s over",
            "NaN/s",
            "1/s for 1m,",
        ] {
            assert!(wrong.parse::<RateProfile>().is_err(), "{wrong}");
        }
    }
}
