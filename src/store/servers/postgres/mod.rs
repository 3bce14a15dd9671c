//! A store on a PostgreSQL server.
//!
//! A batch is one statement, and so one round trip. It first takes ids from the row of `last_event`, whose lock
//! it holds until its commit: ids become visible in their order, and idempotency is decided by the database.

mod append;
mod connect;
mod connection;
mod error;
mod values;

use self::append::append;
pub use self::connection::Connection;
use self::error::{PostgresError, cannot_use};
use super::session::{CONNECT_TIMEOUT, Purpose, ServerConnection, WRITE_TIME};
use super::setup;
use crate::core::timestamp::Timestamp;
use crate::error::{Hint, hinted};
use crate::store::backend::{Append, Outcome};
use crate::store::error::DatabaseError;
use crate::store::location::ServerDatabase;
use crate::store::options::StoreOptions;
use crate::store::schema;

/// The schemas, in order; `eventctl_schema` says how many a database has.
const SCHEMAS: [&str; 4] = [
    include_str!("../../schema/postgres-1.sql"),
    include_str!("../../schema/postgres-2.sql"),
    include_str!("../../schema/postgres-3.sql"),
    include_str!("../../schema/postgres-4.sql"),
];

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

impl ServerConnection for Connection {
    fn prepare(database: &ServerDatabase) -> anyhow::Result<()> {
        let mut connection = Connection::connect(database, Purpose::Write, WRITE_TIME)?;
        check_session(&mut connection, database, Purpose::Write)?;
        let version = begin_session(&mut connection, database)?;
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
    ) -> anyhow::Result<Connection> {
        let mut connection = Connection::connect(database, purpose, purpose.time_limit(options))?;
        if is_first {
            check_session(&mut connection, database, purpose)?;
        }
        let version = begin_session(&mut connection, database)?;
        setup::check_prepared(database, version, SCHEMAS.len())?;
        if purpose == Purpose::Write {
            if !options.unordered_ids {
                check_order(&mut connection, database)?;
            }
            if !options.weak_durability {
                check_durability(&mut connection, database)?;
            }
            connection.has_asynchronous_replicas =
                check_replicas(&mut connection, database, options.replicas, is_first)?;
            for check in setup::checks_of(options) {
                connection.run(check).map_err(|error| cannot_use(database, &error))?;
            }
        }
        Ok(connection)
    }

    fn has_asynchronous_replicas(&self) -> bool {
        self.has_asynchronous_replicas
    }

    fn append(&mut self, appends: &[&Append], received_at: Timestamp) -> Result<Vec<Outcome>, DatabaseError> {
        append(self, appends, received_at)
    }

    fn probe(&mut self) -> Result<(), DatabaseError> {
        Ok(self.execute("UPDATE last_event SET id = id", &[]).map(drop)?)
    }

    fn begin(&mut self) -> Result<(), DatabaseError> {
        Ok(self.run(BEGIN)?)
    }

    fn commit(&mut self) -> Result<(), DatabaseError> {
        Ok(self.run("COMMIT")?)
    }

    fn roll_back(&mut self) -> Result<(), DatabaseError> {
        Ok(self.run("ROLLBACK")?)
    }

    fn is_replica(&mut self) -> Result<bool, DatabaseError> {
        Ok(self.query_one("SELECT pg_is_in_recovery()", &[])?.try_get(0)?)
    }

    fn size(&mut self) -> Result<i64, DatabaseError> {
        Ok(self.query_one("SELECT pg_database_size(current_database())", &[])?.try_get(0)?)
    }

    fn has_ended(&mut self) -> bool {
        Connection::has_ended(self)
    }

    fn if_alive(mut self) -> Option<Connection> {
        self.is_alive().then_some(self)
    }
}

/// Another process that prepares the same database waits, and then sees what this one has made.
fn upgrade(connection: &mut Connection) -> Result<(), PostgresError> {
    connection.run(BEGIN)?;
    connection.run("SELECT pg_advisory_xact_lock(hashtext('eventctl_schema'))")?;
    let version = schema_version(connection)?;
    for schema in SCHEMAS.iter().skip(version) {
        connection.run(schema)?;
    }
    if version < SCHEMAS.len() {
        connection.run(&format!("UPDATE eventctl_schema SET version = {}", SCHEMAS.len()))?;
    }
    connection.run("COMMIT")
}

/// Sets the limits of a new connection, and returns the version of the schema.
fn begin_session(connection: &mut Connection, database: &ServerDatabase) -> anyhow::Result<usize> {
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

fn check_encoding(connection: &mut Connection, database: &ServerDatabase) -> anyhow::Result<()> {
    let encoding = connection.text("SHOW server_encoding").map_err(|error| cannot_use(database, &error))?;
    if encoding != "UTF8" {
        let problem = format!("cannot use `{database}`: its encoding is {encoding}, not UTF8");
        return Err(hinted(problem, "create the database WITH ENCODING 'UTF8' TEMPLATE template0"));
    }
    Ok(())
}

/// Databases that speak PostgreSQL's protocol and are distributed, by what their `version()` has.
const DISTRIBUTED: [(&str, &str); 4] = [
    ("CockroachDB", "CockroachDB"),
    ("-YB-", "YugabyteDB"),
    ("Greenplum", "Greenplum"),
    ("Redshift", "Amazon Redshift"),
];

/// Refuses a database that is spread over servers: transactions become visible on each at another time, so that a reader
/// that follows ids could skip events.
fn check_order(connection: &mut Connection, database: &ServerDatabase) -> anyhow::Result<()> {
    let mut text = |select: &str| connection.text(select).map_err(|error| cannot_use(database, &error));
    let spread_by = match distributed(&text("SELECT version()")?) {
        Some(name) => Some(name),
        None if text("SELECT to_regclass('pg_dist_partition')::text")?.is_empty() => None,
        None => {
            let select = "SELECT count(*)::text FROM pg_dist_partition \
                WHERE logicalrelid IN (to_regclass('events'), to_regclass('last_event'))";
            (text(select)? != "0").then_some("Citus")
        }
    };
    let Some(name) = spread_by else { return Ok(()) };
    let problem = format!(
        "cannot use `{database}`: {name} spreads the events over servers, and readers that follow them could skip some"
    );
    Err(hinted(
        problem,
        "use a PostgreSQL server, leave the tables undistributed, or allow it with --allow-unordered-ids",
    ))
}

fn distributed(version: &str) -> Option<&'static str> {
    DISTRIBUTED.into_iter().find(|(mark, _)| version.contains(mark)).map(|(_, name)| name)
}

