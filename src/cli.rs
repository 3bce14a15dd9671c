//! Every setting, defined once: flag, environment variable, default and help.
//!
//! A setting whose environment variable is not named here has `EVENTCTL_` and its name. A hidden
//! setting is a secret: it is taken from the environment and from files, not from the command line,
//! which every user of a machine can read.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use tracing::level_filters::LevelFilter;

use crate::alert::{AlertSettings, Channel, Channels, Hello, MailEncryption, MailSettings, Rule};
use crate::client::Reach;
use crate::core::event::HEALTH_ALERT;
use crate::core::glob::Glob;
use crate::core::network::{ListenAddress, TrustedProxy};
use crate::core::origin::{HostName, Origin};
use crate::core::secret::Secret;
use crate::core::timestamp::{
    LocalTimestamp, parse_duration, parse_duration_with_unit, parse_positive_duration,
    parse_positive_duration_with_unit,
};
use crate::logging::{LineFormat, LogLevels, LogSettings};
use crate::store::StoreLocation;

/// Send JSON events on a precise schedule, receive them, store them durably
#[derive(Debug, Parser)]
#[command(name = "eventctl", version, max_term_width = 80, after_help = SETTINGS_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Read settings from a YAML file: a section a subcommand, a key a flag; what
    /// subcommands share stands under `defaults:`
    #[arg(long, global = true, value_name = "FILE", display_order = 900)]
    pub config: Option<PathBuf>,
}

const SETTINGS_HELP: &str = "\
Every setting can be given as a flag, in the environment, in a file `.env` in
the working directory, or in the file that --config names; the first of these
that has it wins. An empty value counts as none.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 finished, but some events were
rejected or undelivered.";

/// The subcommands.
#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Receive events over HTTP, validate them and store them durably
    Consume(ConsumeOptions),
    /// Send predefined events to an HTTP endpoint on a precise schedule
    Propagate(PropagateOptions),
    /// Prepare a store, or upgrade its schema
    InitDb(InitDbOptions),
    /// Show stored events
    Tail(TailOptions),
    /// Send a sample alert to each channel, and say whether it was taken
    AlertTest(AlertTestOptions),
    /// Print a script that completes commands in a shell
    Completions(CompletionsOptions),
    /// Print a manual page, for man -l -
    Man(ManOptions),
}

impl Command {
    /// What a command logs, and how; none where it only answers.
    pub fn log(&self) -> Option<LogSettings> {
        match self {
            Command::Consume(options) => Some(options.log.settings(options.quiet)),
            Command::Propagate(options) => Some(options.log.settings(options.quiet)),
            Command::Tail(options) => Some(options.log.settings(options.quiet)),
            Command::AlertTest(options) => Some(options.log.settings(options.quiet)),
            Command::InitDb(_) | Command::Completions(_) | Command::Man(_) => None,
        }
    }
}

/// What is logged on standard error, and how.
#[derive(Debug, Args)]
pub struct LogOptions {
    /// Form of log lines on standard error; auto is text on a terminal, JSON lines
    /// elsewhere
    #[arg(long, value_enum, default_value_t = LogFormat::Auto, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// What to log: a level from error to trace, or levels of parts, such as
    /// warn,eventctl::store=debug
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "LEVELS")]
    pub log_level: LogLevels,

    /// Log every request, too; twice: whatever there is. Wins over --log-level
    #[arg(short, long, action = ArgAction::Count, value_parser = parse_verbosity)]
    pub verbose: u8,
}

