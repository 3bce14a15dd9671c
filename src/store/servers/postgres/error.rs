//! What goes wrong with a PostgreSQL server: in its own words, and what to do about it.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use crate::store::error::{Cause, DatabaseError, FailureKind, Recovery};
use crate::store::location::ServerDatabase;
use crate::store::servers::setup;

/// What a statement fails with.
#[derive(Debug)]
pub enum PostgresError {
    /// What the driver says.
    Driver(tokio_postgres::Error),
    /// No answer in this time; whether the server has done it is open.
    TimedOut(Duration),
    /// The server owes an answer, and another one of the URL's is to be used; whether it has done it is open.
    Superseded,
    /// The server has committed, and has given up waiting for the standbys that were to have it too.
    NotReplicated(String),
}

impl PostgresError {
    /// The server's own error, if it has answered at all.
    fn of_server(&self) -> Option<&DbError> {
        match self {
            PostgresError::Driver(error) => error.as_db_error(),
            PostgresError::TimedOut(_) | PostgresError::Superseded | PostgresError::NotReplicated(_) => None,
        }
    }

    fn code(&self) -> Option<&SqlState> {
        self.of_server().map(DbError::code)
    }

    /// Whether the connection went away, by what the server said last or by its silence.
    fn is_connection_lost(&self) -> bool {
        match self {
            PostgresError::Driver(error) => match error.as_db_error() {
                // A server that shuts down, or that has had enough of an idle connection, says so first.
                Some(error) => {
                    error.code().code().starts_with("57P") || error.code().code().starts_with("08")
                }
                None => true,
            },
            PostgresError::TimedOut(_) | PostgresError::Superseded | PostgresError::NotReplicated(_) => false,
        }
    }

    /// Whether the server broke a transaction off for the sake of another, or a read for the sake of replication; or
    /// another process has stored an idempotency key since a statement began that would have found it.
    fn is_conflict(&self) -> bool {
        self.of_server().is_some_and(|error| {
            let code = error.code();
            *code == SqlState::T_R_SERIALIZATION_FAILURE
                || *code == SqlState::T_R_DEADLOCK_DETECTED
                || *code == SqlState::UNIQUE_VIOLATION && error.table() == Some("idempotency_keys")
        })
    }

    /// Whether another server, or the same one later, may do what was asked.
    pub fn is_transient(&self) -> bool {
        match self.of_server().map(|error| error.code().code()) {
            Some(code) => ["57P", "08", "53"].iter().any(|class| code.starts_with(class)),
            None => !self.is_refusal_of_certificate(),
        }
    }

    fn is_refusal_of_certificate(&self) -> bool {
        self.to_string().contains("TLS")
    }

    /// What to do; by the code, as messages come in the server's language.
    pub fn hint(&self) -> Option<&'static str> {
        if let PostgresError::Driver(error) = self
            && error.source().and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(is_read_only)
        {
            return Some(setup::READ_ONLY_HINT);
        }
        let error = self.of_server()?;
        let code = error.code().code();
        Some(match code {
            "42501" => setup::RIGHTS_HINT,
            "25006" => setup::READ_ONLY_HINT,
            // The only thing of ours that is not in the state that it must have is a table of a publication.
            "55000" => {
                "a publication has a table that has no key: run eventctl init-db with this version, give the table a \
                    replica identity, or take it out of the publication"
            }
            // A prepared statement that is not there, or is there already; a parameter that a pooler does not know.
            "26000" | "42P05" | "08P01" => setup::POOLER_HINT,
            "53300" => "raise max_connections on the server, or have fewer clients",
            "53100" => "make room on the server's disk",
            "57P03" => "wait until the server has started, and look into its log",
            _ => return None,
        })
    }
}

/// What the driver makes of a server that takes no writes.
fn is_read_only(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// What the server says, or why it says nothing; never the values of a statement.
impl fmt::Display for PostgresError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PostgresError::Driver(error) => match (error.as_db_error(), error.source()) {
                (Some(error), _) => formatter.write_str(error.message()),
                (None, Some(source)) => write!(formatter, "{error}: {source}"),
                (None, None) => error.fmt(formatter),
            },
            PostgresError::TimedOut(limit) => {
                write!(formatter, "the server has not answered within {}", humantime::format_duration(*limit))
            }
            PostgresError::Superseded => {
                formatter.write_str("the server does not answer, and another one is there to be used")
            }
            PostgresError::NotReplicated(reason) => {
                write!(formatter, "committed, but perhaps not on a standby: {reason}")
            }
        }
    }
}

impl Error for PostgresError {}

impl From<tokio_postgres::Error> for PostgresError {
    fn from(error: tokio_postgres::Error) -> PostgresError {
        PostgresError::Driver(error)
    }
}

impl From<PostgresError> for DatabaseError {
    fn from(error: PostgresError) -> DatabaseError {
        let kind = match error.code().map(SqlState::code) {
            Some(code) if code == SqlState::DISK_FULL.code() => FailureKind::Full,
            // Data exceptions and integrity violations: this request, and no other.
            Some(code) if code.starts_with("22") || code.starts_with("23") => FailureKind::Refused,
            _ => FailureKind::Unavailable,
        };
        let recovery = match &error {
            PostgresError::TimedOut(_) => Recovery::Abandon,
            PostgresError::Superseded => Recovery::Reconnect,
            error if error.is_connection_lost() => Recovery::Reconnect,
            error if error.is_conflict() => Recovery::Repeat,
            _ => Recovery::None,
        };
        DatabaseError { kind, recovery, cause: Cause::new(error) }
    }
}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> DatabaseError {
        PostgresError::from(error).into()
    }
}

pub fn cannot_use(database: &ServerDatabase, error: &PostgresError) -> anyhow::Error {
    setup::cannot_use(database, &error.to_string(), error.hint())
}

/// Whether a server says that it has given up waiting for its standbys, though the commit stands.
///
/// It does so where the wait is cancelled, by hand or by a time limit. The name of the function is the same in all
/// languages; the text is not, and the code is that of any warning.
///
/// Source: PostgreSQL, `src/backend/replication/syncrep.c`, `SyncRepWaitForLSN`.
pub fn gave_up_on_standbys(notice: &DbError) -> bool {
    notice.routine() == Some("SyncRepWaitForLSN")
        || notice.message().starts_with("canceling wait for synchronous replication")
        || notice.message().starts_with("canceling the wait for synchronous replication")
}
