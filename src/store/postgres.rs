//! A store on a PostgreSQL server, which any number of processes share.
//!
//! A batch is one statement, and so one round trip. It first takes ids from the row of `last_event`, whose lock
//! it holds until its commit: ids become visible in their order, and idempotency is decided by the database.

mod connection;
mod error;
mod values;

use std::time::{Duration, Instant};

use tokio_postgres::types::ToSql;

use self::connection::{Connection, Purpose, check_session};
use self::error::{PostgresError, cannot_use};
use super::StoreOptions;
use super::backend::{
    AlertOutcome, Append, Delivery, Outcome, Page, Reader, Statistics, StoreError, StoreSize,
};
use super::batch::{Batch, KnownKeys};
use super::cancellation::{Cancellation, ReadDeadline};
use super::database::Database;
use super::location::ServerDatabase;
use super::server::{self, READ_REPEATS, ServerConnection, WRITE_TIME};
use super::statements::Statements;
use super::{outbox, paging, schema, statistics};
use crate::core::event::StoredEvent;
use crate::core::hint::{Hint, hinted};
use crate::core::query::Query;
use crate::core::timestamp::Timestamp;

/// The schemas, in order; `eventctl_schema` says how many a database has.
const SCHEMAS: [&str; 3] = [
    include_str!("schema/postgres-1.sql"),
    include_str!("schema/postgres-2.sql"),
    include_str!("schema/postgres-3.sql"),
];

/// How long a read may take that nobody waits for with a limit of his own.
const UNLIMITED_READ_TIME: Duration = Duration::from_secs(3600);

/// $1: how many ids, $2: received_at, $3, $4: types and payloads of the events.
const APPEND: &str = "\
    WITH ids AS (UPDATE last_event SET id = id + $1 RETURNING id - $1 AS before), \
    stored AS (INSERT INTO events (id, received_at, event_type, event_payload) \
        SELECT ids.before + event.position, $2, event.event_type, event.event_payload \
        FROM ids, unnest($3::text[], $4::text[]) WITH ORDINALITY AS event (event_type, event_payload, position)) \
    SELECT before FROM ids";

/// The same for events of which some have keys, unless any of the keys is known: then it changes nothing, and gives
/// what is known. $5 to $8: the keys, their digests, how many events come before theirs, and how many have it.
///
/// A key that another process has stored since the statement began violates the table's primary key.
const APPEND_WITH_KEYS: &str = "\
    WITH known AS (SELECT idempotency_key, body_digest, first_id FROM idempotency_keys \
        WHERE idempotency_key = ANY($5)), \
    ids AS (UPDATE last_event SET id = id + $1 WHERE NOT EXISTS (SELECT FROM known) RETURNING id - $1 AS before), \
    fresh AS (INSERT INTO idempotency_keys (idempotency_key, body_digest, first_id, event_count) \
        SELECT key.idempotency_key, key.body_digest, ids.before + key.position + 1, key.event_count \
        FROM ids, unnest($5::text[], $6::bytea[], $7::bigint[], $8::bigint[]) \
            AS key (idempotency_key, body_digest, position, event_count)), \
    stored AS (INSERT INTO events (id, received_at, event_type, event_payload) \
        SELECT ids.before + event.position, $2, event.event_type, event.event_payload \
        FROM ids, unnest($3::text[], $4::text[]) WITH ORDINALITY AS event (event_type, event_payload, position)) \
    SELECT before, NULL, NULL, NULL FROM ids \
    UNION ALL SELECT first_id, idempotency_key, body_digest, first_id FROM known";

/// Prepares a database: makes or upgrades its tables.
///
/// # Errors
/// Why it cannot.
pub fn prepare(database: &ServerDatabase) -> anyhow::Result<()> {
    let mut connection = Connection::connect(database, Purpose::Write, WRITE_TIME)?;
    check_session(&mut connection, database, Purpose::Write)?;
    let version = look_at(&mut connection, database)?;
    schema::check_not_too_new(database, version, SCHEMAS.len())?;
    upgrade(&mut connection).map_err(|error| cannot_use(database, &error)).hint(
        "log in as a user who may create tables in this database, and have no other tables of these names",
    )
}

