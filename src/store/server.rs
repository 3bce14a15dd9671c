//! What stores on database servers have in common: encryption, and what is said where one cannot be used.

#[cfg(feature = "mysql")]
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::backend::StoreError;
use super::database::{Database, ErrorOf};
use super::location::{ServerDatabase, TlsMode};
use super::{StoreOptions, schema};
use crate::core::backoff::Backoff;
use crate::core::hint::hinted;
use crate::tls::{Identity, Trust, client_config};

/// How long to wait for a connection, and for a server that is gone to be noticed.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a statement of the writer may take, the wait for another process's commit included.
pub const WRITE_TIME: Duration = Duration::from_secs(20);

/// How long a connection may be idle before it is not trusted any more: the server may have gone meanwhile.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// For how long a transaction is repeated that the server breaks off for the sake of others: well within the time that
/// a request has.
const CONFLICT_TIME: Duration = Duration::from_secs(10);

/// How long to wait before one is repeated. Those who are in each other's way must not come back at once.
const CONFLICT_BACKOFF: Backoff = Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(250) };

/// How often a read is repeated that the server breaks off for the sake of others, such as replication.
pub const READ_REPEATS: u32 = 8;

/// What to do about a login that may not do what it is asked for.
pub const RIGHTS_HINT: &str = "grant this user what it lacks on the tables that eventctl init-db has made";

/// What to do about a server that takes no writes.
pub const READ_ONLY_HINT: &str = "this server takes no writes: name the primary, or all servers, separated by commas, of which \
    the writable one is taken";

/// What to do about a pooler that does not keep a session for each client.
#[cfg(feature = "postgres")]
pub const POOLER_HINT: &str = "set pool_mode = session for this database in the pooler, or name the server itself instead of \
    the pooler";

/// Statements that write nothing, and that a server refuses to a login that may not store events, or where it
/// takes no writes from anyone.
const WRITE_CHECKS: [&str; 8] = [
    "UPDATE last_event SET id = id WHERE 1 = 0",
    "INSERT INTO events SELECT * FROM events WHERE 1 = 0",
    "INSERT INTO idempotency_keys SELECT * FROM idempotency_keys WHERE 1 = 0",
    "INSERT INTO deliveries SELECT * FROM deliveries WHERE 1 = 0",
    "UPDATE deliveries SET held = held WHERE 1 = 0",
    "UPDATE outbox_lock SET id = id WHERE 1 = 0",
    "INSERT INTO alert_channels SELECT * FROM alert_channels WHERE 1 = 0",
    "UPDATE alert_channels SET closed_until = closed_until WHERE 1 = 0",
];

/// The same for a login that may not delete events.
const RETENTION_CHECKS: [&str; 7] = [
    "DELETE FROM events WHERE 1 = 0",
    "DELETE FROM idempotency_keys WHERE 1 = 0",
    "DELETE FROM deliveries WHERE 1 = 0",
    "UPDATE retention SET id = id WHERE 1 = 0",
    "INSERT INTO deleted_events SELECT * FROM deleted_events WHERE 1 = 0",
    "UPDATE deleted_events SET last_id = last_id WHERE 1 = 0",
    "DELETE FROM deleted_events WHERE 1 = 0",
];

/// A writing connection to a server, which others write to, and which comes and goes.
pub trait ServerConnection: Database {
    /// When the server was last heard of.
    fn last_use(&mut self) -> &mut Instant;

    /// Whether the server still answers.
    fn is_alive(&mut self) -> bool;

    /// Connects anew.
    fn reconnect(&mut self) -> Result<(), StoreError>;

    /// Ends the transaction without its changes.
    fn roll_back(&mut self) -> Result<(), ErrorOf<Self>>;

    /// Whether the connection is of no use any more, as far as is known.
    fn is_lost(&self) -> bool;

    /// Looks, without waiting, whether the server has closed the connection.
    fn has_ended(&mut self) -> bool;

    /// Whether the server broke a transaction off for the sake of another.
    fn is_conflict(error: &ErrorOf<Self>) -> bool;
}

/// See [`Database::transact`]. Connects anew where the connection was lost while nothing was asked of it.
///
/// What may have been committed is never repeated: a connection that is lost in the midst of a transaction fails it.
pub fn transact<C: ServerConnection, T>(
    connection: &mut C,
    mut transaction: impl FnMut(&mut C) -> Result<T, ErrorOf<C>>,
) -> Result<T, StoreError> {
    if connection.has_ended() || connection.last_use().elapsed() > IDLE_TIME && !connection.is_alive() {
        connection.reconnect()?;
    }
    let begun = Instant::now();
    let mut conflicts = 0;
    loop {
        let result = transaction(connection);
        *connection.last_use() = Instant::now();
        let error = match result {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        // Where this fails, too, the connection is lost, and the transaction with it.
        let rolled_back = !connection.is_lost() && connection.roll_back().is_ok();
        conflicts += 1;
        if !C::is_conflict(&error) || !rolled_back || begun.elapsed() > CONFLICT_TIME {
            return Err(error.into());
        }
        pause_after_conflict(conflicts);
    }
}

/// Waits before something is repeated that the server broke off for the sake of others, so many times by now.
pub fn pause_after_conflict(conflicts: u32) {
    thread::sleep(CONFLICT_BACKOFF.wait(conflicts, &mut fastrand::Rng::new()));
}

/// Does something that may wait for a server, and gives it up after a time; it then ends by itself, or with its server.
#[cfg(feature = "mysql")]
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (give, given) = mpsc::channel();
    let _ = thread::spawn(move || give.send(work()));
    given.recv_timeout(limit).ok()
}

