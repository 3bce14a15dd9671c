//! `GET /event/stream`: each event once, in order, whatever happens to reader, server and store.

mod endings;
mod readers;

use std::thread;

use serde_json::json;

use crate::util::http::event;
use crate::util::sse::{Block, EventStream};
use crate::util::{Consume, stored_events};

use super::{detail_of, start};

fn stream(server: &Consume, query: &str) -> EventStream {
    EventStream::open(server.connect(), query, &[])
}

/// A stream that goes on behind an id.
fn resume(server: &Consume, last_event_id: &str, query: &str) -> EventStream {
    EventStream::open(server.connect(), query, &[("Last-Event-ID", last_event_id)])
}

#[test]
fn a_stream_tells_at_once_that_it_is_open_and_where_it_begins() {
    let (_directory, server) = start(&[]);
    server.store("a", "before");
    let mut stream = stream(&server, "");
    assert_eq!(stream.response.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.response.header("cache-control"), Some("no-store"));
    assert_eq!(stream.response.header("x-accel-buffering"), Some("no"));
    assert_eq!(stream.response.header("content-length"), None);
    let begin = Block { id: Some("1".to_owned()), retry: Some("1000".to_owned()), ..Block::default() };
    assert_eq!(stream.block(), begin);
}

#[test]
fn an_event_is_the_one_that_the_list_shows() {
    let (_directory, server) = start(&[]);
    let mut stream = stream(&server, "");
    let payload = "line\nline\r\u{2028}\u{0}\"id: 7\n\ndata: x".replace('\0', "");
    server.store("ä b", &payload);
    let event = stream.event();
    assert_eq!(event, server.connect().get("/event").json()[0]);
    assert_eq!(event["event_payload"], payload);
}

#[test]
fn without_a_position_a_stream_has_what_is_stored_from_now_on() {
    let (_directory, server) = start(&[]);
    server.store("a", "before");
    let mut stream = stream(&server, "");
    server.store("a", "after");
    assert_eq!(stream.payloads(1), ["after"]);
}

#[test]
fn a_stream_goes_on_behind_a_position() {
    let (_directory, server) = start(&[]);
    for number in 1..=5 {
        server.store("a", &number.to_string());
    }
    assert_eq!(stream(&server, "?after=3").payloads(2), ["4", "5"]);
    assert_eq!(stream(&server, "?after=0").payloads(5).len(), 5);
    // The header is the newer of the two: a client that comes again repeats its first URL.
    assert_eq!(resume(&server, "4", "?after=1").payloads(1), ["5"]);
}

#[test]
fn history_and_news_are_one_stream() {
    let (_directory, server) = start(&[]);
    let events: Vec<_> = (1..=3000)
        .map(|number: i32| json!({"event_type": "a", "event_payload": number.to_string()}))
        .collect();
    assert_eq!(server.connect().post(json!(events).to_string()).status, 201);
    let mut stream = stream(&server, "?after=0");
    assert_eq!(stream.payloads(10).last().unwrap(), "10");
    server.store("a", "3001");
    let rest = stream.payloads(2991);
    assert_eq!((rest[0].as_str(), rest[2990].as_str()), ("11", "3001"));
}

#[test]
fn many_readers_have_all_events_of_many_writers_in_order() {
    const WRITERS: usize = 8;
    const EVENTS: usize = 150;
    let (directory, server) = start(&[]);
    let mut streams: Vec<_> = (0..20).map(|_| stream(&server, "")).collect();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let server = &server;
            scope.spawn(move || {
                let mut connection = server.connect();
                for number in 0..EVENTS {
                    let response = connection.post(event("a", &format!("{writer}/{number}")));
                    assert_eq!(response.status, 201, "{response:?}");
                }
            });
        }
        let readers: Vec<_> =
            streams.iter_mut().map(|stream| scope.spawn(|| stream.payloads(WRITERS * EVENTS))).collect();
        let read: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        let stored = stored_events(&directory.path().join("events.db"));
        let stored: Vec<_> = stored.into_iter().map(|(_, _, payload)| payload).collect();
        assert_eq!(stored.len(), WRITERS * EVENTS);
        assert!(read.iter().all(|read| *read == stored));
    });
}

#[test]
fn a_filter_selects_types_and_the_position_goes_on_without_them() {
    let (_directory, server) = start(&["--idle-timeout", "600ms"]);
    let mut both = [stream(&server, "?type=mess*"), stream(&server, "?type=mess*&after=0")];
    server.store("message", "1");
    for _ in 0..50 {
        server.store("noise", "");
    }
    for stream in &mut both {
        assert_eq!(stream.payloads(1), ["1"]);
        let heartbeats = stream.heartbeats;
        while stream.last_event_id != "51" {
            assert_eq!(stream.block().data, None);
            assert!(stream.heartbeats < heartbeats + 100, "the position is never told");
        }
    }
    server.store("messages", "2");
    for stream in &mut both {
        assert_eq!(stream.payloads(1), ["2"]);
    }
    assert_eq!(resume(&server, "51", "?type=mess*").payloads(1), ["2"]);
}

#[test]
fn positions_and_parameters_that_make_no_sense_are_refused() {
    let (_directory, server) = start(&[]);
    for query in [
        "after=-1",
        "after=",
        "after=x",
        "after=+1",
        "after=99999999999999999999",
        "type=[",
        "limit=1",
        "after=1&after=1",
    ] {
        let response = server.connect().get(&format!("/event/stream?{query}"));
        let detail = detail_of(&response, 400);
        assert!(detail.starts_with("query parameter `"), "{query}: {detail}");
    }
    for header in ["-1", "", "x", "1 2", "0x1"] {
        let response =
            server.connect().request("GET", "/event/stream?after=1", &[("Last-Event-ID", header)], b"");
        assert!(detail_of(&response, 400).contains("Last-Event-ID"), "{header}");
    }
    let twice = [("Last-Event-ID", "1"), ("Last-Event-ID", "1")];
    detail_of(&server.connect().request("GET", "/event/stream", &twice, b""), 400);
    let response = server.connect().request("GET", "/event/stream?after=x", &[("Last-Event-ID", "1")], b"");
    detail_of(&response, 400);
    let response = server.connect().post_event("a", "b");
    assert_eq!(response.status, 201);
}

#[test]
fn other_methods_open_no_stream() {
    let (_directory, server) = start(&[]);
    let mut connection = server.connect();
    let response = connection.request("HEAD", "/event/stream", &[], b"");
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/event-stream")));
    let response = connection.request("POST", "/event/stream", &[], b"");
    detail_of(&response, 405);
    assert_eq!(response.header("allow"), Some("GET, HEAD"));
    assert!(connection.get("/metrics").text().contains("eventctl_event_streams 0"));
}
