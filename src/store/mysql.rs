//! A store on a MySQL or MariaDB server, which any number of processes share.
//!
//! A batch is one transaction, and one query if it is small and has no keys: its statements go to the server
//! together, as text. It first takes ids from the row of `last_event`, whose lock it holds until its
//! commit: ids become visible in their order, and idempotency is decided by the database.

mod script;

use std::error::Error;
use std::io;
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{ClientIdentity, Conn, Opts, OptsBuilder, Params, Row, SslOpts, Value as Sql};

use self::script::{Script, quoted, size_of};
use super::StoreOptions;
use super::backend::{
    AlertOutcome, Append, Delivery, Outcome, Page, Reader, Statistics, StoreError, StoreSize,
};
use super::batch::{Batch, KnownKeys};
use super::cancellation::{Cancellation, ReadDeadline};
use super::database::Database;
use super::location::{ServerAddress, ServerDatabase, TlsMode};
use super::server::{self, CONNECT_TIMEOUT, Encryption, READ_REPEATS, ServerConnection, WRITE_TIME};
use super::statements::{Statements, Value};
use super::{outbox, paging, schema, statistics};
use crate::core::event::StoredEvent;
use crate::core::hint::{Hint, hinted, hinted_transient};
use crate::core::query::Query;
use crate::core::timestamp::Timestamp;

/// The schemas, in order; `eventctl_schema` says how many a database has.
const SCHEMAS: [&str; 3] = [
    include_str!("schema/mysql-1.sql"),
    include_str!("schema/mysql-2.sql"),
    include_str!("schema/mysql-3.sql"),
];

/// Every statement begins a transaction by itself. A process that stops in the midst of one holds its locks no
/// longer than the others wait for them: MariaDB breaks off the transaction, MySQL any idle connection.
const WRITE_SETTINGS: &str = "SET autocommit = 0, innodb_lock_wait_timeout = 15 \
    /*M!100300 , idle_transaction_timeout = 5 */ /*!50700 , wait_timeout = 10 */";

/// How long a read may take that nobody waits for with a limit of his own.
const UNLIMITED_READ_TIME: Duration = Duration::from_secs(3600);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Of several servers one that takes writes.
    Write,
    /// Of several servers the first that is there.
    Read,
}

/// The lock of who prepares a database. The name of the database alone may be as long as that of a lock.
const LOCK_NAME: &str = "CONCAT('eventctl ', MD5(DATABASE()))";

/// What a statement with one event takes beside it, generously.
const ROOM_IN_PACKET: usize = 256;

/// How many events go as text, which saves round trips; more are faster by prepared statements, which save the
/// server from reading them.
const EVENTS_AS_TEXT: usize = 64;

/// The character set of columns that hold no text.
const BINARY: u16 = 63;

/// Prepares a database: makes or upgrades its tables.
///
/// # Errors
/// Why it cannot.
pub fn prepare(database: &ServerDatabase) -> anyhow::Result<()> {
    let mut connection = connect(database, Purpose::Write, WRITE_TIME)?;
    let version = schema_version(&mut connection).map_err(|error| cannot_use(database, &error))?;
    schema::check_not_too_new(database, version, SCHEMAS.len())?;
    upgrade(&mut connection).map_err(|error| cannot_use(database, &error)).hint(
        "log in as a user who may create tables in this database, and have no other tables of these names",
    )
}

/// MySQL commits with each table that it makes: a schema is noted as begun, by its negative number, and then as
/// made. One that was begun is made to its end, and so its statements may be repeated.
fn upgrade(connection: &mut Conn) -> mysql::Result<()> {
    // Another process that prepares the same database waits.
    connection.query_drop(format!("DO GET_LOCK({LOCK_NAME}, 15)"))?;
    connection.query_drop(
        "CREATE TABLE IF NOT EXISTS eventctl_schema (version INTEGER NOT NULL PRIMARY KEY) ENGINE = InnoDB",
    )?;
    let version = schema_version(connection)?;
    for (number, schema) in (1..).zip(SCHEMAS).skip(version) {
        let select = "SELECT version FROM eventctl_schema WHERE version = -?";
        let begun: Option<i32> = connection.exec_first(select, (number,))?;
        if begun.is_none() {
            refuse_tables_of_others(connection, schema)?;
            connection.exec_drop("INSERT INTO eventctl_schema VALUES (-?)", (number,))?;
        }
        for statement in schema.split(";\n").filter(|statement| !statement.trim().is_empty()) {
            connection.query_drop(statement)?;
        }
        connection
            .exec_drop("UPDATE eventctl_schema SET version = ? WHERE version = -?", (number, number))?;
    }
    connection.query_drop(format!("DO RELEASE_LOCK({LOCK_NAME})"))
}

