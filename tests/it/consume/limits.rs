//! What bounds a server: connections, memory, time.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::util::http::{Connection, event};
use crate::util::wait_until;

use super::{detail_of, start, stored};

#[test]
fn connections_beyond_the_limit_are_503_until_there_is_room() {
    let (directory, server) = start(&["--max-connections", "2"]);
    let mut admitted = [server.connect(), server.connect()];
    for connection in &mut admitted {
        assert_eq!(connection.get("/health").status, 200);
    }
    let mut refused = server.connect();
    let response = refused.post_event("a", "b");
    detail_of(&response, 503);
    assert_eq!(response.header("retry-after"), Some("1"));
    assert!(refused.is_closed());
    let [mut remaining, leaving] = admitted;
    drop(leaving);
    wait_until(|| (server.connect().get("/health").status == 200).then_some(()));
    assert_eq!(remaining.get("/health").status, 200);
    assert_eq!(stored(&directory), []);
}

#[test]
fn a_body_without_room_in_memory_is_503_and_not_stored() {
    let (directory, server) = start(&["--queue-bytes", "1KiB"]);
    let large = event("a", &"x".repeat(2000));
    let announced = server.connect().post(&large);
    detail_of(&announced, 503);
    assert_eq!(announced.header("retry-after"), Some("1"));
    let mut connection = server.connect();
    let head = "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.send(format!("{head}{:x}\r\n{large}\r\n0\r\n\r\n", large.len()).as_bytes()).unwrap();
    let chunked = connection.receive().unwrap();
    detail_of(&chunked, 503);
    assert_eq!(chunked.header("retry-after"), Some("1"));
    assert_eq!(stored(&directory), []);
    // The room is given back: what fits is stored, any number of times.
    for _ in 0..20 {
        let post = || server.connect().post_event("a", &"x".repeat(900)).status;
        wait_until(|| (post() == 201).then_some(()));
    }
}

#[test]
fn bodies_that_are_not_read_to_their_end_give_their_room_back() {
    let (_directory, server) = start(&["--queue-bytes", "10KiB"]);
    let head = "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 9000\r\n\r\n";
    for _ in 0..3 {
        let mut connection = server.connect();
        connection.send(head.as_bytes()).unwrap();
        assert_eq!(connection.receive().unwrap().status, 100);
        // What is only announced takes no room.
        assert_eq!(server.connect().post(" ".repeat(9000)).status, 400);
        connection.send(" ".repeat(8999).as_bytes()).unwrap();
        // Small enough to come in one piece: it must not take the room while the other body comes.
        let refused = || server.connect().post(" ".repeat(1300));
        let refusal = wait_until(|| Some(refused()).filter(|response| response.status != 400));
        detail_of(&refusal, 503);
        drop(connection);
        // 400: there was room to read it.
        wait_until(|| (server.connect().post(" ".repeat(9000)).status == 400).then_some(()));
    }
}

#[test]
fn a_listing_without_room_in_memory_is_503() {
    let (_directory, server) = start(&["--queue-bytes", "2KiB"]);
    for _ in 0..4 {
        server.store("a", &"x".repeat(1000));
    }
    let response = server.connect().get("/event");
    detail_of(&response, 503);
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(server.connect().get("/event?limit=1").status, 200);
}

/// Asserts that a connection is closed without a response, and not before its time.
fn assert_closed_after(connection: &mut Connection, opened: Instant, limit: Duration) {
    assert!(connection.receive().is_err(), "a request that did not come was answered");
    assert!(connection.is_closed());
    assert!(opened.elapsed() >= limit, "closed after {:?}", opened.elapsed());
}

#[test]
fn a_silent_connection_is_closed_after_the_header_timeout() {
    let (_directory, server) = start(&["--header-timeout", "300ms"]);
    let opened = Instant::now();
    assert_closed_after(&mut server.connect(), opened, Duration::from_millis(300));
}

#[test]
fn a_head_that_trickles_has_no_more_time() {
    let (_directory, server) = start(&["--header-timeout", "300ms"]);
    let opened = Instant::now();
    let mut connection = server.connect();
    let mut trickle = connection.stream().try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            // Ends when the server closes the connection.
            let _ = trickle.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\nLong: ");
            while trickle.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        assert_closed_after(&mut connection, opened, Duration::from_millis(300));
        let _ = connection.stream().shutdown(std::net::Shutdown::Both);
    });
}