/// Another process that prepares the same database waits, and then sees what this one has made.
fn upgrade(connection: &mut Connection) -> Result<(), PostgresError> {
    connection.begin()?;
    connection.run("SELECT pg_advisory_xact_lock(hashtext('eventctl_schema'))")?;
    let version = schema_version(connection)?;
    for schema in SCHEMAS.iter().skip(version) {
        connection.run(schema)?;
    }
    if version < SCHEMAS.len() {
        connection.run(&format!("UPDATE eventctl_schema SET version = {}", SCHEMAS.len()))?;
    }
    connection.commit()
}

/// Sets the limits of a new connection, and sees what there is: the version of the schema.
fn look_at(connection: &mut Connection, database: &ServerDatabase) -> anyhow::Result<usize> {
    connection.limit().map_err(|error| cannot_use(database, &error))?;
    check_encoding(connection, database)?;
    schema_version(connection).map_err(|error| cannot_use(database, &error))
}

/// How many of our schemas a database has.
fn schema_version(connection: &mut Connection) -> Result<usize, PostgresError> {
    // `to_regclass` would answer from a cache, which a wait for an advisory lock does not renew.
    let select = "SELECT EXISTS (SELECT FROM pg_tables \
        WHERE schemaname = ANY (current_schemas(false)) AND tablename = 'eventctl_schema')";
    let known: bool = connection.query_one(select, &[])?.get(0);
    if !known {
        return Ok(0);
    }
    let version: i32 = connection.query_one("SELECT version FROM eventctl_schema", &[])?.get(0);
    Ok(usize::try_from(version).unwrap_or_default())
}

/// Connects to a database that is prepared.
fn open(
    database: &ServerDatabase,
    purpose: Purpose,
    time_limit: Duration,
    options: StoreOptions,
    is_first: bool,
) -> anyhow::Result<Connection> {
    let mut connection = Connection::connect(database, purpose, time_limit)?;
    if is_first {
        check_session(&mut connection, database, purpose)?;
    }
    let version = look_at(&mut connection, database)?;
    server::check_prepared(database, version, SCHEMAS.len())?;
    if !options.weak_durability {
        check_durability(&mut connection, database)?;
    }
    Ok(connection)
}

fn check_encoding(connection: &mut Connection, database: &ServerDatabase) -> anyhow::Result<()> {
    let encoding = connection.text("SHOW server_encoding").map_err(|error| cannot_use(database, &error))?;
    if encoding != "UTF8" {
        let problem = format!("cannot use `{database}`: its encoding is {encoding}, not UTF8");
        return Err(hinted(problem, "create the database WITH ENCODING 'UTF8' TEMPLATE template0"));
    }
    Ok(())
}

/// Makes sure that what the server acknowledges is on its disk, and on those of the standbys that it is to wait for.
fn check_durability(connection: &mut Connection, database: &ServerDatabase) -> anyhow::Result<()> {
    let mut value = |setting: &str| {
        connection.text(&format!("SHOW {setting}")).map_err(|error| cannot_use(database, &error))
    };
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        if value(setting)? == "off" {
            return Err(server::weak_durability(database, setting, "off", "on"));
        }
    }
    if value("synchronous_commit")? == "local" && !value("synchronous_standby_names")?.is_empty() {
        return Err(server::weak_durability(
            database,
            "synchronous_commit",
            "local beside synchronous_standby_names",
            "on",
        ));
    }
    Ok(())
}

/// The one connection of this process that writes.
pub struct PostgresBackend {
    connection: Connection,
    last_use: Instant,
    database: ServerDatabase,
    options: StoreOptions,
}

impl PostgresBackend {
    /// Opens a database that is prepared, and whose server keeps what it acknowledges.
    ///
    /// # Errors
    /// Why it cannot be used, and what to do.
    pub fn open(database: &ServerDatabase, options: StoreOptions) -> anyhow::Result<PostgresBackend> {
        PostgresBackend::open_again(database, options, true)
    }