/// Fails where a schema that was not begun has a table already, with what the server says to that.
fn refuse_tables_of_others(connection: &mut Conn, schema: &str) -> mysql::Result<()> {
    let select = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";
    for statement in schema.split("CREATE TABLE IF NOT EXISTS ").skip(1) {
        let name = statement.split(' ').next().unwrap_or_default();
        let known: Option<u8> = connection.exec_first(select, (name,))?;
        if known.is_some() {
            return connection.query_drop(format!("CREATE TABLE {name} (id INTEGER)"));
        }
    }
    Ok(())
}

/// How many of our schemas a database has.
fn schema_version(connection: &mut Conn) -> mysql::Result<usize> {
    let known: Option<u8> = connection.query_first(
        "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'eventctl_schema'",
    )?;
    if known.is_none() {
        return Ok(0);
    }
    let version: Option<Option<i64>> = connection.query_first("SELECT MAX(version) FROM eventctl_schema")?;
    // A negative number says that a schema was begun.
    Ok(version.flatten().and_then(|version| usize::try_from(version).ok()).unwrap_or_default())
}

/// The one connection of this process that writes.
pub struct MySqlBackend {
    /// None where it was lost, and until there is another.
    connection: Option<Conn>,
    /// Whether the last statement has failed in a way that leaves the connection in an unknown state.
    is_lost: bool,
    /// What the server takes at once.
    packet_bytes: usize,
    last_use: Instant,
    database: ServerDatabase,
    options: StoreOptions,
}

impl MySqlBackend {
    /// Opens a database that is prepared, and whose server keeps what it acknowledges.
    ///
    /// # Errors
    /// Why it cannot be used, and what to do.
    pub fn open(database: &ServerDatabase, options: StoreOptions) -> anyhow::Result<MySqlBackend> {
        let mut connection = open(database, Purpose::Write, WRITE_TIME, options)?;
        let packet_bytes = (|| {
            for check in server::checks_of(options) {
                connection.query_drop(check)?;
            }
            connection.query_drop(WRITE_SETTINGS)?;
            connection.query_first("SELECT @@max_allowed_packet")
        })()
        .map_err(|error: mysql::Error| cannot_use(database, &error))?;
        let packet_bytes = packet_bytes.unwrap_or(1 << 20);
        Ok(MySqlBackend {
            connection: Some(connection),
            is_lost: false,
            packet_bytes,
            last_use: Instant::now(),
            database: database.clone(),
            options,
        })
    }
}

impl Database for MySqlBackend {
    type Connection = Conn;

    fn connection(&mut self) -> &mut Conn {
        self.connection.as_mut().expect("a transaction begins with a connection")
    }

    fn transact<T>(
        &mut self,
        mut transaction: impl FnMut(&mut MySqlBackend) -> mysql::Result<T>,
    ) -> Result<T, StoreError> {
        server::transact(self, |backend| {
            let result = transaction(backend);
            backend.is_lost = matches!(&result, Err(error) if is_connection_lost(error));
            result
        })
    }

    /// The server would break off the connection, and so fail the neighbours too.
    fn check(&self, appends: &[&Append]) -> Result<(), StoreError> {
        let mut events = appends.iter().flat_map(|append| &append.events);
        if events.any(|event| size_of(event) + ROOM_IN_PACKET > self.packet_bytes) {
            let reason = format!("an event is larger than max_allowed_packet, {} bytes", self.packet_bytes);
            return Err(StoreError::Refused(reason));
        }
        Ok(())
    }

