//! Byte streams as friends, strangers and attackers send them, and what comes of each.
//!
//! A stream is sent twice, at once and in pieces, for how it is cut must not matter; a few for which it does
//! are sent at once. What a row says is exact: every status in its order, whether the connection then serves
//! another request or is closed, and which of its events are stored. The servers have no deadline that could
//! close a connection instead, but for those of [`late`].

mod chunks;
mod found;
mod headers;
mod late;
mod lengths;
mod pipelines;
mod request_lines;
mod strangers;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use crate::util::Consume;
use crate::util::http::event;

use super::{assert_lives, start, statuses_in, stored};

/// A byte stream and what must come of it.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// What [`expand`] makes bytes of.
    stream: &'static [u8],
    outcome: Outcome,
}

const fn case(name: &'static str, stream: &'static [u8], outcome: Outcome) -> Case {
    Case { name, stream, outcome }
}

#[derive(Debug, Clone, Copy)]
struct Outcome {
    statuses: &'static [u16],
    end: End,
    /// The types of the events that are stored, in their order.
    stored: &'static [&'static str],
}

/// What has become of a connection when all is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It serves another request.
    Open,
    /// It is closed, and the client that still writes has seen every answer.
    Closed,
    Reset,
    /// It neither answers nor ends.
    Silent,
}

const fn open(statuses: &'static [u16]) -> Outcome {
    Outcome { statuses, end: End::Open, stored: &[] }
}

const fn closed(statuses: &'static [u16]) -> Outcome {
    Outcome { statuses, end: End::Closed, stored: &[] }
}

impl Outcome {
    const fn storing(self, stored: &'static [&'static str]) -> Outcome {
        Outcome { stored, ..self }
    }

    fn is(&self, statuses: &[u16], end: End, stored: &[String]) -> bool {
        self.end == end && self.statuses == statuses && self.stored == stored
    }
}

/// The event is stored, and the connection goes on.
const STORED: Outcome = open(&[201]).storing(&["event"]);

/// The event is stored, and nothing that follows is looked at.
const LAST: Outcome = closed(&[201]).storing(&["event"]);

/// Nothing is stored, and nothing that follows is looked at.
const REFUSED: Outcome = closed(&[400]);

/// The bytes of a stream: [`word`] for what stands in braces, and the rest as it is.
fn expand(stream: &[u8], name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = stream;
    while let Some(start) = rest.iter().position(|byte| *byte == b'{') {
        let end = rest.iter().position(|byte| *byte == b'}').expect("a brace that opens is closed");
        bytes.extend(&rest[..start]);
        bytes.extend(word(str::from_utf8(&rest[start + 1..end]).unwrap(), name).into_bytes());
        rest = &rest[end + 1..];
    }
    bytes.extend(rest);
    bytes
}

/// What is too long to be read in a row; `{x*3}` is `xxx`.
///
/// `{event}` is a body of 100 bytes, 64 in hexadecimal. `{next}` and `{hidden}` are whole requests of 189
/// bytes that store an event of that type: one that follows, and one that must never be answered.
/// Payloads are the name of their case.
fn word(word: &str, name: &str) -> String {
    match word {
        "get" => "GET /health HTTP/1.1\r\nHost: test\r\n".to_owned(),
        "post" => format!("POST /event HTTP/1.1\r\nHost: test\r\n{JSON}"),
        "chunked" => {
            format!("POST /event HTTP/1.1\r\nHost: test\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n")
        }
        "host" => "Host: test\r\n".to_owned(),
        "cl" => "Content-Length".to_owned(),
        "te" => "Transfer-Encoding".to_owned(),
        "expect" => "Expect: 100-continue\r\n".to_owned(),
        "upgrade" => "Connection: Upgrade\r\nUpgrade:".to_owned(),
        "event" => body("event", name),
        "json" => JSON.to_owned(),
        "sized" => format!("{JSON}Content-Length: 100\r\n\r\n{}", body("event", name)),
        "chunks" => format!("64\r\n{}\r\n0\r\n\r\n", body("event", name)),
        "next" | "hidden" => {
            let head = "POST /event HTTP/1.1\r\nHost: test\r\n";
            format!("{head}{JSON}Content-Length: 100\r\n\r\n{}", body(word, name))
        }
        _ => {
            let (text, times) = word.rsplit_once('*').expect("a word that is known");
            text.repeat(times.parse().unwrap())
        }
    }
}

/// What announces every event.
const JSON: &str = "Content-Type: application/json\r\n";

fn body(event_type: &str, name: &str) -> String {
    let body = format!("{:<100}", event(event_type, name));
    assert_eq!(body.len(), 100, "a shorter name: {name}");
    body
}

/// At the end of a stream: the client shuts its side of the connection.
const SHUT: &[u8] = b"{shut}";

/// A request that shows that a connection is open, and ends it.
const PROBE: &[u8] = b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// Whether a stream is sent by one write or by many.
#[derive(Debug, Clone, Copy)]
enum Delivery {
    Whole,
    InPieces,
}

/// For a server that closes no connection because of the time.
const PATIENT: [&str; 6] = ["--header-timeout", "1h", "--body-timeout", "1h", "--idle-timeout", "1h"];

/// Sends the streams in both ways to patient servers with further arguments.
fn assert_outcomes(arguments: &[&str], cases: &[Case]) {
    for delivery in [Delivery::Whole, Delivery::InPieces] {
        assert_delivery(delivery, &[&PATIENT, arguments].concat(), cases);
    }
}