impl LogOptions {
    /// The same in the words of `logging`; each of -v raises the level, and -q lowers it.
    fn settings(&self, quiet: bool) -> LogSettings {
        let format = match self.log_format {
            LogFormat::Auto => None,
            LogFormat::Text => Some(LineFormat::Text),
            LogFormat::Json => Some(LineFormat::Json),
        };
        let levels = match (self.verbose, quiet) {
            (0, false) => self.log_level.clone(),
            (0, true) => LogLevels::all(LevelFilter::WARN),
            (1, true) => LogLevels::all(LevelFilter::INFO),
            (1, false) | (2, true) => LogLevels::all(LevelFilter::DEBUG),
            _ => LogLevels::all(LevelFilter::TRACE),
        };
        LogSettings { format, levels }
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Lines to read.
    Text,
    /// A JSON object a line.
    Json,
}

/// The settings of `consume`.
#[derive(Debug, Args)]
pub struct ConsumeOptions {
    /// Port to listen on; 0 picks a free one
    #[arg(long, env = "APP_PORT", default_value_t = 8000, value_parser = parse_port)]
    pub port: u16,

    /// Address to listen on; localhost is both 127.0.0.1 and ::1
    #[arg(long, env = "APP_HOST", default_value = "127.0.0.1")]
    pub host: String,

    /// Listen here instead of at --host and --port, repeatable: HOST:PORT, or
    /// unix:PATH for a socket that owner and group may connect to
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub listen: Vec<ListenAddress>,

    /// Believe what this proxy says in Forwarded or X-Forwarded-For of who its
    /// clients are, repeatable: an address, a network such as 10.0.0.0/8, or unix for
    /// those that connect to a Unix socket. Its connections are not limited by
    /// --max-connections-per-address
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub trusted_proxy: Vec<TrustedProxy>,

    /// Store: a path or sqlite:///FILE, made if there is none; or
    /// postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE, prepared by
    /// init-db
    #[arg(long, env = "DATABASE_URL", default_value = "events.db", value_name = "URL")]
    pub db: StoreLocation,

    /// Use a database server that may lose what it has acknowledged
    #[arg(long)]
    pub allow_weak_durability: bool,

    /// Largest body of a request
    #[arg(long, default_value = "1MiB", value_name = "SIZE")]
    pub body_limit: ByteSize,

    /// Largest head of a request; at least 8KiB
    #[arg(long, default_value = "32KiB", value_name = "SIZE", value_parser = parse_header_limit)]
    pub header_limit: ByteSize,

    /// Connections that are served at once; further ones are answered 503
    #[arg(long, default_value_t = 8192, value_name = "N", value_parser = parse_count)]
    pub max_connections: usize,

    /// Connections of one address (of an IPv6 network of /64) that are served at
    /// once; further ones are answered 503
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = parse_count)]
    pub max_connections_per_address: usize,

    /// Events that may wait for their commit; further ones are answered 503
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = parse_count)]
    pub queue_events: usize,

    /// Memory for requests that are read or wait for their commit
    #[arg(long, default_value = "64MiB", value_name = "SIZE")]
    pub queue_bytes: ByteSize,

    /// Time for a TLS handshake, and for the head of a request, to arrive
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = parse_positive_duration)]
    pub header_timeout: Duration,

    /// Time for the body of a request to arrive
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_positive_duration)]
    pub body_timeout: Duration,

    /// Time for a client to read a response
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = parse_positive_duration)]
    pub response_timeout: Duration,

    /// Time for a connection to stay without a request, or without progress in
    /// reading a response
    #[arg(long, default_value = "75s", value_name = "DURATION", value_parser = parse_positive_duration)]
    pub idle_timeout: Duration,

    /// Time for the store to answer a request, and for its server to be there at the start
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_positive_duration)]
    pub store_timeout: Duration,

    /// Time to finish after SIGTERM or SIGINT
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    pub drain_timeout: Duration,

    /// Delete events that are older than this: 30d, 12h
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration_with_unit)]
    pub keep: Option<Duration>,

    /// Delete the oldest events beyond so many
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub keep_events: Option<usize>,

    /// Delete the oldest events beyond so many bytes of types and payloads: 10GiB
    #[arg(long, value_name = "SIZE")]
    pub keep_bytes: Option<ByteSize>,

    /// Keep idempotency keys for at least so long, even if their events are
    /// deleted before: 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration_with_unit)]
    pub keep_keys: Option<Duration>,

    /// Serve metrics at this address instead of at /metrics of the port, and
    /// without a token: 127.0.0.1:9100
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<String>,

    /// Who may read and write.
    #[command(flatten, next_help_heading = "Access")]
    pub access: AccessOptions,

    /// Encryption.
    #[command(flatten, next_help_heading = "TLS")]
    pub tls: ServerTlsOptions,

    /// Who is told of what.
    #[command(flatten, next_help_heading = "Alerts")]
    pub alerts: AlertOptions,

    /// What is logged, and how.
    #[command(flatten, next_help_heading = "Log")]
    pub log: LogOptions,

    /// Log warnings and errors alone
    #[arg(short, long)]
    pub quiet: bool,
}