    fn store(&mut self, appends: &[&Append], now: Timestamp) -> mysql::Result<Vec<Outcome>> {
        let mut known = KnownKeys::new();
        let mut batch = Batch::of(appends, &known);
        let packet_bytes = self.packet_bytes;
        let mut script = Script::new(self.connection(), packet_bytes);
        if batch.keys.is_empty() {
            let count = batch.events.len();
            script.add(&format!("UPDATE last_event SET id = LAST_INSERT_ID(id + {count})"))?;
        } else {
            // What is known takes no ids: how many are taken is seen under their lock.
            let before = script.lock_ids(&batch, &mut known)?;
            batch = Batch::of(appends, &known);
            script.last_insert_id = before + batch.events.len() as i64;
            script.add(&format!("UPDATE last_event SET id = {}", script.last_insert_id))?;
        }
        let count = batch.events.len() as i64;
        // Without keys nobody knows yet what the first statement gives: `LAST_INSERT_ID()` is a value of the
        // connection.
        let last_id = script.last_insert_id;
        let id = |position: i64| match last_id {
            0 => format!("LAST_INSERT_ID() - {}", count - position - 1),
            last_id => format!("{}", last_id - (count - position - 1)),
        };
        let keys = batch.keys.iter().map(|key| {
            let [text, digest] = [quoted(key.key), quoted(key.digest)];
            format!("({text}, {digest}, {}, {})", id(key.position), key.event_count)
        });
        script.insert("INSERT INTO idempotency_keys VALUES ", keys)?;
        let received_at = now.as_microseconds();
        // Quotes can double what is quoted.
        let bytes: usize = batch.events.iter().map(|(_, event)| 2 * size_of(event)).sum();
        if batch.events.len() <= EVENTS_AS_TEXT && bytes < script.query_bytes {
            let events = batch.events.iter().map(|(position, event)| {
                let [event_type, event_payload] = [quoted(event.event_type()), quoted(event.event_payload())];
                format!("({}, {received_at}, {event_type}, {event_payload})", id(*position))
            });
            script.insert("INSERT INTO events VALUES ", events)?;
        } else {
            script.run()?;
            script.insert_prepared(script.last_insert_id - count, received_at, &batch.events)?;
        }
        if batch.has_deliveries() {
            script.run()?;
            let deliveries: Vec<_> = batch.deliveries(script.last_insert_id - count).collect();
            outbox::insert(script.connection, &deliveries, now)?;
        }
        script.add("COMMIT")?;
        script.run()?;
        Ok(batch.outcomes(script.last_insert_id - count, &known))
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        self.transact(|backend| {
            // An update that changes nothing is not written; nobody sees what is undone before the commit.
            let packet_bytes = backend.packet_bytes;
            let mut script = Script::new(backend.connection(), packet_bytes);
            script.add("UPDATE last_event SET id = id + 1")?;
            script.add("UPDATE last_event SET id = id - 1")?;
            script.add("COMMIT")?;
            script.run()
        })
    }

    /// Connects anew: what the lost connection was about to commit has been answered as unknown.
    fn recover(&mut self) -> Result<(), StoreError> {
        self.reconnect()?;
        self.probe()
    }
}

impl ServerConnection for MySqlBackend {
    fn last_use(&mut self) -> &mut Instant {
        &mut self.last_use
    }

    /// The time limit of the driver is that of a statement, which waits longer than this question may.
    fn is_alive(&mut self) -> bool {
        let Some(mut connection) = self.connection.take() else { return false };
        let alive = server::within(CONNECT_TIMEOUT, || connection.ping().is_ok().then_some(connection));
        self.connection = alive.flatten();
        self.connection.is_some()
    }

    fn is_lost(&self) -> bool {
        self.is_lost || self.connection.is_none()
    }

    fn has_ended(&mut self) -> bool {
        self.is_lost()
    }

    fn reconnect(&mut self) -> Result<(), StoreError> {
        *self = MySqlBackend::open(&self.database, self.options).map_err(StoreError::cannot_open)?;
        Ok(())
    }

