//! `eventctl consume`: what clients of the HTTP interface rely on.

mod access;
mod access_tokens;
mod bodies;
mod cancelled;
mod clients;
mod cloud_events;
mod coding;
mod cross_origin;
mod drain;
mod forward;
mod garbage;
mod guessing;
pub mod hooks;
mod http2;
mod keys;
mod limits;
mod listening;
mod listing;
mod page;
mod refresh_tokens;
mod refusals;
mod retention;
mod slow;
mod stream;
mod strings;
mod subscriptions;
mod supervised;
mod tls;
pub mod tokens;
mod waiting;
mod wire;

use std::path::Path;

use tempfile::{TempDir, tempdir};

use crate::util::http::Response;
use crate::util::{Consume, stored_events};

/// A server on a store of its own.
fn start(arguments: &[&str]) -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    let server = Consume::start_with(directory.path(), arguments);
    (directory, server)
}

/// What the store in a directory holds: type and payload.
fn stored(directory: &TempDir) -> Vec<(String, String)> {
    let events = stored_events(&directory.path().join("events.db"));
    events.into_iter().map(|(_, event_type, event_payload)| (event_type, event_payload)).collect()
}

/// A connection to the store, to look at it and to meddle with it.
fn open_store(directory: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(directory.join("events.db")).unwrap()
}

/// Asserts that a response is a problem (RFC 9457) of this status; its detail.
fn detail_of(response: &Response, status: u16) -> String {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
    let problem = response.json();
    assert_eq!(problem["status"], status, "{problem}");
    assert!(problem["type"].is_string(), "{problem}");
    assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
    let members = problem.as_object().unwrap().keys();
    let known = ["type", "title", "status", "detail", "errors"];
    assert!(members.into_iter().all(|member| known.contains(&member.as_str())), "{problem}");
    problem["detail"].as_str().unwrap().to_owned()
}

/// The pointers of the errors of a problem, in their order.
fn pointers_of(response: &Response) -> Vec<String> {
    let problem = response.json();
    let errors = problem["errors"].as_array().cloned().unwrap_or_default();
    errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
}

/// The statuses of all responses in what a server has sent.
fn statuses_in(answers: &[u8]) -> Vec<u16> {
    let starts = answers.windows(12).filter(|window| window.starts_with(b"HTTP/1."));
    // The page speaks of HTTP, too.
    starts.filter_map(|start| str::from_utf8(&start[9..]).ok()?.parse().ok()).collect()
}

