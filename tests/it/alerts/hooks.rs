//! Services that receive alerts, and a server that notifies them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::{TempDir, tempdir};

use crate::util::receiver::{Arrival, Reply};
use crate::util::{Consume, PATIENCE, wait_until};

/// A service on a port of its own, a thread a connection. Unlike [`crate::util::receiver::Receiver`] it takes
/// messages of any size, counts connections, and can speak TLS.
pub struct Hook {
    pub address: SocketAddr,
    scheme: &'static str,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    connections: Arc<AtomicUsize>,
}

impl Hook {
    /// A service that takes every message.
    pub fn taking() -> Hook {
        Hook::start(|_, _| ok())
    }

    /// One that has this status for every message, with these lines of headers.
    pub fn with_status(status: u16, headers: &'static str) -> Hook {
        Hook::start(move |_, _| Reply::status(status, headers))
    }

    /// One that never answers.
    pub fn silent() -> Hook {
        Hook::start(|_, _| {
            thread::sleep(PATIENCE * 2);
            Reply::Reset
        })
    }

    /// One that answers each message as told; the function gets the message and how many were before it.
    pub fn start(reply: impl Fn(&Arrival, usize) -> Reply + Send + Sync + 'static) -> Hook {
        Hook::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), None, reply)
    }

    /// One that takes every message over TLS.
    pub fn encrypted(config: ServerConfig) -> Hook {
        Hook::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), Some(config), |_, _| ok())
    }

    pub fn start_on(
        listener: TcpListener,
        tls: Option<ServerConfig>,
        reply: impl Fn(&Arrival, usize) -> Reply + Send + Sync + 'static,
    ) -> Hook {
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tls = tls.map(Arc::new);
        let (arrivals, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (kept, counted) = (Arc::clone(&arrivals), Arc::clone(&connections));
        let reply = Arc::new(reply);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                let (kept, reply, tls) = (Arc::clone(&kept), Arc::clone(&reply), tls.clone());
                // How a client ends its connection is its own affair.
                thread::spawn(move || match tls {
                    None => serve(stream, &kept, reply.as_ref()),
                    Some(config) => serve(encrypt(stream, config), &kept, reply.as_ref()),
                });
            }
        });
        Hook { address, scheme, arrivals, connections }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// What has arrived by now.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    /// Waits until so many messages have arrived: all that have.
    pub fn wait_for(&self, count: usize) -> Vec<Arrival> {
        wait_until(|| Some(self.arrivals()).filter(|arrivals| arrivals.len() >= count))
    }

    /// How many connections there have been, whatever became of them.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// The answer of a service that has taken a message.
pub fn ok() -> Reply {
    Reply::Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned())
}

fn encrypt(stream: TcpStream, config: Arc<ServerConfig>) -> impl Read + Write {
    StreamOwned::new(ServerConnection::new(config).unwrap(), stream)
}

fn serve(
    stream: impl Read + Write,
    arrivals: &Mutex<Vec<Arrival>>,
    reply: &(impl Fn(&Arrival, usize) -> Reply + ?Sized),
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let arrival = read_message(&mut stream)?;
        let number = {
            let mut arrivals = arrivals.lock().unwrap();
            arrivals.push(arrival.clone());
            arrivals.len() - 1
        };
        let writer = stream.get_mut();
        match reply(&arrival, number) {
            Reply::Send(bytes) => writer.write_all(bytes.as_bytes())?,
            Reply::SendAndClose(bytes) => return writer.write_all(bytes.as_bytes()),
            Reply::Reset => return Ok(()),
            Reply::Drip(bytes, interval) => {
                writer.write_all(bytes.as_bytes())?;
                loop {
                    writer.write_all(b"x")?;
                    thread::sleep(interval);
                }
            }
        }
    }
}

fn read_message(stream: &mut impl BufRead) -> io::Result<Arrival> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let arrival = Arrival { at: Instant::now(), head, body: String::new() };
    let length = arrival.headers("content-length").first().map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Arrival { body: String::from_utf8(body).unwrap(), ..arrival })
}

/// A URL at which nobody listens.
pub fn url_of_nobody(path: &str) -> String {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{address}{path}")
}

/// A server that notifies these channels, which may be on this machine.
pub fn start(channels: &[&str], further: &[&str]) -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    let server = start_in(directory.path(), channels, further);
    (directory, server)
}

/// The same in a directory.
pub fn start_in(directory: &Path, channels: &[&str], further: &[&str]) -> Consume {
    let mut arguments = vec!["--alert-allow-private"];
    channels.iter().for_each(|channel| arguments.extend(["--alert", channel]));
    Consume::start_with(directory, &[&arguments, further].concat())
}