    fn open_again(
        database: &ServerDatabase,
        options: StoreOptions,
        is_first: bool,
    ) -> anyhow::Result<PostgresBackend> {
        let mut connection = open(database, Purpose::Write, WRITE_TIME, options, is_first)?;
        for check in server::checks_of(options) {
            connection.run(check).map_err(|error| cannot_use(database, &error))?;
        }
        Ok(PostgresBackend { connection, last_use: Instant::now(), database: database.clone(), options })
    }

    /// Inserts a batch, and gives the id before its first; or else inserts nothing, and gives the keys that are known.
    fn insert(
        &mut self,
        batch: &Batch<'_>,
        received_at: Timestamp,
    ) -> Result<Result<i64, KnownKeys>, PostgresError> {
        let count = batch.events.len() as i64;
        let received_at = received_at.as_microseconds();
        let types: Vec<&str> = batch.events.iter().map(|(_, event)| event.event_type()).collect();
        let payloads: Vec<&str> = batch.events.iter().map(|(_, event)| event.event_payload()).collect();
        if batch.keys.is_empty() {
            let values: [&(dyn ToSql + Sync); 4] = [&count, &received_at, &types, &payloads];
            return Ok(Ok(self.connection.query_one(APPEND, &values)?.get(0)));
        }
        let keys: Vec<&str> = batch.keys.iter().map(|key| key.key).collect();
        let digests: Vec<&[u8]> = batch.keys.iter().map(|key| key.digest).collect();
        let positions: Vec<i64> = batch.keys.iter().map(|key| key.position).collect();
        let counts: Vec<i64> = batch.keys.iter().map(|key| key.event_count).collect();
        let values: [&(dyn ToSql + Sync); 8] =
            [&count, &received_at, &types, &payloads, &keys, &digests, &positions, &counts];
        let rows = self.connection.query(APPEND_WITH_KEYS, &values)?;
        let known: KnownKeys = rows
            .iter()
            .filter_map(|row| Some((row.get::<_, Option<String>>(1)?, (row.get(2), row.get(3)))))
            .collect();
        let before = rows.first().map(|row| row.get(0)).filter(|_| known.is_empty());
        Ok(before.ok_or(known))
    }
}

impl Database for PostgresBackend {
    type Connection = Connection;

    fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    fn transact<T>(
        &mut self,
        transaction: impl FnMut(&mut PostgresBackend) -> Result<T, PostgresError>,
    ) -> Result<T, StoreError> {
        server::transact(self, transaction)
    }

    fn store(&mut self, appends: &[&Append], received_at: Timestamp) -> Result<Vec<Outcome>, PostgresError> {
        let mut known = KnownKeys::new();
        let has_deliveries = appends.iter().any(|append| !append.deliveries.is_empty());
        if has_deliveries {
            self.connection.begin()?;
        }
        loop {
            let batch = Batch::of(appends, &known);
            let inserted = if batch.events.is_empty() { Ok(0) } else { self.insert(&batch, received_at)? };
            let before = match inserted {
                Ok(before) => before,
                Err(keys) => {
                    known.extend(keys);
                    continue;
                }
            };
            if has_deliveries {
                let deliveries: Vec<_> = batch.deliveries(before).collect();
                outbox::insert(&mut self.connection, &deliveries, received_at)?;
                self.connection.commit()?;
            }
            return Ok(batch.outcomes(before, &known));
        }
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        self.transact(|backend| backend.connection.execute("UPDATE last_event SET id = id", &[]).map(drop))
    }

    /// Connects anew: what the lost connection was about to commit has been answered as unknown.
    fn recover(&mut self) -> Result<(), StoreError> {
        self.reconnect()?;
        self.probe()
    }
}

impl ServerConnection for PostgresBackend {
    fn last_use(&mut self) -> &mut Instant {
        &mut self.last_use
    }

    fn is_alive(&mut self) -> bool {
        self.connection.is_alive()
    }

