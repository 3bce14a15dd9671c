//! `--keep` and `--keep-events`: what is old is deleted, and nothing else.

use std::path::Path;

use rusqlite::Connection;
use tempfile::tempdir;

use crate::util::http::event;
use crate::util::receiver::{Receiver, Reply};
use crate::util::{Consume, eventctl, stored_events, wait_until, write_file};

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

/// `consume` with a clock that a file sets, as libfaketime reads it.
fn consume_by_clock(directory: &Path, clock: &str, arguments: &[&str]) -> Consume {
    write_file(directory, "clock", clock);
    let folders = std::fs::read_dir("/usr/lib").unwrap();
    let mut libraries = folders.map(|entry| entry.unwrap().path().join("faketime/libfaketime.so.1"));
    let library = libraries.find(|path| path.exists()).expect("the package faketime is missing");
    let mut command = eventctl(directory);
    // Only the wall clock jumps, and the file is read at each look at it.
    command.env("LD_PRELOAD", library).env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_TIMESTAMP_FILE", directory.join("clock"));
    Consume::start_command(command.args(["consume", "--port", "0"]).args(arguments))
}

#[test]
#[ignore = "needs faketime"]
fn a_clock_that_jumps_deletes_nothing() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let payloads = || stored_events(&database).into_iter().map(|(_, _, payload)| payload).collect::<Vec<_>>();
    {
        let mut server = consume_by_clock(directory.path(), "+0", &["--keep", "30d", "--keep-events", "5"]);
        (1..=3).for_each(|number| server.store("a", &number.to_string()));
        write_file(directory.path(), "clock", "+60d");
        server
            .process
            .wait_for_stderr("the wall clock has jumped forward by 60d: nothing is deleted by age until");
        (4..=6).for_each(|number| server.store("a", &number.to_string()));
        // So a sweep has happened since.
        server.process.wait_for_stderr("deleted 1 events: 1 by count (--keep-events 5)");
        assert_eq!(payloads(), ["2", "3", "4", "5", "6"]);
        write_file(directory.path(), "clock", "+0");
        server
            .process
            .wait_for_stderr("the wall clock has jumped back by 60d: nothing is deleted by age until");
        assert_eq!(payloads(), ["2", "3", "4", "5", "6"]);
    }
    for (clock, events, expected) in [("+60d", "4", "ahead of"), ("-60d", "3", "behind")] {
        let mut server =
            consume_by_clock(directory.path(), clock, &["--keep", "30d", "--keep-events", events]);
        server.process.wait_for_stderr(&format!("{expected} what the store knows to be the last time"));
        server.process.wait_for_stderr("deleted 1 events: 1 by count");
        assert_eq!(payloads().len().to_string(), events);
    }
    // The same with a clock that behaves, and an event that is old.
    Connection::open(&database)
        .unwrap()
        .execute_batch("UPDATE events SET received_at = 1 WHERE id = 4")
        .unwrap();
    let _server = consume_by_clock(directory.path(), "+0", &["--keep", "30d"]);
    wait_until(|| (payloads() == ["5", "6"]).then_some(()));
}
