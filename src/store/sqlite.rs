//! The embedded store: one SQLite file in WAL mode, synced at every commit.

mod copy;
mod open;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use rusqlite::config::DbConfig;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, Null, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, ffi, params};

pub use self::copy::copy;
use self::open::{
    BUSY_TIMEOUT, FileIdentities, LOG_LIMIT_BYTES, ReadConnection, check_version, create_file, log_of,
    open_to_read, open_to_write,
};
use super::backend::{
    AlertOutcome, Append, Delivery, Outcome, Page, Reader, Statistics, StoreError, StoreSize,
};
use super::cancellation::{Cancellation, ReadDeadline};
use super::database::Database;
use super::statements::{Statements, Value};
use super::{PAGE_LIMIT_BYTES, outbox, statistics};
use crate::core::event::{Event, StoredEvent};
use crate::core::hint::Hint;
use crate::core::query::Query;
use crate::core::timestamp::Timestamp;

/// How long closing the store waits for readers of other processes.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// How many steps of SQLite's virtual machine pass between two looks at the clock: about a millisecond.
const STEPS_BETWEEN_DEADLINE_CHECKS: i32 = 50_000;

/// How many events one statement inserts at most; a statement costs as much as some of its rows.
const ROWS_PER_INSERT: usize = 32;

const SELECT_LAST_ID: &str = "SELECT seq FROM sqlite_sequence WHERE name = 'events'";
const SELECT_KEY: &str = "SELECT body_digest, first_id FROM idempotency_keys WHERE idempotency_key = ?1";
const INSERT_KEY: &str = "INSERT INTO idempotency_keys \
    (idempotency_key, body_digest, first_id, event_count) VALUES (?1, ?2, ?3, ?4)";
const SELECT_EVENT: &str = "SELECT id, received_at, event_type, event_payload FROM events";

