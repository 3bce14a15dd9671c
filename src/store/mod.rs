//! Where events are kept: a handle for many tasks, a thread that writes, and connections that read.
//!
//! # Group commit
//! A commit costs an fsync, and as much for one event as for fifty. So requests do not commit: [`Store::append`] puts the
//! events of a request into a queue, and one thread, which owns the only writing connection, stores whatever has queued up
//! in one transaction. The next batch queues up while that is being committed. There is no timer: an idle store commits a
//! single event at once, and the busier a store is the larger its batches are. After the appends of a batch the thread runs
//! other writes (tokens, outbox, retention), each in a transaction of its own, and then one proof that the store takes
//! writes, for all `/ready` requests that wait for one.
//!
//! The events of one request are stored together or not at all. One request does not fail another: where the database
//! refuses a batch, the thread repeats it request by request. A client that goes away changes nothing: what is queued is
//! committed. The thread takes the time once a batch, and all of its events have that `received_at`.
//!
//! # Who wakes whom
//! - The first request of a batch wakes the writer. Before that it yields once to the runtime, so that requests that have
//!   arrived at the same time join its batch. A request that is cancelled in between wakes the writer when it is dropped.
//! - The writer wakes the first request of a batch, and that one wakes the others ([`writer`] says why).
//! - Closing: [`Writer::close`] closes the readers, lets the writer commit what is queued, closes the connection and waits
//!   for the end of the thread.
//!
//! # Failure and recovery
//! An error says what became of a batch. After `Full` and `Refused` it is not stored. After `Unavailable` that is unknown:
//! it is never repeated here, as it may be stored already; the client repeats it, with the same idempotency key, which is
//! stored in the same transaction as the events and so decides.
//!
//! After `Full` and `Unavailable` the store has failed. Everything that waits and everything that comes is refused with the
//! same error, while the thread calls [`backend::Backend::recover`] with a growing pause until it succeeds. Recovery relies on
//! nothing but what was durable before the failure: a file is opened anew, and after a failed sync the whole log is copied
//! into the database and synced before anything is appended, because the kernel may hold pages as clean that never reached
//! the disk; a server is connected to anew. A store that is full takes writes that make room, and no others.
//!
//! # The order of ids
//! Ids strictly increase, are never reused, and become visible in their order, whoever else writes: a reader that follows
//! ids misses nothing. A file has one transaction at a time. On a server a sequence would not do, as transactions commit
//! in another order than they take their values; a batch takes its ids from the row of `last_event` instead, and holds the
//! lock of that row until its commit. Ids have gaps, of transactions that were rolled back and of events that were
//! deleted: what counts events counts rows.
//!
//! # Memory
//! Requests and responses have a budget each, of `StoreLimits::queue_bytes`. They are apart, so that slow readers of
//! large responses do not keep events out. A [`Reservation`] grows with what has arrived of a request, not with what was
//! announced, and goes into the queue with it until the commit. The queue also has a limit in events; an append that is
//! larger enters it when it is empty. Over a limit the answer is `Overloaded`, at once. At most four reads run at the same
//! time, each with a page of at most `PAGE_LIMIT_BYTES`.
//!
//! # Reading
//! Readers have connections of their own and hold no transaction between two calls, so they see each batch whole and keep
//! no log from being emptied while they wait. A read ends with its time limit, and soon after its request is cancelled.
//! It keeps its permit until it has ended.
//!
//! # Retention and its clock
//! Retention deletes some events at a time, between the batches. Its rules are at the head of [`retention`]. By age it deletes
//! only while the wall clock is believed: `consume` compares it with a clock that does not jump, and the store keeps the
//! last time at which it was believed, so that a machine which starts with a wrong clock deletes nothing. An event whose
//! alert is not yet delivered stays.
//!
//! # The rooms
//! A database is a [`backend::Backend`] and a [`backend::StoreReader`]: `sqlite` is both for a file, `servers` for what PostgreSQL
//! and MySQL have in common. [`tokens`], [`outbox`] and [`retention`] are functions over them, in SQL that all databases
//! understand ([`statements`]). [`error`] says what can go wrong.

