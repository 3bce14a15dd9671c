//! Servers as child processes, and the load that they get.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::bare;
use crate::table::quantile;

/// A server that dies when it is dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts a command and waits until it says where it listens.
    pub fn start(command: &mut Command) -> anyhow::Result<Server> {
        let mut child = command.stderr(Stdio::piped()).spawn().context("cannot start a server")?;
        let mut lines = BufReader::new(child.stderr.take().context("standard error is a pipe")?).lines();
        let address = loop {
            let line = lines.next().context("the server ended without listening")??;
            if let Some(address) = address_in(&line)? {
                break address;
            }
            eprintln!("{line}");
        };
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        Ok(Server { child, address })
    }

    pub fn consume(database: &Path) -> anyhow::Result<Server> {
        Server::consume_with(&eventctl()?, database, &[])
    }

    /// Any build of the program, with further arguments.
    pub fn consume_with(program: &Path, database: &Path, arguments: &[&OsStr]) -> anyhow::Result<Server> {
        let mut command = Command::new(program);
        Server::start(command.args(["consume", "--port", "0", "--db"]).arg(database).args(arguments))
    }

    /// The same program with its log in a file, where nobody reads it.
    pub fn consume_into(log: &Path, database: &Path, arguments: &[&OsStr]) -> anyhow::Result<Server> {
        let mut command = Command::new(eventctl()?);
        command.args(["consume", "--port", "0", "--db"]).arg(database).args(arguments);
        let mut child = command.stderr(File::create(log)?).spawn().context("cannot start a server")?;
        loop {
            if let Some(address) = address_in(&fs::read_to_string(log)?)? {
                return Ok(Server { child, address });
            }
            ensure!(child.try_wait()?.is_none(), "the server ended without listening");
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn bare() -> anyhow::Result<Server> {
        Server::start(Command::new(env::current_exe()?).arg(bare::ROLE))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// Where a server listens, if a line says so.
fn address_in(line: &str) -> anyhow::Result<Option<SocketAddr>> {
    let Some((_, url)) = line.split_once("listening on ") else { return Ok(None) };
    let url = url.split([' ', '"']).next().unwrap_or_default();
    Ok(Some(url.rsplit('/').next().unwrap_or_default().parse()?))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program beside this one.
pub fn eventctl() -> anyhow::Result<PathBuf> {
    let examples = env::current_exe()?;
    let path = examples.ancestors().nth(2).context("no target directory")?.join("eventctl");
    ensure!(path.exists(), "cannot find `{}`: run cargo build --release first", path.display());
    Ok(path)
}

/// What clients send, over and over, and how.
#[derive(Clone)]
pub struct Load {
    pub body: Bytes,
    /// Whether every request carries an idempotency key of its own.
    pub keyed: bool,
    /// A header with a token.
    pub authorization: Option<HeaderValue>,
    /// What to encrypt with.
    pub tls: Option<TlsConnector>,
}

impl Load {
    /// Type and payload of the event that all loads send.
    pub fn parts() -> (&'static str, &'static str) {
        (
            "message",
            "a payload of about a hundred characters, as messages, joins and leaves have it in practice",
        )
    }

    pub fn event() -> Load {
        let (event_type, event_payload) = Load::parts();
        let body = json!({"event_type": event_type, "event_payload": event_payload});
        Load { body: body.to_string().into(), keyed: false, authorization: None, tls: None }
    }

    pub fn batch(size: usize) -> Load {
        let event = String::from_utf8_lossy(&Load::event().body).into_owned();
        Load { body: format!("[{}]", vec![event; size].join(",")).into(), ..Load::event() }
    }
}

/// Requests a second from some keep-alive connections on one thread, each sending its next request when
/// it has the answer to its last. All answers must be 201.
pub fn throughput(
    address: SocketAddr,
    connections: usize,
    load: &Load,
    time: Duration,
) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let load = Arc::new(load.clone());
        let mut clients = JoinSet::new();
        for _ in 0..connections {
            let client = Client::connect(address, &load).await?;
            clients.spawn(client.send_until(Arc::clone(&load), time));
        }
        let started = Instant::now();
        let mut count = 0;
        while let Some(sent) = clients.join_next().await {
            count += sent??;
        }
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    })
}

/// The median time from a request to its answer on one connection, in microseconds.
pub fn latency(address: SocketAddr, load: &Load, time: Duration) -> anyhow::Result<f64> {
    latency_at(0.5, address, load, time)
}

/// The time from a request to its answer on one connection that so large a part of them stays within, in
/// microseconds.
pub fn latency_at(share: f64, address: SocketAddr, load: &Load, time: Duration) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::connect(address, load).await?;
        let mut times = Vec::new();
        let started = Instant::now();
        while started.elapsed() < time {
            let sent = Instant::now();
            client.send(load).await?;
            times.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        Ok(quantile(&times, share))
    })
}

/// One keep-alive connection.
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Client {
    pub async fn connect(address: SocketAddr, load: &Load) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        match &load.tls {
            None => Client::over(stream).await,
            Some(tls) => Client::over(tls.connect(address.ip().into(), stream).await?).await,
        }
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> anyhow::Result<Client> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Client { sender })
    }

    async fn send_until(mut self, load: Arc<Load>, time: Duration) -> anyhow::Result<u32> {
        let deadline = Instant::now() + time;
        let mut count = 0;
        while Instant::now() < deadline {
            self.send(&load).await?;
            count += 1;
        }
        Ok(count)
    }

    /// Sends a request, which must be answered 201.
    pub async fn send(&mut self, load: &Load) -> anyhow::Result<()> {
        let mut request = Request::new(Full::new(load.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/event");
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(load.authorization.clone().map(|authorization| (AUTHORIZATION, authorization)));
        if load.keyed {
            headers.insert("idempotency-key", uuid::Uuid::now_v7().to_string().parse()?);
        }
        let status = self.exchange(request).await?;
        ensure!(status == StatusCode::CREATED, "status {status}");
        Ok(())
    }

    /// Sends a webhook of Standard Webhooks with an id of its own, signed now, which must be answered 201.
    pub async fn send_webhook(&mut self, load: &Load, key: &[u8]) -> anyhow::Result<()> {
        let id = uuid::Uuid::now_v7().to_string();
        let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let signed = Hmac::<Sha256>::new_from_slice(key)?.chain_update(format!("{id}.{time}."));
        let signature = STANDARD.encode(signed.chain_update(&load.body).finalize().into_bytes());
        let mut request = Request::new(Full::new(load.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/hook/bench");
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("webhook-id", id.parse()?);
        headers.insert("webhook-timestamp", time.into());
        headers.insert("webhook-signature", format!("v1,{signature}").parse()?);
        let status = self.exchange(request).await?;
        ensure!(status == StatusCode::CREATED, "status {status}");
        Ok(())
    }

    /// Sends JSON to a path, which must be answered 2xx: the answer.
    pub async fn ask(&mut self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let mut request = Request::new(Full::new(body.to_string().into()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse()?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "status {status}: {}", String::from_utf8_lossy(&answer));
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Asks for a page, which must be answered 200.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<()> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = path.parse()?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        let status = self.exchange(request).await?;
        ensure!(status == StatusCode::OK, "status {status}");
        Ok(())
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<StatusCode> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok(status)
    }
}
