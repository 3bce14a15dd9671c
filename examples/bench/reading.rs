//! What it takes to show the newest of ten million events, or any page of them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use rusqlite::params;
use tempfile::tempdir;

use crate::ingest::open_prepared;
use crate::load::{Client, Load, Server, eventctl};
use crate::table::{Aim, Table, median};

const MANY: i64 = 10_000_000;
const FEW: i64 = 10_000;

/// How often a process is run, or a page asked for, for one side of a pair.
const REPEATS: usize = 20;

/// One event in so many is of the rare type.
const RARE: i64 = 1_000_000;

/// `tail` beside the shell of SQLite, and pages of a large store beside those of a small one.
pub fn measure(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let (many, few) = (directory.path().join("many.db"), directory.path().join("few.db"));
    fill(&many, MANY)?;
    fill(&few, FEW)?;
    for (name, arguments, filter, repeats) in [
        ("tail -n 10", &[][..], "", REPEATS),
        ("tail -n 10 --type message", &["--type", "message"], "WHERE event_type = 'message'", REPEATS),
        ("tail -n 10 --type 'mess*'", &["--type", "mess*"], "WHERE event_type GLOB 'mess*'", REPEATS),
        // Found one in a million: the whole table is read.
        ("tail -n 10 --type 'rar*'", &["--type", "rar*"], "WHERE event_type GLOB 'rar*'", 1),
    ] {
        let query = format!(
            "SELECT * FROM (SELECT id, received_at, event_type, event_payload FROM events {filter} \
             ORDER BY id DESC LIMIT 10) ORDER BY id"
        );
        table.compare(
            &format!("{name} of 10,000,000 events / sqlite3 shell, whole processes"),
            "ms",
            Aim::AtMost(1.5),
            || {
                time(
                    repeats,
                    Command::new(eventctl()?).args(["tail", "-n", "10", "--db"]).arg(&many).args(arguments),
                )
            },
            || {
                let mut shell = Command::new("sqlite3");
                time(repeats, shell.arg(&many).arg(&query))
                    .context("cannot run sqlite3: install it, for example with apt-get install sqlite3")
            },
        )?;
    }
    let (large, small) = (Server::consume(&many)?, Server::consume(&few)?);
    table.compare(
        "GET /event?limit=100 anywhere in 10,000,000 events / in 10,000",
        "µs",
        Aim::AtMost(1.3),
        || page_time(&large, MANY),
        || page_time(&small, FEW),
    )
}

fn fill(path: &Path, count: i64) -> anyhow::Result<()> {
    eprintln!("storing {count} events");
    let mut connection = open_prepared(path)?;
    let (event_type, event_payload) = Load::parts();
    for chunk in 0..count / FEW {
        let transaction = connection.transaction()?;
        let mut insert = transaction.prepare_cached(
            "INSERT INTO events (received_at, event_type, event_payload) VALUES (?1, ?2, ?3)",
        )?;
        for position in chunk * FEW..(chunk + 1) * FEW {
            let event_type = if position % RARE == 0 { "rare" } else { event_type };
            insert.execute(params![1_700_000_000_000_000_i64 + position, event_type, event_payload])?;
        }
        drop(insert);
        transaction.commit()?;
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

/// The median wall time of a whole process, in milliseconds. It must print ten lines.
fn time(repeats: usize, command: &mut Command) -> anyhow::Result<f64> {
    let mut times = Vec::with_capacity(repeats);
    for _ in 0..repeats {
        let started = Instant::now();
        let output = command.stderr(Stdio::inherit()).output()?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        ensure!(output.status.success() && lines == 10, "{lines} lines, {}", output.status);
    }
    Ok(median(&times))
}

/// The median time of a page at evenly spread places, in microseconds.
fn page_time(server: &Server, count: i64) -> anyhow::Result<f64> {
    const PLACES: i64 = 200;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::connect(server.address, &Load::event()).await?;
        let mut times = Vec::new();
        for place in 0..PLACES {
            let path = format!("/event?limit=100&after={}", place * (count - 100) / PLACES);
            let started = Instant::now();
            client.get(&path).await?;
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
        Ok(median(&times))
    })
}
