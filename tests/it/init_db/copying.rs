//! `eventctl init-db --from`: a backup of a store that is in use.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::tempdir;

use crate::util::http::event;
use crate::util::{
    Consume, Process, assert_eventctl, eventctl, refusal_of, stored_events, wait_until, write_file,
};

use super::{SCHEMA_VERSION, init_db, mode_of, pragma};

fn copy(directory: &Path, to: &str) {
    let mut command = assert_eventctl(directory);
    let said = format!("copied events.db to {to}\n");
    command.args(["init-db", "--db", to, "--from", "events.db"]).assert().code(0).stdout("").stderr(said);
}

fn payloads(database: &Path) -> HashSet<String> {
    stored_events(database).into_iter().map(|(_, _, payload)| payload).collect()
}

/// No file of a copy but the copy itself.
fn files_of(directory: &Path, name: &str) -> Vec<String> {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    files.filter(|file| file.starts_with(name)).collect()
}

#[test]
fn a_copy_of_a_store_under_load_holds_every_event_acknowledged_before() {
    let directory = tempdir().unwrap();
    let consume = Consume::start(directory.path());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let write = |client: usize| {
            let (consume, done) = (&consume, &done);
            scope.spawn(move || {
                let mut connection = consume.connect();
                for number in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let body = event("message", &format!("{client}-{number}"));
                    assert_eq!(connection.post(&body).status, 201);
                }
            })
        };
        let writers: Vec<_> = (0..4).map(write).collect();
        for round in 0..5 {
            let name = format!("copy-{round}.db");
            let path = directory.path().join(&name);
            consume.store("message", &format!("before {round}"));
            let before = payloads(&directory.path().join("events.db"));
            copy(directory.path(), &name);
            let copied = payloads(&path);
            assert!(before.is_subset(&copied), "{:?}", before.difference(&copied));
            // Without gaps: one state of the store, not parts of several.
            let ids: Vec<i64> = stored_events(&path).into_iter().map(|(id, _, _)| id).collect();
            assert!(ids.iter().zip(1..).all(|(id, expected)| *id == expected));
        }
        done.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    let path = directory.path().join("copy-4.db");
    assert_eq!(mode_of(&path), 0o600);
    assert_eq!(files_of(directory.path(), "copy-4.db"), ["copy-4.db"]);
    let connection = Connection::open(&path).unwrap();
    assert_eq!(pragma(&connection, "application_id"), i64::from(u32::from_be_bytes(*b"EVNT")));
    assert_eq!(pragma(&connection, "user_version"), SCHEMA_VERSION);
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn a_copy_takes_the_place_of_its_store() {
    let directory = tempdir().unwrap();
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "key")];
    let body = event("message", "kept");
    let post = |consume: &Consume| consume.connect().request("POST", "/event", &headers, body.as_bytes());
    let location = {
        let consume = Consume::start(directory.path());
        let response = post(&consume);
        assert_eq!(response.status, 201);
        consume.store("message", "deleted later");
        response.header("location").unwrap().to_owned()
    };
    let database = directory.path().join("events.db");
    Connection::open(&database).unwrap().execute("DELETE FROM events WHERE id = 2", []).unwrap();
    copy(directory.path(), "restored.db");
    let mut consume = Consume::start_with(directory.path(), &["--db", "restored.db"]);
    // A retry from before the backup is answered as it was, and no id is given twice.
    assert_eq!(post(&consume).header("location").unwrap(), location);
    let response = consume.connect().post_event("message", "new");
    assert!(response.header("location").unwrap().ends_with("event/3"), "{response:?}");
    assert!(consume.process.terminate().success());
    assert_eq!(stored_events(&directory.path().join("restored.db")).len(), 2);
    assert_eq!(stored_events(&database).len(), 1);
}

#[test]
fn a_copy_replaces_nothing() {
    let directory = tempdir().unwrap();
    init_db(directory.path());
    write_file(directory.path(), "taken.db", "mine");
    std::os::unix::fs::symlink("nowhere", directory.path().join("link.db")).unwrap();
    for taken in ["taken.db", "link.db", "events.db"] {
        let mut command = eventctl(directory.path());
        let (error, hint) = refusal_of(command.args(["init-db", "--db", taken, "--from", "events.db"]), 1);
        assert_eq!(error, format!("cannot create `{taken}`: it exists"));
        assert_eq!(hint, "name a new file, or remove this one first");
    }
    assert_eq!(fs::read_to_string(directory.path().join("taken.db")).unwrap(), "mine");
    assert!(!directory.path().join("nowhere").exists());
}