/// The one connection that writes.
pub struct SqliteBackend {
    connection: Connection,
    path: PathBuf,
    files: FileIdentities,
    /// Whether a sync has failed: what the log holds may not be on disk, although the system says so.
    log_in_doubt: bool,
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
        Ok(SqliteBackend { connection, path: path.to_owned(), files, log_in_doubt: false })
    }

    /// Inserts events with consecutive ids, as many with a statement as it takes.
    fn insert(&self, events: &[&Event], first_id: i64, received_at: Timestamp) -> rusqlite::Result<()> {
        let received_at = received_at.as_microseconds();
        let mut id = first_id;
        let mut rest = events;
        while !rest.is_empty() {
            // Powers of two, so that few statements are prepared.
            let rows = 1 << rest.len().min(ROWS_PER_INSERT).ilog2();
            let (now, later) = rest.split_at(rows);
            let mut insert = self.connection.prepare_cached(insert_statement(rows))?;
            insert.raw_bind_parameter(1, received_at)?;
            for (position, event) in now.iter().enumerate() {
                insert.raw_bind_parameter(3 * position + 2, id)?;
                insert.raw_bind_parameter(3 * position + 3, event.event_type())?;
                insert.raw_bind_parameter(3 * position + 4, event.event_payload())?;
                id += 1;
            }
            insert.raw_execute()?;
            rest = later;
        }
        Ok(())
    }

    /// What an earlier request with the same key was answered, or is about to be in this transaction.
    fn outcome_of_key(&self, append: &Append) -> rusqlite::Result<Option<Outcome>> {
        let Some(key) = &append.key else { return Ok(None) };
        let mut select = self.connection.prepare_cached(SELECT_KEY)?;
        let known = select.query_row([&key.key], |row| {
            let same_body = row.get_ref(0)?.as_blob()? == key.body_digest;
            let stored = |first_id| Outcome::Stored { first_id, repeated: true };
            Ok(if same_body { stored(row.get(1)?) } else { Outcome::KeyReused })
        });
        known.optional()
    }

    fn remember_key(&self, append: &Append, first_id: i64) -> rusqlite::Result<()> {
        let Some(key) = &append.key else { return Ok(()) };
        let mut insert = self.connection.prepare_cached(INSERT_KEY)?;
        insert.execute(params![key.key, key.body_digest, first_id, append.events.len()])?;
        Ok(())
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
    fn check_files(&self) -> Result<(), StoreError> {
        match FileIdentities::of(&self.path) {
            Ok(files) if files == self.files => Ok(()),
            Ok(_) => Err(StoreError::Unavailable("the database file was replaced".to_owned())),
            Err(error) => Err(StoreError::Unavailable(format!("the database file is gone: {error}"))),
        }
    }

    /// Takes the log into the database that it belongs to and closes both, whatever their names are now.
    ///
    /// SQLite knows a log by its name alone. Beside a database that has replaced ours, it would copy the
    /// pages of the old one over those of the new one; and a log that was deleted holds acknowledged
    /// events. Both files are closed before others are opened, for a close gives up the locks of the
    /// whole process on the files that old and new have in common.
    fn leave_files(&mut self) -> Result<(), StoreError> {
        // Closing would remove the log by its name, which may be another file's by now.
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        self.empty_log(BUSY_TIMEOUT)?;
        self.connection = Connection::open_in_memory()?;
        Ok(())
    }

    /// Copies the whole log into the database, syncs it and truncates the log.
    fn empty_log(&self, timeout: Duration) -> Result<(), StoreError> {
        if self.checkpoint(Checkpoint::Truncate, timeout)?.busy {
            let waits_for = "another process reads an older state of the database: end its read (a backup, a shell, \
                a replication) so that the log can be emptied";
            return Err(StoreError::Unavailable(waits_for.to_owned()));
        }
        Ok(())
    }

    /// Copies the log into the database, as far as readers let it, for whom it waits no longer than the timeout.
    fn checkpoint(&self, checkpoint: Checkpoint, timeout: Duration) -> rusqlite::Result<Checkpointed> {
        self.connection.busy_timeout(timeout)?;
        let row = |row: &Row<'_>| {
            let (log_pages, copied_pages): (i64, i64) = (row.get(1)?, row.get(2)?);
            Ok(Checkpointed { busy: row.get(0)?, whole: log_pages == copied_pages })
        };
        let checkpointed = self.connection.query_row(checkpoint.statement(), [], row);
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        checkpointed
    }

    /// Notes whether an error leaves the log in doubt.
    fn noting<T>(&mut self, result: rusqlite::Result<T>) -> Result<T, StoreError> {
        self.log_in_doubt |= result.as_ref().is_err_and(is_failed_sync);
        Ok(result?)
    }
}

impl Database for SqliteBackend {
    type Connection = Connection;

    fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    fn transact<T>(
        &mut self,
        mut transaction: impl FnMut(&mut SqliteBackend) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let result = transaction(self);
        if result.is_err() && !self.connection.is_autocommit() {
            // A rollback that fails leaves a transaction that the next BEGIN reports.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        let done = self.noting(result)?;
        self.check_files()?;
        Ok(done)
    }

    fn store(&mut self, appends: &[&Append], received_at: Timestamp) -> rusqlite::Result<Vec<Outcome>> {
        self.connection.begin()?;
        // No other connection writes before the COMMIT: ids can be given before the events are inserted.
        let last_id: Option<i64> =
            self.connection.prepare_cached(SELECT_LAST_ID)?.query_row([], |row| row.get(0)).optional()?;
        let mut next_id = last_id.unwrap_or(0) + 1;
        let first_new_id = next_id;
        let mut outcomes = Vec::with_capacity(appends.len());
        let mut events = Vec::with_capacity(appends.len());
        let mut all_deliveries = Vec::new();
        for append in appends {
            if let Some(outcome) = self.outcome_of_key(append)? {
                outcomes.push(outcome);
                continue;
            }
            self.remember_key(append, next_id)?;
            outcomes.push(Outcome::Stored { first_id: next_id, repeated: false });
            let deliveries = append.deliveries.iter();
            all_deliveries.extend(deliveries.map(|delivery| (next_id + delivery.position as i64, delivery)));
            events.extend(&append.events);
            next_id += append.events.len() as i64;
        }
        outbox::insert(&mut self.connection, &all_deliveries, received_at)?;
        self.insert(&events, first_new_id, received_at)?;
        self.connection.commit()?;
        Ok(outcomes)
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        let version = self.rewrite_version();
        let version = self.noting(version)?;
        check_version(&self.path, Some(version)).map_err(StoreError::cannot_open)?;
        self.check_files()
    }

    /// Opens the file anew; after a failed sync copies the whole log into the database before anything is appended.
    ///
    /// After a failed sync the kernel may hold pages as clean that never reached the disk, and a later
    /// sync says nothing of them. Frames written behind such pages would be lost with them. The
    /// checkpoint writes and syncs all that the log holds, then empties the log. That waits for every
    /// reader, so it is no condition where nothing is in doubt; but it makes room on a disk that is full.
    fn recover(&mut self) -> Result<(), StoreError> {
        if FileIdentities::of(&self.path).is_ok_and(|files| files != self.files) {
            self.leave_files()?;
        }
        let fresh = SqliteBackend::open(&self.path).map_err(StoreError::cannot_open)?;
        *self = SqliteBackend { log_in_doubt: self.log_in_doubt, ..fresh };
        let emptied = self.empty_log(if self.log_in_doubt { BUSY_TIMEOUT } else { Duration::ZERO });
        if self.log_in_doubt {
            emptied?;
            self.log_in_doubt = false;
        }
        self.probe()
    }

    /// Copies the log into the database, and cuts a log that has grown.
    fn tidy(&mut self) -> Result<bool, StoreError> {
        let passed_over = |error: &rusqlite::Error| {
            matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy))
        };
        let log_bytes = || fs::metadata(log_of(&self.path)).map_or(0, |metadata| metadata.len());
        let grown = i64::try_from(log_bytes()).is_ok_and(|bytes| bytes > LOG_LIMIT_BYTES);
        let checkpoint = if grown { Checkpoint::Restart } else { Checkpoint::Passive };
        match self.checkpoint(checkpoint, Duration::ZERO) {
            Ok(Checkpointed { busy: false, whole: true }) => {}
            Ok(_) => return Ok(false),
            Err(error) if passed_over(&error) => return Ok(false),
            result => self.noting(result).map(drop)?,
        }
        // The first write to a log that begins anew cuts its file.
        if grown {
            self.probe()?;
        }
        Ok(true)
    }

    /// Takes the log into the database, so that its file alone holds everything.
    fn close(&mut self) -> Result<(), StoreError> {
        if self.check_files().is_err() {
            return self.leave_files();
        }
        if !self.checkpoint(Checkpoint::Truncate, CLOSE_TIMEOUT)?.whole {
            let database = self.path.display();
            return Err(StoreError::Unavailable(format!(
                "another process reads an older state of `{database}`: `{database}-wal` still holds events, and \
                belongs to it"
            )));
        }
        Ok(())
    }
}

/// How far a checkpoint goes: <https://sqlite.org/pragma.html#pragma_wal_checkpoint>.
#[derive(Debug, Clone, Copy)]
enum Checkpoint {
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
struct Checkpointed {
    /// Whether somebody was in its way.
    busy: bool,
    /// Whether the database holds all that the log does.
    whole: bool,
}

/// A connection that reads.
pub struct SqliteReader {
    opened: ReadConnection,
    path: PathBuf,
    time_limit: Option<Duration>,
    cancellation: Cancellation,
}

impl SqliteReader {
    /// Opens an existing store for reading. A query that takes longer than the limit is given up.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn open(path: &Path, time_limit: Option<Duration>) -> anyhow::Result<SqliteReader> {
        let opened = open_to_read(path)?;
        let cancellation = Cancellation::default();
        Ok(SqliteReader { opened, path: path.to_owned(), time_limit, cancellation })
    }

