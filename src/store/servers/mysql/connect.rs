//! How one of several addresses of a URL becomes a connection.

use std::io;
use std::iter;
use std::net::ToSocketAddrs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mysql::prelude::Queryable;
use mysql::{ClientIdentity, Conn, Opts, OptsBuilder, SslOpts};

use super::error::{TOO_MANY_CONNECTIONS, hint_of, is_network_failure, reason_of};
use crate::error::{hinted, hinted_transient};
use crate::store::location::{ServerAddress, ServerDatabase, TlsMode};
use crate::store::servers::session::{CONNECT_TIMEOUT, HEAD_START, Purpose};
use crate::store::servers::setup::{self, Encryption};

/// How long a server may take to say something to a new client, before it is left for another one.
const SILENCE: Duration = Duration::from_secs(2);

/// How a server is reached.
#[derive(Clone)]
pub struct Server {
    plain: Opts,
    encrypted: Opts,
    encryption: Encryption,
}

/// A connection that a server has taken.
pub struct Connected {
    pub connection: Conn,
    /// The server, where the URL has others to leave it for.
    pub server: Option<Server>,
}

/// Connects to the first server that will do. Where the URL has several they are tried side by side, each a little later
/// than the one before it.
pub fn connect(
    database: &ServerDatabase,
    purpose: Purpose,
    time_limit: Duration,
) -> anyhow::Result<Connected> {
    // The error names the file that is wrong, which the driver does not.
    let _ = setup::tls_config(database)?;
    let connect_time = database.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let mut failures = Vec::new();
    let candidates = candidates_of(database, connect_time, &mut failures);
    let has_others = candidates.len() > 1;
    let servers = candidates.iter().map(|(address, host)| Server::at(database, address, host, time_limit));
    let servers: Vec<Server> = servers.collect::<anyhow::Result<_>>()?;
    let mut outcomes: Vec<mysql::Error> = servers.iter().map(|_| timed_out()).collect();
    let mut replica = None;
    // A single server says itself that it is read-only.
    let asks_for_writes = has_others && purpose != Purpose::Read;
    for (number, attempt) in attempts(&servers, asks_for_writes, connect_time) {
        let (connection, takes_writes) = match attempt {
            Ok(connected) => connected,
            Err(error) => {
                outcomes[number] = error;
                continue;
            }
        };
        let connected = Connected { connection, server: has_others.then(|| servers[number].clone()) };
        if takes_writes {
            return Ok(connected);
        }
        outcomes[number] =
            io::Error::new(io::ErrorKind::PermissionDenied, "the server takes no writes").into();
        replica.get_or_insert(connected);
    }
    if let Some(replica) = replica.filter(|_| purpose == Purpose::ReadPrimary) {
        return Ok(replica);
    }
    failures.extend(candidates.into_iter().map(|(_, host)| host).zip(outcomes));
    Err(cannot_connect(database, &failures))
}

/// Attempts to connect, as they end, each with its server's number and whether the server takes writes, if that is asked for.
/// None is waited for longer than the time to connect.
fn attempts(
    servers: &[Server],
    asks_for_writes: bool,
    connect_time: Duration,
) -> impl Iterator<Item = (usize, mysql::Result<(Conn, bool)>)> {
    let (results, received) = mpsc::channel();
    let mut waiting = servers.iter().enumerate();
    let mut running = 0;
    iter::from_fn(move || {
        loop {
            if let Some((number, server)) = waiting.next() {
                let (server, results) = (server.clone(), results.clone());
                thread::spawn(move || results.send((number, server.attempt(asks_for_writes))));
                running += 1;
            } else if running == 0 {
                return None;
            }
            // The time limit of the driver is that of a statement: a server may take a connection, and say nothing.
            let patience = if waiting.len() > 0 { HEAD_START } else { connect_time };
            match received.recv_timeout(patience) {
                Ok(attempt) => {
                    running -= 1;
                    return Some(attempt);
                }
                Err(_) if waiting.len() > 0 => {}
                Err(_) => return None,
            }
        }
    })
}

impl Server {
    fn at(
        database: &ServerDatabase,
        address: &ServerAddress,
        host: &str,
        time_limit: Duration,
    ) -> anyhow::Result<Server> {
        let options = options_of(database, address, host, time_limit)?;
        let encrypted = Opts::from(options.clone().ssl_opts(ssl_options(database)));
        Ok(Server { plain: options.into(), encrypted, encryption: setup::encryption(database) })
    }

    fn connect(&self) -> mysql::Result<Conn> {
        let plain = || Conn::new(self.plain.clone());
        let encrypted = || Conn::new(self.encrypted.clone());
        match self.encryption {
            Encryption::Never => plain(),
            Encryption::Always => encrypted(),
            Encryption::IfPossible => match encrypted() {
                Err(mysql::Error::DriverError(mysql::DriverError::TlsNotSupported)) => plain(),
                connected => connected,
            },
        }
    }

