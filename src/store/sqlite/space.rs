//! Room for retention on the file system of a database.
//!
//! A deletion needs room in the log, and a checkpoint needs room for what it adds to the database file. On a disk that
//! events have filled there would never be either. So, once retention deletes:
//! - An append is refused before it is written, unless a checkpoint of the log that it leaves fits on the disk, and a
//!   reserve with it.
//! - The database file does not grow into the room of the log. It never shrinks: deleted events leave free pages in it,
//!   and to use them takes room in the log alone.
//! - Where space is short, deletions run on an empty log, and wait while a reader prevents that.

use std::fs;
use std::time::Duration;

use rusqlite::ffi;
use rustix::fs::statvfs;

use super::super::backend::Append;
use super::super::error::{Cause, WriteError};
use super::SqliteBackend;
use super::checkpoint::{Checkpoint, Checkpointed, is_postponed};
use super::open::{LOG_LIMIT_BYTES, log_of};

/// The share of a small file system that is the room of the log.
const LOG_SHARE: u64 = 4;

/// The share of the log's room that appends leave free.
const RESERVE_SHARE: u64 = 4;

/// How long a checkpoint that makes room waits for readers.
const READER_WAIT: Duration = Duration::from_millis(200);

/// A page of SQLite with its header in the log.
const PAGE_BYTES: u64 = 4096 + 24;

/// The pages that any transaction writes at most beside those with its data.
const OVERHEAD_PAGES: u64 = 16;
const PAGES_PER_KEY: u64 = 2;
const PAGES_PER_DELIVERY: u64 = 5;

/// The bytes of a row beside those of its text.
const ROW_BYTES: u64 = 64;

/// What there must be room for where a store takes writes: more than for a small event, so that one which was refused
/// is not invited again.
const PROBE_BYTES: u64 = 64 * PAGE_BYTES;

impl SqliteBackend {
    /// Refuses appends that would take the room that retention needs.
    pub fn ensure_room_for(&self, appends: &[&Append]) -> rusqlite::Result<()> {
        if self.deletes { self.ensure_room(largest_growth(appends)) } else { Ok(()) }
    }

    /// Fails where not even a small append has room.
    pub fn ensure_room_for_some(&self) -> rusqlite::Result<()> {
        if self.deletes { self.ensure_room(PROBE_BYTES) } else { Ok(()) }
    }

    /// Empties the log where space is short.
    pub fn ensure_room_to_delete(&mut self) -> Result<(), WriteError> {
        self.deletes = true;
        if Space::of(self).is_none_or(|space| space.is_plenty_for(0)) {
            return Ok(());
        }
        let emptied = self.try_to_empty_log();
        if !self.noting(emptied)? {
            let reason = "the log has to be emptied before anything is deleted, as there is little space";
            return Err(WriteError::Refused(Cause::message(reason)));
        }
        Ok(())
    }

    fn ensure_room(&self, growth: u64) -> rusqlite::Result<()> {
        let has_room = || -> rusqlite::Result<bool> {
            let Some(space) = Space::of(self) else { return Ok(true) };
            Ok(space.is_plenty_for(growth) || self.has_room(&space, growth)?)
        };
        if has_room()? {
            return Ok(());
        }
        self.try_to_empty_log()?;
        if has_room()? {
            return Ok(());
        }
        let reason = "the disk is full, but for the room that retention needs";
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), Some(reason.to_owned())))
    }

    fn has_room(&self, space: &Space, growth: u64) -> rusqlite::Result<bool> {
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
        let page_bytes = pragma("page_size")?;
        let file_bytes = fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        let pending = (pragma("page_count")? * page_bytes).saturating_sub(file_bytes);
        let new_pages = growth.saturating_sub(pragma("freelist_count")? * page_bytes);
        let mut for_log = growth + space.log_room / RESERVE_SHARE;
        if new_pages > 0 {
            for_log = for_log.max(space.log_room.saturating_sub(space.log_bytes));
        }
        Ok(pending + new_pages + for_log <= space.available)
    }

    /// Whether the log is empty now: there must be room to checkpoint it, and no reader in the way.
    fn try_to_empty_log(&self) -> rusqlite::Result<bool> {
        match self.checkpoint(Checkpoint::Truncate, READER_WAIT) {
            Ok(Checkpointed { busy, whole }) => Ok(!busy && whole),
            Err(error) if is_postponed(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The file system of a database, in bytes.
struct Space {
    available: u64,
    log_bytes: u64,
    /// What the log may take.
    log_room: u64,
}

impl Space {
    /// None where the file system does not say.
    fn of(backend: &SqliteBackend) -> Option<Space> {
        let system = statvfs(&backend.path).ok().filter(|system| system.f_blocks > 0)?;
        let total = system.f_blocks.saturating_mul(system.f_frsize);
        Some(Space {
            available: system.f_bavail.saturating_mul(system.f_frsize),
            log_bytes: fs::metadata(log_of(&backend.path)).map_or(0, |metadata| metadata.len()),
            log_room: (total / LOG_SHARE).min(LOG_LIMIT_BYTES.unsigned_abs()),
        })
    }

    /// Whether there is room however much of the log is pending and however few pages are free. This costs two calls of
    /// the system, to be exact costs some more.
    fn is_plenty_for(&self, growth: u64) -> bool {
        self.available >= self.log_bytes + 2 * growth + 2 * self.log_room
    }
}

/// By how much a transaction may extend the log; and the database, which gets the same pages.
///
/// In the worst case half of each page stays empty.
fn largest_growth(appends: &[&Append]) -> u64 {
    let of_append = |append: &&Append| {
        let text = append.events.iter().map(|event| event.event_type().len() + event.event_payload().len());
        let rows = append.events.len() as u64 * ROW_BYTES;
        let keys = append.key.iter().count() as u64 * PAGES_PER_KEY;
        let deliveries = append.deliveries.len() as u64 * PAGES_PER_DELIVERY;
        2 * (text.sum::<usize>() as u64 + rows) + (keys + deliveries) * PAGE_BYTES
    };
    OVERHEAD_PAGES * PAGE_BYTES + appends.iter().map(of_append).sum::<u64>()
}
