//! Checkpoints: the log is copied into the database, as far as readers let it.

use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, Row};

use super::super::error::{Cause, DatabaseError, WriteError};
use super::SqliteBackend;
use super::open::BUSY_TIMEOUT;

/// How far a checkpoint goes: <https://sqlite.org/pragma.html#pragma_wal_checkpoint>.
#[derive(Debug, Clone, Copy)]
pub enum Checkpoint {
    /// Waits for nobody.
    Passive,
    /// The next write begins the log anew.
    Restart,
    /// The log is empty.
    Truncate,
}

impl Checkpoint {
    fn statement(self) -> &'static str {
        match self {
            Checkpoint::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
            Checkpoint::Restart => "PRAGMA wal_checkpoint(RESTART)",
            Checkpoint::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
        }
    }
}

/// What became of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Checkpointed {
    /// Whether somebody was in its way.
    pub busy: bool,
    /// Whether the database holds all that the log does.
    pub whole: bool,
}

impl SqliteBackend {
    /// Takes the log into the database that it belongs to and closes both, whatever their names are now.
    ///
    /// SQLite knows a log by its name alone. Beside a database that has replaced ours, it would copy the
    /// pages of the old one over those of the new one; and a log that was deleted holds acknowledged
    /// events. Both files are closed before others are opened, for a close gives up the locks of the
    /// whole process on the files that old and new have in common.
    pub fn leave_files(&mut self) -> Result<(), WriteError> {
        // Closing would remove the log by its name, which may be another file's by now.
        self.connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(DatabaseError::from)?;
        self.empty_log(BUSY_TIMEOUT)?;
        self.connection = Connection::open_in_memory().map_err(DatabaseError::from)?;
        Ok(())
    }

    /// Copies the whole log into the database, syncs it and truncates the log.
    pub fn empty_log(&self, timeout: Duration) -> Result<(), WriteError> {
        if self.checkpoint(Checkpoint::Truncate, timeout).map_err(DatabaseError::from)?.busy {
            let waits_for = "another process reads an older state of the database: end its read (a backup, a shell, \
                a replication) so that the log can be emptied";
            return Err(WriteError::Unavailable(Cause::message(waits_for)));
        }
        Ok(())
    }

    /// Copies the log into the database, as far as readers let it, for whom it waits no longer than the timeout.
    pub fn checkpoint(&self, checkpoint: Checkpoint, timeout: Duration) -> rusqlite::Result<Checkpointed> {
        self.connection.busy_timeout(timeout)?;
        let row = |row: &Row<'_>| {
            let (log_pages, copied_pages): (i64, i64) = (row.get(1)?, row.get(2)?);
            Ok(Checkpointed { busy: row.get(0)?, whole: log_pages == copied_pages })
        };
        let checkpointed = self.connection.query_row(checkpoint.statement(), [], row);
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        checkpointed
    }
}

/// Whether a checkpoint failed for lack of space or of a lock, and may succeed later.
pub fn is_postponed(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy))
}
