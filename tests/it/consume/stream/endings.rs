//! When streams end, and when they do not.

use std::time::Instant;

use rustix::process::Signal;

use crate::util::sse::{Block, EventStream};
use crate::util::{Consume, wait_until};

use super::super::tls::Secured;
use super::super::{detail_of, open_store, start};
use super::readers::store_some;
use super::{resume, stream};

/// Asserts that so many streams are open, soon.
fn wait_for_streams(server: &Consume, count: usize) {
    let line = format!("eventctl_event_streams {count}\n");
    wait_until(|| server.connect().get("/metrics").text().contains(&line).then_some(()));
}

#[test]
fn an_idle_stream_outlives_every_timeout_by_its_heartbeats() {
    let (_directory, server) =
        start(&["--idle-timeout", "300ms", "--response-timeout", "300ms", "--header-timeout", "300ms"]);
    let mut stream = stream(&server, "");
    while stream.heartbeats < 12 {
        assert_eq!(stream.block().data, None);
    }
    server.store("a", "b");
    assert_eq!(stream.payloads(1), ["b"]);
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let (_directory, server) = start(&["--idle-timeout", "1s"]);
    let mut deaf = stream(&server, "");
    let mut reading = stream(&server, "");
    wait_for_streams(&server, 2);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| reading.payloads(30_000).len());
        store_some(&server, 30_000, 1000);
        assert_eq!(reader.join().unwrap(), 30_000);
        // Whoever reads keeps the stream while the other loses it.
        wait_for_streams(&server, 1);
    });
    while let Ok(Some(_)) = deaf.try_block() {}
    server.store("a", "after");
    assert_eq!(reading.payloads(1), ["after"]);
}

#[test]
fn a_client_of_http_2_that_does_not_read_is_cut() {
    let secured = Secured::start(&["--idle-timeout", "1s"]);
    let mut connection = secured.http2();
    let _body = connection.open_stream("/event/stream").into_body();
    let metrics = || secured.http1().get("/metrics").text();
    wait_until(|| metrics().contains("eventctl_event_streams 1\n").then_some(()));
    let events: Vec<_> =
        (0..500).map(|_| serde_json::json!({"event_type": "a", "event_payload": "x".repeat(1000)})).collect();
    for _ in 0..20 {
        let headers = [("Content-Type", "application/json")];
        let body = serde_json::to_vec(&events).unwrap();
        assert_eq!(secured.http1().request("POST", "/event", &headers, &body).status, 201);
    }
    wait_until(|| metrics().contains("eventctl_event_streams 0\n").then_some(()));
}

