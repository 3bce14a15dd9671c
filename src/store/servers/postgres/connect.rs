//! How one of several addresses of a URL becomes a connection.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::lookup_host;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{PostgresError, gave_up_on_standbys};
use crate::error::{hinted, hinted_transient};
use crate::store::location::{ServerAddress, ServerDatabase, SessionTarget};
use crate::store::servers::session::{CONNECT_TIMEOUT, HEAD_START, LEAVE_CHECK, Purpose, WRITE_TIME};
use crate::store::servers::setup::{self, Encryption};

/// After how long without an answer the network asks whether the server is still there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// The last notice of a server that it gave up waiting for its standbys.
pub type Notices = Arc<Mutex<Option<String>>>;

/// Where a server may be: an address as the URL has it, and an IP address that its name resolves to.
type Candidate = (ServerAddress, Option<IpAddr>);

/// A connection that a server has taken.
pub struct Connected {
    pub client: Client,
    pub driver: JoinHandle<()>,
    pub server: ConnectedServer,
}

/// Which of several servers it is.
pub struct ConnectedServer {
    candidate: Candidate,
    target: TargetSessionAttrs,
    /// When it was started, which no other address of the same server changes; none where the URL has no others.
    started: Option<String>,
}

/// Connects to the first server that will do.
pub async fn connect_any(
    database: &ServerDatabase,
    purpose: Purpose,
    notices: &Notices,
) -> anyhow::Result<Connected> {
    let time_limit = database.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let mut failures = Vec::new();
    let candidates = candidates_of(database, time_limit, &mut failures).await;
    for target in targets_of(database, purpose, candidates.len()) {
        match connect_first(database, &candidates, target, notices).await? {
            Ok(connected) => return Ok(connected),
            Err(failed) => failures.extend(failed),
        }
    }
    Err(cannot_connect(database, &failures))
}

/// A server and why it could not be used.
type Failure = (String, PostgresError);

/// Connects to the first of the candidates that answers; those before it have a head start.
async fn connect_first(
    database: &ServerDatabase,
    candidates: &[Candidate],
    target: TargetSessionAttrs,
    notices: &Notices,
) -> anyhow::Result<Result<Connected, Vec<Failure>>> {
    let tls = MakeRustlsConnect::new(setup::tls_config(database)?);
    let time_limit = database.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let mut waiting = candidates.iter().enumerate();
    let mut racing = JoinSet::new();
    let mut failures = BTreeMap::new();
    loop {
        if let Some((number, (address, resolved))) = waiting.next() {
            let mut config = config_of(database, address)?;
            config.target_session_attrs(target);
            resolved.map(|resolved| config.hostaddr(resolved));
            let tls = tls.clone();
            racing.spawn(async move { (number, timeout(time_limit, config.connect(tls)).await) });
        }
        let patience = if waiting.len() > 0 { HEAD_START } else { time_limit };
        let (number, failure) = match timeout(patience, racing.join_next()).await {
            Err(_) => continue,
            Ok(None) if waiting.len() > 0 => continue,
            Ok(None) => return Ok(Err(failures.into_values().collect())),
            Ok(Some(attempt)) => match attempt.context("an attempt to connect has ended")? {
                (number, Ok(Ok((client, connection)))) => {
                    let driver = tokio::spawn(drive(connection, Arc::clone(notices)));
                    let has_others = database.addresses.len() > 1 || candidates.len() > 1;
                    let started = if has_others { start_time(&client).await } else { None };
                    let server = ConnectedServer { candidate: candidates[number].clone(), target, started };
                    return Ok(Ok(Connected { client, driver, server }));
                }
                (number, Ok(Err(error))) => (number, PostgresError::from(error)),
                (number, Err(_)) => (number, PostgresError::TimedOut(time_limit)),
            },
        };
        failures.insert(number, (shown(&candidates[number]), failure));
    }
}