    fn roll_back(&mut self) -> mysql::Result<()> {
        self.connection().query_drop("ROLLBACK")
    }

    fn is_conflict(error: &mysql::Error) -> bool {
        // A key that another node of a cluster has stored since it was looked up is a duplicate.
        matches!(error, mysql::Error::MySqlError(error) if [DEADLOCK, DUPLICATE].contains(&error.code))
    }
}

/// A connection that reads.
pub struct MySqlReader {
    /// None where it was lost, and until there is another.
    connection: Option<Conn>,
    database: ServerDatabase,
    options: StoreOptions,
    cancellation: Cancellation,
}

impl MySqlReader {
    /// Opens a database that is prepared, for reading.
    ///
    /// # Errors
    /// Why it cannot be used, and what to do.
    pub fn open(database: &ServerDatabase, options: StoreOptions) -> anyhow::Result<MySqlReader> {
        let connection = Some(connect_reader(database, options)?);
        let (database, cancellation) = (database.clone(), Cancellation::default());
        Ok(MySqlReader { connection, database, options, cancellation })
    }

    /// Reads. Where the connection turns out to be lost, which was idle or whose server has gone, the read is repeated
    /// on a new one; and where the server broke the read off for the sake of others, it is repeated too.
    fn reading<T>(&mut self, mut read: impl FnMut(&mut Conn) -> mysql::Result<T>) -> Result<T, StoreError> {
        let mut is_new = false;
        let mut conflicts = 0;
        loop {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                lost @ None => {
                    is_new = true;
                    let again = connect_reader(&self.database, self.options);
                    lost.insert(again.map_err(StoreError::cannot_open)?)
                }
            };
            let error = match read(connection) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if is_connection_lost(&error) {
                self.connection = None;
                // One that has taken all its time gets no second chance.
                if !is_new && !is_timeout(&error) {
                    continue;
                }
            }
            conflicts += 1;
            if !MySqlBackend::is_conflict(&error) || conflicts > READ_REPEATS {
                return Err(error.into());
            }
            server::pause_after_conflict(conflicts);
        }
    }
}

fn connect_reader(database: &ServerDatabase, options: StoreOptions) -> anyhow::Result<Conn> {
    let time_limit = options.read_time.unwrap_or(UNLIMITED_READ_TIME);
    open(database, Purpose::Read, time_limit, options.for_reading())
}

impl Reader for MySqlReader {
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
        let select = "SELECT CAST(coalesce(sum(data_length + index_length), 0) AS SIGNED) \
            FROM information_schema.tables WHERE table_schema = DATABASE()";
        let bytes: Option<i64> = self.reading(|connection| connection.query_first(select))?;
        Ok(StoreSize { database_bytes: bytes.unwrap_or_default(), log_bytes: None })
    }

    fn alert_outcome(&mut self, event_id: i64) -> Result<AlertOutcome, StoreError> {
        self.reading(|connection| outbox::alert_outcome(connection, event_id))
    }
}

impl Statements for Conn {
    type Error = mysql::Error;

    const FOR_UPDATE: &'static str = " FOR UPDATE";

    /// Where statements are not committed by themselves, each begins a transaction that there is not.
    fn begin(&mut self) -> mysql::Result<()> {
        Ok(())
    }

