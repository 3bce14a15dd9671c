//! A store on a PostgreSQL server, which any number of processes share.
//!
//! A batch is one statement, and so one round trip. It first takes ids from the row of `last_event`, whose lock
//! it holds until its commit: ids become visible in their order, and idempotency is decided by the database.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::time::{Duration, Instant};

use postgres::config::SslMode;
use postgres::error::SqlState;
use postgres::types::{FromSql, IsNull, ToSql, Type, private::BytesMut, to_sql_checked};
use postgres::{Client, Config, IsolationLevel, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreOptions;
use super::backend::{Append, Delivery, Outcome, Page, Reader, Statistics, StoreError, StoreSize};
use super::batch::{Batch, KnownKeys};
use super::cancellation::{Cancellation, ReadDeadline};
use super::database::Database;
use super::location::ServerDatabase;
use super::server::{self, CONNECT_TIMEOUT, Encryption, ServerConnection, WRITE_TIME};
use super::statements::{Statements, Value};
use super::{outbox, paging, statistics};
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

/// After how long without an answer the network asks whether the server is still there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// $1: how many ids, $2: received_at, $3, $4: types and payloads of the events.
const APPEND: &str = "\
    WITH ids AS (UPDATE last_event SET id = id + $1 RETURNING id - $1 AS before), \
    stored AS (INSERT INTO events (id, received_at, event_type, event_payload) \
        SELECT ids.before + event.position, $2, event.event_type, event.event_payload \
        FROM ids, unnest($3::text[], $4::text[]) WITH ORDINALITY AS event (event_type, event_payload, position)) \
    SELECT before FROM ids";

/// The same for events of which some have keys. $5: the key of each event or null; $6 to $9: the keys, their
/// digests, how many events come before theirs, and how many have it. Events whose key is known are left out.
const APPEND_WITH_KEYS: &str = "\
    WITH ids AS (UPDATE last_event SET id = id + $1 RETURNING id - $1 AS before), \
    fresh AS (INSERT INTO idempotency_keys (idempotency_key, body_digest, first_id, event_count) \
        SELECT key.idempotency_key, key.body_digest, ids.before + key.position + 1, key.event_count \
        FROM ids, unnest($6::text[], $7::bytea[], $8::bigint[], $9::bigint[]) \
            AS key (idempotency_key, body_digest, position, event_count) \
        ON CONFLICT DO NOTHING RETURNING idempotency_key), \
    stored AS (INSERT INTO events (id, received_at, event_type, event_payload) \
        SELECT ids.before + event.position, $2, event.event_type, event.event_payload \
        FROM ids, unnest($3::text[], $4::text[], $5::text[]) WITH ORDINALITY \
            AS event (event_type, event_payload, idempotency_key, position) \
        WHERE event.idempotency_key IS NULL \
            OR event.idempotency_key IN (SELECT idempotency_key FROM fresh)) \
    SELECT before, (SELECT array_agg(idempotency_key) FROM fresh) FROM ids";

const SELECT_KEYS: &str = "\
    SELECT idempotency_key, body_digest, first_id FROM idempotency_keys WHERE idempotency_key = ANY($1)";

/// How long a process that has stopped in the midst of a transaction keeps its locks.
const STOPPED_TIME: Duration = Duration::from_secs(5);

/// Prepares a database: makes or upgrades its tables.
///
/// # Errors
/// Why it cannot.
pub fn prepare(database: &ServerDatabase) -> anyhow::Result<()> {
    let mut client = connect(database, WRITE_TIME)?;
    check_encoding(&mut client, database)?;
    let version = schema_version(&mut client).map_err(|error| cannot_use(database, &error))?;
    server::check_not_newer(database, version, SCHEMAS.len())?;
    let upgrade = |client: &mut Client| -> Result<(), postgres::Error> {
        // Another process that prepares the same database waits, and then sees what this one has made.
        let mut transaction =
            client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start()?;
        transaction.batch_execute("SELECT pg_advisory_xact_lock(hashtext('eventctl_schema'))")?;
        let version = schema_version(&mut transaction)?;
        for schema in SCHEMAS.iter().skip(version) {
            transaction.batch_execute(schema)?;
        }
        transaction.batch_execute(&format!("UPDATE eventctl_schema SET version = {}", SCHEMAS.len()))?;
        transaction.commit()
    };
    upgrade(&mut client).map_err(|error| cannot_use(database, &error)).hint(
        "log in as a user who may create tables in this database, and have no other tables of these names",
    )
}

/// How many of our schemas a database has.
fn schema_version(client: &mut impl postgres::GenericClient) -> Result<usize, postgres::Error> {
    // `to_regclass` would answer from a cache, which a wait for an advisory lock does not renew.
    let select = "SELECT EXISTS (SELECT FROM pg_tables \
        WHERE schemaname = ANY (current_schemas(false)) AND tablename = 'eventctl_schema')";
    let known: bool = client.query_one(select, &[])?.get(0);
    if !known {
        return Ok(0);
    }
    let version: i32 = client.query_one("SELECT version FROM eventctl_schema", &[])?.get(0);
    Ok(usize::try_from(version).unwrap_or_default())
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
        let mut connection = Connection::open(database, WRITE_TIME, options)?;
        for check in server::checks_of(options) {
            connection.client.batch_execute(check).map_err(|error| cannot_use(database, &error))?;
        }
        Ok(PostgresBackend { connection, last_use: Instant::now(), database: database.clone(), options })
    }

    /// Inserts what is new; the id before the batch's first, and the keys that were known.
    fn insert(
        &mut self,
        batch: &Batch<'_>,
        received_at: Timestamp,
    ) -> Result<(i64, KnownKeys), postgres::Error> {
        let count = batch.events.len() as i64;
        let received_at = received_at.as_microseconds();
        let types: Vec<&str> = batch.events.iter().map(|(_, event)| event.event_type()).collect();
        let payloads: Vec<&str> = batch.events.iter().map(|(_, event)| event.event_payload()).collect();
        if batch.keys.is_empty() {
            let values: [&(dyn ToSql + Sync); 4] = [&count, &received_at, &types, &payloads];
            let before: i64 = self.connection.query_one(APPEND, &values)?.get(0);
            return Ok((before, KnownKeys::new()));
        }
        let event_keys = batch.event_keys();
        let keys: Vec<&str> = batch.keys.iter().map(|key| key.key).collect();
        let digests: Vec<&[u8]> = batch.keys.iter().map(|key| key.digest).collect();
        let positions: Vec<i64> = batch.keys.iter().map(|key| key.position).collect();
        let counts: Vec<i64> = batch.keys.iter().map(|key| key.event_count).collect();
        let values: [&(dyn ToSql + Sync); 9] =
            [&count, &received_at, &types, &payloads, &event_keys, &keys, &digests, &positions, &counts];
        let row = self.connection.query_one(APPEND_WITH_KEYS, &values)?;
        let before: i64 = row.get(0);
        let fresh: Option<Vec<&str>> = row.get(1);
        let fresh: HashSet<&str> = fresh.unwrap_or_default().into_iter().collect();
        let known: Vec<&str> = keys.into_iter().filter(|key| !fresh.contains(key)).collect();
        let known = if known.is_empty() { KnownKeys::new() } else { self.known_keys(&known)? };
        Ok((before, known))
    }

    fn known_keys(&mut self, keys: &[&str]) -> Result<KnownKeys, postgres::Error> {
        let rows = self.connection.query(SELECT_KEYS, &[&keys])?;
        Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
    }
}