/// Asserts that a server serves and has nothing to say but where it listens.
fn assert_lives(server: &Consume) {
    assert_eq!(server.connect().get("/health").status, 200);
    server.store("good", "");
    let stderr = server.process.stderr();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn an_event_is_stored_and_located() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    let response = server.connect().post(r#"{"event_type": "message", "event_payload": "hello"}"#);
    assert_eq!(response.status, 201);
    assert_eq!(response.text(), r#"{"status":"success"}"#);
    assert_eq!(response.header("location"), Some("event/1"));
    let event = server.connect().get("/event/1").json();
    assert_eq!(event["event_type"], "message");
    assert_eq!(event["event_payload"], "hello");
    let stored = stored_events(&directory.path().join("events.db"));
    assert_eq!(stored, [(1, "message".to_owned(), "hello".to_owned())]);
}

#[test]
fn health_tells_the_time_in_utc() {
    let (_directory, server) = start(&[]);
    let before = jiff::Timestamp::now();
    let response = server.connect().get("/health");
    let after = jiff::Timestamp::now();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let health = response.json();
    assert_eq!(health.as_object().unwrap().len(), 2, "{health}");
    assert_eq!(health["status"], "OK");
    let timestamp = health["timestamp"].as_str().unwrap();
    assert_eq!(timestamp.len(), "2024-01-15 12:00:00.000000".len(), "{timestamp}");
    let timestamp: jiff::Timestamp = format!("{timestamp}Z").parse().unwrap();
    let before = before.round(jiff::Unit::Second).unwrap() - jiff::SignedDuration::from_secs(1);
    assert!((before..=after).contains(&timestamp), "{health}");
}

#[test]
fn a_server_that_takes_writes_is_ready() {
    let (_directory, server) = start(&[]);
    let response = server.connect().get("/ready");
    assert_eq!((response.status, response.text().as_str()), (200, r#"{"status":"OK"}"#));
    assert_eq!(response.header("cache-control"), Some("no-store"));
}

#[test]
fn head_answers_as_get_does_without_the_body() {
    let (_directory, server) = start(&[]);
    server.store("message", "hello");
    for path in ["/event", "/event/1", "/event?limit=5", "/health", "/ready", "/event/2", "/event?limit=0"] {
        let mut connection = server.connect();
        let head = connection.request("HEAD", path, &[], b"");
        // A body behind the head would be taken for the next response.
        let get = connection.get(path);
        assert_eq!(head.status, get.status, "{path}");
        let without_date = |response: &Response| {
            let headers = response.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date"));
            headers.cloned().collect::<Vec<_>>()
        };
        assert_eq!(without_date(&head), without_date(&get), "{path}");
    }
}

#[test]
fn a_trailing_slash_is_the_same_path() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    let response = connection.request("POST", "/event/", &[], br#"{"event_type":"a","event_payload":"b"}"#);
    assert_eq!(response.status, 201, "{response:?}");
    assert_eq!(stored(&directory), [("a".to_owned(), "b".to_owned())]);
    for path in ["/event/1/", "/event/", "/event/?limit=1", "/health/", "/ready/"] {
        let response = connection.get(path);
        assert_eq!(response.status, 200, "{path}: {response:?}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    let requests: String = (1..=20)
        .map(|number| {
            let body = format!(r#"{{"event_type":"a","event_payload":"{number}"}}"#);
            format!("POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        })
        .collect();
    connection.send(requests.as_bytes()).unwrap();
    for number in 1..=20 {
        let response = connection.receive().unwrap();
        let location = format!("event/{number}");
        assert_eq!((response.status, response.header("location")), (201, Some(location.as_str())));
    }
    assert_eq!(stored(&directory).len(), 20);
}

#[test]
fn concurrent_clients_get_distinct_ids_that_increase() {
    const CLIENTS: usize = 16;
    const EVENTS: usize = 25;
    let (directory, server) = start(&[]);
    let ids: Vec<Vec<i64>> = std::thread::scope(|scope| {
        let client = |client: usize| {
            let mut connection = server.connect();
            let mut post = |number: usize| {
                let response = connection.post_event(&format!("client {client}"), &number.to_string());
                assert_eq!(response.status, 201, "{response:?}");
                response.header("location").unwrap().strip_prefix("event/").unwrap().parse().unwrap()
            };
            (0..EVENTS).map(&mut post).collect()
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for ids in &ids {
        assert!(ids.is_sorted_by(|earlier, later| earlier < later), "{ids:?}");
    }
    let events = stored_events(&directory.path().join("events.db"));
    assert_eq!(events.len(), CLIENTS * EVENTS);
    for (id, event_type, event_payload) in events {
        let client: usize = event_type.strip_prefix("client ").unwrap().parse().unwrap();
        let number: usize = event_payload.parse().unwrap();
        assert_eq!(ids[client][number], id);
    }
}

#[test]
fn an_event_that_the_store_refuses_does_not_fail_its_neighbours() {
    const CLIENTS: usize = 16;
    let (directory, server) = start(&[]);
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON events WHEN NEW.event_type = 'poison'
        BEGIN SELECT RAISE(ABORT, 'poison'); END";
    open_store(directory.path()).execute_batch(trigger).unwrap();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut connection = server.connect();
            scope.spawn(move || {
                for number in 0..20 {
                    let poison = (client + number) % 3 == 0;
                    let event_type = if poison { "poison" } else { "good" };
                    let response = connection.post_event(event_type, &format!("{client}/{number}"));
                    let stored = (200..300).contains(&response.status);
                    assert_eq!(stored, !poison, "{event_type}: {response:?}");
                }
            });
        }
    });
    let expected = (0..CLIENTS).flat_map(|client| (0..20).map(move |number| (client, number)));
    let expected = expected.filter(|(client, number)| (client + number) % 3 != 0).count();
    let events = stored(&directory);
    assert!(events.iter().all(|(event_type, _)| event_type == "good"));
    assert_eq!(events.len(), expected);
}