/// Who is told of which events, and how.
#[derive(Debug, Clone, Args)]
pub struct AlertOptions {
    /// Send alerts to this channel, repeatable: mailto:NAME@HOST,...,
    /// slack:https://..., discord:https://..., or https://... for events as JSON
    #[arg(long, value_name = "URL", value_delimiter = ' ')]
    pub alert: Vec<Channels>,

    /// Alert of events whose type matches, repeatable, besides health alerts; in
    /// the config file also an object of `type`, `alert` and `template`
    #[arg(long, value_name = "GLOB", default_value = HEALTH_ALERT)]
    pub alert_on: Vec<Rule>,

    /// Store the same alert, but do not send it, for so long; 0 sends all
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = parse_duration)]
    pub alert_repeat_after: Duration,

    /// Messages a minute to a channel; further alerts wait, for one digest
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = parse_count)]
    pub alert_rate: usize,

    /// Time to go on trying to deliver an alert: 1d, 6h
    #[arg(long, default_value = "1d", value_name = "DURATION", value_parser = parse_duration_with_unit)]
    pub alert_give_up_after: Duration,

    /// Templates that take the place of those built in, such as
    /// health_alert.txt, order_created.slack, event.html
    #[arg(long, value_name = "DIR")]
    pub alert_templates: Option<PathBuf>,

    /// Allow webhooks on this machine and in private networks, and http
    #[arg(long)]
    pub alert_allow_private: bool,

    /// Trust the authorities in this PEM file, too, for webhooks and mail
    #[arg(long, value_name = "FILE")]
    pub alert_cacert: Option<PathBuf>,

    /// File with the secret that signs events to webhooks, whsec_ and Base64; or
    /// EVENTCTL_ALERT_SECRET holds it
    #[arg(long, value_name = "FILE")]
    pub alert_secret_file: Option<PathBuf>,

    /// The secret itself.
    #[arg(long, hide = true)]
    pub alert_secret: Option<Secret>,

    /// Mail alerts to these addresses, separated by commas, as --alert mailto: does
    #[arg(long, env = "HEALTH_ALERT_RECEIVER", value_name = "ADDRESS", value_delimiter = ',', value_parser = parse_receiver)]
    pub health_alert_receiver: Vec<Channels>,

    /// Mail server
    #[arg(long, env = "SMTP_HOST", value_name = "HOST")]
    pub smtp_host: Option<String>,

    /// Its port
    #[arg(long, env = "SMTP_PORT", default_value_t = 587, value_name = "PORT", value_parser = parse_port)]
    pub smtp_port: u16,

    /// Who logs in there [default: the sender]
    #[arg(long, env = "SMTP_USER", value_name = "NAME")]
    pub smtp_user: Option<String>,

    /// File with the password; or SMTP_PASSWORD holds it
    #[arg(long, value_name = "FILE")]
    pub smtp_password_file: Option<PathBuf>,

    /// The password itself.
    #[arg(long, env = "SMTP_PASSWORD", hide = true)]
    pub smtp_password: Option<Secret>,

    /// How the connection to it is encrypted
    #[arg(long, value_enum, default_value_t = SmtpTls::Auto, value_name = "HOW")]
    pub smtp_tls: SmtpTls,

    /// What to call this machine in HELO: a qualified name, or an address literal
    /// [default: its qualified name, else [127.0.0.1]]
    #[arg(long, value_name = "NAME")]
    pub smtp_hello: Option<Hello>,

    /// Who mail is from [default: the user]
    #[arg(long, env = "SENDER_ADDR", value_name = "ADDRESS")]
    pub sender_addr: Option<String>,
}