pub mod backend;
mod budget;
mod cancellation;
mod copy;
pub mod deletion;
pub mod error;
mod location;
mod open;
mod options;
pub mod outbox;
mod readers;
pub mod retention;
mod schema;
#[cfg(not(any(feature = "mysql", feature = "postgres")))]
#[path = "no_servers.rs"]
mod servers;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod servers;
mod sqlite;
mod statements;
pub mod statistics;
pub mod subscriptions;
pub mod tokens;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use self::backend::{Append, Backend, Outcome, StoreReader};
use self::budget::Budget;
pub use self::budget::Reservation;
pub use self::copy::Copied;
use self::error::Cause;
pub use self::error::{AppendError, ReadError, Unready, WriteError};
pub use self::location::{LocationError, StoreLocation};
pub use self::open::{copy, open_reader, prepare, resend};
pub use self::options::{StoreLimits, StoreOptions};
use self::readers::Readers;
use self::writer::{Acknowledgement, Queue, Write, WriteKind};
pub use self::writer::{Writer, WriterMetrics};

/// The handle of an open store, for any number of tasks.
#[derive(Clone)]
pub struct Store {
    queue: Arc<Queue>,
    subscriptions: Arc<subscriptions::Group>,
    readers: Arc<Readers>,
    /// Those of the replica.
    replica: Option<Arc<Readers>>,
    /// Whether a failover of the server can lose the last acknowledged events, as far as was known at the start.
    pub has_asynchronous_replicas: bool,
    request_bytes: Arc<Budget>,
    response_bytes: Arc<Budget>,
}

/// What waits for the writer.
#[derive(Debug, Clone, Copy)]
pub struct Backlog {
    pub events: usize,
    /// Bytes of requests that are being read or wait for their commit.
    pub bytes: usize,
    /// How long ago the last commit was, if there was one.
    pub last_commit: Option<Duration>,
}

impl Store {
    /// Opens a store, making it where there is none, and starts its writer thread. A server that cannot be reached is
    /// waited for.
    pub fn open(
        location: &StoreLocation,
        limits: StoreLimits,
        options: StoreOptions,
    ) -> anyhow::Result<(Store, Writer)> {
        open::warn_of_parameters(location);
        Store::with(open::open_patiently(location, options)?, location, limits, options)
    }

    /// The same for a store that is there: a file that is missing is not made.
    pub fn open_existing(
        location: &StoreLocation,
        limits: StoreLimits,
        options: StoreOptions,
    ) -> anyhow::Result<(Store, Writer)> {
        open::warn_of_parameters(location);
        Store::with(open::open_existing(location, options)?, location, limits, options)
    }

    fn with(
        backend: Box<dyn Backend>,
        location: &StoreLocation,
        limits: StoreLimits,
        options: StoreOptions,
    ) -> anyhow::Result<(Store, Writer)> {
        let has_asynchronous_replicas = backend.has_asynchronous_replicas();
        let queue = Arc::new(Queue::new(limits.queue_events));
        let readers =
            Arc::new(Readers::new(location.clone(), StoreOptions { reads_primary: true, ..options }));
        let writer = Writer::start(backend, Arc::clone(&queue), Arc::clone(&readers))?;
        let store = Store {
            queue,
            subscriptions: Arc::default(),
            readers,
            replica: None,
            has_asynchronous_replicas,
            request_bytes: Budget::new(limits.queue_bytes),
            response_bytes: Budget::new(limits.queue_bytes),
        };
        Ok((store, writer))
    }

    /// Has a replica serve the reads that may be behind. A server that cannot be reached is waited for.
    ///
    /// # Errors
    /// The replica cannot be read.
    pub fn with_replica(self, location: &StoreLocation, options: StoreOptions) -> anyhow::Result<Store> {
        open::warn_of_parameters(location);
        let reader = open::open_replica_patiently(location, options)?;
        let replica = Arc::new(Readers::with(reader, location.clone(), options));
        Ok(Store { replica: Some(replica), ..self })
    }

    /// No room in memory yet, to grow with a request that is being read.
    pub fn reserve(&self) -> Reservation {
        Reservation::empty(&self.request_bytes)
    }

    /// Hands events to the writer and waits for their commit. Dropping the future does not undo them.
    pub async fn append(&self, append: Append, reservation: Reservation) -> Result<Outcome, AppendError> {
        let (acknowledge, acknowledged) = oneshot::channel();
        if let Some(first) = self.queue.push(append, reservation, acknowledge)? {
            tokio::task::yield_now().await;
            first.wake_writer();
        }
        self::acknowledged(Ok(acknowledged)).await
    }