impl Database for PostgresBackend {
    type Connection = Connection;

    fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    fn transact<T>(
        &mut self,
        transaction: impl FnMut(&mut PostgresBackend) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        server::transact(self, transaction)
    }

    fn store(
        &mut self,
        appends: &[&Append],
        received_at: Timestamp,
    ) -> Result<Vec<Outcome>, postgres::Error> {
        let batch = Batch::of(appends);
        let has_deliveries = batch.has_deliveries();
        if has_deliveries {
            self.connection.begin()?;
        }
        let (before, known) = self.insert(&batch, received_at)?;
        if has_deliveries {
            for (event_id, delivery) in batch.deliveries(before, &known) {
                outbox::insert(&mut self.connection, event_id, delivery, received_at)?;
            }
            self.connection.commit()?;
        }
        Ok(batch.outcomes(before, &known))
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
        self.connection.client.is_valid(CONNECT_TIMEOUT).is_ok()
    }

    fn reconnect(&mut self) -> Result<(), StoreError> {
        *self = PostgresBackend::open(&self.database, self.options).map_err(StoreError::cannot_open)?;
        Ok(())
    }

    fn roll_back(&mut self) -> Result<(), postgres::Error> {
        self.connection.client.batch_execute("ROLLBACK")
    }

    fn is_conflict(error: &postgres::Error) -> bool {
        error.code().is_some_and(|code| {
            *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
        })
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
        let connection =
            Connection::open(database, options.read_time.unwrap_or_default(), options.for_reading())?;
        let cancellation = Cancellation::default();
        Ok(PostgresReader { connection, database: database.clone(), options, cancellation })
    }

