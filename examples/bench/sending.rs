//! What `propagate` sends: on time, and as fast as it can.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::thread::ClockId;
use rustix::time::{Timespec, clock_gettime};
use serde_json::Value;
use tempfile::tempdir;

use crate::load::{Load, Server, eventctl};
use crate::table::{Aim, Table, median, pairs};

const PERIOD: Duration = Duration::from_millis(10);

/// How long a schedule is kept, in seconds.
const SCHEDULE_SECONDS: u64 = 60;

/// How long one side of a pair sends, in seconds.
const SENDING_SECONDS: u64 = 3;

const CONNECTIONS: usize = 64;

/// The schedule of `propagate` beside a bare loop of clock_nanosleep, at the same time.
pub fn measure_jitter(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let server = Server::consume(&directory.path().join("events.db"))?;
    let mut jitters = Vec::new();
    let mut drifts = Vec::new();
    for _ in 0..pairs() {
        let bare = thread::spawn(bare_jitter);
        let lines = propagate(&server, directory.path(), &["--period", "10ms"], SCHEDULE_SECONDS)?;
        let bare = bare.join().map_err(|_| anyhow::anyhow!("the bare loop has stopped"))??;
        let summary = lines.last().context("no summary")?;
        let ours = summary["summary"]["jitter"]["p99_ms"].as_f64().context("no p99")? * 1e3;
        let sent: Vec<f64> = lines.iter().filter_map(|line| line["jitter_ms"].as_f64()).collect();
        let tenth = sent.len() / 10;
        let drift = (median(&sent[sent.len() - tenth..]) - median(&sent[..tenth])) * 1e3;
        eprintln!("jitter: p99 {ours:.1} µs : {bare:.1} µs = {:.3}, drift {drift:.1} µs", ours / bare);
        let missed = summary["summary"]["missed_ticks"].as_u64().context("no missed ticks")?;
        ensure!(missed == 0, "{missed} ticks were missed");
        jitters.push((ours, bare));
        drifts.push((drift, PERIOD.as_secs_f64() * 1e6));
    }
    table.add_pairs(
        "p99 jitter, period 10 ms for 60 s / clock_nanosleep loop",
        "µs",
        Aim::AtMost(2.0),
        &jitters,
    );
    let name = "growth of the median jitter from the first to the last tenth of it / one period";
    table.add_pairs(name, "µs", Aim::AtMost(0.01), &drifts);
    Ok(())
}

/// The p99 lateness of a loop that does nothing but sleep to the next tick, in microseconds.
fn bare_jitter() -> anyhow::Result<f64> {
    let now = || -> u64 {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
        u64::try_from(tv_sec * 1_000_000_000 + tv_nsec).unwrap_or_default()
    };
    let period = u64::try_from(PERIOD.as_nanos())?;
    let start = now();
    let mut late: Vec<u64> = Vec::new();
    for tick in 1..=SCHEDULE_SECONDS * 1_000_000_000 / period {
        let due = start + tick * period;
        let instant = Timespec {
            tv_sec: i64::try_from(due / 1_000_000_000)?,
            tv_nsec: i64::try_from(due % 1_000_000_000)?,
        };
        rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &instant)?;
        late.push(now().saturating_sub(due));
    }
    late.sort_unstable();
    Ok(late[late.len() * 99 / 100] as f64 / 1e3)
}

/// `propagate` at its fastest beside `wrk`, both with 64 connections against `consume`.
pub fn measure_throughput(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let server = Server::consume(&directory.path().join("events.db"))?;
    table.compare(
        "propagate at its fastest, 64 in flight / wrk with 64 connections",
        "events/s",
        Aim::AtLeast(0.5),
        || fastest(&server, directory.path(), &[]),
        || wrk(&server, directory.path()),
    )?;
    let journal = directory.path().join("journal");
    let journal = journal.to_str().context("the path is UTF-8")?;
    table.compare(
        "propagate at its fastest with a journal / without",
        "events/s",
        Aim::AtLeast(0.9),
        || {
            let sent = fastest(&server, directory.path(), &["--journal", journal]);
            std::fs::remove_file(journal)?;
            sent
        },
        || fastest(&server, directory.path(), &[]),
    )
}

/// The events a second that `propagate` delivers at its fastest.
fn fastest(server: &Server, directory: &Path, further: &[&str]) -> anyhow::Result<f64> {
    let arguments = [&["--period", "1us", "--max-in-flight", "64", "--quiet"][..], further].concat();
    let lines = propagate(server, directory, &arguments, SENDING_SECONDS)?;
    let summary = &lines.last().context("no summary")?["summary"];
    ensure!(summary["delivered"] == summary["sent"], "not all delivered: {summary}");
    Ok(summary["delivered"].as_f64().context("no count")? / SENDING_SECONDS as f64)
}

/// The JSON lines that a run of `propagate` prints.
fn propagate(
    server: &Server,
    directory: &Path,
    arguments: &[&str],
    seconds: u64,
) -> anyhow::Result<Vec<Value>> {
    let events = directory.join("events.json");
    std::fs::write(&events, format!("[{}]", String::from_utf8_lossy(&Load::event().body)))?;
    let output = Command::new(eventctl()?)
        .args(["propagate", "--output", "json", "--duration", &format!("{seconds}s"), "--file"])
        .arg(&events)
        .args(["--endpoint", &format!("http://{}/event", server.address)])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "propagate: {}", output.status);
    let lines = String::from_utf8(output.stdout)?;
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// What wrk delivers a second.
fn wrk(server: &Server, directory: &Path) -> anyhow::Result<f64> {
    let body = String::from_utf8_lossy(&Load::event().body).into_owned();
    let script = directory.join("post.lua");
    let text = format!(
        "wrk.method = \"POST\"\nwrk.body = [==[{body}]==]\nwrk.headers[\"Content-Type\"] = \"application/json\"\n"
    );
    std::fs::write(&script, text)?;
    let started = Instant::now();
    let output = Command::new("wrk")
        .args(["--threads", "1", "--connections", &CONNECTIONS.to_string()])
        .args(["--duration", &format!("{SENDING_SECONDS}s"), "--script"])
        .arg(&script)
        .arg(format!("http://{}/event", server.address))
        .output()
        .context("cannot run wrk: install it, for example with apt-get install wrk")?;
    ensure!(started.elapsed() < Duration::from_secs(SENDING_SECONDS * 3), "wrk took too long");
    let text = String::from_utf8(output.stdout)?;
    ensure!(!text.contains("Non-2xx"), "{text}");
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).context("no rate")?;
    Ok(rate.trim().parse()?)
}