impl AlertOptions {
    /// The same in the words of `alert`, with the secrets that are in files.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn into_settings(self) -> anyhow::Result<AlertSettings> {
        let password = Secret::choose(
            self.smtp_password_file.as_deref(),
            self.smtp_password.as_ref(),
            "--smtp-password-file",
        )?;
        let webhook_secret = Secret::choose(
            self.alert_secret_file.as_deref(),
            self.alert_secret.as_ref(),
            "--alert-secret-file",
        )?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let encryption = match self.smtp_tls {
            SmtpTls::Auto => MailEncryption::Auto,
            SmtpTls::Starttls => MailEncryption::StartTls,
            SmtpTls::Implicit => MailEncryption::Implicit,
            SmtpTls::Opportunistic => MailEncryption::Opportunistic,
            SmtpTls::None => MailEncryption::None,
        };
        Ok(AlertSettings {
            channels: self
                .alert
                .into_iter()
                .chain(self.health_alert_receiver)
                .flat_map(|list| list.0)
                .collect(),
            rules: self.alert_on,
            templates: self.alert_templates,
            repeat_after: self.alert_repeat_after,
            rate: self.alert_rate,
            give_up_after: self.alert_give_up_after,
            reach: if self.alert_allow_private { Reach::Anywhere } else { Reach::PublicOnly },
            authorities: self.alert_cacert,
            webhook_secret,
            mail: MailSettings {
                host: given(self.smtp_host),
                port: self.smtp_port,
                user: given(self.smtp_user),
                password,
                sender: given(self.sender_addr),
                encryption,
                hello: self.smtp_hello,
            },
        })
    }
}

/// How the connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SmtpTls {
    /// From the start on port 465, by STARTTLS on others; on this machine only if the server offers it.
    Auto,
    /// By STARTTLS.
    Starttls,
    /// From the start.
    Implicit,
    /// By STARTTLS if the server offers it, whatever its certificate; without a password.
    Opportunistic,
    /// Not at all.
    None,
}

/// Which alerts are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resend {
    /// All that were given up.
    All,
    /// Those of an event.
    Event(i64),
}

impl FromStr for Resend {
    type Err = String;

    fn from_str(text: &str) -> Result<Resend, String> {
        match text.parse() {
            _ if text == "all" => Ok(Resend::All),
            Ok(id @ 1..) => Ok(Resend::Event(id)),
            _ => Err("expected the id of an event, or `all`".to_owned()),
        }
    }
}

/// The settings of `alert-test`.
#[derive(Debug, Args)]
pub struct AlertTestOptions {
    /// Type of the sample
    #[arg(long, default_value = HEALTH_ALERT, value_name = "TYPE")]
    pub event_type: String,

    /// Payload of the sample
    #[arg(long, default_value = r#"["this is a test by eventctl alert-test"]"#, value_name = "TEXT")]
    pub payload: String,

    /// Instead of a sample, have alerts sent again that were given up: those of
    /// the event with this id, or all. A consume sends them; see tail --alerts
    #[arg(long, value_name = "ID|all")]
    pub resend: Option<Resend>,

    /// Store that keeps the alerts to send again
    #[arg(long, env = "DATABASE_URL", default_value = "events.db", value_name = "URL")]
    pub db: StoreLocation,

    /// Where to, and how.
    #[command(flatten, next_help_heading = "Alerts")]
    pub alerts: AlertOptions,

    /// What is logged, and how.
    #[command(flatten, next_help_heading = "Log")]
    pub log: LogOptions,

    /// Log warnings and errors alone
    #[arg(short, long)]
    pub quiet: bool,
}

/// Who may read and write events over HTTP.
#[derive(Debug, Args)]
pub struct AccessOptions {
    /// Ask for tokens, and give them at /token to whoever knows this name and
    /// its password
    #[arg(long, value_name = "NAME", value_parser = parse_username)]
    pub username: Option<String>,