    fn rows(&self, query: &Query, limit: usize) -> rusqlite::Result<Page> {
        let mut conditions = Vec::new();
        let mut parameters: Vec<&dyn ToSql> = Vec::new();
        let (literal, since, until);
        if let Some(after) = &query.after {
            conditions.push("id > ?");
            parameters.push(after);
        }
        if let Some(before) = &query.before {
            conditions.push("id < ?");
            parameters.push(before);
        }
        if let Some(event_type) = &query.event_type {
            // Other patterns are matched here: SQLite's GLOB backtracks.
            if event_type.is_literal() {
                conditions.push("event_type = ?");
                literal = event_type.as_str();
                parameters.push(&literal);
            }
        }
        if let Some(timestamp) = query.since {
            conditions.push("received_at >= ?");
            since = timestamp.as_microseconds();
            parameters.push(&since);
        }
        if let Some(timestamp) = query.until {
            conditions.push("received_at < ?");
            until = timestamp.as_microseconds();
            parameters.push(&until);
        }
        let filter = if conditions.is_empty() { "" } else { " WHERE " };
        let order = if query.after.is_some() { "ASC" } else { "DESC" };
        let conditions = conditions.join(" AND ");
        let statement = format!("{SELECT_EVENT}{filter}{conditions} ORDER BY id {order}");
        let mut select = self.opened.connection.prepare_cached(&statement)?;
        let mut rows = select.query(parameters.as_slice())?;
        let mut page = Page { events: Vec::new(), more: false };
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            if let Some(glob) = &query.event_type
                && !glob.matches(row.get_ref(2)?.as_str()?)
            {
                continue;
            }
            let event = event_of(row)?;
            bytes += event.event_type.len() + event.event_payload.len();
            let full = page.events.len() == limit || bytes > PAGE_LIMIT_BYTES && !page.events.is_empty();
            if full {
                page.more = true;
                break;
            }
            page.events.push(event);
        }
        if query.after.is_none() {
            page.events.reverse();
        }
        Ok(page)
    }

    /// Closes a file that was deleted.
    ///
    /// An open reader keeps the index of the log in use, and a new database of that name would share it.
    fn let_go(&mut self) -> rusqlite::Result<()> {
        self.opened.connection = Connection::open_in_memory()?;
        self.opened.files.database = (0, 0);
        Ok(())
    }

    /// Runs a query under the time limit, and opens the files anew if their names stand for others now.
    fn within_limit<T>(
        &mut self,
        query: impl FnOnce(&mut SqliteReader) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let files = match FileIdentities::of(&self.path) {
            Ok(files) => files,
            Err(error) => {
                self.let_go()?;
                return Err(StoreError::Unavailable(format!("the database file is gone: {error}")));
            }
        };
        if files != self.opened.files || self.opened.has_changed(&self.path) {
            let fresh = SqliteReader::open(&self.path, self.time_limit).map_err(StoreError::cannot_open)?;
            *self = SqliteReader { cancellation: self.cancellation.clone(), ..fresh };
        }
        let deadline = ReadDeadline::start(self.time_limit, &self.cancellation);
        self.opened
            .connection
            .progress_handler(STEPS_BETWEEN_DEADLINE_CHECKS, Some(move || deadline.is_over()))?;
        Ok(query(self)?)
    }
}

impl Reader for SqliteReader {
    fn cancel_with(&mut self, cancellation: Cancellation) {
        self.cancellation = cancellation;
    }

    fn page(&mut self, query: &Query) -> Result<Page, StoreError> {
        self.within_limit(|reader| reader.rows(query, query.limit))
    }

    fn get(&mut self, id: i64) -> Result<Option<StoredEvent>, StoreError> {
        self.within_limit(|reader| {
            let statement = format!("{SELECT_EVENT} WHERE id = ?");
            let mut select = reader.opened.connection.prepare_cached(&statement)?;
            select.query_row([id], event_of).optional()
        })
    }

    fn statistics(&mut self, query: &Query) -> Result<Statistics, StoreError> {
        self.within_limit(|reader| statistics::statistics(&mut reader.opened.connection, query))
    }

    fn deliveries(&mut self, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        self.within_limit(|reader| outbox::newest(&mut reader.opened.connection, limit))
    }

    fn open_deliveries(&mut self) -> Result<Vec<(String, i64)>, StoreError> {
        self.within_limit(|reader| outbox::open(&mut reader.opened.connection))
    }

