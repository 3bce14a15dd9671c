//! What streams cost those who write.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rusqlite::Connection;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tempfile::tempdir;

use crate::load::{Load, Server, throughput};
use crate::table::{Aim, Table};

/// How long one side of a pair runs.
const TIME: Duration = Duration::from_secs(3);

const READERS: usize = 100;

/// How long readers are left alone: what comes meanwhile waits in the kernel.
const PAUSE: Duration = Duration::from_millis(10);

/// How long the last events may take to reach all readers.
const PATIENCE: Duration = Duration::from_secs(30);

/// One event a request while a hundred clients follow, and while none does.
pub fn measure(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let followed = directory.path().join("followed.db");
    let streaming = Server::consume(&followed)?;
    let silent = Server::consume(&directory.path().join("silent.db"))?;
    let readers = Readers::open(streaming.address)?;
    let load = Load::event();
    table.compare(
        "one event a request, 64 connections, with 100 streams / without",
        "events/s",
        Aim::AtLeast(0.85),
        || {
            let rate = throughput(streaming.address, 64, &load, TIME)?;
            // What streams get later must not be taken from the other side of the pair.
            readers.wait_until_served(&followed, load.body.len())?;
            Ok(rate)
        },
        || throughput(silent.address, 64, &load, TIME),
    )?;
    readers.stop()
}

/// Clients on one thread that throw away what they get; in reality they would be elsewhere.
struct Readers {
    received: Arc<[AtomicU64]>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Readers {
    fn open(address: SocketAddr) -> anyhow::Result<Readers> {
        let streams = (0..READERS).map(|_| open_stream(address)).collect::<anyhow::Result<Vec<_>>>()?;
        let received: Arc<[AtomicU64]> = (0..READERS).map(|_| AtomicU64::new(0)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (counts, stopped) = (Arc::clone(&received), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 4 << 20];
            while !stopped.load(Ordering::Relaxed) {
                for (stream, count) in streams.iter().zip(counts.iter()) {
                    count.fetch_add(discard(stream, &mut buffer)?, Ordering::Relaxed);
                }
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        Ok(Readers { received, stop, thread })
    }

    /// Makes sure that each has got all events, each of at least so many bytes.
    fn wait_until_served(&self, database: &Path, event_bytes: usize) -> anyhow::Result<()> {
        let events: u64 =
            Connection::open(database)?.query_row("SELECT max(id) FROM events", [], |row| row.get(0))?;
        let least =
            || self.received.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap_or_default();
        let started = Instant::now();
        while least() < events * event_bytes as u64 {
            ensure!(started.elapsed() < PATIENCE, "a reader of {events} events got {} bytes alone", least());
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the readers have panicked"))?
    }
}

fn open_stream(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /event/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    ensure!(head == *b"HTTP/1.1 200", "no stream: {}", String::from_utf8_lossy(&head));
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Takes what there is from a socket, without copying it out of the kernel: how much it was.
fn discard(stream: &TcpStream, buffer: &mut [u8]) -> anyhow::Result<u64> {
    match recv(stream, &mut *buffer, RecvFlags::TRUNC) {
        Ok((_, length)) => {
            ensure!(length > 0, "a stream has ended");
            Ok(length as u64)
        }
        Err(Errno::AGAIN) => Ok(0),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error).context("cannot read a stream"),
    }
}
