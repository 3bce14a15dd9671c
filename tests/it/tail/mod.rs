//! `eventctl tail`: what it shows, in which form, and how it follows.

mod media;
mod remote;
mod stats;
mod verify;
mod worker;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use rusqlite::Connection;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::util::follower::Follower;
use crate::util::http::event;
use crate::util::{Consume, Process, assert_eventctl, eventctl, refusal_of, stored_events};

/// Noon of a day, in microseconds; an event was received every hour from then on.
const NOON: i64 = 1_705_320_000_000_000;
const HOUR: i64 = 3_600_000_000;

/// Everything that a terminal could obey or that turns text around, between other characters.
const HOSTILE: &str = "a\u{1b}[31mred\u{7}\u{8}\r\n\t\u{7f}\u{80}\u{85}\u{9b}2J\u{9d}0;title\u{9c}\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{2028}\u{2029}é👋";

/// A store with these events (type and payload), an hour apart.
fn store(events: &[(&str, &str)]) -> TempDir {
    let directory = tempdir().unwrap();
    assert_eventctl(directory.path()).arg("init-db").assert().success();
    insert(directory.path(), events);
    directory
}

fn insert(directory: &Path, events: &[(&str, &str)]) {
    let mut connection = open(directory);
    let transaction = connection.transaction().unwrap();
    let sql = "INSERT INTO events (received_at, event_type, event_payload)
        SELECT ?1 + count(*) * ?2, ?3, ?4 FROM events";
    for (event_type, event_payload) in events {
        transaction.execute(sql, rusqlite::params![NOON, HOUR, event_type, event_payload]).unwrap();
    }
    transaction.commit().unwrap();
}

fn open(directory: &Path) -> Connection {
    Connection::open(directory.join("events.db")).unwrap()
}

