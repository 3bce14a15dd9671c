//! How a location becomes a store that is made, opened or copied.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use super::backend::{Backend, StoreReader};
use super::copy::{Copied, copy_rows};
use super::location::StoreLocation;
use super::options::StoreOptions;
use super::outbox::{self, Resent};
use super::servers;
use super::sqlite::{self, SqliteBackend, SqliteReader};
use crate::core::backoff::Backoff;
use crate::core::timestamp::Timestamp;
use crate::error::{Hinted, hinted};

/// How long to wait between two tries to reach a server at the start.
const OPENING: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));

/// Prepares the store at a location: makes it where there is none, upgrades it where it is older.
pub fn prepare(location: &StoreLocation) -> anyhow::Result<()> {
    match location {
        StoreLocation::Sqlite(path) => SqliteBackend::open_or_create(path).map(drop),
        StoreLocation::Postgres(_) | StoreLocation::MySql(_) => servers::prepare(location),
    }
}

/// Has dead letters sent again, those of an event or all, by the processes that serve their channels.
pub fn resend(location: &StoreLocation, event_id: Option<i64>) -> anyhow::Result<Resent> {
    let mut backend = open_existing(location, StoreOptions::default())?;
    Ok(outbox::resend(backend.as_mut(), event_id, Timestamp::now())?)
}

/// Copies a store, which may be in use: a SQLite file as a whole into a file that does not exist yet, all else event by
/// event into a store that is empty or an earlier copy. Returns how much, where it was copied event by event.
pub fn copy(from: &StoreLocation, to: &StoreLocation) -> anyhow::Result<Option<Copied>> {
    if let (StoreLocation::Sqlite(from), StoreLocation::Sqlite(to)) = (from, to) {
        return sqlite::copy(from, to).map(|()| None);
    }
    let mut reader = open_reader(from)?;
    prepare(to)?;
    let mut backend = open_existing(to, StoreOptions::default())?;
    let copied = copy_rows((reader.as_mut(), from), (backend.as_mut(), to))?;
    backend.close()?;
    Ok(Some(copied))
}

/// Opens a store that is there.
pub fn open_existing(location: &StoreLocation, options: StoreOptions) -> anyhow::Result<Box<dyn Backend>> {
    open_with(location, options, SqliteBackend::open)
}

/// Opens a store, making it where there is none. A server that cannot be reached is tried again for a while.
pub fn open_patiently(location: &StoreLocation, options: StoreOptions) -> anyhow::Result<Box<dyn Backend>> {
    patiently(options.patience, || open_with(location, options, SqliteBackend::open_or_create))
}

/// Opens a replica of a store for reading. A server that cannot be reached is tried again for a while.
pub fn open_replica_patiently(
    location: &StoreLocation,
    options: StoreOptions,
) -> anyhow::Result<Box<dyn StoreReader>> {
    patiently(options.patience, || open_reader_with(location, options))
}

fn patiently<T>(patience: Duration, mut open: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut random = fastrand::Rng::new();
    let begun = Instant::now();
    let mut failures = 0;
    loop {
        let error = match open() {
            Err(error) if Hinted::is_transient(&error) && begun.elapsed() < patience => error,
            opened => return opened,
        };
        failures += 1;
        if failures == 1 {
            warn!("{error:#}; trying again for {}", humantime::format_duration(patience));
        }
        let left = patience.saturating_sub(begun.elapsed());
        thread::sleep(OPENING.wait(failures, &mut random).min(left));
    }
}

fn open_with(
    location: &StoreLocation,
    options: StoreOptions,
    open_file: fn(&Path) -> anyhow::Result<SqliteBackend>,
) -> anyhow::Result<Box<dyn Backend>> {
    match location {
        StoreLocation::Sqlite(_) if options.replicas > 0 => {
            let problem = format!("cannot use `{location}`: a SQLite file has no replicas");
            Err(hinted(
                problem,
                "leave out --require-replicas, or use a PostgreSQL server with standbys or a Galera cluster",
            ))
        }
        StoreLocation::Sqlite(path) => Ok(Box::new(open_file(path)?)),
        StoreLocation::Postgres(_) | StoreLocation::MySql(_) => servers::open(location, options),
    }
}

/// Opens an existing store for reading only.
pub fn open_reader(location: &StoreLocation) -> anyhow::Result<Box<dyn StoreReader>> {
    warn_of_parameters(location);
    open_reader_with(location, StoreOptions::default())
}

pub fn open_reader_with(
    location: &StoreLocation,
    options: StoreOptions,
) -> anyhow::Result<Box<dyn StoreReader>> {
    match location {
        StoreLocation::Sqlite(path) => Ok(Box::new(SqliteReader::open(path, options.read_time)?)),
        StoreLocation::Postgres(_) | StoreLocation::MySql(_) => servers::open_reader(location, options),
    }
}

/// Warns of parameters of a URL that are ignored.
pub fn warn_of_parameters(location: &StoreLocation) {
    if let Some(warning) = location.warning() {
        warn!("{warning}");
    }
}
