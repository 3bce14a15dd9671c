//! Where events are kept: a handle for many tasks, a thread that writes, and connections that read.

pub mod backend;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod batch;
mod cancellation;
mod database;
mod location;
#[cfg(feature = "mysql")]
mod mysql;
mod outbox;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod paging;
#[cfg(feature = "postgres")]
mod postgres;
mod retention;
mod schema;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod server;
mod sqlite;
mod statements;
mod statistics;
mod tokens;
mod writer;

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tracing::warn;

use self::backend::{Append, Backend, Outcome, Reader, Resent, StoreError};
use self::cancellation::Cancellation;
pub use self::location::{LocationError, StoreLocation};
use self::sqlite::{SqliteBackend, SqliteReader};
pub use self::statistics::PARTS;
use self::writer::{Queue, Write, WriteKind};
pub use self::writer::{Writer, WriterMetrics};

use crate::core::backoff::Backoff;
use crate::core::hint::{Hinted, hinted};
use crate::core::timestamp::Timestamp;

/// How many reads run at once; each holds a connection and at most a page of events.
const READERS: usize = 4;

/// How long closing the store waits for reads that run, and for their connections to be closed.
const READERS_CLOSE: Duration = Duration::from_millis(200);

/// How long to wait between two tries to reach a server at the start.
const OPENING: Backoff = Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(2) };

/// A page of events ends early at this size, so that a reader's memory is bounded.
const PAGE_LIMIT_BYTES: usize = 4 << 20;

/// The handle of an open store, for any number of tasks.
#[derive(Clone)]
pub struct Store {
    queue: Arc<Queue>,
    readers: Arc<Readers>,
    request_bytes: Arc<Budget>,
    response_bytes: Arc<Budget>,
}

/// What bounds the memory of an open store.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    /// Events that wait for their commit.
    pub queue_events: usize,
    /// Bytes of requests that are being read or wait for their commit; and, apart from them, of
    /// responses that are being written.
    pub queue_bytes: usize,
}

/// What waits for the writer.
#[derive(Debug, Clone, Copy)]
pub struct Backlog {
    /// Events.
    pub events: usize,
    /// Bytes of requests that are being read or wait.
    pub bytes: usize,
    /// How long ago the last commit was; none before the first.
    pub last_commit: Option<Duration>,
}

/// Why an append has no outcome.
#[derive(Debug)]
pub enum AppendError {
    /// The queue is full, or the store is closing: not stored.
    Overloaded,
    /// What the store said.
    Store(StoreError),
}

/// Why no events are to be sent at present.
#[derive(Debug)]
pub enum Unready {
    /// The queue is full, or the store is closing.
    QueueFull,
    /// The store has failed, and has not recovered yet.
    NoWrites,
    /// The store has been at a write for so long.
    NoAnswer(Duration),
}

impl fmt::Display for Unready {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unready::QueueFull => formatter.write_str("the queue is full"),
            Unready::NoWrites => formatter.write_str("the store takes no writes"),
            Unready::NoAnswer(time) => {
                write!(
                    formatter,
                    "the store does not answer: a write has waited for {:.1}s",
                    time.as_secs_f64()
                )
            }
        }
    }
}

impl fmt::Display for AppendError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppendError::Overloaded => formatter.write_str("too much waits for the store"),
            AppendError::Store(error) => error.fmt(formatter),
        }
    }
}

/// How a store is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreOptions {
    /// How long one read may take; for ever where there is no limit.
    pub read_time: Option<Duration>,
    /// How long to wait at the start for a server that cannot be reached.
    pub patience: Duration,
    /// Whether a server may acknowledge what is not yet on its disk.
    pub weak_durability: bool,
    /// Whether events are going to be deleted, which takes further rights on a server.
    pub deletes: bool,
}

impl StoreOptions {
    /// The same for a connection that acknowledges nothing.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    fn for_reading(self) -> StoreOptions {
        StoreOptions { weak_durability: true, ..self }
    }
}

