//! A connection to a server that comes and goes, and that other processes write to as well.

use std::thread;
use std::time::{Duration, Instant};

use super::paging;
use crate::core::backoff::Backoff;
use crate::core::event::StoredEvent;
use crate::core::query::Query;
use crate::core::timestamp::Timestamp;
use crate::store::backend::{Append, Backend, EventReader, Outcome, Page, StoreReader, StoreSize, Work};
use crate::store::cancellation::{Cancellation, ReadDeadline};
use crate::store::error::{Cause, DatabaseError, ReadError, Recovery, WriteError};
use crate::store::location::ServerDatabase;
use crate::store::options::StoreOptions;
use crate::store::statements::{LAST_ID_IN_SERVERS, Statements, number};
use crate::store::statistics::{Statistics, statistics};

/// How long to wait for a connection, and for a server that is gone to be noticed.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one server of several is tried alone before the next is tried as well: one that has stopped takes
/// connections, and says nothing.
pub const HEAD_START: Duration = Duration::from_millis(250);

/// How long a server of several may owe an answer before it is asked whether it is still there.
pub const LEAVE_CHECK: Duration = Duration::from_secs(1);

/// How long a statement of the writer may take, the wait for another process's commit included.
pub const WRITE_TIME: Duration = Duration::from_secs(20);

/// How long a read may take that has no other limit.
const UNLIMITED_READ_TIME: Duration = Duration::from_secs(3600);

/// How long a connection may be idle before it is no longer trusted: the server may have gone meanwhile.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// For how long a transaction is repeated that the server breaks off for the sake of others: well within the time limit
/// of a request.
const CONFLICT_TIME: Duration = Duration::from_secs(10);

/// How long to wait before one is repeated. Processes that are in each other's way must not come back at the same time.
const CONFLICT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(250));

/// How often a read is repeated that the server breaks off for the sake of others, such as replication.
const READ_REPEATS: u32 = 8;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Needs the one server, of several, that takes writes.
    Write,
    /// Takes the first server that answers, or as the URL says.
    Read,
    /// Prefers the one that takes writes: its replicas may be behind.
    ReadPrimary,
}

impl Purpose {
    /// How long a statement may take.
    pub fn time_limit(self, options: StoreOptions) -> Duration {
        match self {
            Purpose::Write => WRITE_TIME,
            Purpose::Read | Purpose::ReadPrimary => options.read_time.unwrap_or(UNLIMITED_READ_TIME),
        }
    }
}

/// A connection to a database server: what a kind of server must bring for [`Session`] to make a store of it.
pub trait ServerConnection: Statements + Send + Sized + 'static {
    /// Makes or upgrades the tables of a database. Idempotent, and several processes may do it at the same time.
    fn prepare(database: &ServerDatabase) -> anyhow::Result<()>;

    /// Connects to a database that is prepared. To write, checks first that the role has the permissions that it needs,
    /// and that the server keeps what it acknowledges. `is_first` where this process has not connected before.
    fn open(
        database: &ServerDatabase,
        purpose: Purpose,
        options: StoreOptions,
        is_first: bool,
    ) -> anyhow::Result<Self>;

    /// See [`Backend::has_asynchronous_replicas`].
    fn has_asynchronous_replicas(&self) -> bool;

    /// See [`Backend::append`].
    fn append(&mut self, appends: &[&Append], received_at: Timestamp) -> Result<Vec<Outcome>, DatabaseError>;

    /// See [`Backend::probe`].
    fn probe(&mut self) -> Result<(), DatabaseError>;

    fn begin(&mut self) -> Result<(), DatabaseError>;

    fn commit(&mut self) -> Result<(), DatabaseError>;

    fn roll_back(&mut self) -> Result<(), DatabaseError>;

    /// See [`EventReader::is_replica`].
    fn is_replica(&mut self) -> Result<bool, DatabaseError>;

    /// How much room tables and indices take, in bytes.
    fn size(&mut self) -> Result<i64, DatabaseError>;

    /// Whether the server has closed the connection, as far as can be seen without waiting.
    fn has_ended(&mut self) -> bool;

    /// The connection, if the server answers within `CONNECT_TIMEOUT`.
    fn if_alive(self) -> Option<Self>;
}

/// A store on a server: connects anew where the connection was lost, and repeats what the server breaks off for the sake
/// of others.
pub struct Session<C> {
    /// None where it was lost. It is taken out while it is used, and is put back unless it is lost.
    connection: Option<C>,
    /// Whether the connection is known to lead to no replica; one does not become a replica without a restart.
    is_primary: bool,
    last_use: Instant,
    database: ServerDatabase,
    purpose: Purpose,
    options: StoreOptions,
    cancellation: Cancellation,
}

impl<C: ServerConnection> Session<C> {
    pub fn open(
        database: &ServerDatabase,
        purpose: Purpose,
        options: StoreOptions,
    ) -> anyhow::Result<Session<C>> {
        // A read with a time limit is one of a process that writes as well.
        let is_first = purpose == Purpose::Write || options.read_time.is_none();
        Ok(Session {
            connection: Some(C::open(database, purpose, options, is_first)?),
            is_primary: false,
            last_use: Instant::now(),
            database: database.clone(),
            purpose,
            options,
            cancellation: Cancellation::default(),
        })
    }

