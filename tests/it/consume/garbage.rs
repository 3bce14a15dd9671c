//! Any bytes end in a 4xx or a closed connection, and the server lives on.

use std::io::{Read, Write};
use std::net::Shutdown;

use fastrand::Rng;

use crate::util::Consume;
use crate::util::http::event;
use crate::util::random;

use super::{assert_lives, start, statuses_in, stored};

/// The statuses of all that the server answers to some bytes, up to the end of the connection.
fn statuses_of(server: &Consume, bytes: &[u8]) -> Vec<u16> {
    let connection = server.connect();
    let mut stream = connection.stream();
    // The server may have closed the connection after the first half.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "hangs: {bytes:?}"),
    }
    statuses_in(&answer)
}

#[test]
fn random_bytes_end_in_a_4xx_or_a_closed_connection() {
    let (directory, server) = start(&[]);
    let mut random = random();
    for _ in 0..200 {
        let length = random.usize(0..4000);
        let alphabet = random.choice([&b"\r\n :/\0HTP1.GET"[..], &[]]).unwrap();
        let byte = |random: &mut Rng| random.choice(alphabet).copied().unwrap_or_else(|| random.u8(..));
        let bytes: Vec<u8> = (0..length).map(|_| byte(&mut random)).collect();
        let statuses = statuses_of(&server, &bytes);
        assert!(statuses.iter().all(|status| (400..500).contains(status)), "{statuses:?} to {bytes:?}");
    }
    assert_eq!(stored(&directory), []);
    assert_lives(&server);
}

#[test]
fn mutated_requests_are_never_a_5xx() {
    let (_directory, server) = start(&[]);
    let mut random = random();
    let body = event("message", "hello");
    let length = body.len();
    let requests = [
        format!(
            "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
        format!(
            "POST /event HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        ),
        format!(
            "POST /event HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Type: application/x-ndjson\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
        "GET /event?after=0&limit=5&type=m*&since=1h HTTP/1.1\r\nHost: test\r\nAccept: */*\r\n\r\n"
            .to_owned(),
        "GET /event/1 HTTP/1.1\r\nHost: test\r\nConnection: keep-alive\r\n\r\n".to_owned(),
        "HEAD /ready HTTP/1.0\r\nExpect: 100-continue\r\nUpgrade: h2c\r\n\r\n".to_owned(),
    ];
    for _ in 0..400 {
        let mut bytes = random.choice(&requests).unwrap().clone().into_bytes();
        for _ in 0..random.usize(1..6) {
            mutate(&mut random, &mut bytes);
        }
        let statuses = statuses_of(&server, &bytes);
        let text = String::from_utf8_lossy(&bytes);
        assert!(statuses.iter().all(|status| *status < 500), "{statuses:?} to {text:?}");
    }
    assert_lives(&server);
}

fn mutate(random: &mut Rng, bytes: &mut Vec<u8>) {
    let at = random.usize(0..=bytes.len());
    let end = (at + random.usize(1..20)).min(bytes.len());
    match random.u8(0..6) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.u8(..)),
        2 => drop(bytes.drain(at..end)),
        3 => bytes.extend_from_within(at..end),
        4 => drop(bytes.splice(at..at, *b"\r\n\r\n")),
        _ if at < bytes.len() => bytes[at] = random.u8(..),
        _ => {}
    }
}
