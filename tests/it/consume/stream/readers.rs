//! Readers that come again, that are slow, and that stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tempfile::tempdir;

use crate::util::http::Connection;
use crate::util::{Consume, random, stored_events};

use super::super::slow::peak_memory_kib;
use super::super::{open_store, start};
use super::{resume, stream};

/// More than a server may ever take, in KiB, for what its readers have not read.
const MEMORY_LIMIT_KIB: usize = 160 << 10;

/// Stores events of so many bytes, in requests of about half a MiB.
pub fn store_some(server: &Consume, events: usize, bytes: usize) {
    let mut connection = server.connect();
    let each = (512 << 10) / bytes.max(1);
    for first in (0..events).step_by(each) {
        let some: Vec<_> = (first..events.min(first + each))
            .map(|number| json!({"event_type": format!("t{}", number % 10), "event_payload": format!("{number:x>bytes$}")}))
            .collect();
        let response = connection.post(json!(some).to_string());
        assert_eq!(response.status, 201, "{response:?}");
    }
}

#[test]
fn slow_readers_lose_nothing_and_take_little_memory() {
    const EVENTS: usize = 25_000;
    let (_directory, server) = start(&["--idle-timeout", "1h", "--response-timeout", "1h"]);
    let queries = ["", "?type=t3", "?type=t[0-4]", "?after=0"];
    let mut streams: Vec<_> = (0..20).map(|number| stream(&server, queries[number % 4])).collect();
    store_some(&server, EVENTS, 1000);
    // Others are served meanwhile.
    assert_eq!(server.connect().get("/event?limit=1").status, 200);
    for (stream, query) in streams.iter_mut().zip(queries.iter().cycle()).take(8) {
        let expected: Vec<usize> = (0..EVENTS)
            .filter(|number| match *query {
                "?type=t3" => number % 10 == 3,
                "?type=t[0-4]" => number % 10 < 5,
                _ => true,
            })
            .collect();
        for number in expected {
            let event = stream.event();
            assert_eq!(event["id"], number + 1, "{query}");
            assert!(event["event_payload"].as_str().unwrap().ends_with(&number.to_string()));
        }
    }
    let peak = peak_memory_kib(&server);
    assert!(peak < MEMORY_LIMIT_KIB, "{peak} KiB");
}

#[test]
fn large_events_reach_slow_readers_within_the_room_there_is() {
    let (_directory, server) = start(&["--queue-bytes", "1MiB"]);
    let mut streams: Vec<_> = (0..10).map(|_| stream(&server, "")).collect();
    // Control characters take six times as much in JSON.
    let payload = "\u{1}".repeat(150_000);
    for _ in 0..40 {
        server.store("large", &payload);
    }
    // There is room for one such event at a time, and whoever reads gives it back.
    thread::scope(|scope| {
        for stream in &mut streams {
            scope.spawn(|| {
                for id in 1..=40 {
                    let event = stream.event();
                    assert_eq!(
                        (&event["id"], event["event_payload"].as_str()),
                        (&id.into(), Some(payload.as_str()))
                    );
                }
            });
        }
    });
    let peak = peak_memory_kib(&server);
    assert!(peak < MEMORY_LIMIT_KIB, "{peak} KiB");
}

#[test]
fn readers_that_come_again_have_every_event_once_though_the_server_is_killed() {
    const ROUNDS: usize = 6;
    let mut random = random();
    let directory = tempdir().unwrap();
    let mut read: Vec<i64> = Vec::new();
    let mut last_event_id = "0".to_owned();
    for _ in 0..ROUNDS {
        let mut server = Consume::start(directory.path());
        let (address, over) = (server.address, AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut connection = Connection::open(address);
                    let headers = [("Content-Type", "application/json")];
                    let body = crate::util::http::event("a", "b");
                    let mut answered = true;
                    while answered && !over.load(Ordering::Relaxed) {
                        answered =
                            connection.try_request("POST", "/event", &headers, body.as_bytes()).is_ok();
                    }
                });
            }
            let mut stream = resume(&server, &last_event_id, "");
            for _ in 0..random.usize(1..200) {
                read.push(stream.event()["id"].as_i64().unwrap());
            }
            last_event_id = stream.last_event_id.clone();
            thread::sleep(Duration::from_millis(random.u64(0..100)));
            server.process.kill();
            over.store(true, Ordering::Relaxed);
            // What was under way when the server died counts as well.
            while let Ok(Some(event)) = stream.try_event() {
                read.push(event["id"].as_i64().unwrap());
                last_event_id = stream.last_event_id.clone();
            }
        });
    }
    let server = Consume::start(directory.path());
    let mut stream = resume(&server, &last_event_id, "");
    let stored: Vec<i64> =
        stored_events(&directory.path().join("events.db")).iter().map(|event| event.0).collect();
    while read.len() < stored.len() {
        read.push(stream.event()["id"].as_i64().unwrap());
    }
    assert_eq!(read, stored);
}

#[test]
fn what_another_process_writes_is_seen() {
    let (directory, server) = start(&[]);
    let mut stream = stream(&server, "");
    let store = open_store(directory.path());
    for number in 0..5 {
        let insert = "INSERT INTO events (received_at, event_type, event_payload) VALUES (1, 'a', ?)";
        store.execute(insert, [number.to_string()]).unwrap();
        assert_eq!(stream.payloads(1), [number.to_string()]);
    }
}

#[test]
fn ids_that_are_far_apart_are_no_hindrance() {
    let (directory, server) = start(&[]);
    let insert = "INSERT INTO events (id, received_at, event_type, event_payload) VALUES (?, 1, ?, 'x')";
    let store = open_store(directory.path());
    for (id, event_type) in [
        (5_i64, "a"),
        (7, "b"),
        (1 << 40, "b"),
        (1 << 41, "a"),
        ((1 << 41) + 1, "b"),
        ((1 << 41) + 30_000, "a"),
    ] {
        store.execute(insert, rusqlite::params![id, event_type]).unwrap();
    }
    let mut stream = stream(&server, "?after=0&type=a");
    let ids: Vec<i64> = (0..3).map(|_| stream.event()["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, [5, 1 << 41, (1 << 41) + 30_000]);
}