/// Makes sure that what the server acknowledges is on its disk, and on those of the standbys that it is to wait for.
fn check_durability(connection: &mut Connection, database: &ServerDatabase) -> anyhow::Result<()> {
    // What speaks PostgreSQL's protocol need not have all of its settings.
    let mut value = |setting: &str| {
        let select = format!("SELECT current_setting('{setting}', true)");
        connection.text(&select).map_err(|error| cannot_use(database, &error))
    };
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        if value(setting)? == "off" {
            return Err(setup::weak_durability(database, setting, "off", "on"));
        }
    }
    if value("synchronous_commit")? == "local" && !value("synchronous_standby_names")?.is_empty() {
        return Err(setup::weak_durability(
            database,
            "synchronous_commit",
            "local beside synchronous_standby_names",
            "on",
        ));
    }
    Ok(())
}

/// Makes sure that commits wait for as many standbys as are required.
fn check_replicas(
    connection: &mut Connection,
    database: &ServerDatabase,
    required: u32,
    is_first: bool,
) -> anyhow::Result<bool> {
    let mut text = |select: &str| connection.text(select).map_err(|error| cannot_use(database, &error));
    let flushed_there = ["on", "remote_apply"].contains(&text("SHOW synchronous_commit")?.as_str());
    let confirming = if flushed_there { quorum_of(&text("SHOW synchronous_standby_names")?) } else { 0 };
    let has_others = is_first && text("SELECT count(*)::text FROM pg_stat_replication")? != "0";
    let hint = format!(
        "set synchronous_standby_names = 'ANY {required} (*)' and synchronous_commit = on on every server that may become \
            the primary"
    );
    setup::check_replicas(database, required, confirming, || has_others, &hint)
}

/// For how many standbys a commit waits: `ANY 2 (a, b, c)`, `FIRST 2 (*)`, `2 (a, b)`, or a list, of which it is one.
///
/// Source: PostgreSQL's manual, `synchronous_standby_names`.
fn quorum_of(names: &str) -> u32 {
    if names.trim().is_empty() {
        return 0;
    }
    let number = names.split_once('(').and_then(|(head, _)| head.split_whitespace().last()?.parse().ok());
    number.unwrap_or(1)
}

/// Refuses a pooler that gives the session of one client to others, transaction by transaction: what a session has set
/// and prepared would be theirs, and theirs ours.
fn check_session(
    connection: &mut Connection,
    database: &ServerDatabase,
    purpose: Purpose,
) -> anyhow::Result<()> {
    let mark = uuid::Uuid::now_v7().to_string();
    let other = Connection::connect(database, purpose, CONNECT_TIMEOUT);
    // A pooler that has no session left for a second client shares none.
    let Ok(mut other) = other else { return Ok(()) };
    let mut is_shared = || -> Result<bool, PostgresError> {
        // The simple protocol, as poolers may refuse prepared statements.
        connection.run(&format!("SET eventctl.session = '{mark}'"))?;
        let select = "SELECT current_setting('eventctl.session', true)";
        Ok(other.first_text(select)?.as_deref() == Some(&mark)
            || connection.first_text(select)?.as_deref() != Some(&mark))
    };
    if is_shared().map_err(|error| cannot_use(database, &error))? {
        let problem =
            format!("cannot use `{database}`: a pooler gives its sessions to others (transaction pooling)");
        return Err(hinted(problem, setup::POOLER_HINT));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributed_databases_are_known_by_their_versions() {
        for (version, name) in [
            ("PostgreSQL 17.2 (Debian 17.2-1) on x86_64-pc-linux-gnu, compiled by gcc", None),
            ("CockroachDB CCL v24.3.0 (x86_64-pc-linux-gnu, built 2024/11/18)", Some("CockroachDB")),
            ("PostgreSQL 15.2-YB-2.25.0.0-b0 on x86_64-pc-linux-gnu", Some("YugabyteDB")),
            ("PostgreSQL 9.4.26 (Greenplum Database 6.25.3 build)", Some("Greenplum")),
            ("PostgreSQL 8.0.2 on i686-pc-linux-gnu, Redshift 1.0.61", Some("Amazon Redshift")),
        ] {
            assert_eq!(distributed(version), name, "{version}");
        }
    }

    #[test]
    fn a_commit_waits_for_as_many_standbys_as_their_names_say() {
        for (names, count) in [
            ("", 0),
            (" ", 0),
            ("a", 1),
            ("a, b", 1),
            ("*", 1),
            ("\"a(b\", c", 1),
            ("2 (a, b, c)", 2),
            ("FIRST 1 (a)", 1),
            ("first 3(*)", 3),
            ("ANY 2 (a, b, c)", 2),
        ] {
            assert_eq!(quorum_of(names), count, "{names}");
        }
    }
}