/// What a login is asked to do, and does not, before the first event comes.
pub fn checks_of(options: StoreOptions) -> impl Iterator<Item = &'static str> {
    let deletes = RETENTION_CHECKS.into_iter().filter(move |_| options.deletes);
    WRITE_CHECKS.into_iter().chain(deletes)
}

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    Never,
    IfPossible,
    Always,
}

/// What the URL asks for; a socket of this machine is not encrypted.
pub fn encryption(database: &ServerDatabase) -> Encryption {
    match database.tls.mode {
        _ if database.is_local_socket() => Encryption::Never,
        TlsMode::Disable => Encryption::Never,
        TlsMode::Prefer => Encryption::IfPossible,
        TlsMode::Require | TlsMode::VerifyAuthority | TlsMode::VerifyFull => Encryption::Always,
    }
}

/// How the server's certificate is verified, and with which of our own we come.
pub fn tls_config(database: &ServerDatabase) -> anyhow::Result<ClientConfig> {
    let tls = &database.tls;
    let trust = match (tls.mode, &tls.authorities) {
        (TlsMode::VerifyFull, None) => Trust::Web,
        (TlsMode::VerifyFull, Some(path)) => Trust::Authorities(path),
        // As libpq has it, a certificate authority that is named is not named for nothing.
        (TlsMode::VerifyAuthority | TlsMode::Require, Some(path)) => Trust::AuthoritiesForAnyName(path),
        (TlsMode::VerifyAuthority, None) => {
            let problem = format!("cannot verify the server of `{database}`: no authority is named");
            return Err(hinted(
                problem,
                "give sslrootcert=FILE (PostgreSQL) or ssl-ca=FILE (MySQL) in the URL",
            ));
        }
        _ => Trust::Anyone,
    };
    let identity = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some(Identity::read(certificate, key)?),
        (None, None) => None,
        _ => {
            let problem = format!("cannot log in to `{database}`: certificate and key go together");
            return Err(hinted(problem, "give both sslcert and sslkey (ssl-cert and ssl-key for MySQL)"));
        }
    };
    client_config(trust, identity)
}

/// Refuses a database that is not prepared for this program.
pub fn check_prepared(database: &ServerDatabase, version: usize, known: usize) -> anyhow::Result<()> {
    schema::check_not_too_new(database, version, known)?;
    if version >= known {
        return Ok(());
    }
    let problem = match version {
        0 => format!("cannot open `{database}`: it is not prepared"),
        _ => format!("cannot open `{database}`: its schema is version {version}, older than {known}"),
    };
    let hint = format!("run eventctl init-db --db '{database}' as a user who may create tables");
    Err(hinted(problem, hint))
}

/// Says what the server refuses to a login that it has let in.
pub fn cannot_use(database: &ServerDatabase, reason: &str, hint: Option<&str>) -> anyhow::Error {
    let hint =
        hint.unwrap_or("look into the log of the server, and run eventctl init-db where tables are missing");
    hinted(format!("cannot use `{database}`: {reason}"), hint)
}

/// Refuses a setting of the server with which acknowledged events could be lost.
pub fn weak_durability(database: &ServerDatabase, setting: &str, value: &str, wanted: &str) -> anyhow::Error {
    let problem = format!("cannot use `{database}`: {setting} is {value}, and events could be lost");
    hinted(
        problem,
        format!("set {setting} = {wanted} on the server, or allow it with --allow-weak-durability"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::location::StoreLocation;
    use super::*;

    #[test]
    fn an_older_schema_is_told_from_none() {
        let location: StoreLocation = "postgres://u@h/d".parse().unwrap();
        let StoreLocation::Postgres(database) = location else { panic!("{location}") };
        let refusal = |version| check_prepared(&database, version, 2).unwrap_err().to_string();
        assert_eq!(refusal(0), "cannot open `postgres://u@h/d`: it is not prepared");
        assert_eq!(refusal(1), "cannot open `postgres://u@h/d`: its schema is version 1, older than 2");
        assert_eq!(refusal(4), "cannot open `postgres://u@h/d`: its schema is version 4, newer than 2");
        assert!(check_prepared(&database, 2, 2).is_ok());
        assert!(check_prepared(&database, 3, 2).is_ok());
    }
}