    fn size(&mut self) -> Result<StoreSize, StoreError> {
        let unavailable = |error: io::Error| StoreError::Unavailable(error.to_string());
        let bytes = |metadata: fs::Metadata| i64::try_from(metadata.len()).unwrap_or(i64::MAX);
        Ok(StoreSize {
            database_bytes: fs::metadata(&self.path).map(bytes).map_err(unavailable)?,
            log_bytes: fs::metadata(log_of(&self.path)).map(bytes).ok(),
        })
    }

    fn alert_outcome(&mut self, event_id: i64) -> Result<AlertOutcome, StoreError> {
        self.within_limit(|reader| outbox::alert_outcome(&mut reader.opened.connection, event_id))
    }
}

impl Statements for Connection {
    type Error = rusqlite::Error;

    const FOR_UPDATE: &'static str = "";

    fn begin(&mut self) -> rusqlite::Result<()> {
        self.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    fn commit(&mut self) -> rusqlite::Result<()> {
        self.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> rusqlite::Result<()> {
        self.prepare_cached(statement)?.execute(rusqlite::params_from_iter(values)).map(drop)
    }

    fn query<const COLUMNS: usize>(
        &mut self,
        statement: &str,
        values: &[Value],
    ) -> rusqlite::Result<Vec<[Value; COLUMNS]>> {
        let mut select = self.prepare_cached(statement)?;
        let mut rows = select.query(rusqlite::params_from_iter(values))?;
        let mut result = Vec::new();
        while let Some(row) = rows.next()? {
            let mut values = [const { Value::Null }; COLUMNS];
            for (column, value) in values.iter_mut().enumerate() {
                *value = row.get(column)?;
            }
            result.push(values);
        }
        Ok(result)
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Value::Null => Null.to_sql(),
            Value::Number(number) => number.to_sql(),
            Value::Text(text) => text.to_sql(),
            Value::Bytes(bytes) => bytes.to_sql(),
        }
    }
}

impl FromSql for Value {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Value> {
        match value {
            ValueRef::Null => Ok(Value::Null),
            ValueRef::Integer(number) => Ok(Value::Number(number)),
            ValueRef::Text(_) => value.as_str().map(Value::from),
            ValueRef::Blob(bytes) => Ok(Value::from(bytes)),
            ValueRef::Real(_) => Err(FromSqlError::InvalidType),
        }
    }
}

fn event_of(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    Ok(StoredEvent {
        id: row.get(0)?,
        received_at: Timestamp::from_microseconds(row.get(1)?),
        event_type: row.get(2)?,
        event_payload: row.get(3)?,
    })
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        let reason = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::Full(reason),
            Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig) => StoreError::Refused(reason),
            Some(ErrorCode::OperationInterrupted) => {
                StoreError::Refused("the query took too long".to_owned())
            }
            _ => StoreError::Unavailable(reason),
        }
    }
}

/// Whether an error may leave pages that never reached the disk and that no later sync reports. A write that failed
/// does not: SQLite goes by what was written before it.
fn is_failed_sync(error: &rusqlite::Error) -> bool {
    let Some(error) = error.sqlite_error() else { return false };
    let harmless = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_SHORT_READ];
    error.code == ErrorCode::SystemIoFailure && !harmless.contains(&error.extended_code)
}

/// Inserts so many events: a power of two, at most [`ROWS_PER_INSERT`].
fn insert_statement(rows: usize) -> &'static str {
    static STATEMENTS: OnceLock<Vec<String>> = OnceLock::new();
    let statements = STATEMENTS.get_or_init(|| {
        let of_rows = |rows: usize| {
            let row = |row: usize| format!("(?{}, ?1, ?{}, ?{})", 3 * row + 2, 3 * row + 3, 3 * row + 4);
            let rows: Vec<String> = (0..rows).map(row).collect();
            format!(
                "INSERT INTO events (id, received_at, event_type, event_payload) VALUES {}",
                rows.join(", ")
            )
        };
        (0..=ROWS_PER_INSERT.ilog2()).map(|power| of_rows(1 << power)).collect()
    });
    &statements[rows.ilog2() as usize]
}
