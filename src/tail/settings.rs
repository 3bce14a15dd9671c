//! What to show, and how.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

use crate::auth::login::LoginSettings;
use crate::client::{Endpoint, TlsSettings};
use crate::core::glob::Glob;
use crate::core::query::Query;
use crate::core::timestamp::LocalTimestamp;
use crate::store::StoreLocation;

#[derive(Debug)]
pub struct Settings {
    pub source: SourceSettings,
    pub lines: Option<Lines>,
    pub follow: bool,
    pub after: Option<i64>,
    pub event_type: Option<Glob>,
    pub since: Option<LocalTimestamp>,
    pub until: Option<LocalTimestamp>,
    pub output: OutputSettings,
    /// Compares the journal of a sender with the source instead.
    pub verify: Option<VerifySettings>,
    /// Works events off instead of showing them.
    pub work: Option<WorkSettings>,
}

impl Settings {
    /// The filters.
    pub fn query(&self) -> Query {
        Query {
            types: self.event_type.clone().into(),
            since: self.since.as_ref().map(|since| since.timestamp),
            until: self.until.as_ref().map(|until| until.timestamp),
            ..Query::default()
        }
    }
}

/// A journal that is compared with what a receiver has stored.
#[derive(Debug)]
pub struct VerifySettings {
    pub journal: PathBuf,
    /// Prints what is stored, in place of the store.
    pub read_command: Option<String>,
}

/// Which events are worked off, and by what.
#[derive(Debug)]
pub struct WorkSettings {
    pub subscription: String,
    pub command: String,
    /// How many events a command gets, as NDJSON; one by its payload alone where there is none.
    pub claim: Option<usize>,
    /// How many commands run at once.
    pub parallel: usize,
}

#[derive(Debug)]
pub enum SourceSettings {
    Store(StoreLocation),
    /// A `consume` on another machine.
    Service(ServiceSettings),
}

#[derive(Debug)]
pub struct ServiceSettings {
    pub endpoint: Endpoint,
    pub login: LoginSettings,
    pub tls: TlsSettings,
}

impl fmt::Display for SourceSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceSettings::Store(location) => location.fmt(formatter),
            SourceSettings::Service(service) => service.endpoint.fmt(formatter),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct OutputSettings {
    pub content: Content,
    pub format: EventFormat,
    pub color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Events,
    Alerts,
    Statistics,
}

/// How `tail` prints events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EventFormat {
    /// Lines to read.
    Text,
    /// A JSON object a line.
    Json,
    /// Type and payload alone as a JSON object a line, as `propagate --file -` reads it.
    Ndjson,
    /// The same with id and time beside it, as envelopes that `propagate --file`
    /// reads.
    Envelope,
    /// RFC 4180, with a header line.
    Csv,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How many events `tail` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// The newest of them.
    Newest(usize),
    /// All of them.
    All,
}

impl FromStr for Lines {
    type Err = String;

    fn from_str(text: &str) -> Result<Lines, String> {
        if text == "all" {
            return Ok(Lines::All);
        }
        text.parse().map(Lines::Newest).map_err(|_| "expected a number or `all`".to_owned())
    }
}
