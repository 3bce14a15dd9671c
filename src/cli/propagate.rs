//! The options of `propagate`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::log::LogOptions;
use super::login::{ClientTlsOptions, LoginOptions};
use super::values::parse_count;
use crate::auth::login::LoginSettings;
use crate::auth::signature::standard::signing_key;
use crate::client::Endpoint;
use crate::core::duration::{parse_duration, parse_positive_duration};
use crate::core::rate::RateProfile;
use crate::core::timestamp::{LocalTimestamp, Timestamp};
use crate::core::verdict::Condition;
use crate::error::hinted;
use crate::propagate::{Arrivals, EventFormat, Header, Order, Pace, ReportFormat, Settings, TemplateClock};
use crate::secret::Secret;

const SIGN_SECRET_FILE: &str = "--sign-secret-file";

#[derive(Debug, Args)]
pub struct PropagateOptions {
    /// Time from one send to the next: `5s`, `250ms`, or a number of seconds
    #[arg(
        long,
        env = "PERIOD_IN_SECONDS",
        default_value = "5s",
        value_name = "DURATION",
        value_parser = parse_positive_duration,
        allow_negative_numbers = true
    )]
    period: Duration,

    /// How many events to send over time, in place of --period: 500/s, 30/m, or
    /// several, such as `0/s..2000/s over 30s, 2000/s for 2m`, after which the run ends
    #[arg(long, value_name = "RATE")]
    rate: Option<RateProfile>,

    /// How sends are spread over time
    #[arg(long, value_enum, default_value_t = Arrivals::Constant)]
    arrivals: Arrivals,

    /// Begin at this time, so that several senders begin together:
    /// `2024-01-15T12:00:00Z`, Unix seconds, or local time
    #[arg(long, value_name = "WHEN")]
    start_at: Option<LocalTimestamp>,

    /// Send one event every --period, or the envelopes of standard input with the gaps
    /// between their `received_at`
    #[arg(long, value_enum, default_value_t = Pace::Period)]
    pace: Pace,

    /// How fast --pace recorded is: 10x, 0.5x
    #[arg(long, default_value = "1x", value_name = "FACTOR", value_parser = parse_speed)]
    speed: f64,

    /// Where to send events: an http or https URL
    #[arg(
        long,
        env = "HTTP_POST_ENDPOINT",
        default_value = "http://127.0.0.1:8000/event",
        value_name = "URL"
    )]
    endpoint: Endpoint,

    /// Events to send: a JSON array of objects or NDJSON; `-` sends each event of
    /// standard input once, in order
    #[arg(long, env = "PAYLOAD_FILE_PATH", default_value = "events.json")]
    file: PathBuf,

    /// Take types and payloads of the file as templates: `{{ uuid() }}`, `{{ now() }}`,
    /// `{{ seq }}`, `{{ int(1, 6) }}`, `{{ pick('a', 'b') }}`, `{{ line('users.txt') }}`
    #[arg(long)]
    template: bool,

    /// Wait until this URL answers 2xx before the first send
    #[arg(long, env = "HEALTH_CHECK_ENDPOINT", value_name = "URL")]
    health: Option<Endpoint>,

    /// Time to wait for --health
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = parse_duration)]
    health_timeout: Duration,

    /// Which event of the file comes next
    #[arg(long, value_enum, default_value_t = Order::Random)]
    order: Order,

    /// Make the order of events repeatable
    #[arg(long, value_name = "N", value_parser = parse_seed)]
    seed: Option<u64>,

    /// Stop after this many events
    #[arg(long, value_name = "N", value_parser = parse_count_u64)]
    count: Option<u64>,

    /// Stop after this time
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration)]
    duration: Option<Duration>,

    /// Maximum number of events in flight; a send beyond it is missed
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = parse_count)]
    max_in_flight: usize,

    /// How late a send may be once the next one is due; beyond that it is missed
    #[arg(long, default_value = "100ms", value_name = "DURATION", value_parser = parse_duration)]
    max_lateness: Duration,

    /// Time for a response to arrive
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = parse_positive_duration)]
    timeout: Duration,

    /// How often to retry an event after a transient failure: a connection error, a
    /// timeout, or status 408, 425, 429 or 5xx
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = parse_retries)]
    retries: u32,

    /// Additional request header, repeatable: `Name: value`
    #[arg(long, value_name = "HEADER")]
    header: Vec<Header>,

    /// How an event is sent: its object as it stands, or as the data of a CloudEvent
    #[arg(long, value_enum, default_value_t = EventFormat::Object)]
    format: EventFormat,

    /// File with the secret that signs each request by Standard Webhooks, whsec_ and
    /// Base64; or EVENTCTL_SIGN_SECRET holds it
    #[arg(long, value_name = "FILE")]
    sign_secret_file: Option<PathBuf>,

    #[arg(long, hide = true)]
    sign_secret: Option<Secret>,

    /// Append events that were rejected or undelivered to this file, as NDJSON
    #[arg(long, value_name = "FILE")]
    dead_letter: Option<PathBuf>,

    /// Write each event to this file before it is sent, and go on from there where a
    /// run was interrupted: no event is lost, and none sent under a second key
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,

    /// Print the events in the order of sending, and send none
    #[arg(long)]
    dry_run: bool,

    /// Time to finish what is in flight after SIGTERM, SIGINT, SIGHUP or
    /// --duration
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    drain_timeout: Duration,

    /// Serve metrics at /metrics of this address, such as 127.0.0.1:9100
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,

    /// Write the distributions of jitter, latency and latency from schedule to this
    /// file, in HdrHistogram's log format
    #[arg(long, value_name = "FILE")]
    histogram: Option<PathBuf>,

    /// Exit with 3 if this holds in the end, repeatable: `p99 > 50ms`, `jitter.p99 > 1ms`,
    /// `undelivered > 0`, `failed > 1%`, `missed > 0`
    #[arg(long, value_name = "CONDITION")]
    fail_if: Vec<Condition>,

    /// Write what became of each --fail-if to this file, in JUnit's format
    #[arg(long, value_name = "FILE", requires = "fail_if")]
    junit: Option<PathBuf>,

    /// How to print responses and summary
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Text)]
    output: ReportFormat,

    /// Print only the summary, log only warnings and errors
    #[arg(short, long)]
    pub(super) quiet: bool,

    #[command(flatten)]
    login: LoginOptions,

    #[command(flatten)]
    tls: ClientTlsOptions,

    #[command(flatten)]
    pub(super) log: LogOptions,
}