    /// File with the password; or EVENTCTL_PASSWORD holds it
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// The password itself.
    #[arg(long, hide = true)]
    pub password: Option<Secret>,

    /// File with the key that signs tokens, of 32 bytes or more; or
    /// EVENTCTL_SIGNING_KEY holds it [default: a key kept in the store]
    #[arg(long, value_name = "FILE")]
    pub signing_key_file: Option<PathBuf>,

    /// The key itself.
    #[arg(long, hide = true)]
    pub signing_key: Option<Secret>,

    /// File with the key that signed tokens before: they stay valid; or
    /// EVENTCTL_PREVIOUS_SIGNING_KEY holds it
    #[arg(long, value_name = "FILE")]
    pub previous_signing_key_file: Option<PathBuf>,

    /// The key itself.
    #[arg(long, hide = true)]
    pub previous_signing_key: Option<Secret>,

    /// File with a token that never changes; or EVENTCTL_TOKEN holds it
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The token itself.
    #[arg(long, hide = true)]
    pub token: Option<Secret>,

    /// Listen beyond this machine although anyone may then read and write events
    #[arg(long)]
    pub insecure_allow_anonymous: bool,

    /// Serve requests for this host, repeatable: the name that a proxy has in front
    /// of a service without tokens. Others than these, --host and this machine's own
    /// are then answered 421
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub allowed_host: Vec<HostName>,

    /// Let pages of this origin read and write, repeatable (CORS):
    /// `https://dashboard.example.com`
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub allow_origin: Vec<Origin>,
}

/// How `consume` encrypts.
#[derive(Debug, Args)]
pub struct ServerTlsOptions {
    /// Serve https with this certificate and those that vouch for it, as PEM;
    /// read anew on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate, as PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Serve only clients with a certificate from one of these authorities
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
}

/// The settings of `propagate`.
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
    pub period: Duration,

    /// Where to send events: an http or https URL
    #[arg(
        long,
        env = "HTTP_POST_ENDPOINT",
        default_value = "http://127.0.0.1:8000/event",
        value_name = "URL"
    )]
    pub endpoint: Endpoint,

    /// Events to send: a JSON array of objects or NDJSON; `-` sends each event of
    /// standard input once, in order
    #[arg(long, env = "PAYLOAD_FILE_PATH", default_value = "events.json")]
    pub file: PathBuf,

    /// Wait until this URL answers 2xx before the first send
    #[arg(long, env = "HEALTH_CHECK_ENDPOINT", value_name = "URL")]
    pub health: Option<Endpoint>,

    /// Time to wait for that
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = parse_duration)]
    pub health_timeout: Duration,

    /// Which event of the file comes next
    #[arg(long, value_enum, default_value_t = Order::Random)]
    pub order: Order,

    /// Make the order of events repeatable
    #[arg(long, value_name = "N", value_parser = parse_seed)]
    pub seed: Option<u64>,

    /// Stop after this many events
    #[arg(long, value_name = "N", value_parser = parse_count_u64)]
    pub count: Option<u64>,

    /// Stop after this time
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration)]
    pub duration: Option<Duration>,

    /// Events that are in flight at once; a send that finds no room is missed
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = parse_count)]
    pub max_in_flight: usize,

    /// How late a send may be that a later one has overtaken; beyond that it is
    /// missed
    #[arg(long, default_value = "100ms", value_name = "DURATION", value_parser = parse_duration)]
    pub max_lateness: Duration,

    /// Time for a response to arrive
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = parse_positive_duration)]
    pub timeout: Duration,

    /// How often to send an event again after a connection error, a timeout, or
    /// status 408, 425, 429 or 5xx
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = parse_retries)]
    pub retries: u32,

    /// Header to send along, repeatable: `Name: value`
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<Header>,

    /// Append events that were rejected or undelivered to this file, as NDJSON
    #[arg(long, value_name = "FILE")]
    pub dead_letter: Option<PathBuf>,

    /// Print the events in the order of sending, and send none
    #[arg(long)]
    pub dry_run: bool,

    /// Time to finish what is in flight after SIGTERM, SIGINT, SIGHUP or
    /// --duration
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    pub drain_timeout: Duration,

    /// Serve metrics at /metrics of this address, such as 127.0.0.1:9100
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<String>,

    /// How to print responses and summary
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,

    /// Print the summary alone, log warnings and errors alone
    #[arg(short, long)]
    pub quiet: bool,

    /// Who sends.
    #[command(flatten, next_help_heading = "Access")]
    pub login: LoginOptions,

    /// Encryption.
    #[command(flatten, next_help_heading = "TLS")]
    pub tls: ClientTlsOptions,

    /// What is logged, and how.
    #[command(flatten, next_help_heading = "Log")]
    pub log: LogOptions,
}

