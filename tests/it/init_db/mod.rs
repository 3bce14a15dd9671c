//! `eventctl init-db`: makes a store, and touches nothing that is not one.

mod copying;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use predicates::prelude::{PredicateBooleanExt, predicate};
use rusqlite::Connection;
use tempfile::tempdir;

use crate::alerts::hooks::Hook;
use crate::alerts::wait_for_deliveries;
use crate::util::http::event;
use crate::util::{
    Consume, assert_eventctl, eventctl, refusal_of, stored_events, wait_until, write_file, write_secret,
};

/// How many schemas there have been.
const SCHEMA_VERSION: i64 = 5;

fn init_db(directory: &Path) {
    let mut command = assert_eventctl(directory);
    command.arg("init-db").assert().code(0).stdout("").stderr("prepared events.db\n");
}

/// Runs a subcommand that must refuse a store: the error and the hint.
fn refusal(directory: &Path, subcommand: &str, database: &str) -> (String, String) {
    // A store is opened once there is a port to serve it on.
    refusal_of(eventctl(directory).args([subcommand, "--db", database]).env("APP_PORT", "0"), 1)
}

fn pragma(connection: &Connection, name: &str) -> i64 {
    connection.pragma_query_value(None, name, |row| row.get(0)).unwrap()
}

/// The permissions of a file, as `chmod` writes them.
fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_store_is_readable_by_its_owner_alone() {
    let directory = tempdir().unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "umask 0 && exec \"$0\" init-db", env!("CARGO_BIN_EXE_eventctl")]);
    let output = command.current_dir(directory.path()).env_clear().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(mode_of(&directory.path().join("events.db")), 0o600);
}

#[test]
fn many_that_make_the_same_store_at_once_all_succeed() {
    // SQLite refuses some of them for being in each other's way, in one round of about 30.
    for round in 0..100 {
        let directory = tempdir().unwrap();
        let start = |_| eventctl(directory.path()).arg("init-db").stderr(Stdio::piped()).spawn().unwrap();
        let processes: Vec<Child> = (0..6).map(start).collect();
        for process in processes {
            let output = process.wait_with_output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "prepared events.db\n", "round {round}");
        }
    }
}

#[test]
fn the_files_of_a_running_server_are_readable_by_their_owner_alone() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    server.store("a", "b");
    for name in ["events.db", "events.db-wal", "events.db-shm"] {
        assert_eq!(mode_of(&directory.path().join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_store_is_marked_as_ours_with_its_version() {
    let directory = tempdir().unwrap();
    init_db(directory.path());
    let connection = Connection::open(directory.path().join("events.db")).unwrap();
    assert_eq!(pragma(&connection, "application_id"), i64::from(u32::from_be_bytes(*b"EVNT")));
    assert_eq!(pragma(&connection, "user_version"), SCHEMA_VERSION);
    let journal_mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(journal_mode, "wal");
}

#[test]
fn ids_are_never_reused_and_types_are_strict() {
    let directory = tempdir().unwrap();
    init_db(directory.path());
    let connection = Connection::open(directory.path().join("events.db")).unwrap();
    let insert = "INSERT INTO events (received_at, event_type, event_payload) VALUES (1, 'a', 'b')";
    connection.execute(insert, []).unwrap();
    connection.execute("DELETE FROM events", []).unwrap();
    connection.execute(insert, []).unwrap();
    assert_eq!(connection.last_insert_rowid(), 2);
    let number = insert.replace("(1,", "('now',");
    assert!(connection.execute(&number, []).is_err(), "a text was stored as an instant");
}

#[test]
fn a_second_run_changes_nothing() {
    let directory = tempdir().unwrap();
    init_db(directory.path());
    {
        let server = Consume::start(directory.path());
        server.store("message", "kept");
    }
    let database = directory.path().join("events.db");
    let before = stored_events(&database);
    init_db(directory.path());
    init_db(directory.path());
    assert_eq!(before, [(1, "message".to_owned(), "kept".to_owned())]);
    assert_eq!(stored_events(&database), before);
    let connection = Connection::open(database).unwrap();
    assert_eq!(pragma(&connection, "user_version"), SCHEMA_VERSION);
}

#[test]
fn a_store_in_use_can_be_prepared() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    server.store("a", "before");
    init_db(directory.path());
    server.store("a", "after");
    assert_eq!(stored_events(&directory.path().join("events.db")).len(), 2);
}

#[test]
fn an_empty_file_becomes_a_store() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "events.db", "");
    init_db(directory.path());
    assert_eq!(stored_events(&directory.path().join("events.db")), []);
}