/// What `tail` prints with these arguments; it must succeed and say nothing else.
fn tail(directory: &Path, arguments: &[&str]) -> String {
    let mut command = assert_eventctl(directory);
    let assert = command.arg("tail").args(arguments).assert().code(0).stderr("");
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// The ids that `tail` shows.
fn ids(directory: &Path, arguments: &[&str]) -> Vec<i64> {
    let text = tail(directory, &[arguments, &["-o", "json"]].concat());
    text.lines().map(id_of).collect()
}

fn id_of(line: &str) -> i64 {
    let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    event["id"].as_i64().unwrap()
}

/// A store with fifteen events: two messages, then a join, and so on.
fn fifteen() -> TempDir {
    let payloads: Vec<String> = (1..=15).map(|id| id.to_string()).collect();
    let kind = |index: usize| if index % 3 == 2 { "user_joined" } else { "message" };
    let events: Vec<_> =
        payloads.iter().enumerate().map(|(index, payload)| (kind(index), payload.as_str())).collect();
    store(&events)
}

#[test]
fn the_ten_newest_events_are_shown_oldest_first() {
    let directory = fifteen();
    assert_eq!(ids(directory.path(), &[]), (6..=15).collect::<Vec<_>>());
}

#[test]
fn lines_says_how_many_of_the_newest() {
    let directory = fifteen();
    assert_eq!(ids(directory.path(), &["-n", "3"]), [13, 14, 15]);
    assert_eq!(ids(directory.path(), &["--lines", "15"]).len(), 15);
    assert_eq!(ids(directory.path(), &["--lines=1000"]).len(), 15);
    assert_eq!(ids(directory.path(), &["-n", "0"]), [] as [i64; 0]);
    assert_eq!(ids(directory.path(), &["-n", "all"]), (1..=15).collect::<Vec<_>>());
}

#[test]
fn after_shows_all_that_follows_an_id() {
    let directory = fifteen();
    assert_eq!(ids(directory.path(), &["--after", "2"]), (3..=15).collect::<Vec<_>>());
    assert_eq!(ids(directory.path(), &["--after", "2", "-n", "3"]), [3, 4, 5]);
    assert_eq!(ids(directory.path(), &["--after", "15"]), [] as [i64; 0]);
    assert_eq!(ids(directory.path(), &["--after", "0", "-n", "all"]).len(), 15);
}

#[test]
fn type_shows_what_matches_a_glob() {
    let directory = fifteen();
    assert_eq!(ids(directory.path(), &["--type", "user_*"]), [3, 6, 9, 12, 15]);
    assert_eq!(ids(directory.path(), &["--type", "user_joined", "-n", "2"]), [12, 15]);
    assert_eq!(ids(directory.path(), &["--type", "message", "-n", "1"]), [14]);
    assert_eq!(ids(directory.path(), &["--type", "[!m]*", "--after", "3", "-n", "2"]), [6, 9]);
    assert_eq!(ids(directory.path(), &["--type", "nothing"]), [] as [i64; 0]);
}

#[test]
fn since_is_inclusive_and_until_is_not() {
    let directory = fifteen();
    let [noon, two] = ["2024-01-15T12:00:00Z", "2024-01-15T14:00:00Z"];
    assert_eq!(ids(directory.path(), &["--since", noon]).len(), 15);
    assert_eq!(ids(directory.path(), &["-S", two]), (3..=15).collect::<Vec<_>>());
    assert_eq!(ids(directory.path(), &["-U", two]), [1, 2]);
    assert_eq!(ids(directory.path(), &["--since", noon, "--until", two]), [1, 2]);
    assert_eq!(ids(directory.path(), &["--since", two, "-n", "2"]), [14, 15]);
    assert_eq!(ids(directory.path(), &["--since", "2024-01-15T15:00:00+01:00", "-U", "1h", "-n", "1"]), [15]);
    assert_eq!(ids(directory.path(), &["--since", "1h"]), [] as [i64; 0]);
    // Two o'clock.
    assert_eq!(ids(directory.path(), &["--until", "1705327200"]), [1, 2]);
}

#[test]
fn dates_and_times_are_local_and_the_zone_is_said() {
    let directory = fifteen();
    let show = |since: &str, zone: Option<&str>| {
        let mut command = eventctl(directory.path());
        command.args(["tail", "-o", "ndjson", "--log-format", "text", "--since", since]);
        let output = command.envs(zone.map(|zone| ("TZ", zone))).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{since}: {stderr}");
        (String::from_utf8(output.stdout).unwrap().lines().count(), stderr)
    };
    // The events are from noon to two in the morning, UTC.
    for (since, zone, count, said) in [
        (
            "2024-01-15 15:00",
            Some("XYZ-1"),
            13,
            "--since is 2024-01-15T14:00:00.000000Z: local time is that of UTC+01:00",
        ),
        (
            "2024-01-16",
            Some("XYZ4"),
            0,
            "--since is 2024-01-16T04:00:00.000000Z: local time is that of UTC-04:00",
        ),
        ("2024-01-16", Some("UTC"), 3, "--since is 2024-01-16T00:00:00.000000Z: local time is that of UTC"),
        ("2024-01-15T15:00", Some("XYZ-1"), 13, "local time is that of UTC+01:00"),
        ("yesterday", Some("XYZ-1"), 0, "local time is that of UTC+01:00"),
    ] {
        let (shown, stderr) = show(since, zone);
        assert_eq!(shown, count, "{since} {zone:?}: {stderr}");
        assert_eq!(stderr.matches(said).count(), 1, "{since}: {stderr}");
    }
    let (shown, stderr) = show("2024-01-15T14:00:00Z", Some("XYZ-1"));
    assert_eq!((shown, stderr.as_str()), (13, ""));
}

#[test]
fn text_is_a_line_an_event() {
    let directory =
        store(&[("message", "grüße, \"Welt\" \\ 👋"), ("a_type_longer_than_sixteen", "x"), ("", "")]);
    let expected = "2024-01-15T12:00:00.000000Z        1 message          grüße, \"Welt\" \\ 👋\n\
        2024-01-15T13:00:00.000000Z        2 a_type_longer_than_sixteen x\n\
        2024-01-15T14:00:00.000000Z        3                  \n";
    assert_eq!(tail(directory.path(), &[]), expected);
    assert_eq!(tail(directory.path(), &["-o", "text"]), expected);
}

#[test]
fn json_is_an_object_a_line() {
    let directory = store(&[("message", "grüße, \"Welt\" \\ 👋"), ("", "")]);
    let expected = r#"{"id":1,"received_at":"2024-01-15T12:00:00.000000Z","event_type":"message","event_payload":"grüße, \"Welt\" \\ 👋"}
{"id":2,"received_at":"2024-01-15T13:00:00.000000Z","event_type":"","event_payload":""}
"#;
    assert_eq!(tail(directory.path(), &["-o", "json"]), expected);
}

#[test]
fn ndjson_is_what_can_be_sent_again_in_its_order() {
    let events: Vec<(String, String)> =
        (0..40).map(|number| (format!("t{number}"), HOSTILE.to_owned())).collect();
    let borrowed: Vec<(&str, &str)> =
        events.iter().map(|(kind, payload)| (kind.as_str(), payload.as_str())).collect();
    let from = store(&borrowed);
    let lines = tail(from.path(), &["-n", "all", "-o", "ndjson"]);
    let to = tempdir().unwrap();
    let server = Consume::start(to.path());
    let endpoint = format!("http://{}/event", server.address);
    let arguments = ["--file", "-", "--period", "1ms", "--max-in-flight", "1", "--endpoint", &endpoint, "-q"];
    assert_eventctl(to.path()).arg("propagate").args(arguments).write_stdin(lines).assert().code(0);
    let moved: Vec<(String, String)> = stored_events(&to.path().join("events.db"))
        .into_iter()
        .map(|(_, event_type, event_payload)| (event_type, event_payload))
        .collect();
    assert_eq!(moved, events);
}

#[test]
fn csv_is_rfc_4180() {
    let directory = store(&[("message", "plain"), ("a,b", "say \"hi\""), ("", "two\nlines"), ("c\rd", "é")]);
    let expected = "id,received_at,event_type,event_payload\r\n\
        1,2024-01-15T12:00:00.000000Z,message,plain\r\n\
        2,2024-01-15T13:00:00.000000Z,\"a,b\",\"say \"\"hi\"\"\"\r\n\
        3,2024-01-15T14:00:00.000000Z,,\"two\nlines\"\r\n\
        4,2024-01-15T15:00:00.000000Z,\"c\rd\",é\r\n";
    assert_eq!(tail(directory.path(), &["--output", "csv"]), expected);
}

#[test]
fn an_empty_store_is_nothing_but_the_head_of_csv() {
    let directory = store(&[]);
    assert_eq!(tail(directory.path(), &[]), "");
    assert_eq!(tail(directory.path(), &["-o", "json"]), "");
    assert_eq!(tail(directory.path(), &["-o", "csv"]), "id,received_at,event_type,event_payload\r\n");
}

#[test]
fn a_missing_store_is_an_error_and_is_not_made() {
    let directory = tempdir().unwrap();
    for arguments in [&["tail"][..], &["tail", "-f"], &["tail", "--db", "sqlite:///events.db"]] {
        let (error, hint) = refusal_of(eventctl(directory.path()).args(arguments), 1);
        assert_eq!(error, "cannot open `events.db`: No such file or directory (os error 2)");
        assert_eq!(hint, "check the path, or run eventctl init-db --db events.db");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_store_that_is_not_prepared_is_an_error_and_is_left_alone() {
    let directory = tempdir().unwrap();
    fs::write(directory.path().join("events.db"), "").unwrap();
    let (error, hint) = refusal_of(eventctl(directory.path()).arg("tail"), 1);
    assert_eq!(error, "cannot read `events.db`: it is not prepared");
    assert_eq!(hint, "run eventctl init-db --db events.db");
    assert_eq!(fs::metadata(directory.path().join("events.db")).unwrap().len(), 0);
}

/// Whether a terminal would do more with a character than show it.
fn is_hostile(character: char) -> bool {
    let turns =
        "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
    character.is_control() || turns.contains(character) || "\u{2028}\u{2029}".contains(character)
}

#[test]
fn hostile_characters_are_escaped_in_text() {
    let directory = store(&[(HOSTILE, HOSTILE)]);
    let text = tail(directory.path(), &[]);
    let line = text.strip_suffix('\n').unwrap();
    assert!(!line.contains(is_hostile), "{line:?}");
    assert!(line.ends_with("é👋"), "{line:?}");
    for escape in
        [r"\u{1b}[31mred\u{7}\u{8}\r\n\t\u{7f}\u{80}\u{85}\u{9b}2J", r"\u{202e}", r"\u{2069}\u{2028}"]
    {
        assert_eq!(line.matches(escape).count(), 2, "{escape}: {line}");
    }
}

#[test]
fn hostile_characters_are_escaped_in_json_and_parse_to_themselves() {
    let every: String = (1..=0x2100).filter_map(char::from_u32).collect();
    let directory = store(&[(HOSTILE, HOSTILE), ("every", &every)]);
    let text = tail(directory.path(), &["-o", "json"]);
    let lines: Vec<&str> = text.strip_suffix('\n').unwrap().split('\n').collect();
    assert!(lines.iter().all(|line| !line.contains(is_hostile)), "{lines:?}");
    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["event_type"], &events[0]["event_payload"]), (&HOSTILE.into(), &HOSTILE.into()));
    assert_eq!(events[1]["event_payload"], every);
}

/// What a command prints to a terminal.
fn on_a_terminal(directory: &Path, arguments: &str, variable: (&str, &str)) -> String {
    let command = format!("exec '{}' tail {arguments}", env!("CARGO_BIN_EXE_eventctl"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    script.current_dir(directory).env_clear().env("PATH", path).env(variable.0, variable.1);
    let output = script.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn hostile_characters_are_escaped_on_a_terminal_in_every_format() {
    let directory = store(&[(HOSTILE, HOSTILE)]);
    for format in ["text", "json", "csv"] {
        let arguments = format!("--color never -o {format}");
        let text = on_a_terminal(directory.path(), &arguments, ("TERM", "xterm"));
        let unobeyed = text.replace("\r\n", "").replace('\r', "");
        assert!(!unobeyed.contains(is_hostile), "{format}: {text:?}");
        assert!(text.contains("red"), "{format}: {text:?}");
    }
}

#[test]
fn csv_for_another_program_is_the_stored_text() {
    let directory = store(&[("a", HOSTILE)]);
    let text = tail(directory.path(), &["-o", "csv"]);
    assert!(text.ends_with(&format!(",a,\"{HOSTILE}\"\r\n")), "{text:?}");
}

#[test]
fn color_is_for_terminals_unless_it_is_asked_for() {
    let directory = store(&[("message", "x")]);
    let plain = "2024-01-15T12:00:00.000000Z        1 message          x\n";
    let colored =
        "\u{1b}[2m2024-01-15T12:00:00.000000Z\u{1b}[0m        1 \u{1b}[1mmessage         \u{1b}[0m x\n";
    assert_eq!(tail(directory.path(), &[]), plain);
    assert_eq!(tail(directory.path(), &["--color", "auto"]), plain);
    assert_eq!(tail(directory.path(), &["--color", "never"]), plain);
    assert_eq!(tail(directory.path(), &["--color", "always"]), colored);
    let on_terminal =
        |arguments, variable| on_a_terminal(directory.path(), arguments, variable).replace("\r\n", "\n");
    assert_eq!(on_terminal("", ("TERM", "xterm")), colored);
    assert_eq!(on_terminal("", ("NO_COLOR", "")), colored);
    assert_eq!(on_terminal("--color never", ("TERM", "xterm")), plain);
}

#[test]
fn no_color_turns_auto_off_and_a_flag_beats_it() {
    let directory = store(&[("message", "x")]);
    assert!(!on_a_terminal(directory.path(), "", ("NO_COLOR", "1")).contains('\u{1b}'));
    assert!(on_a_terminal(directory.path(), "--color always", ("NO_COLOR", "1")).contains('\u{1b}'));
}

#[test]
fn many_rows_are_paged_right() {
    let payloads: Vec<String> = (1..=2500).map(|id| format!("{id:x>300}")).collect();
    let events: Vec<_> = payloads
        .iter()
        .enumerate()
        .map(|(index, payload)| (["a", "b"][index % 2], payload.as_str()))
        .collect();
    let directory = store(&events);
    assert_eq!(ids(directory.path(), &["-n", "2000"]), (501..=2500).collect::<Vec<_>>());
    assert_eq!(ids(directory.path(), &["-n", "all"]), (1..=2500).collect::<Vec<_>>());
    assert_eq!(ids(directory.path(), &["-n", "1000"]), (1501..=2500).collect::<Vec<_>>());
    assert_eq!(ids(directory.path(), &["-n", "1001"]), (1500..=2500).collect::<Vec<_>>());
    assert_eq!(ids(directory.path(), &["--after", "100", "-n", "1500"]), (101..=1600).collect::<Vec<_>>());
    let even: Vec<i64> = (1..=1250).map(|number| number * 2).collect();
    assert_eq!(ids(directory.path(), &["--type", "b", "-n", "all"]), even);
    assert_eq!(ids(directory.path(), &["--type", "b", "-n", "1100"]), even[150..]);
    let text = tail(directory.path(), &["-n", "2000", "-o", "json"]);
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["event_payload"].as_str(), Some(payloads[2499].as_str()));
}

#[test]
fn large_events_are_paged_by_their_size_and_none_is_lost() {
    let payload = "x".repeat(900_000);
    let directory = store(&[("a", payload.as_str()); 5]);
    assert_eq!(ids(directory.path(), &["-n", "5"]), [1, 2, 3, 4, 5]);
    assert_eq!(ids(directory.path(), &["-n", "all"]), [1, 2, 3, 4, 5]);
}

#[test]
fn a_pipe_that_is_closed_early_is_no_error() {
    let payload = "x".repeat(1000);
    let directory = store(&vec![("a", payload.as_str()); 2500]);
    for format in ["text", "json", "csv"] {
        let mut command = eventctl(directory.path());
        command.args(["tail", "-n", "all", "-o", format]).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let mut output = BufReader::new(process.child().stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        drop(output);
        assert_eq!(process.wait().code(), Some(0), "{format}");
        assert_eq!(process.stderr(), "", "{format}");
    }
}

fn follow(directory: &Path, arguments: &[&str]) -> Follower {
    Follower::start(eventctl(directory).arg("tail").args(arguments))
}

#[test]
fn a_follower_shows_events_as_they_are_stored() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    server.store("a", "before");
    let follower = follow(directory.path(), &[]);
    assert_eq!(follower.next_payload(), "before");
    for number in 0..20 {
        server.store("a", &number.to_string());
        assert_eq!(follower.next_payload(), number.to_string());
    }
    follower.assert_nothing_else();
}

#[test]
fn a_follower_of_an_empty_store_shows_its_first_event() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    let follower = follow(directory.path(), &[]);
    server.store("a", "first");
    assert_eq!(follower.next_payload(), "first");
    follower.assert_nothing_else();
}

#[test]
fn a_follower_shows_every_event_once_however_many_writers() {
    const WRITERS: usize = 8;
    const EVENTS: usize = 40;
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    server.store("wanted", "before");
    let all = follow(directory.path(), &["-n", "all"]);
    let wanted = follow(directory.path(), &["-n", "all", "--type", "wanted"]);
    assert_eq!((all.next_payload(), wanted.next_payload()), ("before".to_owned(), "before".to_owned()));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let mut connection = server.connect();
            scope.spawn(move || {
                for number in 0..EVENTS {
                    let event_type = if number % 2 == 0 { "wanted" } else { "other" };
                    let response = connection.post_event(event_type, &format!("{writer}/{number}"));
                    assert_eq!(response.status, 201);
                }
            });
        }
    });
    let stored = stored_events(&directory.path().join("events.db"));
    for (_, event_type, event_payload) in &stored[1..] {
        assert_eq!(&all.next_payload(), event_payload);
        if event_type == "wanted" {
            assert_eq!(&wanted.next_payload(), event_payload);
        }
    }
    all.assert_nothing_else();
    wanted.assert_nothing_else();
}

