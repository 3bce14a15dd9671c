//! How a connection to a server is encrypted, what is checked before the first event, and what to say where a server cannot
//! be used.

use rustls::ClientConfig;
use tracing::warn;

use crate::error::hinted;
use crate::store::location::{ServerDatabase, TlsMode};
use crate::store::options::StoreOptions;
use crate::store::schema;
use crate::tls::{Identity, Trust, client_config};

/// What to do where the role lacks a permission.
pub const RIGHTS_HINT: &str = "grant this user what it lacks on the tables that eventctl init-db has made";

/// What to do where the server is read-only.
pub const READ_ONLY_HINT: &str = "this server takes no writes: name the primary, or all servers, separated by commas, of which \
    the writable one is taken";

/// What to do about a pooler that does not keep a session for each client.
pub const POOLER_HINT: &str = "set pool_mode = session for this database in the pooler, or name the server itself instead of \
    the pooler";

/// Permission checks: statements that change nothing, and that fail where the role lacks a permission to store events, or
/// where the server is read-only.
const WRITE_CHECKS: [&str; 17] = [
    "UPDATE last_event SET id = id WHERE 1 = 0",
    "INSERT INTO events SELECT * FROM events WHERE 1 = 0",
    "INSERT INTO idempotency_keys SELECT * FROM idempotency_keys WHERE 1 = 0",
    "INSERT INTO deliveries SELECT * FROM deliveries WHERE 1 = 0",
    "UPDATE deliveries SET held = held WHERE 1 = 0",
    "UPDATE outbox_lock SET id = id WHERE 1 = 0",
    "INSERT INTO alert_channels SELECT * FROM alert_channels WHERE 1 = 0",
    "UPDATE alert_channels SET closed_until = closed_until WHERE 1 = 0",
    "INSERT INTO subscriptions SELECT * FROM subscriptions WHERE 1 = 0",
    "UPDATE subscriptions SET position = position WHERE 1 = 0",
    "DELETE FROM subscriptions WHERE 1 = 0",
    "INSERT INTO subscription_events SELECT * FROM subscription_events WHERE 1 = 0",
    "UPDATE subscription_events SET token = token WHERE 1 = 0",
    "DELETE FROM subscription_events WHERE 1 = 0",
    "INSERT INTO subscription_claims SELECT * FROM subscription_claims WHERE 1 = 0",
    "UPDATE subscription_claims SET token = token WHERE 1 = 0",
    "DELETE FROM subscription_claims WHERE 1 = 0",
];

/// The same for the permissions to delete events.
const RETENTION_CHECKS: [&str; 7] = [
    "DELETE FROM events WHERE 1 = 0",
    "DELETE FROM idempotency_keys WHERE 1 = 0",
    "DELETE FROM deliveries WHERE 1 = 0",
    "UPDATE retention SET id = id WHERE 1 = 0",
    "INSERT INTO deleted_events SELECT * FROM deleted_events WHERE 1 = 0",
    "UPDATE deleted_events SET last_id = last_id WHERE 1 = 0",
    "DELETE FROM deleted_events WHERE 1 = 0",
];

/// The permissions that are checked before the first event is stored.
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

/// How the server's certificate is verified, and the client certificate.
pub fn tls_config(database: &ServerDatabase) -> anyhow::Result<ClientConfig> {
    let tls = &database.tls;
    let trust = match (tls.mode, &tls.authorities) {
        (TlsMode::VerifyFull, None) => Trust::PublicCas,
        (TlsMode::VerifyFull, Some(path)) => Trust::CaFile(path),
        // As libpq has it, a certificate authority that is named is not named for nothing.
        (TlsMode::VerifyAuthority | TlsMode::Require, Some(path)) => Trust::CaFileForAnyName(path),
        (TlsMode::VerifyAuthority, None) => {
            let problem = format!("cannot verify the server of `{database}`: no authority is named");
            return Err(hinted(
                problem,
                "give sslrootcert=FILE (PostgreSQL) or ssl-ca=FILE (MySQL) in the URL",
            ));
        }
        _ => Trust::AnyCertificate,
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

/// The error where the server refuses something to a role that it has authenticated.
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

/// Refuses a server that acknowledges events before enough replicas have them. Where it acknowledges them before any has,
/// says so once; returns whether it does.
pub fn check_replicas(
    database: &ServerDatabase,
    required: u32,
    confirming: u32,
    has_others: impl FnOnce() -> bool,
    hint: &str,
) -> anyhow::Result<bool> {
    if confirming < required {
        let replicas = if confirming == 1 { "replica" } else { "replicas" };
        let problem =
            format!("cannot use `{database}`: its commits wait for {confirming} {replicas}, not {required}");
        return Err(hinted(problem, hint));
    }
    let are_asynchronous = confirming == 0 && has_others();
    if are_asynchronous {
        warn!(
            "the replicas of `{database}` are asynchronous: a failover can lose the last acknowledged events"
        );
    }
    Ok(are_asynchronous)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::location::StoreLocation;

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