/// Prepares the store at a location: makes it where there is none, upgrades it where it is older.
///
/// # Errors
/// Why it cannot be made or used, and what to do.
pub fn prepare(location: &StoreLocation) -> anyhow::Result<()> {
    match location {
        StoreLocation::Sqlite(path) => SqliteBackend::open_or_create(path).map(drop),
        #[cfg(feature = "postgres")]
        StoreLocation::Postgres(database) => postgres::prepare(database),
        #[cfg(feature = "mysql")]
        StoreLocation::MySql(database) => mysql::prepare(database),
        #[cfg(not(all(feature = "mysql", feature = "postgres")))]
        other => Err(not_built_in(other)),
    }
}

/// Makes the alerts of an event, or all, that were given up be sent again by the processes that serve their channels.
///
/// # Errors
/// Why the store cannot be written to, and what to do.
pub fn resend(location: &StoreLocation, event_id: Option<i64>) -> anyhow::Result<Resent> {
    let mut backend: Box<dyn Backend> = match location {
        // One that is missing is not made.
        StoreLocation::Sqlite(path) => Box::new(SqliteBackend::open(path)?),
        #[cfg(any(feature = "mysql", feature = "postgres"))]
        _ => open_backend(location, StoreOptions::default())?,
        #[cfg(not(any(feature = "mysql", feature = "postgres")))]
        other => return Err(not_built_in(other)),
    };
    Ok(backend.resend(event_id, Timestamp::now())?)
}

/// Copies a store, which may be in use, into a file that does not exist yet.
///
/// # Errors
/// Why there is no copy, and what to do.
pub fn copy(from: &StoreLocation, to: &StoreLocation) -> anyhow::Result<()> {
    let tool = match (from, to) {
        (StoreLocation::Sqlite(from), StoreLocation::Sqlite(to)) => return sqlite::copy(from, to),
        (StoreLocation::Postgres(_), _) => "pg_dump and pg_restore",
        (StoreLocation::MySql(_), _) => "mariadb-dump --single-transaction or mysqldump --single-transaction",
        (StoreLocation::Sqlite(_), _) => "a new file as --db, and a server's own tools for a server",
    };
    let problem = format!("cannot copy `{from}` to `{to}`: only SQLite files are copied");
    Err(hinted(problem, format!("use {tool}")))
}

/// Opens an existing store for reading only.
///
/// # Errors
/// Why it cannot be read, and what to do.
pub fn open_reader(location: &StoreLocation) -> anyhow::Result<Box<dyn Reader>> {
    warn_of_parameters(location);
    open_reader_with(location, StoreOptions::default())
}

#[cfg_attr(
    not(any(feature = "mysql", feature = "postgres")),
    expect(unused_variables, reason = "files need none")
)]
fn open_backend(location: &StoreLocation, options: StoreOptions) -> anyhow::Result<Box<dyn Backend>> {
    Ok(match location {
        StoreLocation::Sqlite(path) => Box::new(SqliteBackend::open_or_create(path)?),
        #[cfg(feature = "postgres")]
        StoreLocation::Postgres(database) => Box::new(postgres::PostgresBackend::open(database, options)?),
        #[cfg(feature = "mysql")]
        StoreLocation::MySql(database) => Box::new(mysql::MySqlBackend::open(database, options)?),
        #[cfg(not(all(feature = "mysql", feature = "postgres")))]
        other => return Err(not_built_in(other)),
    })
}