    fn commit(&mut self) -> mysql::Result<()> {
        self.query_drop("COMMIT")
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> mysql::Result<()> {
        self.exec_drop(statement, parameters(values))
    }

    fn query<const COLUMNS: usize>(
        &mut self,
        statement: &str,
        values: &[Value],
    ) -> mysql::Result<Vec<[Value; COLUMNS]>> {
        let rows: Vec<Row> = self.exec(statement, parameters(values))?;
        let row = |row: Row| {
            let mut values = [const { Value::Null }; COLUMNS];
            let columns = row.columns();
            for ((value, column), sql) in values.iter_mut().zip(columns.iter()).zip(row.unwrap()) {
                *value = match sql {
                    Sql::Bytes(bytes) if column.character_set() == BINARY => Value::Bytes(bytes),
                    sql => value_of(sql)?,
                };
            }
            Ok(values)
        };
        rows.into_iter().map(row).collect()
    }
}

fn value_of(column: Sql) -> mysql::Result<Value> {
    let unexpected =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a column holds {what}"));
    Ok(match column {
        Sql::NULL => Value::Null,
        Sql::Int(number) => Value::Number(number),
        Sql::UInt(number) => Value::Number(i64::try_from(number).map_err(|_| unexpected("a huge number"))?),
        Sql::Bytes(bytes) => Value::Text(String::from_utf8(bytes).map_err(|_| unexpected("no UTF-8"))?),
        _ => return Err(unexpected("neither text nor a number").into()),
    })
}

fn parameters(values: &[Value]) -> Params {
    if values.is_empty() {
        return Params::Empty;
    }
    let value = |value: &Value| match value {
        Value::Null => Sql::NULL,
        Value::Number(number) => number.into(),
        Value::Text(text) => text.into(),
        Value::Bytes(bytes) => bytes.into(),
    };
    Params::Positional(values.iter().map(value).collect())
}

/// Connects to a database that is prepared.
fn open(
    database: &ServerDatabase,
    purpose: Purpose,
    time_limit: Duration,
    options: StoreOptions,
) -> anyhow::Result<Conn> {
    let mut connection = connect(database, purpose, time_limit)?;
    let version = schema_version(&mut connection).map_err(|error| cannot_use(database, &error))?;
    server::check_prepared(database, version, SCHEMAS.len())?;
    if !options.weak_durability {
        check_durability(&mut connection, database)?;
    }
    Ok(connection)
}

/// Connects to the first address that will do.
fn connect(database: &ServerDatabase, purpose: Purpose, time_limit: Duration) -> anyhow::Result<Conn> {
    // Says what is wrong with the files, which the driver does not.
    let _ = server::tls_config(database)?;
    let connect_time = database.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let mut failures: Vec<(String, mysql::Error)> = Vec::new();
    let places = places_of(database, connect_time, &mut failures);
    for (address, host) in &places {
        let options = options_of(database, address, host, time_limit)?;
        let encrypted = Opts::from(options.clone().ssl_opts(ssl_options(database)));
        let encryption = server::encryption(database);
        // The time limit of the driver is that of a statement: a server may take a connection, and say nothing.
        let connecting =
            server::within(connect_time, move || connect_to(options.into(), encrypted, encryption));
        let failure = match connecting.unwrap_or_else(|| Err(timed_out())) {
            Ok(mut connection) => {
                // The only one says itself that it takes no writes.
                if purpose == Purpose::Read || places.len() == 1 || takes_writes(&mut connection) {
                    return Ok(connection);
                }
                io::Error::new(io::ErrorKind::PermissionDenied, "the server takes no writes").into()
            }
            Err(failure) => failure,
        };
        failures.push((host.clone(), failure));
    }
    Err(cannot_connect(database, &failures))
}

fn connect_to(plain: Opts, encrypted: Opts, encryption: Encryption) -> mysql::Result<Conn> {
    match encryption {
        Encryption::Never => Conn::new(plain),
        Encryption::Always => Conn::new(encrypted),
        Encryption::IfPossible => match Conn::new(encrypted) {
            Err(mysql::Error::DriverError(mysql::DriverError::TlsNotSupported)) => Conn::new(plain),
            connected => connected,
        },
    }
}

fn takes_writes(connection: &mut Conn) -> bool {
    let read_only: mysql::Result<Option<bool>> = connection.query_first("SELECT @@global.read_only");
    matches!(read_only, Ok(Some(false)))
}

fn timed_out() -> mysql::Error {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

/// All addresses that the hosts of the URL stand for, each with what it is called to the driver.
fn places_of<'a>(
    database: &'a ServerDatabase,
    connect_time: Duration,
    failures: &mut Vec<(String, mysql::Error)>,
) -> Vec<(&'a ServerAddress, String)> {
    let mut places = Vec::new();
    for address in &database.addresses {
        let host = address.host.clone();
        // The driver compares the certificate with the name that it connects to.
        if address.is_local_socket() || database.tls.mode == TlsMode::VerifyFull {
            places.push((address, host));
            continue;
        }
        let name = (host.clone(), port_of(address));
        match server::within(connect_time, move || name.to_socket_addrs()) {
            Some(Ok(found)) => places.extend(found.map(|found| (address, found.ip().to_string()))),
            Some(Err(_)) => places.push((address, host)),
            None => failures.push((host, timed_out())),
        }
    }
    places
}

fn port_of(address: &ServerAddress) -> u16 {
    address.port.unwrap_or(3306)
}

fn options_of(
    database: &ServerDatabase,
    address: &ServerAddress,
    host: &str,
    time_limit: Duration,
) -> anyhow::Result<OptsBuilder> {
    let user = database.user.clone().or_else(|| std::env::var("USER").ok());
    let password = database.mysql_password()?;
    let options = OptsBuilder::new()
        .db_name(Some(&database.database))
        .user(user)
        .pass(password.as_ref().map(|password| password.expose()))
        .prefer_socket(false)
        .tcp_connect_timeout(Some(CONNECT_TIMEOUT))
        .read_timeout(Some(time_limit))
        .write_timeout(Some(time_limit))
        // The server's defaults may cut strings short, and read literals in other ways than they are written.
        .init(vec!["SET NAMES utf8mb4, sql_mode = 'STRICT_ALL_TABLES'"]);
    Ok(match address.is_local_socket() {
        true => options.socket(Some(host)),
        false => options.ip_or_hostname(Some(host)).tcp_port(port_of(address)),
    })
}

fn cannot_connect(database: &ServerDatabase, failures: &[(String, mysql::Error)]) -> anyhow::Error {
    let reasons: Vec<String> = match failures {
        [(_, only)] => vec![reason_of(only)],
        several => {
            several.iter().map(|(place, failure)| format!("{place}: {}", reason_of(failure))).collect()
        }
    };
    let problem = format!("cannot connect to `{database}`: {}", reasons.join("; "));
    let mut hints = failures.iter().rev().filter_map(|(_, failure)| hint_of(failure));
    let hint = hints.find(|hint| *hint != server::RIGHTS_HINT).unwrap_or(
        "check host, port, user, database and password (MYSQL_PWD, ~/.my.cnf) of --db, and ssl-mode",
    );
    // The server itself has answered, or the files that encryption needs are wrong.
    let is_transient = |failure: &mysql::Error| match failure {
        mysql::Error::MySqlError(error) => TOO_MANY_CONNECTIONS == error.code,
        mysql::Error::TlsError(_) => false,
        _ => true,
    };
    if failures.iter().any(|(_, failure)| is_transient(failure)) {
        hinted_transient(problem, hint)
    } else {
        hinted(problem, hint)
    }
}

fn ssl_options(database: &ServerDatabase) -> SslOpts {
    let tls = &database.tls;
    let identity = tls.certificate.clone().zip(tls.key.clone());
    SslOpts::default()
        .with_root_cert_path(tls.authorities.clone())
        .with_client_identity(identity.map(|(certificate, key)| ClientIdentity::new(certificate, key)))
        .with_danger_skip_domain_validation(tls.mode != TlsMode::VerifyFull)
        .with_danger_accept_invalid_certs(match tls.mode {
            TlsMode::Require => tls.authorities.is_none(),
            TlsMode::Prefer => true,
            TlsMode::Disable | TlsMode::VerifyAuthority | TlsMode::VerifyFull => false,
        })
}

/// Makes sure that what the server acknowledges is on its disk.
fn check_durability(connection: &mut Conn, database: &ServerDatabase) -> anyhow::Result<()> {
    let select = "SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog";
    let settings: Option<(u32, bool, u32)> =
        connection.query_first(select).map_err(|error| cannot_use(database, &error))?;
    let (flush_log, has_binlog, sync_binlog) = settings.unwrap_or_default();
    if flush_log != 1 && flush_log != 3 {
        let value = flush_log.to_string();
        return Err(server::weak_durability(database, "innodb_flush_log_at_trx_commit", &value, "1"));
    }
    // A crash recovers transactions from the binary log, where there is one.
    if has_binlog && sync_binlog != 1 {
        return Err(server::weak_durability(database, "sync_binlog", &sync_binlog.to_string(), "1"));
    }
    Ok(())
}

fn cannot_use(database: &ServerDatabase, error: &mysql::Error) -> anyhow::Error {
    server::cannot_use(database, &reason_of(error), hint_of(error))
}

/// What to do; by the number, as messages come in the server's language.
fn hint_of(error: &mysql::Error) -> Option<&'static str> {
    let code = match error {
        mysql::Error::MySqlError(error) => error.code,
        mysql::Error::IoError(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Some(server::READ_ONLY_HINT);
        }
        _ => return None,
    };
    match code {
        _ if RIGHTS.contains(&code) => Some(server::RIGHTS_HINT),
        _ if READ_ONLY.contains(&code) => Some(server::READ_ONLY_HINT),
        TOO_MANY_CONNECTIONS => Some("raise max_connections on the server, or have fewer clients"),
        NOT_IN_CLUSTER => Some("wait until this node has joined its cluster, or name another node"),
        _ => None,
    }
}

