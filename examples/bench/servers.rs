//! Stores on database servers, against what the servers themselves can do.

use std::env;
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use mysql::prelude::Queryable;
use postgres::{Client, NoTls};
use tempfile::tempdir;

use crate::load::{Load, Server, eventctl, throughput};
use crate::table::{Aim, Table};

/// How long one side of a pair runs.
const TIME: Duration = Duration::from_secs(3);

/// Events in a batch.
const BATCH: usize = 1000;

/// About as many events as wait for a commit while 64 clients send one each.
const QUEUED: usize = 27;

/// Processes that share a database.
const WRITERS: usize = 3;

const INSERT: &str = "INSERT INTO single (received_at, event_type, event_payload) VALUES (1700000000000000, \
    'message', 'a payload of about a hundred characters, as messages, joins and leaves have it in practice')";

/// As the store does it, $1 ids at once.
const FROM_ROW: &str = "WITH ids AS (UPDATE last_event SET id = id + $1 RETURNING id - $1 AS before) \
    INSERT INTO events SELECT ids.before + event.position, 1, event.type, event.payload \
    FROM ids, unnest($2::text[], $3::text[]) WITH ORDINALITY AS event (type, payload, position)";

/// As one would without a thought of who reads.
const FROM_SEQUENCE: &str = "INSERT INTO single (received_at, event_type, event_payload) \
    SELECT $1, event.type, event.payload FROM unnest($2::text[], $3::text[]) AS event (type, payload)";

/// `consume` on PostgreSQL and MariaDB, whose servers `TEST_POSTGRES_URL` and `TEST_MYSQL_URL` name.
pub fn measure(table: &mut Table) -> anyhow::Result<()> {
    let urls = ["TEST_POSTGRES_URL", "TEST_MYSQL_URL"].map(|name| env::var(name).ok());
    let [Some(postgres), Some(mysql)] = urls else {
        eprintln!("stores: run eval \"$(.ci/servers start FOLDER)\" first, for servers to measure");
        return Ok(());
    };
    let directory = tempdir()?;
    let sqlite = directory.path().join("events.db").display().to_string();
    measure_postgres(table, directory.path(), &fresh_postgres(&postgres)?, &sqlite)?;
    measure_mysql(table, &fresh_mysql(&mysql)?, &sqlite)
}

fn measure_postgres(table: &mut Table, directory: &Path, url: &str, sqlite: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(url, NoTls)?;
    client.batch_execute(
        "CREATE TABLE single (id bigserial PRIMARY KEY, received_at bigint, event_type text, event_payload text);
         CREATE TABLE copied (LIKE single INCLUDING ALL)",
    )?;
    let script = directory.join("insert.sql");
    std::fs::write(&script, format!("{INSERT};\n"))?;
    let pgbench = |connections: usize| {
        let mut command = Command::new("pgbench");
        command.args(["-n", "-M", "prepared", "-j", "2", "-T", "3", "-c", &connections.to_string(), "-f"]);
        let output = command.arg(&script).args(["-d", url]).output().context("cannot run pgbench")?;
        let text = String::from_utf8(output.stdout)?;
        let figure = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
        Ok(figure.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?.parse()?)
    };
    measure_single(table, "PostgreSQL", "pgbench with single inserts", url, sqlite, pgbench)?;
    let server = consume(url)?;
    table.compare(
        "PostgreSQL, batches of 1,000 events, 4 connections / COPY in transactions of 1,000",
        "events/s",
        Aim::AtLeast(0.4),
        || Ok(throughput(server.address, 4, &Load::batch(BATCH), TIME)? * BATCH as f64),
        || copy(&mut client),
    )?;
    table.compare(
        "PostgreSQL, 3 writers, 27 events a commit, ids from a locked row / from a sequence, whose followers miss events",
        "events/s",
        Aim::None,
        || commits(url, FROM_ROW),
        || commits(url, FROM_SEQUENCE),
    )
}