#[test]
fn a_follower_reads_on_from_an_id() {
    let directory = fifteen();
    let follower = follow(directory.path(), &["--after", "13"]);
    assert_eq!((follower.next_payload(), follower.next_payload()), ("14".to_owned(), "15".to_owned()));
    insert(directory.path(), &[("a", "new")]);
    assert_eq!(follower.next_payload(), "new");
    follower.assert_nothing_else();
}

#[test]
fn a_follower_shows_a_batch_that_is_larger_than_a_page() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    server.store("a", "before");
    let follower = follow(directory.path(), &[]);
    assert_eq!(follower.next_payload(), "before");
    let events: Vec<String> = (0..2500).map(|number| event("a", &number.to_string())).collect();
    assert_eq!(server.connect().post(format!("[{}]", events.join(","))).status, 201);
    for number in 0..2500 {
        assert_eq!(follower.next_payload(), number.to_string());
    }
    follower.assert_nothing_else();
}

#[test]
fn a_follower_outlives_restarts_and_crashes_of_the_server() {
    let directory = tempdir().unwrap();
    let mut server = Consume::start(directory.path());
    server.store("a", "first");
    let follower = follow(directory.path(), &[]);
    assert_eq!(follower.next_payload(), "first");
    assert!(server.process.terminate().success());
    let mut server = Consume::start(directory.path());
    server.store("a", "after a restart");
    assert_eq!(follower.next_payload(), "after a restart");
    server.process.kill();
    let server = Consume::start(directory.path());
    server.store("a", "after a crash");
    assert_eq!(follower.next_payload(), "after a crash");
    follower.assert_nothing_else();
}

