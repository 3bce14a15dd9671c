//! The log of SQLite beside its database: who may hold it, how far it grows, and what is left of it.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use rustix::process::Signal;
use tempfile::tempdir;

use crate::util::disk::{Disk, Fault, Place, Record};
use crate::util::{Consume, Process, eventctl, stored_events, wait_until};

use super::{Posts, is_failed_sync, ready, wait_until_ready};

/// Twice what the log holds when it is copied into the database.
const LOG_LIMIT_BYTES: u64 = 2 * 4000 * (4096 + 24);

/// A reader in this process, which to the program is another's: it holds the state of the database that it has read.
fn snapshot(database: &Path) -> Connection {
    let connection = Connection::open(database).unwrap();
    connection.execute_batch("BEGIN").unwrap();
    let _: i64 = connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    connection
}

/// The payloads that a database file holds by itself.
fn payloads_in_file_alone(database: &Path) -> Vec<String> {
    let elsewhere = tempdir().unwrap();
    let copy = elsewhere.path().join("events.db");
    fs::copy(database, &copy).unwrap();
    stored_events(&copy).into_iter().map(|(_, _, payload)| payload).collect()
}

fn log_bytes(directory: &Path) -> u64 {
    fs::metadata(directory.join("events.db-wal")).map_or(0, |metadata| metadata.len())
}

#[test]
fn after_a_clean_stop_the_database_file_alone_holds_every_event() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = tempdir().unwrap();
        let database = directory.path().join("events.db");
        let mut consume = Consume::start(directory.path());
        consume.store("message", "0");
        // Others that read and do not write: the program's own readers, a tail, and a shell.
        let mut tail = Process::start(eventctl(directory.path()).args(["tail", "-f"]));
        let shell = Connection::open(&database).unwrap();
        let mut connection = consume.connect();
        for number in 1..20 {
            consume.store("message", &number.to_string());
            assert_eq!(connection.get("/event").status, 200);
            let _: i64 = shell.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
        }
        consume.process.signal(signal);
        assert!(consume.process.wait().success(), "{}", consume.process.stderr());
        let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        assert_eq!(payloads_in_file_alone(&database), expected);
        assert_eq!(log_bytes(directory.path()), 0);
        tail.kill();
    }
}

#[test]
fn after_a_clean_stop_without_others_there_is_no_log() {
    let directory = tempdir().unwrap();
    let mut consume = Consume::start(directory.path());
    consume.store("message", "kept");
    assert_eq!(consume.connect().get("/event").status, 200);
    assert!(consume.process.terminate().success());
    let files = fs::read_dir(directory.path()).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["events.db"]);
}

#[test]
fn a_stop_that_leaves_events_in_the_log_says_so() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let mut consume = Consume::start(directory.path());
    consume.store("message", "before");
    let reader = snapshot(&database);
    consume.store("message", "after");
    assert!(consume.process.terminate().success());
    let stderr = consume.process.stderr();
    assert!(
        stderr.contains("another process reads an older state of `events.db`: `events.db-wal` still"),
        "{stderr}"
    );
    drop(reader);
    assert_eq!(stored_events(&database).len(), 2);
}

#[test]
fn a_stop_beside_a_database_that_has_replaced_ours_leaves_the_others_log() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let mut consume = Consume::start(directory.path());
    consume.store("message", "ours");
    for name in ["events.db", "events.db-wal", "events.db-shm"] {
        fs::rename(directory.path().join(name), directory.path().join(format!("away-{name}"))).unwrap();
    }
    // It has nothing to commit any more that would show it that its files are others now.
    fs::write(&database, "another database").unwrap();
    fs::write(directory.path().join("events.db-wal"), "another log").unwrap();
    assert!(consume.process.terminate().success());
    assert_eq!(fs::read_to_string(&database).unwrap(), "another database");
    assert_eq!(fs::read_to_string(directory.path().join("events.db-wal")).unwrap(), "another log");
    assert_eq!(payloads_in_file_alone(&directory.path().join("away-events.db")), ["ours"]);
}