#[test]
fn a_url_names_the_file_as_a_path_does() {
    let directory = tempdir().unwrap();
    let absolute = format!("sqlite:///{}/absolute.db", directory.path().display());
    for (url, name) in [
        ("plain.db", "plain.db"),
        ("sqlite:///relative.db", "relative.db"),
        (absolute.as_str(), "absolute.db"),
        ("sqlite+aiosqlite:///driver.db", "driver.db"),
        ("with space.db", "with space.db"),
    ] {
        let mut command = assert_eventctl(directory.path());
        let prepared = predicate::str::starts_with("prepared ").and(predicate::str::contains(name));
        command.args(["init-db", "--db", url]).assert().code(0).stderr(prepared);
        assert!(directory.path().join(name).exists(), "{url}");
    }
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("other.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE other (value TEXT)").unwrap();
    let before = fs::read(&path).unwrap();
    for subcommand in ["init-db", "consume", "tail"] {
        let (error, hint) = refusal(directory.path(), subcommand, "other.db");
        assert_eq!(error, "cannot open `other.db`: not an eventctl database", "{subcommand}");
        assert_eq!(hint, "name another file, or run eventctl init-db --db with a new name");
    }
    assert!(fs::read(&path).unwrap() == before, "the file was changed");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_database_with_another_application_id_is_refused() {
    let directory = tempdir().unwrap();
    init_db(directory.path());
    let connection = Connection::open(directory.path().join("events.db")).unwrap();
    connection.pragma_update(None, "application_id", 1).unwrap();
    let (error, _) = refusal(directory.path(), "init-db", "events.db");
    assert_eq!(error, "cannot open `events.db`: not an eventctl database");
}

#[test]
fn a_text_file_is_refused_and_left_alone() {
    let directory = tempdir().unwrap();
    for text in ["my notes\n".to_owned(), "my notes\n".repeat(1000)] {
        let path = write_file(directory.path(), "notes.txt", &text);
        for subcommand in ["init-db", "consume", "tail"] {
            let (error, hint) = refusal(directory.path(), subcommand, "notes.txt");
            assert_eq!(error, "cannot open `notes.txt`: not an eventctl database", "{subcommand}");
            assert_eq!(hint, "name another file, or run eventctl init-db --db with a new name");
        }
        assert_eq!(fs::read_to_string(path).unwrap(), text);
    }
}

#[test]
fn an_older_schema_is_upgraded_with_its_events() {
    for upgrade in ["init-db", "consume"] {
        let directory = tempdir().unwrap();
        let database = directory.path().join("events.db");
        let connection = Connection::open(&database).unwrap();
        connection.execute_batch(include_str!("../../../src/store/schema/sqlite-1.sql")).unwrap();
        connection.pragma_update(None, "application_id", i32::from_be_bytes(*b"EVNT")).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        connection.execute("INSERT INTO events VALUES (7, 1, 'message', 'old')", []).unwrap();
        drop(connection);
        let (error, hint) = refusal(directory.path(), "tail", "events.db");
        assert_eq!(error, "cannot read `events.db`: it is not prepared");
        assert_eq!(hint, "run eventctl init-db --db events.db");
        if upgrade == "init-db" {
            init_db(directory.path());
        }
        let server = Consume::start(directory.path());
        server.store("message", "new");
        let events = stored_events(&database);
        let payloads: Vec<(i64, &str)> =
            events.iter().map(|(id, _, payload)| (*id, payload.as_str())).collect();
        assert_eq!(payloads, [(7, "old"), (8, "new")]);
        assert_eq!(pragma(&Connection::open(&database).unwrap(), "user_version"), SCHEMA_VERSION);
    }
}

#[test]
fn a_newer_schema_is_refused() {
    let directory = tempdir().unwrap();
    init_db(directory.path());
    let connection = Connection::open(directory.path().join("events.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    for subcommand in ["init-db", "consume", "tail"] {
        let (error, hint) = refusal(directory.path(), subcommand, "events.db");
        let newer = format!("cannot open `events.db`: its schema is version 99, newer than {SCHEMA_VERSION}");
        assert_eq!(error, newer, "{subcommand}");
        assert_eq!(hint, "use the eventctl that prepared it, or a newer one");
    }
    assert_eq!(pragma(&connection, "user_version"), 99);
}

/// Does to a store what a step that this program does not know may do: new tables, indices and columns.
fn upgrade_beyond(database: &Path) {
    let connection = Connection::open(database).unwrap();
    let select = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut select = connection.prepare(select).unwrap();
    let tables: Vec<String> = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(tables.len() >= 6, "{tables:?}");
    for table in tables {
        let step = format!(
            "ALTER TABLE {table} ADD COLUMN later TEXT; CREATE INDEX {table}_later ON {table} (later)"
        );
        connection.execute_batch(&step).unwrap();
    }
    connection.execute_batch("CREATE TABLE later (id INTEGER PRIMARY KEY) STRICT").unwrap();
    connection.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
}

#[test]
fn a_schema_one_step_newer_works_and_stays_as_it_is() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    write_secret(directory.path(), "password", "secret");
    let channel = Hook::taking();
    let channel = channel.url("/");
    let login = ["--username", "writer", "--password-file", "password"];
    let arguments = [&login, &["--alert", &channel, "--alert-allow-private", "--alert-on", "*"][..]].concat();
    // A process that runs while a newer one upgrades the store, and one that starts on it.
    for upgrades in [true, false] {
        let mut consume = Consume::start_with(directory.path(), &arguments);
        if upgrades {
            upgrade_beyond(&database);
        }
        let mut connection = consume.connect();
        wait_until(|| (connection.get("/ready").status == 200).then_some(()));
        let form = "grant_type=password&username=writer&password=secret";
        let grant = connection.post_form(form).json();
        let form =
            format!("grant_type=refresh_token&refresh_token={}", grant["refresh_token"].as_str().unwrap());
        let grant = connection.post_form(form).json();
        let bearer = format!("Bearer {}", grant["access_token"].as_str().unwrap());
        for status in [201, 201] {
            let headers = [
                ("authorization", bearer.as_str()),
                ("idempotency-key", "the same"),
                ("content-type", "application/json"),
            ];
            let body = event("message", "kept");
            assert_eq!(connection.request("POST", "/event", &headers, body.as_bytes()).status, status);
        }
        wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.state == "sent"));
        assert!(consume.process.terminate().success());
    }
    assert_eq!(stored_events(&database), [(1, "message".to_owned(), "kept".to_owned())]);
    let mut command = assert_eventctl(directory.path());
    command.args(["tail", "-o", "csv"]).assert().code(0).stdout(predicate::str::contains("kept"));
    init_db(directory.path());
    assert_eq!(pragma(&Connection::open(&database).unwrap(), "user_version"), SCHEMA_VERSION + 1);
}