    /// Connects anew where the connection was lost: a reader that waits for long outlives servers.
    fn connected(&mut self) -> Result<&mut Connection, StoreError> {
        if self.connection.client.is_closed() {
            let fresh =
                PostgresReader::open(&self.database, self.options).map_err(StoreError::cannot_open)?;
            *self = PostgresReader { cancellation: self.cancellation.clone(), ..fresh };
        }
        Ok(&mut self.connection)
    }
}

impl Reader for PostgresReader {
    fn cancel_with(&mut self, cancellation: Cancellation) {
        self.cancellation = cancellation;
    }

    fn page(&mut self, query: &Query) -> Result<Page, StoreError> {
        let deadline = ReadDeadline::start(self.options.read_time, &self.cancellation);
        paging::page(self.connected()?, query, &deadline)
    }

    fn get(&mut self, id: i64) -> Result<Option<StoredEvent>, StoreError> {
        paging::get(self.connected()?, id)
    }

    fn statistics(&mut self, query: &Query) -> Result<Statistics, StoreError> {
        Ok(statistics::statistics(self.connected()?, query)?)
    }

    fn deliveries(&mut self, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        Ok(outbox::newest(self.connected()?, limit)?)
    }

    fn open_deliveries(&mut self) -> Result<Vec<(String, i64)>, StoreError> {
        Ok(outbox::open(self.connected()?)?)
    }

    fn size(&mut self) -> Result<StoreSize, StoreError> {
        let row = self.connected()?.query_one("SELECT pg_database_size(current_database())", &[])?;
        Ok(StoreSize { database_bytes: row.get(0), log_bytes: None })
    }

    fn is_delivered(&mut self, event_id: i64) -> Result<bool, StoreError> {
        Ok(outbox::is_delivered(self.connected()?, event_id)?)
    }
}

impl Statements for Connection {
    type Error = postgres::Error;

    const FOR_UPDATE: &'static str = " FOR UPDATE";

    fn begin(&mut self) -> Result<(), postgres::Error> {
        self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    }