#[test]
fn service_resumes_after_a_full_disk_while_others_read() {
    let directory = tempdir().unwrap();
    let disk = Disk::new(directory.path());
    let database = directory.path().join("events.db");
    let mut consume =
        Consume::start_command(disk.eventctl(directory.path()).args(["consume", "--port", "0"]));
    let mut posts = Posts::of_size(10_000);
    assert_eq!(posts.post(&consume), 201);
    let reader = snapshot(&database);
    assert_eq!(posts.post(&consume), 201);
    disk.switch_on(Fault::NoSpace);
    assert_eq!(posts.post(&consume), 507);
    assert_eq!(ready(&consume), 503);
    disk.switch_off(Fault::NoSpace);
    wait_until_ready(&consume);
    for _ in 0..5 {
        assert_eq!(posts.post(&consume), 201);
    }
    consume.process.kill();
    drop(reader);
    posts.check(&database);
}

#[test]
fn after_a_failed_sync_it_says_which_reader_it_waits_for() {
    let directory = tempdir().unwrap();
    let disk = Disk::new(directory.path());
    let database = directory.path().join("events.db");
    let mut consume =
        Consume::start_command(disk.eventctl(directory.path()).args(["consume", "--port", "0"]));
    let mut posts = Posts::of_size(10_000);
    assert_eq!(posts.post(&consume), 201);
    let reader = snapshot(&database);
    assert_eq!(posts.post(&consume), 201);
    disk.switch_on(Fault::BadSync);
    assert_eq!(posts.post(&consume), 503);
    wait_until(|| disk.log().iter().any(is_failed_sync).then_some(()));
    disk.switch_off(Fault::BadSync);
    consume.process.wait_for_stderr("the store still takes no writes: another process reads an older state");
    assert_eq!(posts.post(&consume), 503);
    drop(reader);
    wait_until_ready(&consume);
    assert_eq!(posts.post(&consume), 201);
    consume.process.kill();
    posts.check(&database);
}

#[test]
fn a_log_that_a_reader_made_grow_shrinks_and_is_copied_when_there_is_nothing_to_do() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let mut consume = Consume::start(directory.path());
    let mut posts = Posts::of_size(1_000_000);
    assert_eq!(posts.post(&consume), 201);
    // Litestream holds a transaction like this one for as long as it runs.
    let reader = snapshot(&database);
    while log_bytes(directory.path()) <= LOG_LIMIT_BYTES + 10_000_000 {
        assert_eq!(posts.post(&consume), 201);
    }
    let grown = log_bytes(directory.path());
    // While it is held nothing is lost and nothing stops.
    assert_eq!(ready(&consume), 200);
    drop(reader);
    wait_until(|| (log_bytes(directory.path()) <= LOG_LIMIT_BYTES).then_some(()));
    assert!(log_bytes(directory.path()) > grown / 4, "it is cut to less than the steady state needs");
    assert_eq!(payloads_in_file_alone(&database).len(), posts.acknowledged.len());
    // And a few events that are far from filling a log are copied as well.
    for _ in 0..3 {
        assert_eq!(posts.post(&consume), 201);
    }
    // While it is being copied the file alone is neither the old state nor the new one.
    let stored = || std::panic::catch_unwind(|| payloads_in_file_alone(&database).len());
    wait_until(|| (stored().ok() == Some(posts.acknowledged.len())).then_some(()));
    consume.process.kill();
    posts.check(&database);
}

#[test]
fn a_reader_that_never_ends_costs_no_event() {
    let directory = tempdir().unwrap();
    let disk = Disk::new(directory.path());
    let database = directory.path().join("events.db");
    let mut consume =
        Consume::start_command(disk.eventctl(directory.path()).args(["consume", "--port", "0"]));
    let mut posts = Posts::of_size(60_000);
    let reader = snapshot(&database);
    for _ in 0..20 {
        assert_eq!(posts.post(&consume), 201);
    }
    // What the reader does not keep from it is copied once.
    let mut bytes_read = 0;
    disk.log_after(&mut bytes_read);
    let is_copied = |record: &Record| record.place == Place::Database;
    wait_until(|| disk.log_after(&mut bytes_read).iter().any(is_copied).then_some(()));
    // Longer than it waits before it looks whether there is more to copy.
    thread::sleep(Duration::from_secs(6));
    disk.log_after(&mut bytes_read);
    thread::sleep(Duration::from_secs(6));
    assert_eq!(disk.log_after(&mut bytes_read).len(), 0, "an idle store goes on writing");
    assert!(consume.process.terminate().success());
    drop(reader);
    posts.check(&database);
}
