//! What happens while the store is busy: another process holds its lock.

use std::path::Path;
use std::sync::mpsc;
use std::thread;

use rusqlite::Connection as Store;

use crate::util::http::event;
use crate::util::{Consume, PATIENCE, wait_until};

use super::{detail_of, open_store, start, stored};

/// Keeps the server from committing until it is dropped or released; shorter than the server's patience.
fn lock(directory: &Path) -> Store {
    let store = open_store(directory);
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    store
}

fn release(store: Store) {
    store.execute_batch("COMMIT").unwrap();
}

/// Settings that leave room in memory for one body of this size.
const ROOM_FOR_ONE: [&str; 2] = ["--queue-bytes", "1000"];
const BODY_BYTES: usize = 600;

fn event_of_that_size() -> String {
    event("a", &"b".repeat(BODY_BYTES - event("a", "").len()))
}

/// Waits until an event waits for the store: blanks of its size find no room then, and are no JSON before.
fn wait_until_queued(server: &Consume) {
    wait_until(|| (server.connect().post(" ".repeat(BODY_BYTES)).status == 503).then_some(()));
}

#[test]
fn events_beyond_the_queue_are_503_and_those_in_it_are_stored() {
    let (directory, server) = start(&["--queue-events", "3"]);
    let locked = lock(directory.path());
    let (sender, responses) = mpsc::channel();
    for number in 0..10 {
        let (mut connection, sender) = (server.connect(), sender.clone());
        thread::spawn(move || {
            let response = connection.post_event("a", &number.to_string());
            sender.send(response)
        });
    }
    for _ in 0..7 {
        let refused = responses.recv_timeout(PATIENCE).unwrap();
        detail_of(&refused, 503);
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    let detail = detail_of(&server.connect().get("/ready"), 503);
    assert_eq!(detail, "the queue is full");
    assert_eq!(server.connect().get("/health").status, 200);
    release(locked);
    for _ in 0..3 {
        let accepted = responses.recv_timeout(PATIENCE).unwrap();
        assert_eq!(accepted.status, 201, "{accepted:?}");
    }
    assert_eq!(stored(&directory).len(), 3);
    assert_eq!(server.connect().get("/ready").status, 200);
}

#[test]
fn a_list_that_is_larger_than_the_queue_is_stored_when_the_queue_is_empty() {
    let (directory, server) = start(&["--queue-events", "3"]);
    let list = format!("[{}]", vec![event("a", "b"); 10].join(","));
    assert_eq!(server.connect().post(list).status, 201);
    assert_eq!(stored(&directory).len(), 10);
}

#[test]
fn a_client_that_goes_away_does_not_undo_its_event() {
    let (directory, server) = start(&ROOM_FOR_ONE);
    let locked = lock(directory.path());
    let mut connection = server.connect();
    let body = event_of_that_size();
    let request = format!(
        "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.send(request.as_bytes()).unwrap();
    wait_until_queued(&server);
    drop(connection);
    assert_eq!(server.connect().get("/health").status, 200);
    release(locked);
    wait_until(|| (stored(&directory).len() == 1).then_some(()));
}

#[test]
fn a_store_that_does_not_answer_in_time_is_504_and_the_key_tells_what_became_of_it() {
    let (directory, server) = start(&["--store-timeout", "200ms"]);
    let locked = lock(directory.path());
    let mut connection = server.connect();
    let detail = detail_of(&connection.try_post_with_key("key", event("a", "b")).unwrap(), 504);
    assert!(detail.contains("Idempotency-Key"), "{detail}");
    let detail = detail_of(&server.connect().get("/ready"), 503);
    assert!(detail.starts_with("the store does not answer: a write has waited for "), "{detail}");
    release(locked);
    wait_until(|| {
        let repeated = connection.try_post_with_key("key", event("a", "b")).unwrap();
        (repeated.status == 201).then_some(())
    });
    assert_eq!(stored(&directory).len(), 1);
}

#[test]
fn events_are_read_while_none_can_be_written() {
    let (directory, server) = start(&[]);
    server.store("a", "b");
    let locked = lock(directory.path());
    assert_eq!(server.connect().get("/event/1").json()["event_payload"], "b");
    assert_eq!(server.connect().get("/event").json().as_array().unwrap().len(), 1);
    release(locked);
}

#[test]
fn a_drain_commits_what_waits_for_the_store() {
    let (directory, mut server) = start(&ROOM_FOR_ONE);
    let locked = lock(directory.path());
    let mut connection = server.connect();
    let waiting = thread::spawn(move || connection.post(event_of_that_size()));
    wait_until_queued(&server);
    server.process.signal(rustix::process::Signal::TERM);
    wait_until(|| std::net::TcpStream::connect(server.address).err());
    release(locked);
    let response = waiting.join().unwrap();
    assert_eq!(response.status, 201, "{response:?}");
    assert_eq!(server.process.wait().code(), Some(0), "{}", server.process.stderr());
    assert_eq!(stored(&directory).len(), 1);
}
