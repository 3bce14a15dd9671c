//! Sends JSON events on a precise schedule, receives them, and stores them durably.
//!
//! ```text
//! consume:    bytes → TLS → routes (limits, access) → Event::parse → Store::append → COMMIT → 201
//! propagate:  file  → schedule → sender (token, retry) → response → report
//! tail:       store, or a `consume` elsewhere → query → printer
//! alerts:     rules → outbox in the store → dispatcher → mail, Slack, Discord, webhooks
//! ```
//!
//! Modules, each of which uses only those below it:
//!
//! ```text
//! main        parse, run, print the error with its hint, exit code
//! lib         runs a subcommand
//! cli         flags, environment, .env and YAML become the settings of a subcommand; completions, manual pages
//! consume, propagate, init_db, tail, alert_test          the subcommands, which do not use each other
//! consume::mod      start, run, drain
//! consume::server   sockets become requests
//! consume::routes   requests become responses, one file a request
//! consume::*        what these share
//! alert       rules, templates, mail and webhooks
//! auth        tokens and passwords, issued and presented; signatures of webhooks
//! store       SQLite, PostgreSQL, MySQL: the only place with SQL
//! client      HTTP requests
//! exposition  metrics over HTTP
//! systemd     readiness, watchdog, sockets
//! tls         certificates
//! shutdown    signals
//! logging     the log
//! secret      passwords and keys, read from private files
//! error       errors with a hint
//! core        events, schedules, globs, time: plain data and arithmetic, no I/O
//! ```
//!
//! clap is used in `main` and `cli` only; the owner of a value may derive `ValueEnum`.

mod alert;
mod alert_test;
mod auth;
mod cli;
mod client;
mod consume;
mod core;
mod error;
mod exposition;
mod init_db;
mod logging;
mod propagate;
mod secret;
mod shutdown;
mod store;
mod systemd;
mod tail;
mod tls;

use tracing::warn;

pub use crate::cli::config::{Invocation, read as read_settings};
use crate::cli::{Cli, Command, manual};
pub use crate::error::Hinted;
pub use crate::shutdown::end_process_1_on_signals;

/// How a subcommand ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    Complete,
    /// Some events were rejected or undelivered.
    Incomplete,
}

/// Starts the log and runs the subcommand to its end. The last log lines are written before this returns.
///
/// # Errors
/// The log cannot be started, or the subcommand has failed.
pub fn run(cli: Cli, warnings: &[String]) -> anyhow::Result<Completion> {
    let _log = cli.log().map(|settings| logging::start(&settings)).transpose()?;
    for warning in warnings {
        warn!("{warning}");
    }
    shutdown::survive_file_size_limit()?;
    match cli.into_command()? {
        Command::Consume(settings) => consume::run(settings)?,
        Command::Propagate(settings) => {
            let all_delivered = propagate::run(settings)?;
            return Ok(if all_delivered { Completion::Complete } else { Completion::Incomplete });
        }
        Command::InitDb(settings) => init_db::run(&settings)?,
        Command::Tail(settings) => {
            let all_done = tail::run(&settings)?;
            return Ok(if all_done { Completion::Complete } else { Completion::Incomplete });
        }
        Command::AlertTest(settings) => alert_test::run(settings)?,
        Command::Completions(shell) => manual::print_completions(shell)?,
        Command::Man(subcommand) => manual::print_page(subcommand.as_deref())?,
    }
    Ok(Completion::Complete)
}

/// What the integration tests, the fuzz targets and the benchmark use of the crate. No interface for others.
#[doc(hidden)]
pub mod testing {
    pub use crate::auth::access_token::{SigningKey, SigningKeys};
    pub use crate::auth::grant::{Credentials, Grant, GrantRequest};
    pub use crate::auth::scope::Scopes;
    pub use crate::auth::signature::{
        Digest, Encoding, HmacScheme, RequestTemplate, Scheme, verify, verifying_key,
    };
    pub use crate::auth::token_source::{GrantType, TokenRequest, TokenSource};
    pub use crate::cli::config::command;
    pub use crate::cli::{Cli, Command};
    pub use crate::client::{Endpoint, HttpClient, retry_after};
    pub use crate::consume::{HookList, parse_page_query, run as consume};
    pub use crate::core::byte_size::ByteSize;
    pub use crate::core::coding::{Coding, DecodeError};
    pub use crate::core::duration::{parse_duration, parse_positive_duration};
    pub use crate::core::event::{EVENT_TYPE_LIMIT, Event, ParseError, StoredEvent};
    pub use crate::core::glob::Glob;
    pub use crate::core::outgoing::Outgoing;
    pub use crate::core::query::Query;
    pub use crate::core::text::{excerpt, is_unsafe, printable, without_byte_order_mark};
    pub use crate::core::timestamp::Timestamp;
    pub use crate::core::type_filter::PermittedTypes;
    pub use crate::core::wall_clock::{Reading, WallClock};
    pub use crate::propagate::Header;
    pub use crate::store::backend::{Append, Backend, IdempotencyKey, NewDelivery, Outcome, StoreReader};
    pub use crate::store::deletion::delete_event;
    pub use crate::store::outbox::{Claim, Claimed, Message, Settlement, claim, settle};
    pub use crate::store::retention::{Deleted, Recount, RetentionLimits, delete_expired, last_known_time};
    pub use crate::store::subscriptions::{
        Answer, Attempt, Claim as SubscriptionClaim, Definition, Order as SubscriptionOrder, Progress,
        Refusal, Rejection, Request as SubscriptionRequest, Selected, Start, Subscription, Token, Unpark,
        progress, run as run_on_subscriptions,
    };
    pub use crate::store::{
        ReadError, Store, StoreLimits, StoreLocation, StoreOptions, WriteError, Writer, prepare,
    };
    pub use crate::tail::{Color, Content, EventFormat, Lines, OutputSettings, Printer};
    pub use crate::tls::{Trust, client_config};
}