impl PropagateOptions {
    /// # Errors
    /// A secret cannot be used, or settings contradict each other.
    pub(super) fn into_settings(self) -> anyhow::Result<Settings> {
        // A dry run authenticates nowhere, and works without the secrets.
        let login = if self.dry_run { LoginSettings::Anonymous } else { self.login.into_settings()? };
        let (file, value) = (self.sign_secret_file.as_deref(), self.sign_secret.as_ref());
        let sign_secret = if self.dry_run { None } else { Secret::choose(file, value, SIGN_SECRET_FILE)? };
        let is_recorded = self.pace == Pace::Recorded;
        if is_recorded && self.file != Path::new("-") {
            return Err(hinted(
                "`--pace recorded` needs the events of standard input",
                "run eventctl tail -o envelope ... | eventctl propagate --file - --pace recorded",
            ));
        }
        if self.template && self.file == Path::new("-") {
            return Err(hinted("`--template` needs a file", "name a file of templates with --file"));
        }
        let clock = match &self.start_at {
            None => TemplateClock::Wall,
            Some(at) => TemplateClock::Steady {
                start: at.timestamp,
                gap: self.rate.as_ref().map_or(self.period, RateProfile::shortest_gap),
            },
        };
        Ok(Settings {
            period: self.period,
            rate: self.rate,
            arrivals: self.arrivals,
            start_at: self.start_at.as_ref().map(instant_of).transpose()?,
            recorded_speed: is_recorded.then_some(self.speed),
            endpoint: self.endpoint,
            file: self.file,
            template: self.template.then_some(clock),
            health: self.health,
            health_timeout: self.health_timeout,
            order: self.order,
            seed: self.seed,
            count: self.count,
            duration: self.duration,
            max_in_flight: self.max_in_flight,
            max_lateness: self.max_lateness,
            timeout: self.timeout,
            retries: self.retries,
            headers: self.header,
            format: self.format,
            signing_key: sign_secret.map(|secret| signing_key(&secret, SIGN_SECRET_FILE)).transpose()?,
            dead_letter: self.dead_letter,
            histogram: self.histogram,
            fail_if: self.fail_if,
            junit: self.junit,
            journal: self.journal,
            dry_run: self.dry_run,
            drain_timeout: self.drain_timeout,
            metrics: self.metrics,
            output: self.output,
            quiet: self.quiet,
            login,
            tls: self.tls.into_settings()?,
        })
    }
}

/// The time of the wall clock on the monotonic one.
///
/// # Errors
/// It is over.
fn instant_of(at: &LocalTimestamp) -> anyhow::Result<Instant> {
    let now = Timestamp::now();
    if at.timestamp < now {
        let problem = format!("`--start-at` is over: {}", at.timestamp);
        return Err(hinted(problem, "give a time that is to come, such as 2026-01-15T12:00:00Z"));
    }
    Ok(Instant::now() + at.timestamp.since(now))
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed: Option<f64> = text.strip_suffix('x').unwrap_or(text).parse().ok();
    let speed = speed.filter(|speed| (0.001..=1e6).contains(speed));
    speed.ok_or_else(|| "expected a factor from 0.001x to 1000000x, such as 10x".to_owned())
}

fn parse_count_u64(text: &str) -> Result<u64, String> {
    let count: Option<u64> = text.parse().ok();
    count.filter(|count| *count > 0).ok_or_else(|| "expected a number of 1 or more".to_owned())
}

fn parse_seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a number from 0 to 18446744073709551615".to_owned())
}

fn parse_retries(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "expected a number of 0 or more".to_owned())
}