    fn attempt(&self, asks_for_writes: bool) -> mysql::Result<(Conn, bool)> {
        let mut connection = self.connect()?;
        let takes_writes = !asks_for_writes || !is_read_only(&mut connection)?;
        Ok((connection, takes_writes))
    }

    /// Whether the server says nothing to a new client, however long it may still think about a statement.
    pub fn is_silent(&self) -> bool {
        let server = self.clone();
        match within(SILENCE, move || server.connect().err()) {
            None => true,
            Some(failure) => failure.is_some_and(|failure| is_network_failure(&failure)),
        }
    }
}

/// Whether the server takes no writes, as replicas do.
pub fn is_read_only(connection: &mut Conn) -> mysql::Result<bool> {
    let read_only: Option<bool> = connection.query_first("SELECT @@global.read_only")?;
    Ok(read_only.unwrap_or_default())
}

pub fn timed_out() -> mysql::Error {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

/// All addresses that the hosts of the URL resolve to, each with the name that the driver gets.
fn candidates_of<'a>(
    database: &'a ServerDatabase,
    connect_time: Duration,
    failures: &mut Vec<(String, mysql::Error)>,
) -> Vec<(&'a ServerAddress, String)> {
    let mut candidates = Vec::new();
    for address in &database.addresses {
        let host = address.host.clone();
        // The driver compares the certificate with the name that it connects to.
        if address.is_local_socket() || database.tls.mode == TlsMode::VerifyFull {
            candidates.push((address, host));
            continue;
        }
        let name = (host.clone(), port_of(address));
        match within(connect_time, move || name.to_socket_addrs()) {
            Some(Ok(found)) => candidates.extend(found.map(|found| (address, found.ip().to_string()))),
            Some(Err(_)) => candidates.push((address, host)),
            None => failures.push((host, timed_out())),
        }
    }
    candidates
}

fn port_of(address: &ServerAddress) -> u16 {
    address.port.unwrap_or(3306)
}

fn options_of(
    database: &ServerDatabase,
    address: &ServerAddress,
    host: &str,
    time_limit: Duration,
) -> anyhow::Result<OptsBuilder> {
    let user = database.user.clone().or_else(|| std::env::var("USER").ok());
    let password = database.mysql_password()?;
    let options = OptsBuilder::new()
        .db_name(Some(&database.database))
        .user(user)
        .pass(password.as_ref().map(|password| password.expose()))
        .prefer_socket(false)
        .tcp_connect_timeout(Some(CONNECT_TIMEOUT))
        .read_timeout(Some(time_limit))
        .write_timeout(Some(time_limit))
        // The server's defaults may cut strings short, and read literals in other ways than they are written.
        .init(vec!["SET NAMES utf8mb4, sql_mode = 'STRICT_ALL_TABLES'"]);
    Ok(match address.is_local_socket() {
        true => options.socket(Some(host)),
        false => options.ip_or_hostname(Some(host)).tcp_port(port_of(address)),
    })
}

fn cannot_connect(database: &ServerDatabase, failures: &[(String, mysql::Error)]) -> anyhow::Error {
    let reasons: Vec<String> = match failures {
        [(_, only)] => vec![reason_of(only)],
        several => several.iter().map(|(host, failure)| format!("{host}: {}", reason_of(failure))).collect(),
    };
    let problem = format!("cannot connect to `{database}`: {}", reasons.join("; "));
    let mut hints = failures.iter().rev().filter_map(|(_, failure)| hint_of(failure));
    let hint = hints.find(|hint| *hint != setup::RIGHTS_HINT).unwrap_or(
        "check host, port, user, database and password (MYSQL_PWD, ~/.my.cnf) of --db, and ssl-mode",
    );
    // Not transient: the server itself has answered, or the files that encryption needs are wrong.
    let is_transient = |failure: &mysql::Error| match failure {
        mysql::Error::MySqlError(error) => error.code == TOO_MANY_CONNECTIONS,
        mysql::Error::TlsError(_) => false,
        _ => true,
    };
    if failures.iter().any(|(_, failure)| is_transient(failure)) {
        hinted_transient(problem, hint)
    } else {
        hinted(problem, hint)
    }
}

fn ssl_options(database: &ServerDatabase) -> SslOpts {
    let tls = &database.tls;
    let identity = tls.certificate.clone().zip(tls.key.clone());
    SslOpts::default()
        .with_root_cert_path(tls.authorities.clone())
        .with_client_identity(identity.map(|(certificate, key)| ClientIdentity::new(certificate, key)))
        .with_danger_skip_domain_validation(tls.mode != TlsMode::VerifyFull)
        .with_danger_accept_invalid_certs(match tls.mode {
            TlsMode::Require => tls.authorities.is_none(),
            TlsMode::Prefer => true,
            TlsMode::Disable | TlsMode::VerifyAuthority | TlsMode::VerifyFull => false,
        })
}

/// Does something that may wait for a server, and gives up after a time; the work then ends by itself, or with its server.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (result, received) = mpsc::channel();
    let _ = thread::spawn(move || result.send(work()));
    received.recv_timeout(limit).ok()
}