/// Tries until the store is there, or for as long as that may take.
fn open_patiently(location: &StoreLocation, options: StoreOptions) -> anyhow::Result<Box<dyn Backend>> {
    let patience = options.patience;
    let mut random = fastrand::Rng::new();
    let begun = Instant::now();
    let mut failures = 0;
    loop {
        let error = match open_backend(location, options) {
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

/// Says which parameters of a URL mean nothing to us.
fn warn_of_parameters(location: &StoreLocation) {
    if let Some(warning) = location.warning() {
        warn!("{warning}");
    }
}

fn open_reader_with(location: &StoreLocation, options: StoreOptions) -> anyhow::Result<Box<dyn Reader>> {
    Ok(match location {
        StoreLocation::Sqlite(path) => Box::new(SqliteReader::open(path, options.read_time)?),
        #[cfg(feature = "postgres")]
        StoreLocation::Postgres(database) => Box::new(postgres::PostgresReader::open(database, options)?),
        #[cfg(feature = "mysql")]
        StoreLocation::MySql(database) => Box::new(mysql::MySqlReader::open(database, options)?),
        #[cfg(not(all(feature = "mysql", feature = "postgres")))]
        other => return Err(not_built_in(other)),
    })
}

#[cfg(not(all(feature = "mysql", feature = "postgres")))]
fn not_built_in(location: &StoreLocation) -> anyhow::Error {
    let problem = format!("cannot open `{location}`: this build knows no such store");
    hinted(problem, "build eventctl with its default features")
}

impl Store {
    /// Opens a store, making it where there is none, and starts its writer thread. A server that cannot be reached is
    /// waited for.
    ///
    /// # Errors
    /// Why it cannot be made or used, and what to do.
    pub fn open(
        location: &StoreLocation,
        limits: StoreLimits,
        options: StoreOptions,
    ) -> anyhow::Result<(Store, Writer)> {
        warn_of_parameters(location);
        let backend = open_patiently(location, options)?;
        let queue = Arc::new(Queue::new(limits.queue_events));
        let readers = Arc::new(Readers::new(location.clone(), options));
        let writer = Writer::start(backend, Arc::clone(&queue), Arc::clone(&readers))?;
        let store = Store {
            queue,
            readers,
            request_bytes: Budget::new(limits.queue_bytes),
            response_bytes: Budget::new(limits.queue_bytes),
        };
        Ok((store, writer))
    }

    /// No room in memory yet, to grow with a request that is being read.
    pub fn reserve(&self) -> Reservation {
        Reservation { budget: Arc::clone(&self.request_bytes), bytes: 0 }
    }

    /// Hands events to the writer and waits for their commit. Dropping the future does not undo them.
    ///
    /// # Errors
    /// Why the events are not acknowledged.
    pub async fn append(&self, append: Append, reservation: Reservation) -> Result<Outcome, AppendError> {
        let (acknowledge, acknowledged) = oneshot::channel();
        if self.queue.push(append, reservation, acknowledge)? {
            let _offer = Offer(&self.queue);
            tokio::task::yield_now().await;
        }
        let settled = acknowledged.await.map(|settled| settled.outcome);
        settled.unwrap_or_else(|_| Err(writer_has_stopped())).map_err(AppendError::Store)
    }

    /// Makes sure that the store takes writes and that the queue has room, and waits for that no longer than the limit,
    /// nor much longer than a second.
    ///
    /// # Errors
    /// Why not.
    pub async fn ready(&self, limit: Duration) -> Result<(), Unready> {
        let proof = match self.queue.prove() {
            Ok(Some(proof)) => proof,
            Ok(None) => return Ok(()),
            Err(AppendError::Overloaded) => return Err(Unready::QueueFull),
            Err(AppendError::Store(_)) => return Err(Unready::NoWrites),
        };
        let patience = self.queue.patience().min(limit);
        match timeout(patience, proof).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(_) => Err(Unready::NoWrites),
            Err(_) => Err(Unready::NoAnswer(self.queue.at_work_for().unwrap_or(patience))),
        }
    }

    /// Runs a write that is not an append on the writer's thread, behind the appends that wait there.
    ///
    /// # Errors
    /// Why there is no result.
    pub async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut dyn Backend) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, AppendError> {
        self.run_write(write, WriteKind::Ordinary).await
    }

    /// The same for a write that deletes: a store that takes no others for lack of space takes it nevertheless.
    ///
    /// # Errors
    /// Why there is no result.
    pub async fn write_that_makes_room<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut dyn Backend) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, AppendError> {
        self.run_write(write, WriteKind::MakesRoom).await
    }

    async fn run_write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut dyn Backend) -> Result<T, StoreError> + Send + 'static,
        kind: WriteKind,
    ) -> Result<T, AppendError> {
        let (answer, answered) = oneshot::channel();
        let write: Write = Box::new(|backend| {
            let written = backend.and_then(write);
            let failure = match &written {
                Ok(_) | Err(StoreError::Refused(_)) => Ok(()),
                Err(failure) => Err(failure.clone()),
            };
            let _ = answer.send(written);
            failure
        });
        self.queue.push_write(write, kind)?;
        answered.await.unwrap_or_else(|_| Err(writer_has_stopped())).map_err(AppendError::Store)
    }

    /// Runs a read on a connection of its own. The result stays within its reservation while it is in use.
    ///
    /// Dropping the future cancels the read. It keeps its place among `READERS` until it has stopped.
    ///
    /// # Errors
    /// Why there is no result.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = Arc::clone(&self.readers);
        let permit =
            Arc::clone(&readers.permits).acquire_owned().await.expect("the semaphore is never closed");
        let cancellation = Cancellation::default();
        let _cancel_on_drop = cancellation.guard();
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            readers.run(cancellation, read)
        });
        reading.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }

    /// What the writer measures of itself.
    pub fn metrics(&self) -> &WriterMetrics {
        &self.queue.metrics
    }

    /// What waits for the writer, and since when it has not committed.
    pub fn backlog(&self) -> Backlog {
        Backlog {
            events: self.queue.depth(),
            bytes: self.request_bytes.used.load(Ordering::Relaxed),
            last_commit: self.queue.last_commit(),
        }
    }

    /// Room in memory for a response, until it is written.
    pub fn reserve_response(&self, bytes: usize) -> Option<Reservation> {
        Reservation::of(&self.response_bytes, bytes)
    }
}

