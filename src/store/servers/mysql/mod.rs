//! A store on a MySQL or MariaDB server.
//!
//! A batch is one transaction. It first takes ids from the row of `last_event`, whose lock it holds until its commit: ids
//! become visible in their order, and idempotency is decided by the database.

mod append;
mod connect;
mod error;
mod link;
mod script;
mod statements;

use mysql::Conn;
use mysql::prelude::Queryable;

use self::append::append;
use self::connect::{connect, is_read_only, within};
use self::error::cannot_use;
use self::link::Link;
use self::script::Script;
use super::session::{CONNECT_TIMEOUT, Purpose, ServerConnection, WRITE_TIME};
use super::setup;
use crate::core::timestamp::Timestamp;
use crate::error::Hint;
use crate::store::backend::{Append, Outcome};
use crate::store::error::DatabaseError;
use crate::store::location::ServerDatabase;
use crate::store::options::StoreOptions;
use crate::store::schema;
use crate::store::statements::{Statements, Value};

/// The schemas, in order; `eventctl_schema` says how many a database has.
const SCHEMAS: [&str; 4] = [
    include_str!("../../schema/mysql-1.sql"),
    include_str!("../../schema/mysql-2.sql"),
    include_str!("../../schema/mysql-3.sql"),
    include_str!("../../schema/mysql-4.sql"),
];

/// Every statement begins a transaction by itself. A process that stops in the midst of one holds its locks no
/// longer than the others wait for them: MariaDB breaks off the transaction, MySQL any idle connection.
const WRITE_SETTINGS: &str = "SET autocommit = 0, innodb_lock_wait_timeout = 15 \
    /*M!100300 , idle_transaction_timeout = 5 */ /*!50700 , wait_timeout = 10 */";

/// The lock of the process that prepares a database. The name of a database may be as long as that of a lock.
const LOCK_NAME: &str = "CONCAT('eventctl ', MD5(DATABASE()))";

/// A connection, and how many bytes its server takes at once.
pub struct MySqlConnection {
    connection: Link,
    packet_bytes: usize,
    has_asynchronous_replicas: bool,
}

impl Statements for MySqlConnection {
    fn for_update(&self) -> &'static str {
        self.connection.for_update()
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<(), DatabaseError> {
        self.connection.execute(statement, values)
    }

    fn values(
        &mut self,
        statement: &str,
        values: &[Value],
        columns: usize,
    ) -> Result<Vec<Value>, DatabaseError> {
        self.connection.values(statement, values, columns)
    }
}

impl ServerConnection for MySqlConnection {
    fn prepare(database: &ServerDatabase) -> anyhow::Result<()> {
        let mut connection = connect(database, Purpose::Write, WRITE_TIME)?.connection;
        let version = schema_version(&mut connection).map_err(|error| cannot_use(database, &error))?;
        schema::check_not_too_new(database, version, SCHEMAS.len())?;
        upgrade(&mut connection).map_err(|error| cannot_use(database, &error)).hint(
            "log in as a user who may create tables in this database, and have no other tables of these names",
        )
    }

    fn open(
        database: &ServerDatabase,
        purpose: Purpose,
        options: StoreOptions,
        is_first: bool,
    ) -> anyhow::Result<MySqlConnection> {
        let mut connected = connect(database, purpose, purpose.time_limit(options))?;
        let connection = &mut connected.connection;
        let version = schema_version(connection).map_err(|error| cannot_use(database, &error))?;
        setup::check_prepared(database, version, SCHEMAS.len())?;
        if purpose != Purpose::Write {
            wait_for_cluster(connection).map_err(|error| cannot_use(database, &error))?;
            return Ok(MySqlConnection {
                connection: Link::new(connected),
                packet_bytes: 0,
                has_asynchronous_replicas: false,
            });
        }
        if !options.weak_durability {
            check_durability(connection, database)?;
        }
        let has_asynchronous_replicas = check_replicas(connection, database, options.replicas, is_first)?;
        let packet_bytes =
            begin_writing(connection, options).map_err(|error| cannot_use(database, &error))?;
        Ok(MySqlConnection { connection: Link::new(connected), packet_bytes, has_asynchronous_replicas })
    }

    fn has_asynchronous_replicas(&self) -> bool {
        self.has_asynchronous_replicas
    }

    fn append(&mut self, appends: &[&Append], received_at: Timestamp) -> Result<Vec<Outcome>, DatabaseError> {
        append(&mut self.connection, self.packet_bytes, appends, received_at)
    }

    fn probe(&mut self) -> Result<(), DatabaseError> {
        // An update that changes nothing is not written; nobody sees what is undone before the commit.
        let mut script = Script::new(&mut self.connection, self.packet_bytes);
        script.add("UPDATE last_event SET id = id + 1")?;
        script.add("UPDATE last_event SET id = id - 1")?;
        script.add("COMMIT")?;
        Ok(script.run()?)
    }

