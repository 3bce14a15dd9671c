//! What `consume` takes: one event a request, and many.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rusqlite::{Connection, params};
use tempfile::tempdir;

use crate::load::{Load, Server, eventctl, latency, throughput};
use crate::table::{Aim, Table};

/// How long one side of a pair runs.
const TIME: Duration = Duration::from_secs(3);

/// Events in a batch.
const BATCH: usize = 1000;

/// What a commit of one event adds to SQLite's log: the pages of the event and of the sequence of ids.
const LOG_BYTES: usize = 2 * (4096 + 24);

/// One event a request, against a server that does nothing.
pub fn measure_throughput(table: &mut Table) -> anyhow::Result<()> {
    for (connections, keyed) in [(64, false), (256, false), (64, true)] {
        let load = Load { keyed, ..Load::event() };
        let key = if keyed { ", each with a key" } else { "" };
        let name = format!("one event a request{key}, {connections} connections / bare hyper server");
        let aim = if keyed { Aim::None } else { Aim::AtLeast(0.85) };
        let directory = tempdir()?;
        let server = Server::consume(&directory.path().join("events.db"))?;
        let bare = Server::bare()?;
        table.compare(
            &name,
            "events/s",
            aim,
            || throughput(server.address, connections, &load, TIME),
            || throughput(bare.address, connections, &load, TIME),
        )?;
    }
    Ok(())
}

/// One connection, against a server that does nothing plus one sync of what a commit writes.
pub fn measure_latency(table: &mut Table) -> anyhow::Result<()> {
    let load = Load::event();
    let directory = tempdir()?;
    let server = Server::consume(&directory.path().join("events.db"))?;
    let bare = Server::bare()?;
    let log = directory.path().join("log");
    table.compare(
        "median latency, 1 connection / bare request + one fdatasync",
        "µs",
        Aim::AtMost(1.25),
        || latency(server.address, &load, TIME),
        || Ok(latency(bare.address, &load, TIME)? + sync_time(&log)?),
    )
}

/// The median time of one fdatasync, in microseconds, after as much was written as a commit writes, into
/// a file that is not extended, as SQLite's log is not.
fn sync_time(path: &Path) -> anyhow::Result<f64> {
    const SYNCS: usize = 2000;
    let file = File::create(path)?;
    file.write_all_at(&vec![0; SYNCS * LOG_BYTES], 0)?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(SYNCS);
    for sync in 0..SYNCS {
        file.write_all_at(&[1; LOG_BYTES], u64::try_from(sync * LOG_BYTES)?)?;
        let started = Instant::now();
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(crate::table::median(&times))
}

/// Batches from 4 connections, against prepared inserts into a file of the same schema.
pub fn measure_batches(table: &mut Table) -> anyhow::Result<()> {
    let load = Load::batch(BATCH);
    let directory = tempdir()?;
    let server = Server::consume(&directory.path().join("events.db"))?;
    let raw = directory.path().join("raw.db");
    table.compare(
        "batches of 1,000 events, 4 connections / raw inserts in transactions of 1,000",
        "events/s",
        Aim::AtLeast(0.5),
        || Ok(throughput(server.address, 4, &load, TIME)? * BATCH as f64),
        || raw_inserts(&raw, TIME),
    )
}

/// With channels and rules that match nothing, and without.
pub fn measure_alerts(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let arguments = "--alert slack:https://hooks.example/1 --alert https://hooks.example/2 \
        --alert-on health_alert --alert-on order_* --alert-on *_failed --alert-on audit.[a-m]*";
    let arguments: Vec<&OsStr> = arguments.split_whitespace().map(OsStr::new).collect();
    let alerting = Server::consume_with(&eventctl()?, &directory.path().join("alerting.db"), &arguments)?;
    let silent = Server::consume(&directory.path().join("silent.db"))?;
    for (name, connections, load) in [
        ("one event a request, 64 connections, alerts on that nothing matches / off", 64, Load::event()),
        (
            "batches of 1,000 events, 4 connections, alerts on that nothing matches / off",
            4,
            Load::batch(BATCH),
        ),
    ] {
        table.compare(
            name,
            "requests/s",
            Aim::AtLeast(0.9),
            || throughput(alerting.address, connections, &load, TIME),
            || throughput(silent.address, connections, &load, TIME),
        )?;
    }
    Ok(())
}

/// With a line for each request, and without.
pub fn measure_log(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let server = |name: &str, level: &str| {
        let path = |end: &str| directory.path().join(format!("{name}.{end}"));
        Server::consume_into(&path("log"), &path("db"), &["--log-level", level].map(OsStr::new))
    };
    let silent = server("silent", "info")?;
    let telling = server("telling", "debug")?;
    table.compare(
        "one event a request, 64 connections, each request logged / the log at its default",
        "events/s",
        Aim::None,
        || throughput(telling.address, 64, &Load::event(), TIME),
        || throughput(silent.address, 64, &Load::event(), TIME),
    )
}

fn raw_inserts(path: &Path, time: Duration) -> anyhow::Result<f64> {
    let mut connection = open_prepared(path)?;
    let (event_type, event_payload) = Load::parts();
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < time {
        let transaction = connection.transaction()?;
        let mut insert = transaction.prepare_cached(
            "INSERT INTO events (received_at, event_type, event_payload) VALUES (?1, ?2, ?3)",
        )?;
        for _ in 0..BATCH {
            insert.execute(params![1_700_000_000_000_000_i64, event_type, event_payload])?;
        }
        drop(insert);
        transaction.commit()?;
        count += BATCH;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// A store as `init-db` makes it, opened as `consume` opens it.
pub fn open_prepared(path: &Path) -> anyhow::Result<Connection> {
    if !path.exists() {
        let location = path.to_str().context("the path is not UTF-8")?.parse().map_err(anyhow::Error::msg)?;
        eventctl::testing::prepare(&location)?;
    }
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}
