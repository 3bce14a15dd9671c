//! Which events to send, and how.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hyper::header::{HeaderName, HeaderValue};

use super::template::TemplateClock;
use crate::auth::login::LoginSettings;
use crate::auth::signature::standard::SigningKey;
use crate::client::{Endpoint, TlsSettings};
use crate::core::rate::RateProfile;
use crate::core::verdict::Condition;

#[derive(Debug)]
pub struct Settings {
    pub period: Duration,
    /// In place of the period.
    pub rate: Option<RateProfile>,
    pub arrivals: Arrivals,
    /// When the first event is due, if not at once.
    pub start_at: Option<Instant>,
    /// How fast events are sent that were recorded; `None` for one every period.
    pub recorded_speed: Option<f64>,
    pub endpoint: Endpoint,
    /// `-` is standard input.
    pub file: PathBuf,
    /// Types and payloads are templates.
    pub template: Option<TemplateClock>,
    pub health: Option<Endpoint>,
    pub health_timeout: Duration,
    pub order: Order,
    pub seed: Option<u64>,
    pub count: Option<u64>,
    pub duration: Option<Duration>,
    pub max_in_flight: usize,
    pub max_lateness: Duration,
    pub timeout: Duration,
    pub retries: u32,
    pub headers: Vec<Header>,
    pub format: EventFormat,
    /// Signs each request by Standard Webhooks.
    pub signing_key: Option<SigningKey>,
    pub dead_letter: Option<PathBuf>,
    /// Where the distributions are written, in HdrHistogram's log format.
    pub histogram: Option<PathBuf>,
    /// Conditions under which the run counts as failed.
    pub fail_if: Vec<Condition>,
    /// Where the conditions are reported, in JUnit's format.
    pub junit: Option<PathBuf>,
    pub journal: Option<PathBuf>,
    pub dry_run: bool,
    pub drain_timeout: Duration,
    /// The address to serve metrics at.
    pub metrics: Option<String>,
    pub output: ReportFormat,
    pub quiet: bool,
    pub login: LoginSettings,
    pub tls: TlsSettings,
}

/// Which event comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Any, drawn anew each time.
    Random,
    /// As in the file, over and over.
    Sequential,
    /// All in random order, then all again in another.
    Shuffle,
}

impl Settings {
    /// The shortest time between two sends, but for chance.
    pub fn shortest_gap(&self) -> Duration {
        self.rate.as_ref().map_or(self.period, RateProfile::shortest_gap)
    }
}

/// How sends are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// Evenly.
    Constant,
    /// At random, as of many independent clients: a Poisson process.
    Poisson,
}

/// When events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pace {
    /// One every --period.
    Period,
    /// With the gaps between their `received_at`.
    Recorded,
}

/// How an event is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EventFormat {
    /// The object as it stands.
    Object,
    /// The data of a CloudEvent 1.0, in its JSON format.
    Cloudevents,
}

impl EventFormat {
    pub fn content_type(self) -> &'static str {
        match self {
            EventFormat::Object => "application/json",
            EventFormat::Cloudevents => "application/cloudevents+json",
        }
    }
}

/// How `propagate` reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// Lines to read.
    Text,
    /// A JSON object a line.
    Json,
}

/// A header of a request. Its value may be a secret: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: HeaderName,
    /// The value.
    pub value: HeaderValue,
}

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Header, String> {
        const EXPECTED: &str = "expected a header such as `Name: value`";
        const OURS: [&str; 4] = ["idempotency-key", "content-length", "transfer-encoding", "connection"];
        let (name, value) = text.split_once(':').ok_or(EXPECTED)?;
        let name: HeaderName = name.trim().parse().map_err(|_| EXPECTED)?;
        let mut value: HeaderValue = value.trim().parse().map_err(|_| EXPECTED)?;
        if OURS.contains(&name.as_str()) {
            return Err(format!("`{name}` is set for each request by eventctl itself"));
        }
        value.set_sensitive(true);
        Ok(Header { name, value })
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: [not shown]", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_parsed_and_never_shown() {
        let header: Header = "Authorization: Bearer s3cret".parse().unwrap();
        assert_eq!(header.value, "Bearer s3cret");
        assert!(!format!("{header:?}").contains("s3cret"));
        for wrong in ["", "Name", "Na me: x", "X: a\nb", "Idempotency-Key: x"] {
            assert!(wrong.parse::<Header>().is_err(), "{wrong}");
        }
    }
}