/// Offers the queue to the writer when dropped, so that no client that goes away can withhold it.
struct Offer<'a>(&'a Queue);

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        self.0.offer();
    }
}

fn writer_has_stopped() -> StoreError {
    StoreError::Unavailable("the writer has stopped".to_owned())
}

/// The connections that read, opened when they are first needed.
struct Readers {
    location: StoreLocation,
    options: StoreOptions,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Box<dyn Reader>>>,
}

impl Readers {
    fn new(location: StoreLocation, options: StoreOptions) -> Readers {
        let permits = Arc::new(Semaphore::new(READERS));
        Readers { location, options, permits, idle: Mutex::new(Vec::with_capacity(READERS)) }
    }

    fn run<T>(
        &self,
        cancellation: Cancellation,
        read: impl FnOnce(&mut dyn Reader) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut reader = match idle {
            Some(reader) => reader,
            None => open_reader_with(&self.location, self.options).map_err(StoreError::cannot_open)?,
        };
        reader.cancel_with(cancellation);
        let result = read(reader.as_mut());
        // A connection that failed is not used again.
        if !matches!(result, Err(StoreError::Unavailable(_))) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        }
        result
    }
}

impl Readers {
    /// Closes the connections that read, and lets no read begin for as long as the result is kept. Those that still
    /// run are waited for a moment.
    async fn close(self: &Arc<Readers>) -> Option<OwnedSemaphorePermit> {
        let all = Arc::clone(&self.permits).acquire_many_owned(READERS as u32);
        let permits = timeout(READERS_CLOSE, all).await.ok().and_then(Result::ok);
        let idle = mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = timeout(READERS_CLOSE, tokio::task::spawn_blocking(move || drop(idle))).await;
        permits
    }
}

/// To close a connection is to wait for its server, which the runtime's own threads must not do.
impl Drop for Readers {
    fn drop(&mut self) {
        let idle = mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        let _ = thread::spawn(move || drop(idle)).join();
    }
}

/// A number of bytes that may be in memory at once.
struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget { limit, used: AtomicUsize::new(0) })
    }

    fn take(&self, bytes: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = used.saturating_add(bytes) <= self.limit;
        if !fits {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }
}

/// Bytes set aside for one request or response; given back when dropped.
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    fn of(budget: &Arc<Budget>, bytes: usize) -> Option<Reservation> {
        budget.take(bytes).then(|| Reservation { budget: Arc::clone(budget), bytes })
    }

    /// Sets more bytes aside; false where there is no room.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let taken = self.budget.take(bytes);
        self.bytes += if taken { bytes } else { 0 };
        taken
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
