//! What signed webhooks cost, and what workers do who claim and acknowledge events.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde_json::json;
use tempfile::tempdir;
use tokio::task::JoinSet;

use crate::load::{Client, Load, Server, eventctl, throughput};
use crate::table::{Aim, Table};

/// How long one side of a pair runs.
const TIME: Duration = Duration::from_secs(3);

const KEY: [u8; 32] = [7; 32];

/// How many events a claim and an append have.
const BATCH: usize = 100;

/// How many workers, and how many clients that append.
const CLIENTS: usize = 4;

/// How many events wait when workers begin.
const BACKLOG: usize = 400_000;

/// A signed webhook a request, beside an event with a key of its own.
pub fn measure_hooks(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let secret = directory.path().join("secret");
    std::fs::write(&secret, format!("whsec_{}", STANDARD.encode(KEY)))?;
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600))?;
    let hook = format!("bench=standard:{}", secret.display());
    let arguments = ["--hook", &hook].map(OsStr::new);
    let server = Server::consume_with(&eventctl()?, &directory.path().join("hooks.db"), &arguments)?;
    let plain = Server::consume(&directory.path().join("plain.db"))?;
    let keyed = Load { keyed: true, ..Load::event() };
    table.compare(
        "signed webhooks, 64 connections / events with a key each",
        "events/s",
        Aim::AtLeast(0.8),
        || webhooks(server.address, 64, &Load::event()),
        || throughput(plain.address, 64, &keyed, TIME),
    )
}

fn webhooks(address: SocketAddr, connections: usize, load: &Load) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let load = Arc::new(load.clone());
        let mut clients: JoinSet<anyhow::Result<u32>> = JoinSet::new();
        for _ in 0..connections {
            let mut client = Client::connect(address, &load).await?;
            let load = Arc::clone(&load);
            clients.spawn(async move {
                let deadline = Instant::now() + TIME;
                let mut count = 0;
                while Instant::now() < deadline {
                    client.send_webhook(&load, &KEY).await?;
                    count += 1;
                }
                Ok(count)
            });
        }
        let started = Instant::now();
        let mut count = 0;
        while let Some(sent) = clients.join_next().await {
            count += sent??;
        }
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    })
}

/// Events that workers claim and acknowledge by the hundred, beside events that are appended so; and what a worker
/// who gets everything costs those who write.
pub fn measure(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let server = Server::consume(&directory.path().join("worked.db"))?;
    let other = Server::consume(&directory.path().join("appended.db"))?;
    let mut number = 0;
    table.compare(
        "claimed and acknowledged by 100, 4 workers / appended by 100, 4 clients",
        "events/s",
        Aim::AtLeast(0.5),
        || {
            number += 1;
            acknowledgements(server.address, &format!("work{number}"))
        },
        || Ok(throughput(other.address, CLIENTS, &Load::batch(BATCH), TIME)? * BATCH as f64),
    )?;
    drop((server, other));
    let worked = Server::consume(&directory.path().join("subscribed.db"))?;
    let plain = Server::consume(&directory.path().join("plain.db"))?;
    let load = Load::event();
    table.compare(
        "one event a request, 64 connections, with a worker for all / without",
        "events/s",
        Aim::AtLeast(0.85),
        || ingest_with_worker(worked.address, &load),
        || throughput(plain.address, 64, &load, TIME),
    )
}

/// Events a second that workers claim and acknowledge, of a subscription that begins with a backlog.
fn acknowledgements(address: SocketAddr, name: &str) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = format!("/subscription/{name}");
    runtime.block_on(async {
        let mut client = Client::connect(address, &Load::event()).await?;
        client.ask(Method::PUT, &path, &json!({"from": "now"})).await?;
        let batch = Load::batch(1000);
        for _ in 0..BACKLOG / 1000 {
            client.send(&batch).await?;
        }
        let mut workers: JoinSet<anyhow::Result<usize>> = JoinSet::new();
        for _ in 0..CLIENTS {
            let client = Client::connect(address, &Load::event()).await?;
            workers.spawn(work(client, path.clone()));
        }
        let started = Instant::now();
        let mut count = 0;
        while let Some(done) = workers.join_next().await {
            count += done??;
        }
        let rate = count as f64 / started.elapsed().as_secs_f64();
        // What is left over is no backlog of the next pair's.
        client.ask(Method::PUT, &path, &json!({"retain": false})).await?;
        Ok(rate)
    })
}

/// Works until nothing is left.
async fn work(mut client: Client, path: String) -> anyhow::Result<usize> {
    let mut count = 0;
    loop {
        let claim = client.ask(Method::POST, &format!("{path}/claim"), &json!({"limit": BATCH})).await?;
        let events = claim["events"].as_array().context("a claim has events")?;
        if events.is_empty() {
            return Ok(count);
        }
        count += events.len();
        client.ask(Method::POST, &format!("{path}/ack"), &json!({"token": claim["token"]})).await?;
    }
}

/// The rate of ingest while a worker claims everything as it comes.
fn ingest_with_worker(address: SocketAddr, load: &Load) -> anyhow::Result<f64> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut client = Client::connect(address, &Load::event()).await?;
                client.ask(Method::PUT, "/subscription/all", &json!({})).await?;
                while !is_over.load(Ordering::Relaxed) {
                    let wanted = json!({"limit": 1000, "wait": "100ms"});
                    let claim = client.ask(Method::POST, "/subscription/all/claim", &wanted).await?;
                    if !claim["token"].is_null() {
                        let token = json!({"token": claim["token"]});
                        client.ask(Method::POST, "/subscription/all/ack", &token).await?;
                    }
                }
                Ok(())
            })
        });
        let rate = throughput(address, 64, load, TIME);
        is_over.store(true, Ordering::Relaxed);
        worker.join().map_err(|_| anyhow::anyhow!("the worker has panicked"))??;
        rate
    })
}