/// When a server was started, if it says so.
async fn start_time(client: &Client) -> Option<String> {
    let answer = timeout(CONNECT_TIMEOUT, client.simple_query("SELECT pg_postmaster_start_time()")).await;
    answer.ok()?.ok()?.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// Waits until a server that owes an answer should be left: another one takes writes, or, to read, this one takes no new
/// connection. It never returns where the URL has no others.
pub async fn wait_until_superseded(database: &ServerDatabase, purpose: Purpose, server: &ConnectedServer) {
    if server.started.is_none() {
        return std::future::pending().await;
    }
    let notices = Notices::default();
    loop {
        sleep(LEAVE_CHECK).await;
        let superseded = match purpose {
            Purpose::Write => connect_any(database, purpose, &notices)
                .await
                .is_ok_and(|connected| connected.server.started != server.started),
            Purpose::Read | Purpose::ReadPrimary => {
                let own = [server.candidate.clone()];
                let answer =
                    timeout(LEAVE_CHECK, connect_first(database, &own, server.target, &notices)).await;
                answer.is_err()
            }
        };
        if superseded {
            return;
        }
    }
}

/// Which kinds of server will do, the best first.
fn targets_of(database: &ServerDatabase, purpose: Purpose, candidates: usize) -> Vec<TargetSessionAttrs> {
    match (database.target, purpose) {
        // A single server says itself that it is read-only.
        (SessionTarget::Any | SessionTarget::PreferStandby, Purpose::Write) if candidates > 1 => {
            vec![TargetSessionAttrs::ReadWrite]
        }
        (SessionTarget::Any, Purpose::ReadPrimary) if candidates > 1 => {
            vec![TargetSessionAttrs::ReadWrite, TargetSessionAttrs::Any]
        }
        (SessionTarget::ReadWrite, _) => vec![TargetSessionAttrs::ReadWrite],
        (SessionTarget::ReadOnly, _) => vec![TargetSessionAttrs::ReadOnly],
        (SessionTarget::PreferStandby, Purpose::Read | Purpose::ReadPrimary) => {
            vec![TargetSessionAttrs::ReadOnly, TargetSessionAttrs::Any]
        }
        (SessionTarget::Any | SessionTarget::PreferStandby, _) => vec![TargetSessionAttrs::Any],
    }
}

/// All addresses that the hosts of the URL resolve to.
async fn candidates_of(
    database: &ServerDatabase,
    time_limit: Duration,
    failures: &mut Vec<Failure>,
) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for address in &database.addresses {
        if address.is_local_socket() {
            candidates.push((address.clone(), None));
            continue;
        }
        let looked_up = timeout(time_limit, lookup_host((address.host.as_str(), port_of(address)))).await;
        match looked_up {
            Ok(Ok(found)) => candidates.extend(found.map(|found| (address.clone(), Some(found.ip())))),
            // The driver reports the same failure.
            Ok(Err(_)) => candidates.push((address.clone(), None)),
            Err(_) => failures.push((address.host.clone(), PostgresError::TimedOut(time_limit))),
        }
    }
    candidates
}

fn port_of(address: &ServerAddress) -> u16 {
    address.port.unwrap_or(5432)
}

fn shown((address, resolved): &Candidate) -> String {
    match resolved {
        Some(resolved) if resolved.to_string() != address.host => format!("{} ({resolved})", address.host),
        _ => address.host.clone(),
    }
}

fn config_of(database: &ServerDatabase, address: &ServerAddress) -> anyhow::Result<Config> {
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    let parameters =
        database.driver_parameters.iter().map(|(name, value)| format!("{name}='{}' ", quoted(value)));
    let parsed = parameters.collect::<String>().parse();
    let mut config: Config = parsed.map_err(|error: tokio_postgres::Error| {
        let problem = format!("cannot use `{database}`: {}", PostgresError::from(error));
        hinted(
            problem,
            "give each parameter of the URL a value that PostgreSQL's documentation of libpq names",
        )
    })?;
    let is_given = |name: &str| database.driver_parameters.iter().any(|(given, _)| given == name);
    if !is_given("keepalives_idle") {
        config.keepalives_idle(KEEPALIVE);
    }
    if !is_given("keepalives_interval") {
        config.keepalives_interval(KEEPALIVE);
    }
    if !is_given("keepalives_retries") {
        config.keepalives_retries(3);
    }
    let user =
        database.user.clone().or_else(|| std::env::var("PGUSER").ok()).or_else(|| std::env::var("USER").ok());
    config
        .host(&address.host)
        .port(port_of(address))
        .dbname(&database.database)
        .user(user.unwrap_or_else(|| "postgres".to_owned()))
        .application_name("eventctl")
        .tcp_user_timeout(WRITE_TIME)
        .ssl_mode(match setup::encryption(database) {
            Encryption::Never => SslMode::Disable,
            Encryption::IfPossible => SslMode::Prefer,
            Encryption::Always => SslMode::Require,
        });
    if let Some(password) = database.postgres_password(address)? {
        config.password(password.expose());
    }
    Ok(config)
}

/// Moves messages between the client and the network, and keeps the notice that the server gave up on its standbys.
async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, notices: Notices)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    // The client gets the error when the connection has ended.
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notice(notice) = message
            && gave_up_on_standbys(&notice)
        {
            *notices.lock() = Some(notice.message().to_owned());
        }
    }
}

fn cannot_connect(database: &ServerDatabase, failures: &[Failure]) -> anyhow::Error {
    let reasons: Vec<String> = match failures {
        [(_, only)] => vec![only.to_string()],
        several => several.iter().map(|(server, failure)| format!("{server}: {failure}")).collect(),
    };
    let problem = format!("cannot connect to `{database}`: {}", reasons.join("; "));
    // A role that is not authenticated lacks no permissions on tables.
    let mut hints = failures.iter().rev().filter_map(|(_, failure)| failure.hint());
    let hint = hints.find(|hint| *hint != setup::RIGHTS_HINT).unwrap_or(
        "check host, port, user, database and password (PGPASSWORD, PGPASSFILE) of --db, and sslmode",
    );
    if failures.iter().any(|(_, failure)| failure.is_transient()) {
        hinted_transient(problem, hint)
    } else {
        hinted(problem, hint)
    }
}
