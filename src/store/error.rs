//! Why a store does not do what it was asked.
//!
//! The error of a driver becomes a [`DatabaseError`] where it leaves the driver: how much failed, and what may help. Reads
//! and writes make of it the errors that their callers decide by.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Hinted;

/// The error of a driver or of the system behind a failure. Shared, as all requests of a batch get the same.
///
/// It is shown without the errors that caused it, which are its sources, and with `{:#}` with them.
#[derive(Debug, Clone)]
pub struct Cause(Arc<anyhow::Error>);

impl Cause {
    pub fn new(error: impl Error + Send + Sync + 'static) -> Cause {
        anyhow::Error::new(error).into()
    }

    pub fn message(message: impl fmt::Display) -> Cause {
        anyhow::anyhow!("{message}").into()
    }

    /// What to do about it, if the error says so.
    pub fn hint(&self) -> Option<&str> {
        Hinted::find(&self.0)
    }

    /// The error itself, where it is of this type.
    pub fn downcast_ref<E: Error + Send + Sync + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }

    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl From<anyhow::Error> for Cause {
    fn from(error: anyhow::Error) -> Cause {
        Cause(Arc::new(error))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Why a database did not run a statement.
#[derive(Debug)]
pub struct DatabaseError {
    pub kind: FailureKind,
    pub recovery: Recovery,
    pub cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    Full,
    /// The database does not take this, and may take other things.
    Refused,
    /// A read was cancelled, or took longer than it may.
    TooSlow,
    Unavailable,
}

/// What may help, before a failure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing; the connection can still be used.
    None,
    /// To repeat the transaction: the server broke it off for the sake of another.
    Repeat,
    /// A new connection: this one was lost.
    Reconnect,
    /// A new connection, for whatever comes next: this one is in an unknown state, and all the time is used up.
    Abandon,
}

impl DatabaseError {
    pub fn new(kind: FailureKind, cause: Cause) -> DatabaseError {
        DatabaseError { kind, recovery: Recovery::None, cause }
    }

    pub fn too_slow() -> DatabaseError {
        DatabaseError::new(FailureKind::TooSlow, Cause::message(TOO_SLOW))
    }
}

const TOO_SLOW: &str = "the query took too long";

/// Why a write has no result.
#[derive(Debug, Clone)]
pub enum WriteError {
    /// No space left: not stored.
    Full(Cause),
    /// The store refuses this request and may take others: not stored.
    Refused(Cause),
    /// The store does not answer: stored or not.
    Unavailable(Cause),
}

impl WriteError {
    pub fn cause(&self) -> &Cause {
        match self {
            WriteError::Full(cause) | WriteError::Refused(cause) | WriteError::Unavailable(cause) => cause,
        }
    }
}

impl From<DatabaseError> for WriteError {
    fn from(error: DatabaseError) -> WriteError {
        match error.kind {
            FailureKind::Full => WriteError::Full(error.cause),
            FailureKind::Refused | FailureKind::TooSlow => WriteError::Refused(error.cause),
            FailureKind::Unavailable => WriteError::Unavailable(error.cause),
        }
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause().fmt(formatter)
    }
}

impl Error for WriteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause().source()
    }
}

/// Why a read has no result.
#[derive(Debug, Clone)]
pub enum ReadError {
    /// It was cancelled, or took longer than it may.
    TooSlow,
    /// The store does not answer.
    Unavailable(Cause),
}

impl ReadError {
    /// What to do about it, if the error says so.
    pub fn hint(&self) -> Option<&str> {
        match self {
            ReadError::TooSlow => None,
            ReadError::Unavailable(cause) => cause.hint(),
        }
    }
}

impl From<DatabaseError> for ReadError {
    fn from(error: DatabaseError) -> ReadError {
        match error.kind {
            FailureKind::TooSlow => ReadError::TooSlow,
            // A server can lack space to sort in, and refuses nothing that others read.
            FailureKind::Full | FailureKind::Refused | FailureKind::Unavailable => {
                ReadError::Unavailable(error.cause)
            }
        }
    }
}

impl From<anyhow::Error> for ReadError {
    fn from(error: anyhow::Error) -> ReadError {
        ReadError::Unavailable(error.into())
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::TooSlow => formatter.write_str(TOO_SLOW),
            ReadError::Unavailable(cause) => cause.fmt(formatter),
        }
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ReadError::TooSlow => None,
            ReadError::Unavailable(cause) => cause.source(),
        }
    }
}

/// Why [`super::Store`] has no outcome for an append or another write.
#[derive(Debug)]
pub enum AppendError {
    /// The queue is full, or the store is closing: not stored.
    Overloaded,
    Store(WriteError),
}

impl fmt::Display for AppendError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppendError::Overloaded => formatter.write_str("too many events wait for the store"),
            AppendError::Store(error) => error.fmt(formatter),
        }
    }
}

/// Why no events are to be sent at present.
#[derive(Debug)]
pub enum Unready {
    /// The queue is full, or the store is closing.
    QueueFull,
    /// The store has failed, and has not recovered yet.
    NoWrites,
    /// A write has waited for the store for this long.
    NoAnswer(Duration),
}

impl fmt::Display for Unready {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unready::QueueFull => formatter.write_str("the queue is full"),
            Unready::NoWrites => formatter.write_str("the store takes no writes"),
            Unready::NoAnswer(time) => {
                let seconds = time.as_secs_f64();
                write!(formatter, "the store does not answer: a write has waited for {seconds:.1}s")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_never_fails_for_lack_of_room_to_store() {
        let failure = DatabaseError::new(FailureKind::Full, Cause::message("no space to sort in"));
        assert!(matches!(ReadError::from(failure), ReadError::Unavailable(_)));
    }
}