    fn reconnect(&mut self) -> Result<(), StoreError> {
        *self = PostgresBackend::open_again(&self.database, self.options, false)
            .map_err(StoreError::cannot_open)?;
        Ok(())
    }

    fn roll_back(&mut self) -> Result<(), PostgresError> {
        self.connection.run("ROLLBACK")
    }

    fn is_lost(&self) -> bool {
        self.connection.is_lost()
    }

    fn has_ended(&mut self) -> bool {
        self.connection.has_ended()
    }

    fn is_conflict(error: &PostgresError) -> bool {
        error.is_conflict()
    }
}

/// A connection that reads.
pub struct PostgresReader {
    connection: Connection,
    database: ServerDatabase,
    options: StoreOptions,
    cancellation: Cancellation,
}

impl PostgresReader {
    /// Opens a database that is prepared, for reading.
    ///
    /// # Errors
    /// Why it cannot be used, and what to do.
    pub fn open(database: &ServerDatabase, options: StoreOptions) -> anyhow::Result<PostgresReader> {
        // A limited read is one of a process that writes too, and has looked already.
        let connection = connect_reader(database, options, options.read_time.is_none())?;
        let (database, cancellation) = (database.clone(), Cancellation::default());
        Ok(PostgresReader { connection, database, options, cancellation })
    }

    /// Reads. Where the connection turns out to be lost, which was idle or whose server has gone, the read is repeated
    /// on a new one; and where the server broke the read off for the sake of replication, it is repeated too.
    fn reading<T>(
        &mut self,
        mut read: impl FnMut(&mut Connection) -> Result<T, PostgresError>,
    ) -> Result<T, StoreError> {
        let mut is_new = false;
        let mut conflicts = 0;
        loop {
            if self.connection.is_lost() {
                self.connection =
                    connect_reader(&self.database, self.options, false).map_err(StoreError::cannot_open)?;
                is_new = true;
            }
            let error = match read(&mut self.connection) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if error.is_connection_lost() {
                self.connection.give_up();
                if !std::mem::replace(&mut is_new, true) {
                    continue;
                }
            }
            conflicts += 1;
            if !error.is_conflict() || conflicts > READ_REPEATS {
                return Err(error.into());
            }
            server::pause_after_conflict(conflicts);
        }
    }
}

fn connect_reader(
    database: &ServerDatabase,
    options: StoreOptions,
    is_first: bool,
) -> anyhow::Result<Connection> {
    let time_limit = options.read_time.unwrap_or(UNLIMITED_READ_TIME);
    open(database, Purpose::Read, time_limit, options.for_reading(), is_first)
}

impl Reader for PostgresReader {
    fn cancel_with(&mut self, cancellation: Cancellation) {
        self.cancellation = cancellation;
    }

    fn page(&mut self, query: &Query) -> Result<Page, StoreError> {
        let deadline = ReadDeadline::start(self.options.read_time, &self.cancellation);
        self.reading(|connection| paging::page(connection, query, &deadline))?
            .ok_or_else(paging::took_too_long)
    }

    fn get(&mut self, id: i64) -> Result<Option<StoredEvent>, StoreError> {
        self.reading(|connection| paging::get(connection, id))
    }

    fn statistics(&mut self, query: &Query) -> Result<Statistics, StoreError> {
        self.reading(|connection| statistics::statistics(connection, query))
    }

    fn deliveries(&mut self, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        self.reading(|connection| outbox::newest(connection, limit))
    }

    fn open_deliveries(&mut self) -> Result<Vec<(String, i64)>, StoreError> {
        self.reading(outbox::open)
    }

    fn size(&mut self) -> Result<StoreSize, StoreError> {
        let select = "SELECT pg_database_size(current_database())";
        let database_bytes =
            self.reading(|connection| Ok(connection.query_one(select, &[])?.try_get(0)?))?;
        Ok(StoreSize { database_bytes, log_bytes: None })
    }

    fn alert_outcome(&mut self, event_id: i64) -> Result<AlertOutcome, StoreError> {
        self.reading(|connection| outbox::alert_outcome(connection, event_id))
    }
}
