//! A receiver of events that does to its clients whatever a test wants.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::runtime::{self, Runtime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::PATIENCE;

/// A request that has arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub at: Instant,
    pub head: String,
    pub body: String,
}

impl Arrival {
    /// The values of a header, in order.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// The key, of which there must be one.
    pub fn key(&self) -> String {
        let keys = self.headers("idempotency-key");
        assert_eq!(keys.len(), 1, "{self:?}");
        keys[0].to_owned()
    }

    pub fn is_post(&self) -> bool {
        self.head.starts_with("POST /event HTTP/1.1\r\n")
    }
}

/// What a receiver does with a request.
pub enum Reply {
    /// Sends these bytes and keeps the connection.
    Send(String),
    /// Sends these bytes and closes the connection.
    SendAndClose(String),
    /// Closes the connection with the request unread, which resets it.
    Reset,
    /// Sends these bytes, then a byte at every interval, until the client has gone.
    Drip(String, Duration),
}

impl Reply {
    /// A response with a status and no body, but with these lines of headers.
    pub fn status(status: u16, headers: &str) -> Reply {
        Reply::Send(format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n{headers}\r\n"))
    }

    /// What a receiver says that has stored an event.
    pub fn created() -> Reply {
        Reply::status(201, "")
    }
}

/// A listener on a port of its own, a thread a connection.
pub struct Receiver {
    pub address: SocketAddr,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

impl Receiver {
    /// Answers each request as told; the function gets the request and how many were before it.
    pub fn start(reply: impl Fn(&Arrival, usize) -> Reply + Send + Sync + 'static) -> Receiver {
        Receiver::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), reply)
    }

    /// The same, on a listener.
    pub fn start_on(
        listener: TcpListener,
        reply: impl Fn(&Arrival, usize) -> Reply + Send + Sync + 'static,
    ) -> Receiver {
        let address = listener.local_addr().unwrap();
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&arrivals);
        let reply = Arc::new(reply);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (kept, reply) = (Arc::clone(&kept), Arc::clone(&reply));
                // How a client ends its connection is its own affair.
                thread::spawn(move || stream.and_then(|stream| serve(stream, &kept, reply.as_ref())));
            }
        });
        Receiver { address, arrivals }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What has arrived by now.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    arrivals: &Mutex<Vec<Arrival>>,
    reply: &(impl Fn(&Arrival, usize) -> Reply + ?Sized),
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let (arrival, length) = peek_request(&stream)?;
        let number = {
            let mut arrivals = arrivals.lock().unwrap();
            arrivals.push(arrival.clone());
            arrivals.len() - 1
        };
        let reply = reply(&arrival, number);
        if let Reply::Reset = reply {
            return Ok(());
        }
        stream.read_exact(&mut vec![0; length])?;
        match reply {
            Reply::Send(bytes) => stream.write_all(bytes.as_bytes())?,
            Reply::SendAndClose(bytes) => return stream.write_all(bytes.as_bytes()),
            Reply::Drip(bytes, interval) => {
                stream.write_all(bytes.as_bytes())?;
                loop {
                    stream.write_all(b"x")?;
                    thread::sleep(interval);
                }
            }
            Reply::Reset => {}
        }
    }
}

/// Waits for a whole request without taking it off the connection; it and its length.
pub fn peek_request(stream: &TcpStream) -> io::Result<(Arrival, usize)> {
    let mut buffer = vec![0; 1 << 20];
    let started = Instant::now();
    let mut seen = 0;
    while started.elapsed() < PATIENCE {
        let length = stream.peek(&mut buffer)?;
        if length == 0 || length == seen && started.elapsed() > PATIENCE / 2 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen = length;
        if let Some(found) = whole_request(&buffer[..length]) {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn whole_request(bytes: &[u8]) -> Option<(Arrival, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let arrival = Arrival { at: Instant::now(), head, body: String::new() };
    let length = arrival.headers("content-length").first().map_or(0, |length| length.parse().unwrap());
    let body = bytes.get(end..end + length)?;
    let body = String::from_utf8(body.to_vec()).unwrap();
    Some((Arrival { body, ..arrival }, end + length))
}

/// A receiver over TLS that takes every event, in HTTP/1.1 or HTTP/2 as the client agrees to.
pub struct TlsReceiver {
    pub address: SocketAddr,
    versions: Arc<Mutex<Vec<Version>>>,
    _runtime: Runtime,
}

impl TlsReceiver {
    pub fn start(config: ServerConfig) -> TlsReceiver {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let versions = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&versions);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, kept) = (acceptor.clone(), Arc::clone(&kept));
                // How a client ends its connection is its own affair.
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.ok()?;
                    serve_tls(stream, kept).await.ok()
                });
            }
        });
        TlsReceiver { address, versions, _runtime: runtime }
    }

    /// The versions in which events have arrived by now.
    pub fn versions(&self) -> Vec<Version> {
        self.versions.lock().unwrap().clone()
    }
}

async fn serve_tls(
    stream: TlsStream<tokio::net::TcpStream>,
    versions: Arc<Mutex<Vec<Version>>>,
) -> hyper::Result<()> {
    let is_http_2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| {
        let versions = Arc::clone(&versions);
        async move {
            let version = request.version();
            request.into_body().collect().await?;
            versions.lock().unwrap().push(version);
            let response = Response::builder().status(201);
            hyper::Result::Ok(response.body(Full::<Bytes>::default()).unwrap())
        }
    });
    if is_http_2 {
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
    } else {
        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
    }
}