    /// Runs a transaction. What may have been committed is never repeated: where the connection is lost in the middle of a
    /// transaction, the transaction fails.
    fn write<T>(
        &mut self,
        mut transaction: impl FnMut(&mut C) -> Result<T, DatabaseError>,
    ) -> Result<T, WriteError> {
        let mut connection = match self.connection.take().and_then(|connection| self.trusted(connection)) {
            Some(connection) => connection,
            None => self.reconnect().map_err(WriteError::Unavailable)?,
        };
        let begun = Instant::now();
        let mut conflicts = 0;
        loop {
            let error = match transaction(&mut connection) {
                Ok(done) => {
                    self.keep(connection);
                    return Ok(done);
                }
                Err(error) => error,
            };
            let is_lost = matches!(error.recovery, Recovery::Reconnect | Recovery::Abandon);
            if is_lost || connection.has_ended() || !is_rolled_back(&mut connection) {
                return Err(error.into());
            }
            if error.recovery != Recovery::Repeat || begun.elapsed() > CONFLICT_TIME {
                self.keep(connection);
                return Err(error.into());
            }
            conflicts += 1;
            pause_after_conflict(conflicts);
        }
    }

    /// Reads, and reads again on a new connection where the connection turns out to be lost.
    fn read<T>(&mut self, mut read: impl FnMut(&mut C) -> Result<T, DatabaseError>) -> Result<T, ReadError> {
        let mut is_new = false;
        let mut conflicts = 0;
        loop {
            let usable = self.connection.take_if(|connection| !connection.has_ended());
            let mut connection = match usable {
                Some(connection) => connection,
                None => {
                    is_new = true;
                    self.reconnect().map_err(ReadError::Unavailable)?
                }
            };
            let error = match read(&mut connection) {
                Ok(done) => {
                    self.keep(connection);
                    return Ok(done);
                }
                Err(error) => error,
            };
            match error.recovery {
                Recovery::Reconnect if !is_new => continue,
                Recovery::Reconnect | Recovery::Abandon => return Err(error.into()),
                Recovery::None | Recovery::Repeat => self.keep(connection),
            }
            conflicts += 1;
            if error.recovery == Recovery::None || conflicts > READ_REPEATS {
                return Err(error.into());
            }
            pause_after_conflict(conflicts);
        }
    }

    /// A connection that was not used for a while, if it is still of use: a write cannot be repeated to find out.
    fn trusted(&self, mut connection: C) -> Option<C> {
        if connection.has_ended() {
            return None;
        }
        if self.last_use.elapsed() > IDLE_TIME { connection.if_alive() } else { Some(connection) }
    }

    fn reconnect(&mut self) -> Result<C, Cause> {
        self.is_primary = false;
        C::open(&self.database, self.purpose, self.options, false).map_err(Cause::from)
    }

    fn keep(&mut self, connection: C) {
        self.last_use = Instant::now();
        self.connection = Some(connection);
    }
}

/// Whether a transaction is rolled back for sure. Where it cannot be, the connection is lost, and the transaction with it.
fn is_rolled_back(connection: &mut impl ServerConnection) -> bool {
    // A node of a cluster may break off this statement as well, for the sake of what another node has committed.
    let is_conflict = |error: &DatabaseError| error.recovery == Recovery::Repeat;
    match connection.roll_back() {
        Err(error) if is_conflict(&error) => connection.roll_back().is_ok(),
        rolled_back => rolled_back.is_ok(),
    }
}

fn pause_after_conflict(conflicts: u32) {
    thread::sleep(CONFLICT_BACKOFF.wait(conflicts, &mut fastrand::Rng::new()));
}

impl<C: ServerConnection> Backend for Session<C> {
    fn has_asynchronous_replicas(&self) -> bool {
        self.connection.as_ref().is_some_and(C::has_asynchronous_replicas)
    }

    fn append(&mut self, appends: &[&Append], received_at: Timestamp) -> Result<Vec<Outcome>, WriteError> {
        self.write(|connection| connection.append(appends, received_at))
    }

    fn transact(&mut self, work: &mut Work<'_>) -> Result<(), WriteError> {
        self.write(|connection| {
            connection.begin()?;
            work(connection)?;
            connection.commit()
        })
    }

    fn probe(&mut self) -> Result<(), WriteError> {
        self.write(C::probe)
    }

    /// Connects anew: what the lost connection was about to commit has been answered as unknown.
    fn recover(&mut self) -> Result<(), WriteError> {
        self.connection = None;
        self.probe()
    }
}

impl<C: ServerConnection> EventReader for Session<C> {
    fn page(&mut self, query: &Query) -> Result<Page, ReadError> {
        let deadline = ReadDeadline::start(self.options.read_time, &self.cancellation);
        self.read(|connection| paging::page(connection, query, &deadline))
    }

    fn get(&mut self, id: i64) -> Result<Option<StoredEvent>, ReadError> {
        self.read(|connection| paging::get(connection, id))
    }

    fn has_given(&mut self, id: i64) -> Result<bool, ReadError> {
        self.read(|connection| Ok(number(connection, LAST_ID_IN_SERVERS)? >= id))
    }

    fn statistics(&mut self, query: &Query) -> Result<Statistics, ReadError> {
        self.read(|connection| statistics(connection, query))
    }

    fn is_replica(&mut self) -> Result<bool, ReadError> {
        if !self.is_primary {
            self.is_primary = !self.read(C::is_replica)?;
        }
        Ok(!self.is_primary)
    }
}

impl<C: ServerConnection> StoreReader for Session<C> {
    fn cancel_with(&mut self, cancellation: Cancellation) {
        self.cancellation = cancellation;
    }

    fn select(&mut self, work: &mut Work<'_>) -> Result<(), ReadError> {
        self.read(|connection| work(connection))
    }

    fn size(&mut self) -> Result<StoreSize, ReadError> {
        let database_bytes = self.read(C::size)?;
        Ok(StoreSize { database_bytes, log_bytes: None })
    }
}
