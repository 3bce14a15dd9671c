//! The connection that reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, ToSql};

use super::super::backend::{EventReader, PAGE_LIMIT_BYTES, Page, StoreReader, StoreSize, Work};
use super::super::cancellation::{Cancellation, ReadDeadline};
use super::super::error::{Cause, DatabaseError, ReadError};
use super::super::statements::{LAST_ID_IN_SQLITE, OF_KEY, number};
use super::super::statistics::{Statistics, statistics};
use super::open::{FileIdentities, ReadConnection, file_is_gone, log_of, open_to_read};
use crate::core::event::StoredEvent;
use crate::core::query::Query;
use crate::core::timestamp::Timestamp;

/// How many steps of SQLite's virtual machine pass between two looks at the clock: about a millisecond.
const STEPS_BETWEEN_DEADLINE_CHECKS: i32 = 50_000;

const SELECT_EVENT: &str = "SELECT id, received_at, event_type, event_payload FROM events";

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
        if let Some(event_type) = &query.types.pattern {
            // Other patterns are matched here: SQLite's GLOB backtracks.
            if event_type.is_literal() {
                conditions.push("event_type = ?");
                literal = event_type.as_str();
                parameters.push(&literal);
            }
        }
        if let Some(key) = &query.key {
            for condition in OF_KEY {
                conditions.push(condition);
                parameters.push(key);
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
            if !query.types.selects(row.get_ref(2)?.as_str()?) {
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
        query: impl FnOnce(&mut SqliteReader) -> Result<T, DatabaseError>,
    ) -> Result<T, ReadError> {
        let files = match FileIdentities::of(&self.path) {
            Ok(files) => files,
            Err(error) => {
                self.let_go().map_err(DatabaseError::from)?;
                return Err(ReadError::Unavailable(file_is_gone(&error)));
            }
        };
        if files != self.opened.files || self.opened.has_changed(&self.path) {
            let fresh = SqliteReader::open(&self.path, self.time_limit)?;
            *self = SqliteReader { cancellation: self.cancellation.clone(), ..fresh };
        }
        let deadline = ReadDeadline::start(self.time_limit, &self.cancellation);
        let is_over = move || deadline.is_over();
        self.opened
            .connection
            .progress_handler(STEPS_BETWEEN_DEADLINE_CHECKS, Some(is_over))
            .map_err(DatabaseError::from)?;
        Ok(query(self)?)
    }
}

impl EventReader for SqliteReader {
    fn page(&mut self, query: &Query) -> Result<Page, ReadError> {
        self.within_limit(|reader| Ok(reader.rows(query, query.limit)?))
    }

    fn get(&mut self, id: i64) -> Result<Option<StoredEvent>, ReadError> {
        self.within_limit(|reader| {
            let statement = format!("{SELECT_EVENT} WHERE id = ?");
            let mut select = reader.opened.connection.prepare_cached(&statement)?;
            Ok(select.query_row([id], event_of).optional()?)
        })
    }

    fn has_given(&mut self, id: i64) -> Result<bool, ReadError> {
        self.within_limit(|reader| Ok(number(&mut reader.opened.connection, LAST_ID_IN_SQLITE)? >= id))
    }

    fn statistics(&mut self, query: &Query) -> Result<Statistics, ReadError> {
        self.within_limit(|reader| statistics(&mut reader.opened.connection, query))
    }
}

impl StoreReader for SqliteReader {
    fn cancel_with(&mut self, cancellation: Cancellation) {
        self.cancellation = cancellation;
    }

    fn select(&mut self, work: &mut Work<'_>) -> Result<(), ReadError> {
        self.within_limit(|reader| work(&mut reader.opened.connection))
    }

    fn size(&mut self) -> Result<StoreSize, ReadError> {
        let bytes = |metadata: fs::Metadata| i64::try_from(metadata.len()).unwrap_or(i64::MAX);
        let database = fs::metadata(&self.path).map_err(|error| ReadError::Unavailable(Cause::new(error)))?;
        Ok(StoreSize {
            database_bytes: bytes(database),
            log_bytes: fs::metadata(log_of(&self.path)).map(bytes).ok(),
        })
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