/// Who `propagate` and `tail` are to a server.
#[derive(Debug, Args)]
pub struct LoginOptions {
    /// Fetch a token with this name and its password before the first request,
    /// and a new one before it runs out
    #[arg(long, value_name = "NAME", value_parser = parse_username)]
    pub username: Option<String>,

    /// File with the password; or EVENTCTL_PASSWORD holds it
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// The password itself.
    #[arg(long, hide = true)]
    pub password: Option<Secret>,

    /// Where to fetch tokens [default: token beside the endpoint]
    #[arg(long, value_name = "URL")]
    pub token_url: Option<Endpoint>,

    /// How to ask for a token
    #[arg(long, value_enum, default_value_t = Grant::ClientCredentials)]
    pub grant: Grant,

    /// Scope to ask a token for, several separated by spaces
    #[arg(long, value_name = "SCOPE")]
    pub scope: Option<String>,

    /// API that the token is for, where the token server wants to know
    #[arg(long, value_name = "URL")]
    pub audience: Option<String>,

    /// File with a token that never changes; or EVENTCTL_TOKEN holds it
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The token itself.
    #[arg(long, hide = true)]
    pub token: Option<Secret>,
}

/// How `propagate` and `tail` encrypt.
#[derive(Debug, Args)]
pub struct ClientTlsOptions {
    /// Verify the server with the CA certificates in this PEM file, instead of those
    /// of the system's trust store (SSL_CERT_FILE and SSL_CERT_DIR name another)
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,

    /// Show the server this certificate, as PEM
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// Private key of the certificate, as PEM
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// Talk to any server, whatever its certificate
    #[arg(long)]
    pub insecure_skip_verify: bool,
}

/// How to ask for a token (RFC 6749).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Grant {
    /// Name and password as HTTP Basic.
    ClientCredentials,
    /// Name and password in the body, as client_id and client_secret.
    ClientSecretPost,
    /// Name and password in the body: legacy.
    Password,
}

/// The settings of `init-db`.
#[derive(Debug, Args)]
pub struct InitDbOptions {
    /// Store to prepare: a path, sqlite:///FILE, postgres://USER@HOST/DATABASE or
    /// mysql://USER@HOST/DATABASE
    #[arg(long, env = "DATABASE_URL", default_value = "events.db", value_name = "URL")]
    pub db: StoreLocation,

    /// Back up: make --db, a file that does not exist yet, a consistent copy of
    /// this SQLite store, which may be in use
    #[arg(long, value_name = "URL")]
    pub from: Option<StoreLocation>,
}

/// The settings of `tail`.
#[derive(Debug, Args)]
pub struct TailOptions {
    /// Store to show: a path, sqlite:///FILE, postgres://USER@HOST/DATABASE or
    /// mysql://USER@HOST/DATABASE
    #[arg(long, env = "DATABASE_URL", default_value = "events.db", value_name = "URL")]
    pub db: StoreLocation,

    /// Show what a consume elsewhere has stored, instead of a store: its URL,
    /// such as https://HOST:8000
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<Endpoint>,