fn measure_mysql(table: &mut Table, url: &str, sqlite: &str) -> anyhow::Result<()> {
    mysql::Conn::new(url)?.query_drop(
        "CREATE TABLE single (id BIGINT AUTO_INCREMENT PRIMARY KEY, received_at BIGINT, event_type VARCHAR(255),
         event_payload LONGTEXT) ENGINE = InnoDB",
    )?;
    let inserts = |connections| {
        let connect = || mysql::Conn::new(url).map_err(Into::into);
        repeated(connections, connect, |connection| {
            connection.exec_drop(INSERT, ())?;
            Ok(1)
        })
    };
    measure_single(
        table,
        "MariaDB",
        "as many clients with single inserts",
        &unencrypted(url),
        sqlite,
        inserts,
    )
}

/// One event a request, against what the server does with single inserts, and against SQLite.
fn measure_single(
    table: &mut Table,
    name: &str,
    reference_name: &str,
    url: &str,
    sqlite: &str,
    reference: impl Fn(usize) -> anyhow::Result<f64>,
) -> anyhow::Result<()> {
    for connections in [64, 256] {
        let server = consume(url)?;
        let rate = || throughput(server.address, connections, &Load::event(), TIME);
        table.compare(
            &format!("{name}, one event a request, {connections} connections / {reference_name}"),
            "events/s",
            Aim::AtLeast(2.0),
            rate,
            || reference(connections),
        )?;
        let embedded = consume(sqlite)?;
        table.compare(
            &format!("{name}, one event a request, {connections} connections / SQLite"),
            "events/s",
            Aim::None,
            rate,
            || throughput(embedded.address, connections, &Load::event(), TIME),
        )?;
    }
    Ok(())
}

/// `consume` where a machine may die, against a single server: `TEST_QUORUM_URL` names a PostgreSQL server whose commits
/// wait for one of two standbys, and `TEST_GALERA_URLS` the nodes of a Galera cluster, each written to by a process.
pub fn measure_clusters(table: &mut Table) -> anyhow::Result<()> {
    let names = ["TEST_POSTGRES_URL", "TEST_MYSQL_URL", "TEST_QUORUM_URL", "TEST_GALERA_URLS"];
    let [Some(postgres), Some(mysql), Some(quorum), Some(galera)] = names.map(|name| env::var(name).ok())
    else {
        eprintln!("clusters: run eval \"$(.ci/servers start-clusters FOLDER)\" first, after start");
        return Ok(());
    };
    let (quorum, single) = (consume(&fresh_postgres(&quorum)?)?, consume(&fresh_postgres(&postgres)?)?);
    table.compare(
        "PostgreSQL, commits that wait for one of two standbys, 64 connections / a single server",
        "events/s",
        Aim::AtLeast(0.7),
        || throughput(quorum.address, 64, &Load::event(), TIME),
        || throughput(single.address, 64, &Load::event(), TIME),
    )?;
    drop((quorum, single));
    let nodes: Vec<&str> = galera.split_whitespace().collect();
    let node = fresh_mysql(nodes.first().context("TEST_GALERA_URLS is empty")?)?;
    let (_, database) = node.rsplit_once('/').context("the URL has no database")?;
    let single = fresh_mysql(&mysql)?;
    let (of_node, of_single) = (consume(&unencrypted(&node))?, consume(&unencrypted(&single))?);
    table.compare(
        "Galera, one process, 64 connections / one MariaDB",
        "events/s",
        Aim::AtLeast(0.5),
        || throughput(of_node.address, 64, &Load::event(), TIME),
        || throughput(of_single.address, 64, &Load::event(), TIME),
    )?;
    drop((of_node, of_single));
    let on_node = |url: &&str| {
        let (server, _) = url.rsplit_once('/').context("the URL has no database")?;
        consume(&unencrypted(&format!("{server}/{database}")))
    };
    let of_nodes: Vec<Server> = nodes.iter().map(on_node).collect::<anyhow::Result<_>>()?;
    let of_single: Vec<Server> =
        nodes.iter().map(|_| consume(&unencrypted(&single))).collect::<anyhow::Result<_>>()?;
    table.compare(
        "Galera, three processes with a node each, 64 connections / three processes on one MariaDB",
        "events/s",
        Aim::AtLeast(0.5),
        || shared_throughput(&of_nodes, 64),
        || shared_throughput(&of_single, 64),
    )
}

