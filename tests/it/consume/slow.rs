//! Thousands of clients that take their time, and one that does not.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::util::{Consume, PATIENCE, wait_until};

use super::{assert_lives, start, statuses_in, stored};

/// Slow connections of each kind.
const CONNECTIONS: usize = 667;

/// Connections that may wait to be accepted.
const QUEUE: usize = 100;

/// How many files the test needs, with room for the tests beside it.
const FILES: u64 = 8192;

/// The most memory that the server may ever have had, in KiB.
const MEMORY_LIMIT_KIB: usize = 160 << 10;

/// The statuses of a connection that is closed without an answer.
const UNANSWERED: [u16; 0] = [];

/// A connection that sends a byte now and then.
struct SlowConnection {
    stream: TcpStream,
    answer: Vec<u8>,
    is_open: bool,
}

impl SlowConnection {
    /// Opens many of them, no more at a time than the system's queue takes without making them wait.
    fn open_many(server: &Consume, beginning: &str) -> Vec<SlowConnection> {
        let before = open_files(server);
        let open = |number| {
            if number % QUEUE == 0 {
                wait_until(|| (open_files(server) >= before + number).then_some(()));
            }
            SlowConnection::open(server, beginning)
        };
        (0..CONNECTIONS).map(open).collect()
    }

    fn open(server: &Consume, beginning: &str) -> SlowConnection {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(beginning.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        SlowConnection { stream, answer: Vec::new(), is_open: true }
    }

    /// Reads what there is, and sends some more where nothing is answered.
    fn advance(&mut self, more: &[u8]) {
        let mut buffer = [0; 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.is_open = false,
            Ok(length) => self.answer.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.answer.is_empty() => {
                // That the server has closed the connection is seen when it is read.
                let _ = self.stream.write(more);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.is_open = false,
        }
    }
}

/// Keeps connections going until the server has ended them all: the different answers that they got.
fn trickle(connections: &mut [SlowConnection], more: &[u8]) -> Vec<Vec<u16>> {
    let started = Instant::now();
    while connections.iter().any(|connection| connection.is_open) {
        assert!(started.elapsed() < PATIENCE, "a slow connection is served for ever");
        connections.iter_mut().filter(|connection| connection.is_open).for_each(|open| open.advance(more));
        thread::sleep(Duration::from_millis(200));
    }
    let mut answers: Vec<_> = connections.iter().map(|connection| statuses_in(&connection.answer)).collect();
    answers.sort();
    answers.dedup();
    answers
}

/// Lets this process open as many files as the test needs.
pub fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < FILES) {
        let raised = maximum.map_or(FILES, |maximum| maximum.min(FILES));
        setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }).unwrap();
    }
}

/// The most memory that a server has had, in KiB.
pub fn peak_memory_kib(server: &Consume) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn open_files(server: &Consume) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.process.pid())).unwrap().count()
}

#[test]
fn two_thousand_slow_clients_do_not_keep_others_waiting() {
    raise_file_limit();
    let (directory, server) = start(&["--header-timeout", "5s", "--body-timeout", "5s"]);
    let head = "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nSlow: ";
    let body = "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n\r\n";
    let [mut heads, mut bodies, mut silent] =
        [head, body, ""].map(|beginning| SlowConnection::open_many(&server, beginning));
    wait_until(|| (open_files(&server) > 3 * CONNECTIONS).then_some(()));
    let (over, mut posted) = (AtomicBool::new(false), 0);
    thread::scope(|scope| {
        let heads = scope.spawn(|| trickle(&mut heads, b"x"));
        let bodies = scope.spawn(|| trickle(&mut bodies, b" "));
        let silent = scope.spawn(|| trickle(&mut silent, b""));
        let posts = scope.spawn(|| {
            let mut connection = server.connect();
            while !over.load(Ordering::Relaxed) {
                let response = connection.post_event("a", &posted.to_string());
                assert_eq!(response.status, 201, "{response:?}");
                posted += 1;
            }
        });
        let [heads, bodies, silent] = [heads, bodies, silent].map(ScopedJoinHandle::join);
        over.store(true, Ordering::Relaxed);
        posts.join().unwrap();
        assert_eq!(heads.unwrap(), [UNANSWERED]);
        assert_eq!(bodies.unwrap(), [[408]]);
        assert_eq!(silent.unwrap(), [UNANSWERED]);
    });
    let expected: Vec<_> = (0..posted).map(|number| ("a".to_owned(), number.to_string())).collect();
    assert_eq!(stored(&directory), expected);
    let peak = peak_memory_kib(&server);
    assert!(peak < MEMORY_LIMIT_KIB, "{peak} KiB");
    assert_lives(&server);
}

/// Asserts that a server takes no more than 4 MiB for these pieces of a body that is no event.
fn assert_small(framing: &str, pieces: &[u8], piece_length: usize, pause: Duration) {
    let (_directory, server) = start(&["--queue-bytes", "1MiB", "--body-timeout", "1h"]);
    assert_lives(&server);
    let before = peak_memory_kib(&server);
    let mut connection = server.connect();
    connection
        .send(
            format!(
                "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
            )
            .as_bytes(),
        )
        .unwrap();
    for piece in pieces.chunks(piece_length) {
        connection.send(piece).unwrap();
        thread::sleep(pause);
    }
    assert_eq!(connection.receive().unwrap().status, 400);
    let taken = peak_memory_kib(&server) - before;
    assert!(taken < 4 << 10, "{taken} KiB for a body in {} pieces", pieces.len() / piece_length);
}

#[test]
fn a_body_in_small_chunks_takes_no_more_than_its_room() {
    let chunks = "1\r\n \r\n".repeat(200_000) + "0\r\n\r\n";
    assert_small("Transfer-Encoding: chunked", chunks.as_bytes(), 64 << 10, Duration::ZERO);
}

#[test]
fn a_body_in_small_packets_takes_no_more_than_its_room() {
    assert_small("Content-Length: 5000", &[b' '; 5000], 1, Duration::from_micros(200));
}