    /// Where statements are not committed by themselves, the first one begins a transaction.
    fn begin(&mut self) -> Result<(), DatabaseError> {
        Ok(())
    }

    fn commit(&mut self) -> Result<(), DatabaseError> {
        Ok(self.connection.run("COMMIT")?)
    }

    fn roll_back(&mut self) -> Result<(), DatabaseError> {
        Ok(self.connection.run("ROLLBACK")?)
    }

    fn is_replica(&mut self) -> Result<bool, DatabaseError> {
        // A node may learn of a commit a moment after another one has made it visible.
        Ok(self
            .connection
            .call(|connection| Ok(is_read_only(connection)? || is_cluster_node(connection)?))?)
    }

    fn size(&mut self) -> Result<i64, DatabaseError> {
        let select = "SELECT CAST(coalesce(sum(data_length + index_length), 0) AS SIGNED) \
            FROM information_schema.tables WHERE table_schema = DATABASE()";
        let bytes: Option<i64> = self.connection.call(move |connection| connection.query_first(select))?;
        Ok(bytes.unwrap_or_default())
    }

    /// The driver does not say so before it is used.
    fn has_ended(&mut self) -> bool {
        false
    }

    /// The time limit of the driver is that of a statement, which is longer.
    fn if_alive(mut self) -> Option<MySqlConnection> {
        within(CONNECT_TIMEOUT, || self.connection.call(Conn::ping).is_ok().then_some(self)).flatten()
    }
}

/// Has reads of a Galera cluster wait until this node has what was committed on another one before.
fn wait_for_cluster(connection: &mut Conn) -> mysql::Result<()> {
    if is_cluster_node(connection)? {
        connection.query_drop("SET SESSION wsrep_sync_wait = 1")?;
    }
    Ok(())
}

fn is_cluster_node(connection: &mut Conn) -> mysql::Result<bool> {
    let setting: Option<(String, String)> = connection.query_first("SHOW VARIABLES LIKE 'wsrep_on'")?;
    Ok(setting.is_some_and(|(_, value)| value == "ON"))
}

/// Checks the permissions of the role, and returns how many bytes the server takes at once.
fn begin_writing(connection: &mut Conn, options: StoreOptions) -> mysql::Result<usize> {
    for check in setup::checks_of(options) {
        connection.query_drop(check)?;
    }
    connection.query_drop(WRITE_SETTINGS)?;
    let packet_bytes = connection.query_first("SELECT @@max_allowed_packet")?;
    Ok(packet_bytes.unwrap_or(1 << 20))
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
            connection.exec_drop("INSERT INTO eventctl_schema (version) VALUES (-?)", (number,))?;
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

/// Makes sure that what the server acknowledges is on its disk.
fn check_durability(connection: &mut Conn, database: &ServerDatabase) -> anyhow::Result<()> {
    let select = "SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog";
    let settings: Option<(u32, bool, u32)> =
        connection.query_first(select).map_err(|error| cannot_use(database, &error))?;
    let (flush_log, has_binlog, sync_binlog) = settings.unwrap_or_default();
    if flush_log != 1 && flush_log != 3 {
        let value = flush_log.to_string();
        return Err(setup::weak_durability(database, "innodb_flush_log_at_trx_commit", &value, "1"));
    }
    // A crash recovers transactions from the binary log, where there is one.
    if has_binlog && sync_binlog != 1 {
        return Err(setup::weak_durability(database, "sync_binlog", &sync_binlog.to_string(), "1"));
    }
    Ok(())
}

/// Makes sure that as many other nodes of a Galera cluster as are required have what is committed.
///
/// Semi-synchronous replication does not count: where its replicas are slow, the server goes on without them.
fn check_replicas(
    connection: &mut Conn,
    database: &ServerDatabase,
    required: u32,
    is_first: bool,
) -> anyhow::Result<bool> {
    let mut status = |name: &str| -> anyhow::Result<u32> {
        let select = format!("SHOW GLOBAL STATUS LIKE '{name}'");
        let row: Option<(String, String)> =
            connection.query_first(select).map_err(|error| cannot_use(database, &error))?;
        Ok(row.and_then(|(_, value)| value.parse().ok()).unwrap_or_default())
    };
    let confirming = status("wsrep_cluster_size")?.saturating_sub(1);
    let has_others = is_first && status("Slaves_connected")? > 0;
    let hint = "use a Galera cluster that has so many other nodes; semi-synchronous replication goes on without its replicas \
        where they are slow";
    setup::check_replicas(database, required, confirming, || has_others, hint)
}