#[test]
fn streams_end_cleanly_with_the_service() {
    let (_directory, mut server) = start(&["--drain-timeout", "1h", "--idle-timeout", "1h"]);
    let mut streams: Vec<EventStream> = (0..3).map(|_| stream(&server, "")).collect();
    server.store("a", "b");
    for stream in &mut streams {
        assert_eq!(stream.payloads(1), ["b"]);
    }
    server.process.signal(Signal::TERM);
    for stream in &mut streams {
        assert_eq!(stream.try_event().unwrap(), None);
    }
    assert_eq!(server.process.wait().code(), Some(0), "{}", server.process.stderr());
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_the_drain() {
    let (_directory, mut server) = start(&["--drain-timeout", "1h", "--idle-timeout", "1h"]);
    let _deaf = stream(&server, "");
    store_some(&server, 20_000, 1000);
    assert_eq!(server.process.terminate().code(), Some(0), "{}", server.process.stderr());
}

#[test]
fn a_client_that_does_not_read_over_http_2_does_not_hold_up_the_drain() {
    let mut secured = Secured::start(&["--drain-timeout", "1h", "--idle-timeout", "1h"]);
    let mut deaf = secured.http2();
    let _unread = deaf.open_stream("/event/stream");
    let mut connection = secured.http2();
    for _ in 0..20 {
        assert_eq!(connection.post_event("a", &"x".repeat(100_000)).status, 201);
    }
    assert_eq!(secured.server.process.terminate().code(), Some(0), "{}", secured.server.process.stderr());
}

#[test]
fn streams_of_one_http_2_connection_have_the_same_events_and_end_with_the_service() {
    let mut secured = Secured::start(&["--drain-timeout", "1h"]);
    let mut connection = secured.http2();
    let mut bodies: Vec<_> = (0..5).map(|_| connection.open_stream("/event/stream").into_body()).collect();
    assert_eq!(connection.post_event("a", "b").status, 201);
    for body in &mut bodies {
        let mut text = String::new();
        while !text.contains("\"b\"") {
            text += str::from_utf8(&connection.read_some(body).unwrap().unwrap()).unwrap();
        }
        assert!(text.contains("\n\nid: 1\ndata: {\"id\":1,"), "{text}");
    }
    secured.server.process.signal(Signal::TERM);
    for body in &mut bodies {
        while connection.read_some(body).unwrap().is_some() {}
    }
    assert_eq!(secured.server.process.wait().code(), Some(0), "{}", secured.server.process.stderr());
}

#[test]
fn a_stream_waits_for_a_store_that_fails_and_goes_on() {
    let (directory, mut server) = start(&["--idle-timeout", "900ms"]);
    let mut stream = stream(&server, "");
    server.store("a", "1");
    assert_eq!(stream.payloads(1), ["1"]);
    let store = open_store(directory.path());
    store.execute_batch("ALTER TABLE events RENAME TO elsewhere").unwrap();
    server.process.wait_for_stderr("event streams are paused");
    let heartbeats = stream.heartbeats + 3;
    while stream.heartbeats < heartbeats {
        assert_eq!(stream.block().data, None);
    }
    detail_of(&server.connect().get("/event/stream"), 503);
    store.execute_batch("ALTER TABLE elsewhere RENAME TO events").unwrap();
    store
        .execute_batch("INSERT INTO events (received_at, event_type, event_payload) VALUES (1, 'a', '2')")
        .unwrap();
    assert_eq!(stream.payloads(1), ["2"]);
    assert_eq!(resume(&server, "1", "").payloads(1), ["2"]);
}

#[test]
fn a_position_that_the_store_has_not_reached_is_of_another_store() {
    let (_directory, server) = start(&[]);
    server.store("a", "1");
    server.store("a", "2");
    let mut stream = resume(&server, "1000", "");
    let begin = Block { id: Some("0".to_owned()), retry: Some("1000".to_owned()), ..Block::default() };
    assert_eq!(stream.block(), begin);
    assert_eq!(stream.payloads(2), ["1", "2"]);
    server.store("a", "3");
    assert_eq!(stream.payloads(1), ["3"]);
}

#[test]
fn a_store_that_falls_back_while_it_is_followed_is_read_from_its_beginning() {
    let (directory, server) = start(&[]);
    for number in 1..=5 {
        server.store("a", &number.to_string());
    }
    let mut stream = stream(&server, "?after=3");
    assert_eq!(stream.payloads(2), ["4", "5"]);
    let restore = "DELETE FROM events WHERE id > 2; UPDATE sqlite_sequence SET seq = 2 WHERE name = 'events'";
    open_store(directory.path()).execute_batch(restore).unwrap();
    assert_eq!(stream.payloads(2), ["1", "2"]);
}

#[test]
fn a_store_that_has_forgotten_everything_is_still_the_same() {
    let (directory, server) = start(&["--idle-timeout", "600ms"]);
    server.store("a", "1");
    server.store("a", "2");
    let mut stream = stream(&server, "?after=0");
    assert_eq!(stream.payloads(2), ["1", "2"]);
    open_store(directory.path()).execute_batch("DELETE FROM events").unwrap();
    let heartbeats = stream.heartbeats + 2;
    while stream.heartbeats < heartbeats {
        assert_eq!(stream.block().data, None);
    }
    server.store("a", "3");
    let event = stream.event();
    assert_eq!((event["id"].as_i64(), event["event_payload"].as_str()), (Some(3), Some("3")));
}

#[test]
fn streams_beyond_the_limit_are_refused_until_one_ends() {
    super::super::slow::raise_file_limit();
    let (_directory, server) = start(&["--idle-timeout", "3s"]);
    let mut streams: Vec<EventStream> = (0..1024).map(|_| stream(&server, "")).collect();
    let response = server.connect().get("/event/stream");
    detail_of(&response, 503);
    assert!(response.header("retry-after").is_some(), "{response:?}");
    // Events are stored, and listed, all the same.
    server.store("a", "b");
    assert_eq!(server.connect().get("/event").json()[0]["event_payload"], "b");
    assert_eq!(streams[1023].payloads(1), ["b"]);
    drop(streams.split_off(1000));
    let begun = Instant::now();
    wait_until(|| (server.connect().request("HEAD", "/event/stream", &[], b"").status == 200).then_some(()));
    wait_until(|| {
        let mut connection = server.connect();
        let response = connection.request("GET", "/event/stream", &[], b"");
        (response.status == 200).then_some(())
    });
    println!("another stream was taken after {:?}", begun.elapsed());
}
