//! What goes wrong with a MySQL or MariaDB server: in its own words, and what to do about it.

use std::error::Error;
use std::fmt;
use std::io;

use crate::store::error::{Cause, DatabaseError, FailureKind, Recovery};
use crate::store::location::ServerDatabase;
use crate::store::servers::setup;

// Source: MySQL's manual, "Server Error Message Reference".
const DISK_FULL: [u16; 3] = [1021, 1114, 1026];
const DEADLOCK: u16 = 1213;
/// Denied: to this database, at all, this statement, on this table, on this column, for lack of a privilege.
const RIGHTS: [u16; 6] = [1044, 1045, 1142, 1143, 1227, 1370];
/// The server runs with `--read-only`, the transaction is read-only, the engine is.
const READ_ONLY: [u16; 3] = [1290, 1792, 1836];
pub const TOO_MANY_CONNECTIONS: u16 = 1040;
/// A node of a Galera cluster that is not part of it at present.
const NOT_IN_CLUSTER: u16 = 1047;
/// The server shuts down, the connection was killed, it was idle for too long.
const CONNECTION_ENDED: [u16; 3] = [1053, 1927, 4031];
const DUPLICATE: u16 = 1062;
/// Duplicate entry, data too long, incorrect value, out of range, packet too large.
const OF_THIS_REQUEST: [u16; 5] = [DUPLICATE, 1406, 1366, 1264, 1153];

/// The driver's error, as the server words it.
#[derive(Debug)]
struct MySqlError(mysql::Error);

impl fmt::Display for MySqlError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&reason_of(&self.0))
    }
}

impl Error for MySqlError {}

impl From<mysql::Error> for DatabaseError {
    fn from(error: mysql::Error) -> DatabaseError {
        let code = match &error {
            mysql::Error::MySqlError(error) => Some(error.code),
            _ => None,
        };
        let kind = match code {
            Some(code) if DISK_FULL.contains(&code) => FailureKind::Full,
            Some(code) if OF_THIS_REQUEST.contains(&code) => FailureKind::Refused,
            _ => FailureKind::Unavailable,
        };
        let recovery = match code {
            _ if is_timeout(&error) => Recovery::Abandon,
            _ if is_connection_lost(&error) => Recovery::Reconnect,
            // A key that another node of a cluster has stored since it was looked up is a duplicate.
            Some(DEADLOCK | DUPLICATE) => Recovery::Repeat,
            _ => Recovery::None,
        };
        DatabaseError { kind, recovery, cause: Cause::new(MySqlError(error)) }
    }
}

pub fn cannot_use(database: &ServerDatabase, error: &mysql::Error) -> anyhow::Error {
    setup::cannot_use(database, &reason_of(error), hint_of(error))
}

/// What to do; by the number, as messages come in the server's language.
pub fn hint_of(error: &mysql::Error) -> Option<&'static str> {
    let code = match error {
        mysql::Error::MySqlError(error) => error.code,
        mysql::Error::IoError(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Some(setup::READ_ONLY_HINT);
        }
        _ => return None,
    };
    match code {
        _ if RIGHTS.contains(&code) => Some(setup::RIGHTS_HINT),
        _ if READ_ONLY.contains(&code) => Some(setup::READ_ONLY_HINT),
        TOO_MANY_CONNECTIONS => Some("raise max_connections on the server, or have fewer clients"),
        NOT_IN_CLUSTER => Some("wait until this node has joined its cluster, or name another node"),
        _ => None,
    }
}

/// Whether the connection went away, or is in an unknown state.
fn is_connection_lost(error: &mysql::Error) -> bool {
    match error {
        mysql::Error::MySqlError(error) => CONNECTION_ENDED.contains(&error.code),
        mysql::Error::FromRowError(_) | mysql::Error::FromValueError(_) => false,
        _ => true,
    }
}

/// The error of the network, whichever layer of the driver got it.
fn network_error(error: &mysql::Error) -> Option<&io::Error> {
    match error {
        mysql::Error::IoError(error) => Some(error),
        mysql::Error::CodecError(error) => error.source()?.downcast_ref(),
        _ => None,
    }
}

/// Whether the network has failed, or taken too long, before the server itself said anything.
pub fn is_network_failure(error: &mysql::Error) -> bool {
    network_error(error).is_some() || matches!(error, mysql::Error::DriverError(_))
}

fn is_timeout(error: &mysql::Error) -> bool {
    // A socket with a time limit says that it would block.
    let kind = network_error(error).map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock))
}

/// What the server says, or why it says nothing.
pub fn reason_of(error: &mysql::Error) -> String {
    match error {
        mysql::Error::MySqlError(error) => error.message.clone(),
        error if is_timeout(error) => "the server has not answered in time".to_owned(),
        error => network_error(error).map_or_else(|| error.to_string(), io::Error::to_string),
    }
}