#[test]
fn a_second_head_that_trickles_has_no_more_time() {
    let (_directory, server) = start(&["--header-timeout", "300ms", "--idle-timeout", "1h"]);
    let mut connection = server.connect();
    assert_eq!(connection.get("/health").status, 200);
    let begun = Instant::now();
    connection.send(b"GET /hea").unwrap();
    assert_closed_after(&mut connection, begun, Duration::from_millis(300));
}

#[test]
fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let (_directory, server) = start(&["--idle-timeout", "300ms", "--header-timeout", "1h"]);
    let mut connection = server.connect();
    assert_eq!(connection.get("/health").status, 200);
    let before = Instant::now();
    assert_eq!(connection.get("/health").status, 200);
    assert!(connection.is_closed());
    assert!(before.elapsed() >= Duration::from_millis(300), "closed after {:?}", before.elapsed());
}

#[test]
fn a_response_that_is_not_read_does_not_keep_a_connection_for_ever() {
    let (_directory, server) = start(&["--idle-timeout", "300ms", "--max-connections", "1"]);
    let payload = "x".repeat(1_000_000);
    // One connection at a time: a place is free once the one before is seen to be closed.
    for _ in 0..4 {
        let stored = || server.connect().try_post_with_key("key", event("a", &payload));
        wait_until(|| stored().is_ok_and(|response| response.status == 201).then_some(()));
    }
    let mut unread = wait_until(|| {
        let mut connection = server.connect();
        (connection.get("/health").status == 200).then_some(connection)
    });
    for _ in 0..40 {
        if unread.send(b"GET /event HTTP/1.1\r\nHost: test\r\n\r\n").is_err() {
            break;
        }
    }
    wait_until(|| (server.connect().get("/health").status == 200).then_some(()));
}

#[test]
fn a_thousand_connections_that_come_and_go_leave_room() {
    let (_directory, server) = start(&["--max-connections", "8"]);
    for number in 0..1000 {
        let mut connection = server.connect();
        match number % 3 {
            0 => drop(connection),
            1 => connection.send(b"POST /event HTTP/1.1\r\nHost: te").unwrap(),
            _ => connection.send(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n").unwrap(),
        }
    }
    wait_until(|| {
        let mut connections: Vec<Connection> = (0..8).map(|_| server.connect()).collect();
        let mut served = connections.iter_mut().map(|connection| {
            let response = connection.try_request("GET", "/health", &[], b"");
            response.is_ok_and(|response| response.status == 200)
        });
        served.all(|served| served).then_some(())
    });
}

#[test]
fn an_address_has_so_many_connections_and_another_has_its_own() {
    let (directory, server) = start(&["--max-connections-per-address", "2"]);
    let mut admitted = [server.connect(), server.connect()];
    for connection in &mut admitted {
        assert_eq!(connection.get("/health").status, 200);
    }
    let mut refused = server.connect();
    let response = refused.post_event("a", "b");
    assert_eq!(detail_of(&response, 503), "too many connections: not stored");
    assert_eq!(response.header("retry-after"), Some("1"));
    assert!(refused.is_closed());
    let mut elsewhere = [server.connect_from([127, 0, 0, 2]), server.connect_from([127, 0, 0, 2])];
    for connection in &mut elsewhere {
        assert_eq!(connection.get("/health").status, 200);
    }
    assert_eq!(server.connect_from([127, 0, 0, 2]).get("/health").status, 503);
    let [mut remaining, leaving] = admitted;
    drop(leaving);
    wait_until(|| (server.connect().get("/health").status == 200).then_some(()));
    assert_eq!(remaining.get("/health").status, 200);
    assert_eq!(stored(&directory), []);
}

#[test]
fn an_address_with_too_many_connections_keeps_no_other_waiting() {
    let (_directory, server) = start(&["--max-connections-per-address", "1", "--header-timeout", "1h"]);
    let mut admitted = server.connect();
    assert_eq!(admitted.get("/health").status, 200);
    let mut silent: Vec<Connection> = (0..200).map(|_| server.connect()).collect();
    // Accepted behind all of them, and long before any of them has to go.
    let mut elsewhere = server.connect_from([127, 0, 0, 2]);
    assert_eq!(elsewhere.post_event("a", "b").status, 201);
    assert_eq!(admitted.get("/health").status, 200);
    // Those that are beyond all measure are closed at once.
    assert!(silent.last_mut().unwrap().is_closed());
    drop(silent);
    assert_eq!(elsewhere.get("/health").status, 200);
}
