//! SIGTERM and SIGINT: what is begun is finished, and nothing else is begun.

use std::io;
use std::net::TcpStream;

use rustix::process::Signal;

use crate::util::http::{Connection, event};
use crate::util::http2::{END_STREAM, Frames};
use crate::util::{Consume, stored_events, wait_until};

use super::tls::Secured;
use super::{detail_of, start, stored};

/// Sends the head of a request and half of its body, and makes sure that the server has begun to read it.
fn begin_request(server: &Consume, body: &str) -> Connection {
    let mut connection = server.connect();
    let length = body.len();
    let head = format!(
        "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    connection.send(head.as_bytes()).unwrap();
    assert_eq!(connection.receive().unwrap().status, 100);
    connection.send(&body.as_bytes()[..length / 2]).unwrap();
    connection
}

fn wait_until_refusing(server: &Consume) {
    wait_until(|| {
        let refused = TcpStream::connect(server.address).err()?;
        (refused.kind() == io::ErrorKind::ConnectionRefused).then_some(())
    });
}

fn assert_finishes_after(signal: Signal) {
    let (directory, mut server) = start(&[]);
    let body = event("a", &"half ".repeat(1000));
    let mut connection = begin_request(&server, &body);
    server.process.signal(signal);
    wait_until_refusing(&server);
    connection.send(&body.as_bytes()[body.len() / 2..]).unwrap();
    let response = connection.receive().unwrap();
    assert_eq!(response.status, 201, "{response:?}");
    assert_eq!(response.header("connection"), Some("close"), "{response:?}");
    assert!(connection.is_closed());
    let status = server.process.wait();
    assert_eq!(status.code(), Some(0), "{}", server.process.stderr());
    assert!(!server.process.stderr().contains("cut"), "{}", server.process.stderr());
    assert_eq!(stored(&directory), [("a".to_owned(), "half ".repeat(1000))]);
}

#[test]
fn sigterm_lets_a_half_sent_request_finish() {
    assert_finishes_after(Signal::TERM);
}

#[test]
fn sigint_lets_a_half_sent_request_finish() {
    assert_finishes_after(Signal::INT);
}

#[test]
fn idle_connections_do_not_hold_up_the_drain() {
    let (_directory, mut server) = start(&["--drain-timeout", "1h", "--idle-timeout", "1h"]);
    let mut connections: Vec<Connection> = (0..10).map(|_| server.connect()).collect();
    for connection in &mut connections {
        assert_eq!(connection.get("/health").status, 200);
    }
    assert_eq!(server.process.terminate().code(), Some(0), "{}", server.process.stderr());
    for connection in &mut connections {
        assert!(connection.is_closed());
    }
}

#[test]
fn a_client_that_never_finishes_is_cut_at_the_drain_timeout() {
    let (directory, mut server) = start(&["--drain-timeout", "500ms", "--body-timeout", "1h"]);
    let mut connection = begin_request(&server, &event("a", "b"));
    assert_eq!(server.process.terminate().code(), Some(0), "{}", server.process.stderr());
    let stderr = server.process.stderr();
    assert!(stderr.contains("1 connections were cut: they did not end in time"), "{stderr}");
    assert!(connection.is_closed());
    assert_eq!(stored(&directory), []);
}

#[test]
fn a_second_signal_does_not_wait_for_clients() {
    let (_directory, mut server) = start(&["--drain-timeout", "1h", "--body-timeout", "1h"]);
    let _connection = begin_request(&server, &event("a", "b"));
    server.process.signal(Signal::TERM);
    wait_until_refusing(&server);
    server.process.signal(Signal::INT);
    assert_eq!(server.process.wait().code(), Some(0), "{}", server.process.stderr());
    assert!(server.process.stderr().contains("stopping at once"), "{}", server.process.stderr());
}

#[test]
fn in_its_lame_duck_time_a_service_serves_everything_and_is_not_ready() {
    let (directory, mut server) = start(&["--lame-duck", "1h"]);
    let mut open_before = server.connect();
    assert_eq!(open_before.get("/ready").status, 200);
    server.process.signal(Signal::TERM);
    let detail = wait_until(|| {
        let response = server.connect().get("/ready");
        (response.status != 200).then(|| detail_of(&response, 503))
    });
    assert_eq!(detail, "the service is stopping");
    for mut connection in [open_before, server.connect()] {
        let response = connection.post(event("a", "b"));
        assert_eq!((response.status, response.header("connection")), (201, Some("close")), "{response:?}");
        assert!(connection.is_closed());
    }
    assert_eq!(server.connect().get("/event").status, 200);
    // Whoever stops it again does not want to wait.
    assert_eq!(server.process.terminate().code(), Some(0), "{}", server.process.stderr());
    assert!(!server.process.stderr().contains("stopping at once"), "{}", server.process.stderr());
    assert_eq!(stored(&directory).len(), 2);
}

#[test]
fn a_lame_duck_sends_goaway_over_http_2() {
    let mut secured = Secured::start(&["--lame-duck", "1h"]);
    let get = [(":method", "GET"), (":scheme", "https"), (":path", "/event"), (":authority", "test")];
    let open = || Frames::open(&secured.client, secured.server.address);
    let mut open_before = open();
    open_before.send_head(1, END_STREAM, &get).unwrap();
    assert_eq!(open_before.outcome(1).status(), Some(200));
    secured.server.process.signal(Signal::TERM);
    assert_eq!(open_before.wait_for_end(), Some(0));
    let mut opened_after = open();
    opened_after.send_head(1, END_STREAM, &get).unwrap();
    assert_eq!(opened_after.outcome(1).status(), Some(200));
    assert_eq!(secured.server.process.terminate().code(), Some(0));
}

#[test]
fn the_lame_duck_time_is_over_by_itself() {
    let (_directory, mut server) = start(&["--lame-duck", "100ms"]);
    assert_eq!(server.process.terminate().code(), Some(0), "{}", server.process.stderr());
    assert!(server.process.stderr().contains("serving for another 100ms"), "{}", server.process.stderr());
}

#[test]
fn a_request_that_is_refused_while_draining_is_told_why() {
    let (_directory, mut server) = start(&[]);
    let mut connection = begin_request(&server, "xx");
    server.process.signal(Signal::TERM);
    wait_until_refusing(&server);
    connection.send(b"x").unwrap();
    detail_of(&connection.receive().unwrap(), 400);
    assert!(connection.is_closed());
    assert_eq!(server.process.wait().code(), Some(0));
}

#[test]
fn everything_acknowledged_before_the_signal_is_in_the_file() {
    let (directory, mut server) = start(&[]);
    let address = server.address;
    let clients: Vec<_> = (0..8)
        .map(|client| {
            std::thread::spawn(move || {
                let mut connection = Connection::open(address);
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let payload = format!("{client}/{number}");
                    let headers = [("Content-Type", "application/json")];
                    let body = event("a", &payload);
                    match connection.try_request("POST", "/event", &headers, body.as_bytes()) {
                        Ok(response) if response.status == 201 => acknowledged.push(payload),
                        _ => break,
                    }
                }
                acknowledged
            })
        })
        .collect();
    let database = directory.path().join("events.db");
    wait_until(|| (stored_events(&database).len() > 100).then_some(()));
    assert_eq!(server.process.terminate().code(), Some(0), "{}", server.process.stderr());
    let mut acknowledged: Vec<String> =
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let mut stored: Vec<String> = stored(&directory).into_iter().map(|(_, payload)| payload).collect();
    acknowledged.sort();
    stored.sort();
    // A drain cuts nobody: what was stored was acknowledged, too.
    assert_eq!(acknowledged, stored);
    // A closed store is one file.
    let names = std::fs::read_dir(directory.path()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["events.db"]);
}