/// The rate of several processes together, to which the connections are spread.
fn shared_throughput(processes: &[Server], connections: usize) -> anyhow::Result<f64> {
    let connections = connections.div_ceil(processes.len());
    thread::scope(|scope| {
        let loads: Vec<_> = processes
            .iter()
            .map(|process| {
                scope.spawn(move || throughput(process.address, connections, &Load::event(), TIME))
            })
            .collect();
        let rates =
            loads.into_iter().map(|load| load.join().map_err(|_| anyhow::anyhow!("a load has stopped"))?);
        rates.sum()
    })
}

/// The clients beside it do not encrypt either.
fn unencrypted(mysql: &str) -> String {
    format!("{mysql}?ssl-mode=DISABLED")
}

fn consume(location: &str) -> anyhow::Result<Server> {
    let limit = OsStr::new("--max-connections-per-address=8192");
    Server::consume_with(&eventctl()?, Path::new(location), &[limit])
}

/// What some clients do a second, each as often as it can.
fn repeated<C>(
    clients: usize,
    connect: impl Fn() -> anyhow::Result<C> + Sync,
    work: impl Fn(&mut C) -> anyhow::Result<u64> + Sync,
) -> anyhow::Result<f64> {
    let started = OnceLock::new();
    let ready = Barrier::new(clients);
    let client = || -> anyhow::Result<u64> {
        let mut client = connect()?;
        ready.wait();
        let started = started.get_or_init(Instant::now);
        let mut done = 0;
        while started.elapsed() < TIME {
            done += work(&mut client)?;
        }
        Ok(done)
    };
    let done = thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        let done = clients
            .into_iter()
            .map(|client| client.join().map_err(|_| anyhow::anyhow!("a client has stopped"))?);
        done.sum::<anyhow::Result<u64>>()
    })?;
    Ok(done as f64 / TIME.as_secs_f64())
}

/// Commits of several events from several writers.
fn commits(url: &str, statement: &str) -> anyhow::Result<f64> {
    let (event_type, event_payload) = Load::parts();
    let (types, payloads) = (vec![event_type; QUEUED], vec![event_payload; QUEUED]);
    repeated(
        WRITERS,
        || {
            let mut client = Client::connect(url, NoTls)?;
            let statement = client.prepare(statement)?;
            Ok((client, statement))
        },
        |(client, statement)| {
            client.execute(&*statement, &[&(QUEUED as i64), &types, &payloads])?;
            Ok(QUEUED as u64)
        },
    )
}

fn copy(client: &mut Client) -> anyhow::Result<f64> {
    let (event_type, event_payload) = Load::parts();
    let rows = format!("1700000000000000\t{event_type}\t{event_payload}\n").repeat(BATCH);
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < TIME {
        let mut writer = client.copy_in("COPY copied (received_at, event_type, event_payload) FROM STDIN")?;
        writer.write_all(rows.as_bytes())?;
        count += writer.finish()?;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// A database of its own on the server of a URL, prepared.
fn fresh_postgres(url: &str) -> anyhow::Result<String> {
    let name = format!("bench_{}", std::process::id());
    Client::connect(url, NoTls)?.batch_execute(&format!("CREATE DATABASE {name}"))?;
    prepared(url, &name)
}

fn fresh_mysql(url: &str) -> anyhow::Result<String> {
    let name = format!("bench_{}", std::process::id());
    mysql::Conn::new(url)?.query_drop(format!("CREATE DATABASE {name}"))?;
    prepared(url, &name)
}

fn prepared(url: &str, name: &str) -> anyhow::Result<String> {
    let (server, _) = url.rsplit_once('/').context("the URL has no database")?;
    let url = format!("{server}/{name}");
    eventctl::testing::prepare(&url.parse().map_err(anyhow::Error::msg)?)?;
    Ok(url)
}