/// Removes the database with its log, which outlives the server while a follower reads it.
fn remove_store(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

#[test]
fn a_follower_waits_for_a_store_that_was_deleted_and_shows_the_new_one() {
    let directory = tempdir().unwrap();
    let mut server = Consume::start(directory.path());
    for payload in ["1", "2", "3"] {
        server.store("a", payload);
    }
    let mut follower = follow(directory.path(), &[]);
    assert_eq!([follower.next_payload(), follower.next_payload(), follower.next_payload()], ["1", "2", "3"]);
    assert!(server.process.terminate().success());
    remove_store(directory.path());
    follower.process.wait_for_stderr("waiting for `events.db`");
    let server = Consume::start(directory.path());
    server.store("a", "new");
    assert_eq!(follower.next_payload(), "new");
    server.store("a", "newer");
    assert_eq!(follower.next_payload(), "newer");
    let said = follower.process.stderr();
    assert!(said.lines().count() == 2 && said.contains("`events.db` was replaced"), "{said}");
    follower.assert_nothing_else();
}

#[test]
fn a_follower_does_not_keep_the_server_from_making_a_new_store() {
    let directory = tempdir().unwrap();
    let mut server = Consume::start(directory.path());
    server.store("a", "old");
    let mut follower = follow(directory.path(), &[]);
    assert_eq!(follower.next_payload(), "old");
    assert!(server.process.terminate().success());
    // The log stays, as it does for whoever removes no more than the file that was named.
    fs::remove_file(directory.path().join("events.db")).unwrap();
    follower.process.wait_for_stderr("waiting for `events.db`");
    let server = Consume::start(directory.path());
    server.store("a", "new");
    assert_eq!(follower.next_payload(), "new");
    follower.assert_nothing_else();
}

#[test]
fn a_follower_shows_a_store_that_took_the_place_of_another() {
    let directory = tempdir().unwrap();
    let mut server = Consume::start(directory.path());
    server.store("a", "old");
    let follower = follow(directory.path(), &[]);
    assert_eq!(follower.next_payload(), "old");
    // The new one has another event with the same id.
    let replacement = tempdir().unwrap();
    let mut other = Consume::start(replacement.path());
    other.store("a", "other");
    assert!(other.process.terminate().success());
    assert!(server.process.terminate().success());
    remove_store(directory.path());
    fs::copy(replacement.path().join("events.db"), directory.path().join("new.db")).unwrap();
    fs::rename(directory.path().join("new.db"), directory.path().join("events.db")).unwrap();
    assert_eq!(follower.next_payload(), "other");
    let server = Consume::start(directory.path());
    server.store("a", "newer");
    assert_eq!(follower.next_payload(), "newer");
    follower.assert_nothing_else();
}

#[test]
fn a_follower_holds_no_transaction_while_it_waits() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    server.store("a", "first");
    let follower = follow(directory.path(), &[]);
    assert_eq!(follower.next_payload(), "first");
    for number in 0..10 {
        server.store("a", &number.to_string());
        assert_eq!(follower.next_payload(), number.to_string());
        let checkpoint = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let connection = open(directory.path());
        let emptied: (i64, i64, i64) =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], checkpoint).unwrap();
        assert_eq!(emptied, (0, 0, 0), "a reader keeps the log from being emptied");
    }
    follower.assert_nothing_else();
}

#[test]
fn a_follower_ends_when_nobody_reads_it_any_more() {
    let directory = store(&[("a", "first")]);
    let mut command = eventctl(directory.path());
    command.args(["tail", "-f"]).stdout(Stdio::piped());
    let mut process = Process::start(&mut command);
    let mut output = BufReader::new(process.child().stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    drop(output);
    insert(directory.path(), &[("a", "second")]);
    assert_eq!(process.wait().code(), Some(0), "{}", process.stderr());
    assert_eq!(process.stderr(), "");
}

#[test]
fn a_full_output_is_an_error_and_not_a_success() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    if (&full).write(b"x").is_ok() {
        return;
    }
    let directory = store(&[("a", "b")]);
    let output = eventctl(directory.path()).arg("tail").stdout(full).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: cannot show `events.db`: "), "{stderr}");
}
