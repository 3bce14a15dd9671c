//! The embedded store: one SQLite file in WAL mode, synced at every commit.

mod append;
mod checkpoint;
mod copy;
mod open;
mod reader;
mod space;
mod statements;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rusqlite::{Connection, TransactionBehavior};

use self::checkpoint::{Checkpoint, Checkpointed, is_postponed};
pub use self::copy::copy;
use self::open::{
    BUSY_TIMEOUT, FileIdentities, LOG_LIMIT_BYTES, check_version, create_file, file_is_gone, log_of,
    open_to_write,
};
pub use self::reader::SqliteReader;
use self::statements::is_failed_sync;
use super::backend::{Append, Backend, Outcome, Work};
use super::error::{Cause, DatabaseError, WriteError};
use crate::core::timestamp::Timestamp;
use crate::error::Hint;

/// How long closing the store waits for readers of other processes.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// The one connection that writes.
pub struct SqliteBackend {
    connection: Connection,
    path: PathBuf,
    files: FileIdentities,
    /// Whether a sync has failed: what the log holds may not be on disk, although the system says so.
    log_in_doubt: bool,
    /// Whether retention has deleted here, for which room is kept from then on.
    deletes: bool,
}

impl SqliteBackend {
    /// Opens the file for writing; creates it, readable by its owner alone, where there is none.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn open_or_create(path: &Path) -> anyhow::Result<SqliteBackend> {
        create_file(path).with_context(|| format!("cannot create `{}`", path.display())).hint(
            "name a file in a directory that exists and that you may write to, for example --db events.db",
        )?;
        SqliteBackend::open(path)
    }

    /// Opens an existing file for writing, and upgrades its schema.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn open(path: &Path) -> anyhow::Result<SqliteBackend> {
        let connection = open_to_write(path)?;
        let files = FileIdentities::of(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        Ok(SqliteBackend { connection, path: path.to_owned(), files, log_in_doubt: false, deletes: false })
    }

    /// Sets the version to what it is, which writes a page and syncs it. Another process may be upgrading the store.
    fn rewrite_version(&mut self) -> rusqlite::Result<usize> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: usize = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
        Ok(version)
    }

    /// Makes sure that what was written went into the files that the path names now.
    ///
    /// SQLite goes on writing to a file that was deleted or replaced, and what it writes is lost with
    /// the process. Checked after the commit and before anyone hears of it.
    fn check_files(&self) -> Result<(), WriteError> {
        match FileIdentities::of(&self.path) {
            Ok(files) if files == self.files => Ok(()),
            Ok(_) => Err(WriteError::Unavailable(Cause::message("the database file was replaced"))),
            Err(error) => Err(WriteError::Unavailable(file_is_gone(&error))),
        }
    }

    fn run_transaction(&mut self, work: &mut Work<'_>) -> Result<(), DatabaseError> {
        self.begin()?;
        work(&mut self.connection)?;
        Ok(self.commit()?)
    }

    fn begin(&self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    fn commit(&self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    /// Rolls a transaction back that has failed, and checks the files of one that was committed.
    fn conclude<T>(&mut self, result: Result<T, DatabaseError>) -> Result<T, WriteError> {
        if result.is_err() && !self.connection.is_autocommit() {
            // A rollback that fails leaves a transaction that the next BEGIN reports.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        let done = self.noting(result)?;
        self.check_files()?;
        Ok(done)
    }

    /// Notes whether an error leaves the log in doubt.
    fn noting<T>(&mut self, result: Result<T, impl Into<DatabaseError>>) -> Result<T, WriteError> {
        result.map_err(|error| {
            let error: DatabaseError = error.into();
            self.log_in_doubt |= error.cause.downcast_ref().is_some_and(is_failed_sync);
            error.into()
        })
    }
}

impl Backend for SqliteBackend {
    fn append(&mut self, appends: &[&Append], received_at: Timestamp) -> Result<Vec<Outcome>, WriteError> {
        let stored = self.ensure_room_for(appends).map_err(DatabaseError::from);
        let stored = stored.and_then(|()| self.store(appends, received_at));
        self.conclude(stored)
    }

    fn transact(&mut self, work: &mut Work<'_>) -> Result<(), WriteError> {
        let done = self.run_transaction(work);
        self.conclude(done)
    }

    fn prepare_deletion(&mut self) -> Result<(), WriteError> {
        self.ensure_room_to_delete()
    }

    fn probe(&mut self) -> Result<(), WriteError> {
        let version = self.ensure_room_for_some().and_then(|()| self.rewrite_version());
        let version = self.noting(version)?;
        check_version(&self.path, Some(version)).map_err(unavailable)?;
        self.check_files()
    }

    /// Opens the file anew; after a failed sync copies the whole log into the database before anything is appended.
    ///
    /// After a failed sync the kernel may hold pages as clean that never reached the disk, and a later
    /// sync says nothing of them. Frames written behind such pages would be lost with them. The
    /// checkpoint writes and syncs all that the log holds, then empties the log. That waits for every
    /// reader, so it is no condition where nothing is in doubt; but it makes room on a disk that is full.
    fn recover(&mut self) -> Result<(), WriteError> {
        if FileIdentities::of(&self.path).is_ok_and(|files| files != self.files) {
            self.leave_files()?;
        }
        let fresh = SqliteBackend::open(&self.path).map_err(unavailable)?;
        *self = SqliteBackend { log_in_doubt: self.log_in_doubt, deletes: self.deletes, ..fresh };
        let emptied = self.empty_log(if self.log_in_doubt { BUSY_TIMEOUT } else { Duration::ZERO });
        if self.log_in_doubt {
            emptied?;
            self.log_in_doubt = false;
        }
        self.probe()
    }

    /// Copies the log into the database, and cuts a log that has grown.
    fn tidy(&mut self) -> Result<bool, WriteError> {
        let log_bytes = || fs::metadata(log_of(&self.path)).map_or(0, |metadata| metadata.len());
        let grown = i64::try_from(log_bytes()).is_ok_and(|bytes| bytes > LOG_LIMIT_BYTES);
        let checkpoint = if grown { Checkpoint::Restart } else { Checkpoint::Passive };
        match self.checkpoint(checkpoint, Duration::ZERO) {
            Ok(Checkpointed { busy: false, whole: true }) => {}
            Ok(_) => return Ok(false),
            Err(error) if is_postponed(&error) => return Ok(false),
            result => self.noting(result).map(drop)?,
        }
        // The first write to a log that begins anew cuts its file.
        if grown {
            self.probe()?;
        }
        Ok(true)
    }

    /// Takes the log into the database, so that its file alone holds everything.
    fn close(&mut self) -> Result<(), WriteError> {
        if self.check_files().is_err() {
            return self.leave_files();
        }
        if !self.checkpoint(Checkpoint::Truncate, CLOSE_TIMEOUT).map_err(DatabaseError::from)?.whole {
            let database = self.path.display();
            return Err(WriteError::Unavailable(Cause::message(format!(
                "another process reads an older state of `{database}`: `{database}-wal` still holds events, and \
                belongs to it"
            ))));
        }
        Ok(())
    }
}

fn unavailable(error: anyhow::Error) -> WriteError {
    WriteError::Unavailable(error.into())
}
