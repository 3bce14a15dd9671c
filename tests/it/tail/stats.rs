//! `tail --stats`.

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::util::{Consume, assert_eventctl, eventctl, refusal_of};

/// A store with 60 events a second apart, of which each third is a `join`, from midnight on.
fn store() -> tempfile::TempDir {
    let directory = tempdir().unwrap();
    assert_eventctl(directory.path()).args(["init-db"]).assert().code(0);
    let connection = Connection::open(directory.path().join("events.db")).unwrap();
    let insert = "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 59) \
        INSERT INTO events (received_at, event_type, event_payload) \
        SELECT 1705276800000000 + n * 1000000, iif(n % 3 = 0, 'join', 'message'), 'x' FROM numbers";
    connection.execute(insert, []).unwrap();
    directory
}

fn stats(directory: &std::path::Path, arguments: &[&str]) -> String {
    let mut command = assert_eventctl(directory);
    let assert = command.args(["tail", "--stats"]).args(arguments).assert().code(0).stderr("");
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

#[test]
fn types_are_counted_with_bars_and_a_line_over_time() {
    let directory = store();
    let text = stats(directory.path(), &[]);
    let lines: Vec<&str> = text.lines().collect();
    let [head, message, join, line] = lines[..] else { panic!("{text}") };
    let expected = "60 events of 2 types from 2024-01-15T00:00:00.000000Z to 2024-01-15T00:00:59.000000Z, 1.000 a second";
    assert_eq!(head, expected);
    assert_eq!(message, format!("message 40  66.7 % {}", "█".repeat(30)));
    assert_eq!(join, format!("join    20  33.3 % {}", "█".repeat(15)));
    let (bars, length) = line.split_once(" (each ").unwrap();
    assert_eq!((bars.chars().count(), length), (40, "1s 475ms)"));
    assert!(bars.chars().all(|bar| bar == '▄' || bar == '█'), "{bars}");
}

#[test]
fn statistics_are_an_object_too() {
    let directory = store();
    let object: Value = serde_json::from_str(&stats(directory.path(), &["-o", "json"])).unwrap();
    assert_eq!(object["events"], 60);
    let join = json!({"event_type": "join", "count": 20, "first": "2024-01-15T00:00:00.000000Z", "last": "2024-01-15T00:00:57.000000Z"});
    assert_eq!(object["types"][1], join);
    let counts: Vec<i64> = serde_json::from_value(object["over_time"]["counts"].clone()).unwrap();
    assert_eq!((counts.len(), counts.iter().sum::<i64>()), (40, 60));
}

#[test]
fn statistics_are_a_table_too() {
    let directory = store();
    let expected = "event_type,count,first,last\r\n\
        message,40,2024-01-15T00:00:01.000000Z,2024-01-15T00:00:59.000000Z\r\n\
        join,20,2024-01-15T00:00:00.000000Z,2024-01-15T00:00:57.000000Z\r\n";
    assert_eq!(stats(directory.path(), &["-o", "csv"]), expected);
    assert_eq!(stats(directory.path(), &["-o", "csv", "--type", "x"]), "event_type,count,first,last\r\n");
}

#[test]
fn statistics_are_of_what_the_filters_leave() {
    let directory = store();
    for (arguments, events) in [
        (["--type", "j*"], 20),
        (["--since", "2024-01-15T00:00:30Z"], 30),
        (["--until", "2024-01-15T00:00:10Z"], 10),
        (["--type", "nothing"], 0),
    ] {
        let text = stats(directory.path(), &[&arguments[..], &["-o", "json"]].concat());
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["events"], events, "{arguments:?}: {text}");
    }
    assert_eq!(stats(directory.path(), &["--type", "nothing"]), "no events\n");
}

#[test]
fn an_empty_store_and_hostile_types_are_no_trouble() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    assert_eq!(stats(directory.path(), &[]), "no events\n");
    server.store("\u{1b}[2J\u{202e}", "b");
    for format in ["text", "json"] {
        let text = stats(directory.path(), &["-o", format]);
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    }
    refusal_of(eventctl(directory.path()).args(["tail", "--stats", "-f"]), 2);
}
