//! What it costs to stand on a network: tokens, encryption, clients that mean no good.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use eventctl::testing::Credentials;
use eventctl::testing::HttpClient;
use eventctl::testing::{GrantType, TokenRequest, TokenSource};
use eventctl::testing::{Trust, client_config};
use hyper::header::HeaderValue;
use rcgen::generate_simple_self_signed;
use tempfile::tempdir;
use tokio_rustls::TlsConnector;

use crate::load::{Load, Server, eventctl, latency, latency_at, throughput};
use crate::memory::resident;
use crate::table::{Aim, Table};

/// How long one side of a pair runs.
const TIME: Duration = Duration::from_secs(3);

const CONNECTIONS: usize = 64;

const PASSWORD: &str = "correct horse battery staple";

/// Clients that are slow on purpose.
const SLOW_CLIENTS: usize = 2000;

/// How often each of them sends a byte.
const TRICKLE: Duration = Duration::from_secs(1);

/// This build against another one, in whose place `BENCH_OTHER` stands.
pub fn measure_builds(table: &mut Table) -> anyhow::Result<()> {
    let Some(other) = env::var_os("BENCH_OTHER").map(PathBuf::from) else {
        eprintln!("builds: set BENCH_OTHER to another build of eventctl to measure this one against it");
        return Ok(());
    };
    let directory = tempdir()?;
    let this = Server::consume(&directory.path().join("this.db"))?;
    let other = Server::consume_with(&other, &directory.path().join("other.db"), &[])?;
    let load = Load::event();
    table.compare(
        "one event a request, 64 connections / another build",
        "events/s",
        Aim::None,
        || throughput(this.address, CONNECTIONS, &load, TIME),
        || throughput(other.address, CONNECTIONS, &load, TIME),
    )?;
    table.compare(
        "median latency, 1 connection / another build",
        "µs",
        Aim::None,
        || latency(this.address, &load, TIME),
        || latency(other.address, &load, TIME),
    )
}

/// Requests with a token against a server that asks for one, and without on one that does not.
pub fn measure_tokens(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let password = private_file(directory.path(), "password", PASSWORD)?;
    let arguments = ["--username", "bench", "--password-file"].map(OsStr::new);
    let arguments = [&arguments[..], &[password.as_os_str()]].concat();
    let guarded = Server::consume_with(&eventctl()?, &directory.path().join("guarded.db"), &arguments)?;
    let open = Server::consume(&directory.path().join("open.db"))?;
    let plain = Load::event();
    let authorized = Load { authorization: Some(fetch_token(guarded.address)?), ..Load::event() };
    table.compare(
        "one event a request, 64 connections, with tokens / without",
        "events/s",
        Aim::None,
        || throughput(guarded.address, CONNECTIONS, &authorized, TIME),
        || throughput(open.address, CONNECTIONS, &plain, TIME),
    )
}

/// The same requests encrypted and in the clear; the client's part of the work counts as well.
pub fn measure_tls(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let made = generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let certificate = private_file(directory.path(), "certificate.pem", &made.cert.pem())?;
    let key = private_file(directory.path(), "key.pem", &made.signing_key.serialize_pem())?;
    let arguments =
        [OsStr::new("--tls-cert"), certificate.as_os_str(), OsStr::new("--tls-key"), key.as_os_str()];
    let encrypted = Server::consume_with(&eventctl()?, &directory.path().join("tls.db"), &arguments)?;
    let open = Server::consume(&directory.path().join("open.db"))?;
    let config = client_config(Trust::CaFile(&certificate), None)?;
    let plain = Load::event();
    let over_tls = Load { tls: Some(TlsConnector::from(Arc::new(config))), ..Load::event() };
    table.compare(
        "one event a request, 64 connections, over TLS / in the clear, both sides together",
        "events/s",
        Aim::None,
        || throughput(encrypted.address, CONNECTIONS, &over_tls, TIME),
        || throughput(open.address, CONNECTIONS, &plain, TIME),
    )
}

/// A client beside 2,000 that send a byte a second of a head, of a body, or nothing at all.
pub fn measure_slow_clients(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let server = Server::consume(&directory.path().join("events.db"))?;
    let load = Load::event();
    let mut memory = Vec::new();
    table.compare(
        "p99 latency, 1 connection beside 2,000 slow ones / undisturbed",
        "µs",
        Aim::AtMost(3.0),
        || {
            beside_slow_clients(server.address, || {
                let latency = latency_at(0.99, server.address, &load, TIME);
                memory.push((resident(&server)?, 160.0));
                latency
            })
        },
        || latency_at(0.99, server.address, &load, TIME),
    )?;
    table.add_pairs("resident memory beside 2,000 slow connections", "MiB", Aim::AtMost(1.0), &memory);
    Ok(())
}

fn beside_slow_clients<T>(
    address: SocketAddr,
    measure: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let done = AtomicBool::new(false);
    let mut clients =
        (0..SLOW_CLIENTS).map(|number| slow_client(address, number)).collect::<Result<Vec<_>, _>>()?;
    thread::scope(|scope| {
        let trickle = || {
            while !done.load(Ordering::Relaxed) {
                thread::sleep(TRICKLE);
                for (number, client) in clients.iter_mut().enumerate().filter(|(number, _)| number % 3 != 0) {
                    // Where the server has had enough, another one comes.
                    if client.write_all(b"x").is_err()
                        && let Ok(fresh) = slow_client(address, number)
                    {
                        *client = fresh;
                    }
                }
            }
        };
        let trickling = scope.spawn(trickle);
        let measured = measure();
        done.store(true, Ordering::Relaxed);
        trickling.join().map_err(|_| anyhow::anyhow!("the slow clients have stopped")).and(measured)
    })
}

/// A connection that says nothing, or begins a head, or a body.
fn slow_client(address: SocketAddr, number: usize) -> anyhow::Result<TcpStream> {
    const HEAD: &str = "POST /event HTTP/1.1\r\nHost: slow\r\nContent-Type: application/json\r\n";
    let mut stream = TcpStream::connect(address)?;
    match number % 3 {
        0 => {}
        1 => stream.write_all(format!("{HEAD}X-Slow: ").as_bytes())?,
        _ => stream.write_all(format!("{HEAD}Content-Length: 1000\r\n\r\n{{").as_bytes())?,
    }
    Ok(stream)
}

fn private_file(directory: &Path, name: &str, content: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(name);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(content.as_bytes())?;
    Ok(path)
}

fn fetch_token(address: SocketAddr) -> anyhow::Result<HeaderValue> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let http = HttpClient::new(client_config(Trust::PublicCas, None)?, 1, TIME);
    let credentials =
        Credentials { username: "bench".to_owned(), password: PASSWORD.parse().map_err(anyhow::Error::msg)? };
    let request = TokenRequest {
        url: format!("http://{address}/token").parse()?,
        grant_type: GrantType::ClientCredentials,
        credentials,
        scope: None,
        audience: None,
    };
    let tokens = TokenSource::new(http, request);
    runtime.block_on(tokens.replace(0))?;
    tokens.current().0.context("no token")
}