    /// How many of the newest events to show, or `all` [default: 10; all with
    /// --after or --since]
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<Lines>,

    /// Go on showing events as they are stored
    #[arg(short, long)]
    pub follow: bool,

    /// Show the events after this id, oldest first
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    pub after: Option<i64>,

    /// Show only types that match: `*` any run, `?` one character, `[a-z]` a set
    #[arg(long = "type", value_name = "GLOB")]
    pub event_type: Option<Glob>,

    /// Show only events since then: `5m` (ago), `2024-01-15T12:00:00Z`, Unix
    /// seconds, or in local time `2024-01-15`, `2024-01-15 12:00`, `today`,
    /// `yesterday`
    #[arg(short = 'S', long, value_name = "WHEN")]
    pub since: Option<LocalTimestamp>,

    /// Show only events before then, written alike
    #[arg(short = 'U', long, value_name = "WHEN")]
    pub until: Option<LocalTimestamp>,

    /// How to print events; json is one object a line
    #[arg(short, long, value_enum, default_value_t = EventFormat::Text)]
    pub output: EventFormat,

    /// Show counts by type instead, with bars, and how they came over time
    #[arg(long, conflicts_with_all = ["follow", "after", "lines", "alerts"])]
    pub stats: bool,

    /// Show alerts instead: the channels that are told of the newest events, and
    /// how far that is
    #[arg(long, conflicts_with_all = ["follow", "after", "event_type", "since", "until"])]
    pub alerts: bool,

    /// When to colour text; NO_COLOR in the environment turns `auto` off
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,

    /// Who asks, with --endpoint.
    #[command(flatten, next_help_heading = "Access")]
    pub login: LoginOptions,

    /// Encryption, with --endpoint.
    #[command(flatten, next_help_heading = "TLS")]
    pub tls: ClientTlsOptions,

    /// What is logged, and how.
    #[command(flatten, next_help_heading = "Log")]
    pub log: LogOptions,

    /// Log warnings and errors alone
    #[arg(short, long)]
    pub quiet: bool,
}

/// The settings of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsOptions {
    /// Which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// The settings of `man`.
#[derive(Debug, Args)]
pub struct ManOptions {
    /// A subcommand [default: eventctl itself]
    #[arg(value_parser = parse_page)]
    pub subcommand: Option<String>,
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

/// How `propagate` reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// Lines to read.
    Text,
    /// A JSON object a line.
    Json,
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

/// A number of bytes: `4096`, `64KiB`, `1MiB`, `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl ByteSize {
    const UNITS: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];
}

/// As it is read, by the largest unit that is exact.
impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = ByteSize::UNITS.iter().find(|(_, bytes)| self.0.is_multiple_of(*bytes));
        match exact {
            Some((unit, bytes)) if !unit.is_empty() => write!(formatter, "{}{unit}", self.0 / bytes),
            _ => write!(formatter, "{} bytes", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let (number, unit) = ByteSize::UNITS
            .iter()
            .find_map(|(name, bytes)| Some((text.strip_suffix(name)?, *bytes)))
            .unwrap_or((text, 1));
        let number: Option<usize> = number.trim().parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(unit)).filter(|bytes| *bytes > 0);
        bytes.map(ByteSize).ok_or_else(|| "expected a size such as `64KiB` or `1MiB`".to_owned())
    }
}