    /// Hands several requests to the writer, in their order, and gives what waits for the commit of each.
    pub fn append_each(
        &self,
        appends: Vec<Append>,
        mut reservation: Reservation,
    ) -> Vec<impl Future<Output = Result<Outcome, AppendError>> + use<>> {
        let mut first = None;
        let pushed: Vec<_> = appends
            .into_iter()
            .map(|append| {
                let (acknowledge, acknowledged) = oneshot::channel();
                let reservation = std::mem::replace(&mut reservation, self.reserve());
                let pushed = self.queue.push(append, reservation, acknowledge);
                pushed.map(|is_first| {
                    first = first.take().or(is_first);
                    acknowledged
                })
            })
            .collect();
        drop(first);
        pushed.into_iter().map(acknowledged).collect()
    }

    /// Makes sure that the store takes writes and that the queue has room, and waits for that no longer than the limit,
    /// nor much longer than a second.
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
    pub async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut dyn Backend) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, AppendError> {
        self.run_write(write, WriteKind::Ordinary).await
    }

    /// The same for a write that deletes: a store that takes no others for lack of space takes it nevertheless.
    pub async fn write_that_makes_room<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut dyn Backend) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, AppendError> {
        self.run_write(write, WriteKind::MakesRoom).await
    }

    async fn run_write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut dyn Backend) -> Result<T, WriteError> + Send + 'static,
        kind: WriteKind,
    ) -> Result<T, AppendError> {
        let (answer, answered) = oneshot::channel();
        let write: Write = Box::new(|backend| {
            let written = backend.and_then(write);
            let failure = match &written {
                Ok(_) | Err(WriteError::Refused(_)) => Ok(()),
                Err(failure) => Err(failure.clone()),
            };
            let _ = answer.send(written);
            failure
        });
        self.queue.push_write(write, kind)?;
        answered.await.unwrap_or_else(|_| Err(writer_has_stopped())).map_err(AppendError::Store)
    }

    /// Asks something of a subscription. What waits for the writer together is done in one transaction.
    pub async fn subscription(
        &self,
        name: String,
        request: subscriptions::Request,
    ) -> Result<subscriptions::Answer, AppendError> {
        let (is_first, answered) = self.subscriptions.push(name, request);
        if is_first {
            let group = Arc::clone(&self.subscriptions);
            let write: Write = Box::new(move |backend| match backend {
                Ok(backend) => group.run(backend),
                Err(failure) => {
                    group.refuse(&failure);
                    Err(failure)
                }
            });
            if let Err(error) = self.queue.push_write(write, WriteKind::Ordinary) {
                let failure = match &error {
                    AppendError::Store(failure) => failure.clone(),
                    AppendError::Overloaded => {
                        WriteError::Unavailable(Cause::message("too many writes wait"))
                    }
                };
                self.subscriptions.refuse(&failure);
                return Err(error);
            }
        }
        answered.await.unwrap_or_else(|_| Err(writer_has_stopped())).map_err(AppendError::Store)
    }

    /// Runs a read on a connection of its own, at most `READERS` at the same time. Dropping the future cancels the read.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut dyn StoreReader) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        self.readers.read(read).await
    }

    /// The same on the replica that [`Store::with_replica`] has named, which may be behind; without one, on the store itself.
    pub async fn read_from_replica<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut dyn StoreReader) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        self.replica.as_ref().unwrap_or(&self.readers).read(read).await
    }

    /// What the writer measures of itself.
    pub fn metrics(&self) -> &WriterMetrics {
        &self.queue.metrics
    }

    /// What waits for the writer, and since when it has not committed.
    pub fn backlog(&self) -> Backlog {
        Backlog {
            events: self.queue.depth(),
            bytes: self.request_bytes.used(),
            last_commit: self.queue.last_commit(),
        }
    }

    /// Room in memory for a response, until it is written.
    pub fn reserve_response(&self, bytes: usize) -> Option<Reservation> {
        Reservation::of(&self.response_bytes, bytes)
    }
}

/// Waits for the commit of what was pushed.
async fn acknowledged(
    pushed: Result<oneshot::Receiver<Acknowledgement>, AppendError>,
) -> Result<Outcome, AppendError> {
    let outcome = pushed?.await.map(Acknowledgement::receive);
    outcome.unwrap_or_else(|_| Err(writer_has_stopped())).map_err(AppendError::Store)
}

fn writer_has_stopped() -> WriteError {
    WriteError::Unavailable(Cause::message("the writer has stopped"))
}