/// Sends the streams to a server with these arguments, each on a connection of its own and all at once.
fn assert_delivery(delivery: Delivery, arguments: &[&str], cases: &[Case]) {
    let (directory, server) = start(arguments);
    let seen: Vec<(Vec<u16>, End)> = thread::scope(|scope| {
        let server = &server;
        let spawn = |case| scope.spawn(move || exchange(server, case, delivery));
        let exchanges: Vec<_> = cases.iter().map(spawn).collect();
        exchanges.into_iter().map(|exchange| exchange.join().unwrap()).collect()
    });
    // It stores an event behind all others, answered or not.
    assert_lives(&server);
    let mut events: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (event_type, name) in stored(&directory) {
        events.entry(name).or_default().push(event_type);
    }
    let mut failures = String::new();
    for (Case { name, outcome, .. }, (statuses, end)) in cases.iter().zip(seen) {
        let stored = events.remove(*name).unwrap_or_default();
        if !outcome.is(&statuses, end, &stored) {
            failures += &format!("\n`{name}`: {outcome:?}, but got {statuses:?}, {end:?}, {stored:?}");
        }
    }
    assert!(failures.is_empty(), "sent {delivery:?}:{failures}");
    assert_eq!(events.into_values().collect::<Vec<_>>(), [["good"]]);
}

/// Sends a stream: the statuses of its answers, and what becomes of the connection.
fn exchange(server: &Consume, case: &Case, delivery: Delivery) -> (Vec<u16>, End) {
    let connection = server.connect();
    let mut stream = connection.stream();
    let sent = send(stream, case, delivery);
    let (mut answers, mut buffer) = (Vec::new(), [0; 4096]);
    let mut probed = false;
    loop {
        let mut statuses = statuses_in(&answers);
        if case.outcome.end == End::Open && !probed && statuses.len() >= case.outcome.statuses.len() {
            let _ = stream.write_all(PROBE);
            probed = true;
        }
        let end = match stream.read(&mut buffer) {
            // A reset is told but once: to a write, or to a read.
            Ok(0) if sent.is_err() => End::Reset,
            Ok(0) if probed && statuses.last() == Some(&200) => {
                statuses.pop();
                End::Open
            }
            Ok(0) => End::Closed,
            Ok(length) => {
                answers.extend(&buffer[..length]);
                continue;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => End::Silent,
            Err(_) => End::Reset,
        };
        return (statuses, end);
    }
}

fn send(mut stream: &TcpStream, case: &Case, delivery: Delivery) -> std::io::Result<()> {
    let shut = case.stream.strip_suffix(SHUT);
    let bytes = expand(shut.unwrap_or(case.stream), case.name);
    let piece_length = match delivery {
        Delivery::Whole => bytes.len().max(1),
        Delivery::InPieces => bytes.len().div_ceil(1000).max(1),
    };
    for piece in bytes.chunks(piece_length) {
        stream.write_all(piece)?;
    }
    if shut.is_some() { stream.shutdown(Shutdown::Write) } else { Ok(()) }
}

#[test]
fn request_lines() {
    assert_outcomes(&[], request_lines::CASES);
}

#[test]
fn long_request_lines() {
    assert_outcomes(&["--header-limit", "1MiB"], request_lines::LONG);
}

#[test]
fn hosts() {
    assert_outcomes(&[], headers::HOSTS);
}

#[test]
fn header_names_and_values() {
    assert_outcomes(&[], headers::NAMES_AND_VALUES);
}

#[test]
fn heads_beyond_the_limits() {
    assert_outcomes(&["--header-limit", "8KiB"], headers::LIMITS);
}

#[test]
fn content_lengths() {
    assert_outcomes(&[], lengths::CONTENT_LENGTHS);
}

#[test]
fn transfer_encodings() {
    assert_outcomes(&[], lengths::TRANSFER_ENCODINGS);
}

#[test]
fn both_lengths() {
    assert_outcomes(&[], lengths::BOTH);
}

#[test]
fn chunk_sizes() {
    assert_outcomes(&[], chunks::SIZES);
}

#[test]
fn chunk_extensions() {
    assert_outcomes(&[], chunks::EXTENSIONS);
}

#[test]
fn chunk_ends_and_trailers() {
    assert_outcomes(&[], chunks::ENDS);
}

#[test]
fn pipelines() {
    assert_outcomes(&[], pipelines::PIPELINES);
}

#[test]
fn hidden_requests() {
    assert_outcomes(&[], pipelines::HIDDEN);
}

#[test]
fn half_closed_connections() {
    assert_outcomes(&[], late::SHUT);
}

#[test]
fn streams_that_stop() {
    let limits = ["--header-timeout", "2s", "--body-timeout", "2s", "--idle-timeout", "2s"];
    assert_delivery(Delivery::Whole, &limits, late::STOPPED);
}

#[test]
fn other_protocols() {
    assert_delivery(Delivery::Whole, &PATIENT, strangers::PROTOCOLS);
}

#[test]
fn prefaces_and_tunnels() {
    assert_delivery(Delivery::Whole, &PATIENT, strangers::AT_ONCE);
}

#[test]
fn expectations_and_upgrades() {
    assert_outcomes(&[], strangers::EXPECTATIONS_AND_UPGRADES);
}

#[test]
fn hosts_that_are_none() {
    assert_outcomes(&[], found::HOSTS);
}

#[test]
fn unknown_codings() {
    assert_outcomes(&[], found::CODINGS);
}

#[test]
fn half_closed_behind_a_request() {
    assert_outcomes(&[], found::SHUT);
}

#[test]
fn heads_of_a_little_more_than_the_limit() {
    assert_outcomes(&[], found::HEADS);
}

#[test]
fn answers_to_a_client_that_still_writes() {
    assert_outcomes(&[], found::RESETS);
}