/// An http or https URL without a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(pub Uri);

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        const EXPECTED: &str = "expected a URL such as `http://127.0.0.1:8000/event`";
        if let Some(with_scheme) = with_scheme(text) {
            return Err(format!("it has no scheme; write {with_scheme}"));
        }
        let uri: Uri = text.parse().map_err(|error| format!("{error}; {EXPECTED}"))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(format!("a name or password does not belong into a URL; {EXPECTED}"));
        }
        match uri.scheme_str() {
            Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(Endpoint(uri)),
            Some("http" | "https") | None => Err(EXPECTED.to_owned()),
            Some(scheme) => Err(format!("`{scheme}` is neither http nor https; {EXPECTED}")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A URL whose scheme was left out, such as `localhost:8000/event`, as it should have been written.
fn with_scheme(text: &str) -> Option<String> {
    let missing = !text.contains("://") && !text.contains('@') && !text.starts_with(['/', ':', '-']);
    let url = format!("http://{text}");
    let uri: Uri = url.parse().ok().filter(|_| missing)?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let is_local = host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok() || host.starts_with('[');
    (is_local || uri.port_u16().is_some() || host.contains('.')).then_some(url)
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

/// One address of a list, or nothing at all.
fn parse_receiver(text: &str) -> Result<Channels, String> {
    if text.trim().is_empty() {
        return Ok(Channels::default());
    }
    Channel::mail(text).map(|channel| Channels(vec![channel]))
}

fn parse_port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "expected a port from 0 to 65535".to_owned())
}

fn parse_count(text: &str) -> Result<usize, String> {
    let count: Option<usize> = text.parse().ok();
    // tokio's semaphores count no further than this.
    let fits = count.filter(|count| (1..=usize::MAX >> 3).contains(count));
    fits.ok_or_else(|| "expected a number of 1 or more".to_owned())
}

fn parse_count_u64(text: &str) -> Result<u64, String> {
    let count: Option<u64> = text.parse().ok();
    count.filter(|count| *count > 0).ok_or_else(|| "expected a number of 1 or more".to_owned())
}

fn parse_seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a number from 0 to 18446744073709551615".to_owned())
}

/// A subcommand has a page of the manual.
fn parse_page(text: &str) -> Result<String, String> {
    let command = Cli::command();
    if command.find_subcommand(text).is_some() {
        return Ok(text.to_owned());
    }
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    Err(format!("expected one of {}", names.join(", ")))
}

/// Whether a flag without a value is given, where it needs one: in the environment and in files.
pub(crate) fn parse_switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("expected true or false, yes or no, 1 or 0".to_owned()),
    }
}

/// How often -v is given; yes is once.
fn parse_verbosity(text: &str) -> Result<u8, String> {
    let count = text.parse().ok().or_else(|| parse_switch(text).ok().map(u8::from));
    count.ok_or_else(|| "expected how often -v is given, such as 1".to_owned())
}

fn parse_retries(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "expected a number of 0 or more".to_owned())
}

fn parse_id(text: &str) -> Result<i64, String> {
    let id: Option<i64> = text.parse().ok();
    id.filter(|id| *id >= 0).ok_or_else(|| "expected an id such as `17`".to_owned())
}

/// A name is part of every token, and a token has to fit into a head.
fn parse_username(text: &str) -> Result<String, String> {
    let fits = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err("expected a name of 1 to 255 bytes".to_owned()) }
}

/// hyper insists on room for 8 KiB.
fn parse_header_limit(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if size < ByteSize(8192) { Err("expected 8KiB or more".to_owned()) } else { Ok(size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!("4096".parse(), Ok(ByteSize(4096)));
        assert_eq!("64KiB".parse(), Ok(ByteSize(65536)));
        assert_eq!("1 MiB".parse(), Ok(ByteSize(1 << 20)));
        for wrong in ["", "0", "-1", "1MB", "99999999999GiB", "KiB"] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn endpoints_are_http_and_hold_no_password() {
        assert!("http://localhost:8000/event".parse::<Endpoint>().is_ok());
        assert!("https://localhost/event".parse::<Endpoint>().is_ok());
        for wrong in
            ["localhost:8000", "localhost:8000/event", "events.example/event", "127.0.0.1", "[::1]:8000/"]
        {
            let message = wrong.parse::<Endpoint>().unwrap_err();
            assert_eq!(message, format!("it has no scheme; write http://{wrong}"));
        }
        for wrong in [
            "",
            "/event",
            "event",
            "ftp://host/",
            "user:secret@localhost:8000/",
            "http://",
            "http://u:secret@host/",
        ] {
            let message = wrong.parse::<Endpoint>().unwrap_err();
            assert!(message.contains("expected a URL"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

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