/// Whether the connection went away, or is in an unknown state.
fn is_connection_lost(error: &mysql::Error) -> bool {
    match error {
        mysql::Error::MySqlError(error) => CONNECTION_ENDED.contains(&error.code),
        mysql::Error::FromRowError(_) | mysql::Error::FromValueError(_) => false,
        _ => true,
    }
}

/// What the network says, whichever layer of the driver has heard it.
fn network_error(error: &mysql::Error) -> Option<&io::Error> {
    match error {
        mysql::Error::IoError(error) => Some(error),
        mysql::Error::CodecError(error) => error.source()?.downcast_ref(),
        _ => None,
    }
}

fn is_timeout(error: &mysql::Error) -> bool {
    // A socket with a time limit says that it would block.
    let kind = network_error(error).map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock))
}

/// What the server says, or why it says nothing.
fn reason_of(error: &mysql::Error) -> String {
    match error {
        mysql::Error::MySqlError(error) => error.message.clone(),
        error if is_timeout(error) => "the server has not answered in time".to_owned(),
        error => network_error(error).map_or_else(|| error.to_string(), io::Error::to_string),
    }
}

// Source: MySQL's manual, "Server Error Message Reference".
const DISK_FULL: [u16; 3] = [1021, 1114, 1026];
const DEADLOCK: u16 = 1213;
/// Denied: to this database, at all, this statement, on this table, on this column, for want of a privilege.
const RIGHTS: [u16; 6] = [1044, 1045, 1142, 1143, 1227, 1370];
/// The server runs with `--read-only`, the transaction is read-only, the engine is.
const READ_ONLY: [u16; 3] = [1290, 1792, 1836];
const TOO_MANY_CONNECTIONS: u16 = 1040;
/// What a node of a Galera cluster says that is not a part of it at present.
const NOT_IN_CLUSTER: u16 = 1047;
/// The server shuts down, the connection was killed, it was idle for too long.
const CONNECTION_ENDED: [u16; 3] = [1053, 1927, 4031];
const DUPLICATE: u16 = 1062;
/// Duplicate entry, data too long, incorrect value, out of range, packet too large.
const OF_THIS_REQUEST: [u16; 5] = [DUPLICATE, 1406, 1366, 1264, 1153];

impl From<mysql::Error> for StoreError {
    fn from(error: mysql::Error) -> StoreError {
        let reason = reason_of(&error);
        match error {
            mysql::Error::MySqlError(error) if DISK_FULL.contains(&error.code) => StoreError::Full(reason),
            mysql::Error::MySqlError(error) if OF_THIS_REQUEST.contains(&error.code) => {
                StoreError::Refused(reason)
            }
            _ => StoreError::Unavailable(reason),
        }
    }
}