#[test]
fn a_store_that_is_upgraded_too_far_under_a_running_server_is_not_written_to() {
    let directory = tempdir().unwrap();
    let mut consume = Consume::start(directory.path());
    consume.store("message", "before");
    let connection = Connection::open(directory.path().join("events.db")).unwrap();
    connection.pragma_update(None, "user_version", SCHEMA_VERSION + 2).unwrap();
    wait_until(|| (consume.connect().get("/ready").status == 503).then_some(()));
    consume.process.wait_for_stderr("newer than");
    assert_eq!(consume.connect().post_event("message", "after").status, 503);
    assert_eq!(pragma(&connection, "user_version"), SCHEMA_VERSION + 2);
}

#[test]
fn a_file_that_cannot_be_made_is_named_with_the_reason() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "file", "");
    fs::create_dir(directory.path().join("folder")).unwrap();
    // In /proc nobody can make a file, not even root.
    for (database, reason) in [
        ("missing/events.db", "cannot create `missing/events.db`: No such file or directory"),
        ("file/events.db", "cannot create `file/events.db`: Not a directory"),
        ("/proc/events.db", "cannot create `/proc/events.db`: "),
        ("folder", "cannot open `folder`: "),
    ] {
        for subcommand in ["init-db", "consume"] {
            let (error, hint) = refusal(directory.path(), subcommand, database);
            assert!(error.starts_with(reason), "{subcommand}: {error}");
            assert!(hint.starts_with("name a file "), "{subcommand}: {hint}");
        }
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}