    fn commit(&mut self) -> Result<(), postgres::Error> {
        self.client.batch_execute("COMMIT")
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<(), postgres::Error> {
        Connection::execute(self, statement, &by_reference(values)).map(drop)
    }

    fn query<const COLUMNS: usize>(
        &mut self,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<[Value; COLUMNS]>, postgres::Error> {
        let rows = Connection::query(self, statement, &by_reference(values))?;
        let row = |row: &Row| -> Result<[Value; COLUMNS], postgres::Error> {
            let mut values = [const { Value::Null }; COLUMNS];
            for (column, value) in values.iter_mut().enumerate() {
                *value = row.try_get(column)?;
            }
            Ok(values)
        };
        rows.iter().map(row).collect()
    }
}

/// The statement with its values numbered, as PostgreSQL has them.
fn numbered(statement: &str) -> String {
    let mut parts = statement.split('?');
    let mut numbered = parts.next().unwrap_or_default().to_owned();
    for (position, part) in parts.enumerate() {
        numbered.push_str(&format!("${}{part}", position + 1));
    }
    numbered
}

fn by_reference(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

impl ToSql for Value {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Number(number) => number.to_sql(kind, out),
            Value::Text(text) => text.to_sql(kind, out),
            Value::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        <i64 as ToSql>::accepts(kind) || <String as ToSql>::accepts(kind) || <Vec<u8> as ToSql>::accepts(kind)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Value, Box<dyn Error + Sync + Send>> {
        if <i64 as FromSql>::accepts(kind) {
            return i64::from_sql(kind, raw).map(Value::Number);
        }
        // What a function gives, such as `octet_length`.
        if <i32 as FromSql>::accepts(kind) {
            return i32::from_sql(kind, raw).map(|number| Value::Number(number.into()));
        }
        if <Vec<u8> as FromSql>::accepts(kind) {
            return Vec::from_sql(kind, raw).map(Value::Bytes);
        }
        String::from_sql(kind, raw).map(Value::Text)
    }

    fn from_sql_null(_: &Type) -> Result<Value, Box<dyn Error + Sync + Send>> {
        Ok(Value::Null)
    }

    fn accepts(kind: &Type) -> bool {
        <i64 as FromSql>::accepts(kind)
            || <i32 as FromSql>::accepts(kind)
            || <Vec<u8> as FromSql>::accepts(kind)
            || <String as FromSql>::accepts(kind)
    }
}

/// A connection with the statements that it has prepared.
pub struct Connection {
    client: Client,
    statements: HashMap<String, Statement>,
}

impl Connection {
    fn open(
        database: &ServerDatabase,
        time_limit: Duration,
        options: StoreOptions,
    ) -> anyhow::Result<Connection> {
        let mut client = connect(database, time_limit)?;
        check_encoding(&mut client, database)?;
        let version = schema_version(&mut client).map_err(|error| cannot_use(database, &error))?;
        server::check_prepared(database, version, SCHEMAS.len())?;
        if !options.weak_durability {
            check_durability(&mut client, database)?;
        }
        Ok(Connection { client, statements: HashMap::new() })
    }

    fn prepared(&mut self, statement: &str) -> Result<Statement, postgres::Error> {
        if let Some(prepared) = self.statements.get(statement) {
            return Ok(prepared.clone());
        }
        let prepared = self.client.prepare(&numbered(statement))?;
        self.statements.insert(statement.to_owned(), prepared.clone());
        Ok(prepared)
    }

    fn query_one(&mut self, statement: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Row, postgres::Error> {
        let prepared = self.prepared(statement)?;
        self.client.query_one(&prepared, values)
    }

    fn query(
        &mut self,
        statement: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, postgres::Error> {
        let prepared = self.prepared(statement)?;
        self.client.query(&prepared, values)
    }

    fn execute(&mut self, statement: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64, postgres::Error> {
        let prepared = self.prepared(statement)?;
        self.client.execute(&prepared, values)
    }
}

fn connect(database: &ServerDatabase, time_limit: Duration) -> anyhow::Result<Client> {
    let mut config = Config::new();
    config
        .host(&database.host)
        .dbname(&database.database)
        .application_name("eventctl")
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(WRITE_TIME)
        .keepalives_idle(KEEPALIVE)
        .keepalives_interval(KEEPALIVE)
        .keepalives_retries(3)
        .options(&format!(
            "-c statement_timeout={} -c idle_in_transaction_session_timeout={}",
            time_limit.as_millis(),
            STOPPED_TIME.as_millis()
        ))
        .ssl_mode(match server::encryption(database) {
            Encryption::Never => SslMode::Disable,
            Encryption::IfPossible => SslMode::Prefer,
            Encryption::Always => SslMode::Require,
        });
    if let Some(port) = database.port {
        config.port(port);
    }
    let user =
        database.user.clone().or_else(|| std::env::var("PGUSER").ok()).or_else(|| std::env::var("USER").ok());
    config.user(&user.unwrap_or_else(|| "postgres".to_owned()));
    if let Some(password) = database.postgres_password()? {
        config.password(password.expose());
    }
    let tls = MakeRustlsConnect::new(server::tls_config(database)?);
    config.connect(tls).map_err(|error| {
        let reason = reason_of(&error);
        let hint =
            "check host, port, user, database and password (PGPASSWORD, PGPASSFILE) of --db, and sslmode";
        hinted(format!("cannot connect to `{database}`: {reason}"), hint)
    })
}

fn check_encoding(client: &mut Client, database: &ServerDatabase) -> anyhow::Result<()> {
    let row = client.query_one("SHOW server_encoding", &[]).map_err(|error| cannot_use(database, &error))?;
    let encoding: String = row.get(0);
    if encoding != "UTF8" {
        let problem = format!("cannot use `{database}`: its encoding is {encoding}, not UTF8");
        return Err(hinted(problem, "create the database WITH ENCODING 'UTF8' TEMPLATE template0"));
    }
    Ok(())
}

/// Makes sure that what the server acknowledges is on its disk.
fn check_durability(client: &mut Client, database: &ServerDatabase) -> anyhow::Result<()> {
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let row = client
            .query_one(&format!("SHOW {setting}"), &[])
            .map_err(|error| cannot_use(database, &error))?;
        let value: String = row.get(0);
        if value == "off" {
            return Err(server::weak_durability(database, setting, &value, "on"));
        }
    }
    Ok(())
}

fn cannot_use(database: &ServerDatabase, error: &postgres::Error) -> anyhow::Error {
    server::cannot_use(database, &reason_of(error))
}

/// What the server says, or why it says nothing; never the values of a statement.
fn reason_of(error: &postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(error), _) => error.message().to_owned(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

impl From<postgres::Error> for StoreError {
    fn from(error: postgres::Error) -> StoreError {
        let reason = reason_of(&error);
        let Some(code) = error.code().map(SqlState::code) else { return StoreError::Unavailable(reason) };
        match code {
            _ if code == SqlState::DISK_FULL.code() => StoreError::Full(reason),
            // Data exceptions and integrity violations: this request, and no other.
            _ if code.starts_with("22") || code.starts_with("23") => StoreError::Refused(reason),
            _ => StoreError::Unavailable(reason),
        }
    }
}
