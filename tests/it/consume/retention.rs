//! `--keep` and `--keep-events`: what is old goes, and nothing else.

use rusqlite::Connection;
use tempfile::tempdir;

use crate::util::http::event;
use crate::util::receiver::{Receiver, Reply};
use crate::util::{Consume, stored_events, wait_until};

#[test]
fn the_oldest_events_beyond_a_number_are_forgotten() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    {
        let server = Consume::start(directory.path());
        for _ in 0..5 {
            let list = format!("[{}]", vec![event("a", "b"); 700].join(","));
            assert_eq!(server.connect().post(list).status, 201);
        }
    }
    // More than go in one step.
    let server = Consume::start_with(directory.path(), &["--keep-events", "10"]);
    let left = wait_until(|| Some(stored_events(&database)).filter(|events| events.len() <= 10));
    let ids: Vec<i64> = left.iter().map(|(id, _, _)| *id).collect();
    assert_eq!(ids, (3491..=3500).collect::<Vec<i64>>());
    server.store("a", "new");
    assert_eq!(stored_events(&database).last().unwrap().0, 3501);
}

#[test]
fn events_that_are_old_are_forgotten_with_their_keys() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "key")];
    {
        let server = Consume::start(directory.path());
        for number in 0..3 {
            server.store("a", &format!("old {number}"));
        }
        let response = server.connect().request("POST", "/event", &headers, event("a", "old").as_bytes());
        assert_eq!(response.status, 201);
        server.store("a", "young");
    }
    let connection = Connection::open(&database).unwrap();
    let age = "UPDATE events SET received_at = received_at - 3600 * 1000000 WHERE id <= 4";
    assert_eq!(connection.execute(age, []).unwrap(), 4);
    let server = Consume::start_with(directory.path(), &["--keep", "30m"]);
    let left = wait_until(|| Some(stored_events(&database)).filter(|events| events.len() <= 1));
    assert_eq!(left, [(5, "a".to_owned(), "young".to_owned())]);
    let keys: i64 =
        connection.query_row("SELECT count(*) FROM idempotency_keys", [], |row| row.get(0)).unwrap();
    assert_eq!(keys, 0);
    let response = server.connect().request("POST", "/event", &headers, event("a", "old").as_bytes());
    assert_eq!((response.status, response.header("location")), (201, Some("event/6")));
}

#[test]
fn ids_are_not_used_again_when_all_events_are_forgotten() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    {
        let server = Consume::start(directory.path());
        server.store("a", "1");
        server.store("a", "2");
    }
    let server = Consume::start_with(directory.path(), &["--keep", "1ms"]);
    wait_until(|| stored_events(&database).is_empty().then_some(()));
    let response = server.connect().post(event("a", "3"));
    assert_eq!(response.header("location"), Some("event/3"));
}

#[test]
fn an_event_that_someone_is_to_be_told_of_stays_until_then() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let receiver = Receiver::start(|_, _| Reply::status(503, "Retry-After: 3600\r\n"));
    let alert = receiver.url("/");
    let arguments = ["--alert-allow-private", "--alert", &alert, "--alert-on", "told"];
    {
        let server = Consume::start_with(directory.path(), &arguments);
        server.store("told", "1");
        server.store("a", "2");
        wait_until(|| (!receiver.arrivals().is_empty()).then_some(()));
    }
    let arguments = [&arguments[..], &["--keep", "1ms"]].concat();
    let _server = Consume::start_with(directory.path(), &arguments);
    let left = wait_until(|| Some(stored_events(&database)).filter(|events| events.len() <= 1));
    assert_eq!(left, [(1, "told".to_owned(), "1".to_owned())]);
}

#[test]
fn what_is_young_and_few_is_kept() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let server = Consume::start_with(directory.path(), &["--keep", "1h", "--keep-events", "100"]);
    for number in 0..20 {
        server.store("a", &number.to_string());
    }
    // The first look of a restart comes before it listens for long.
    drop(server);
    let server = Consume::start_with(directory.path(), &["--keep", "1h", "--keep-events", "100"]);
    server.store("a", "20");
    assert_eq!(stored_events(&database).len(), 21);
}