#[test]
fn what_cannot_be_copied_is_named_and_leaves_nothing_behind() {
    let directory = tempdir().unwrap();
    init_db(directory.path());
    write_file(directory.path(), "notes.txt", "notes ".repeat(1000));
    for (from, to, problem, advice) in [
        ("missing.db", "new.db", "cannot open `missing.db`: No such file", "check the path"),
        ("notes.txt", "new.db", "cannot open `notes.txt`: not an eventctl database", "name another file"),
        (
            "events.db",
            "missing/new.db",
            "cannot create `missing/new.db`: ",
            "name a file in a directory that exists",
        ),
        (
            "postgres://u:secret@[::1]:1/d",
            "new.db",
            "cannot connect to `postgres://u@[::1]:1/d`",
            "check host",
        ),
        ("events.db", "mysql://u:secret@[::1]:1/d", "cannot connect to `mysql://u@[::1]:1/d`", "check host"),
    ] {
        let mut command = eventctl(directory.path());
        let (error, hint) = refusal_of(command.args(["init-db", "--db", to, "--from", from]), 1);
        assert!(error.starts_with(problem), "{error}");
        assert!(hint.starts_with(advice), "{hint}");
    }
    assert_eq!(files_of(directory.path(), "new.db"), [""; 0]);
}

/// A store that takes a while to copy.
fn large_store(directory: &Path) {
    init_db(directory);
    let connection = Connection::open(directory.join("events.db")).unwrap();
    let insert = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000) \
        INSERT INTO events (received_at, event_type, event_payload) SELECT n, 'message', hex(zeroblob(2000)) FROM n";
    connection.execute(insert, []).unwrap();
}

#[test]
fn a_copy_that_is_killed_is_absent_and_the_next_one_is_whole() {
    let directory = tempdir().unwrap();
    large_store(directory.path());
    let partial = directory.path().join("new.db.partial");
    let mut killed = 0;
    for delay in [0, 5, 20, 60, 150] {
        let mut command = eventctl(directory.path());
        command.args(["init-db", "--db", "new.db", "--from", "events.db"]);
        let mut process = Process::start(command.stdout(Stdio::null()));
        wait_until(|| (partial.exists() || process.child().try_wait().unwrap().is_some()).then_some(()));
        thread::sleep(Duration::from_millis(delay));
        let _ = process.child().kill();
        killed += usize::from(!process.wait().success());
        // Whole or absent.
        if fs::exists(directory.path().join("new.db")).unwrap() {
            assert_eq!(stored_events(&directory.path().join("new.db")).len(), 20_000);
            fs::remove_file(directory.path().join("new.db")).unwrap();
        }
    }
    assert!(killed > 0, "every copy was quicker");
    copy(directory.path(), "new.db");
    assert_eq!(stored_events(&directory.path().join("new.db")).len(), 20_000);
    assert_eq!(files_of(directory.path(), "new.db"), ["new.db"]);
}

#[test]
fn a_copy_that_finds_no_room_is_absent_and_says_so() {
    let directory = tempdir().unwrap();
    large_store(directory.path());
    let mut command = Command::new("sh");
    command.current_dir(directory.path()).env_clear();
    command.args(["-c", "ulimit -f 4000; exec \"$0\" init-db --db new.db --from events.db"]);
    let (error, hint) = refusal_of(command.arg(env!("CARGO_BIN_EXE_eventctl")), 1);
    assert!(error.starts_with("cannot copy `events.db` to `new.db`: "), "{error}");
    assert!(hint.starts_with("make room"), "{hint}");
    assert_eq!(files_of(directory.path(), "new.db"), [""; 0]);
}

#[test]
fn one_copy_to_a_place_is_made_at_a_time() {
    let directory = tempdir().unwrap();
    init_db(directory.path());
    let partial = directory.path().join("new.db.partial");
    let locked = OpenOptions::new().write(true).create_new(true).open(&partial).unwrap();
    locked.lock().unwrap();
    let mut command = eventctl(directory.path());
    let (error, _) = refusal_of(command.args(["init-db", "--db", "new.db", "--from", "events.db"]), 1);
    assert!(error.contains("another copy is being made"), "{error}");
    drop(locked);
    copy(directory.path(), "new.db");
}

#[test]
fn a_file_with_a_name_like_a_url_is_refused_and_none_is_made() {
    let directory = tempdir().unwrap();
    for name in ["file:x.db", "sqlite:///file:x.db?uri=true", "sqlite:///x.db?mode=ro"] {
        for subcommand in ["init-db", "consume", "tail"] {
            let mut command = eventctl(directory.path());
            let (error, _) = refusal_of(command.args([subcommand, "--db", name]), 2);
            assert!(error.contains("SQLite's own URLs"), "{error}");
        }
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_store_in_use_that_is_prepared_again_keeps_its_log() {
    let directory = tempdir().unwrap();
    let consume = Consume::start(directory.path());
    let mut connection = consume.connect();
    let log = directory.path().join("events.db-wal");
    for number in 0..5 {
        consume.store("message", &number.to_string());
        // A connection that reads is opened beside the one that writes.
        assert_eq!(connection.get("/event").json().as_array().unwrap().len(), number + 1);
        init_db(directory.path());
        assert!(log.exists(), "another process took the log away");
        assert_eq!(connection.post_event("message", "next").status, 201);
        Connection::open(directory.path().join("events.db"))
            .unwrap()
            .execute("DELETE FROM events WHERE event_payload = 'next'", [])
            .unwrap();
        assert!(log.exists(), "another process took the log away");
    }
}
