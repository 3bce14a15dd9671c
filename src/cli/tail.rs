//! The settings of `tail`.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use super::log::LogOptions;
use super::login::{ClientTlsOptions, LoginOptions};
use super::values::parse_count;
use crate::client::Endpoint;
use crate::core::glob::Glob;
use crate::core::name;
use crate::core::timestamp::LocalTimestamp;
use crate::error::hinted;
use crate::store::StoreLocation;
use crate::tail::{
    Color, Content, EventFormat, Lines, OutputSettings, ServiceSettings, Settings, SourceSettings,
    VerifySettings, WorkSettings,
};

#[derive(Debug, Args)]
pub struct TailOptions {
    /// Store to show: a path, sqlite:///FILE, postgres://USER@HOST/DATABASE or
    /// mysql://USER@HOST/DATABASE
    #[arg(long, env = "DATABASE_URL", default_value = "events.db", value_name = "URL")]
    db: StoreLocation,

    /// Show the events of a consume at this URL, such as https://HOST:8000, instead of
    /// a store
    #[arg(long, value_name = "URL")]
    endpoint: Option<Endpoint>,

    /// How many of the newest events to show, or `all` [default: 10; all with
    /// --after or --since]
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<Lines>,

    /// Keep showing events as they are stored
    #[arg(short, long)]
    follow: bool,

    /// Show the events after this id, oldest first
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    after: Option<i64>,

    /// Show only types that match: `*` any run, `?` one character, `[a-z]` a set
    #[arg(long = "type", value_name = "GLOB")]
    event_type: Option<Glob>,

    /// Show only events since then: `5m` (ago), `2024-01-15T12:00:00Z`, Unix
    /// seconds, or in local time `2024-01-15`, `2024-01-15 12:00`, `today`,
    /// `yesterday`
    #[arg(short = 'S', long, value_name = "WHEN")]
    since: Option<LocalTimestamp>,

    /// Show only events before then, in the same forms
    #[arg(short = 'U', long, value_name = "WHEN")]
    until: Option<LocalTimestamp>,

    /// How to print events; json is one object a line
    #[arg(short, long, value_enum, default_value_t = EventFormat::Text)]
    output: EventFormat,

    /// Show counts by type instead, as bars, and counts over time
    #[arg(long, conflicts_with_all = ["follow", "after", "lines", "alerts"])]
    stats: bool,

    /// Show alerts instead: the deliveries to channels and their state
    #[arg(long, conflicts_with_all = ["follow", "after", "event_type", "since", "until"])]
    alerts: bool,

    /// Compare instead what the journal of a propagate says with what is stored: exit 3
    /// if an acknowledged event is missing, changed or stored twice. With --follow
    /// again and again
    #[arg(long, value_name = "JOURNAL", conflicts_with_all = ["stats", "alerts", "lines", "after", "event_type", "since", "until", "subscription"])]
    verify: Option<PathBuf>,

    /// Shell command that prints what is stored, as NDJSON, for --verify of a receiver
    /// that is no eventctl
    #[arg(long, value_name = "COMMAND", requires = "verify")]
    read_command: Option<String>,

    /// Work events off instead: hand each to --exec, and acknowledge it in this
    /// subscription, which begins with all events, or those of --type, --after and
    /// --since. Ends when none is left; goes on with --follow
    #[arg(long, value_name = "NAME", requires = "exec", value_parser = parse_subscription, conflicts_with_all = ["stats", "alerts", "lines", "until"])]
    subscription: Option<String>,

    /// Shell command for an event of --subscription: its payload on standard input, and
    /// EVENT_ID, EVENT_TYPE, EVENT_RECEIVED_AT, EVENT_ATTEMPT.
    /// Status 0 acknowledges, 75 tries again, others count as failed
    #[arg(long, value_name = "COMMAND", requires = "subscription")]
    exec: Option<String>,

    /// Hand --exec up to this many events at once, as NDJSON
    #[arg(long, value_name = "N", value_parser = parse_claim, requires = "subscription")]
    claim: Option<usize>,

    /// Maximum number of commands at a time
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = parse_count, hide_default_value = true)]
    parallel: usize,

    /// When to use colours; NO_COLOR in the environment turns `auto` off
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    color: Color,

    #[command(flatten)]
    login: LoginOptions,

    #[command(flatten)]
    tls: ClientTlsOptions,

    #[command(flatten)]
    pub(super) log: LogOptions,

    /// Log only warnings and errors
    #[arg(short, long)]
    pub(super) quiet: bool,
}

impl TailOptions {
    /// `--db` has a default, so that the parser cannot tell whether both it and `--endpoint` are given: the one on the
    /// command line wins, and else the endpoint.
    ///
    /// # Errors
    /// Both are on the command line, or the endpoint cannot show what is asked for.
    pub(super) fn choose_source(&mut self, matches: &ArgMatches) -> anyhow::Result<()> {
        let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        match (given("db"), given("endpoint")) {
            (true, true) => return Err(hinted("both `--db` and `--endpoint` are given", "give one of them")),
            (true, false) => self.endpoint = None,
            (false, _) => {}
        }
        if self.endpoint.is_some() && self.alerts {
            let problem = "`--alerts` cannot be shown by `--endpoint`: they are not served over HTTP";
            return Err(hinted(problem, "give --db URL, the store of that consume"));
        }
        Ok(())
    }

    /// # Errors
    /// A secret cannot be used, or settings contradict each other.
    pub(super) fn into_settings(self) -> anyhow::Result<Settings> {
        let source = match self.endpoint {
            None => SourceSettings::Store(self.db),
            Some(endpoint) => SourceSettings::Service(ServiceSettings {
                endpoint,
                login: self.login.into_settings()?,
                tls: self.tls.into_settings()?,
            }),
        };
        let (parallel, claim) = (self.parallel, self.claim);
        let work = self.subscription.zip(self.exec).map(|(subscription, command)| WorkSettings {
            subscription,
            command,
            claim,
            parallel,
        });
        let read_command = self.read_command;
        let verify = self.verify.map(|journal| VerifySettings { journal, read_command });
        let content = match (self.alerts, self.stats) {
            (true, _) => Content::Alerts,
            (false, true) => Content::Statistics,
            (false, false) => Content::Events,
        };
        Ok(Settings {
            source,
            lines: self.lines,
            follow: self.follow,
            after: self.after,
            event_type: self.event_type,
            since: self.since,
            until: self.until,
            verify,
            work,
            output: OutputSettings { content, format: self.output, color: self.color },
        })
    }
}

fn parse_subscription(text: &str) -> Result<String, String> {
    if name::is_name(text) { Ok(text.to_owned()) } else { Err(name::EXPECTED.to_owned()) }
}

fn parse_claim(text: &str) -> Result<usize, String> {
    let count: Option<usize> = text.parse().ok();
    count
        .filter(|count| (1..=1000).contains(count))
        .ok_or_else(|| "expected a number from 1 to 1000".to_owned())
}

fn parse_id(text: &str) -> Result<i64, String> {
    let id: Option<i64> = text.parse().ok();
    id.filter(|id| *id >= 0).ok_or_else(|| "expected an id such as `17`".to_owned())
}
