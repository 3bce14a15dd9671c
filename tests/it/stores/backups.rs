//! Backups of a store in use, as the manual page of `init-db` says they are made, and what a restored one is worth.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::database::{Kind, TestStore, on_every_store};
use crate::util::http::{Response, event};
use crate::util::{Consume, wait_until};

on_every_store!(a_restored_backup_holds_every_event_acknowledged_before_and_goes_on);

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// The file of the backup.
fn back_up(store: &TestStore) -> PathBuf {
    let file = store.path().join("backup.db");
    match store.kind {
        Kind::Sqlite => run(store.command_at("init-db", "backup.db").args(["--from", &store.url])),
        #[cfg(feature = "postgres")]
        Kind::Postgres => {
            run(Command::new("pg_dump").args(["--format=custom", "--file"]).arg(&file).arg(&store.url));
        }
        #[cfg(feature = "mysql")]
        Kind::MySql => {
            let mut command = mariadb(store, "mariadb-dump");
            run(command.args(["--single-transaction", "--result-file"]).arg(&file).arg(&store.name));
        }
    }
    file
}

/// Restores a backup into an empty store.
fn restore(backup: &std::path::Path, into: &TestStore) {
    match into.kind {
        Kind::Sqlite => run(Command::new("cp").arg(backup).arg(into.path().join(&into.url))),
        #[cfg(feature = "postgres")]
        Kind::Postgres => {
            let target = format!("--dbname={}", into.url);
            run(Command::new("pg_restore").args(["--no-owner", "--exit-on-error", &target]).arg(backup));
        }
        #[cfg(feature = "mysql")]
        Kind::MySql => {
            let dump = std::fs::File::open(backup).unwrap();
            run(mariadb(into, "mariadb").arg(&into.name).stdin(Stdio::from(dump)));
        }
    }
}

#[cfg(feature = "mysql")]
fn mariadb(store: &TestStore, tool: &str) -> Command {
    let url: url::Url = store.url.parse().unwrap();
    let port = url.port().unwrap().to_string();
    let mut command = Command::new(tool);
    command.args([
        "--no-defaults",
        "--protocol=tcp",
        "--host=127.0.0.1",
        "--port",
        &port,
        "--user",
        url.username(),
    ]);
    command
}

fn post(consume: &Consume, name: &str) -> Response {
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", name)];
    consume.connect().request("POST", "/event", &headers, event("message", name).as_bytes())
}

fn id_of(response: &Response) -> i64 {
    assert_eq!(response.status, 201, "{response:?}");
    response.header("location").unwrap().rsplit('/').next().unwrap().parse().unwrap()
}

fn a_restored_backup_holds_every_event_acknowledged_before_and_goes_on(store: &TestStore) {
    let consume = store.prepare_and_consume();
    let done = AtomicBool::new(false);
    let mut before = Vec::new();
    let backup = thread::scope(|scope| {
        for client in 0..3 {
            let (consume, done) = (&consume, &done);
            scope.spawn(move || {
                for number in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    assert_eq!(post(consume, &format!("{client}-{number}")).status, 201);
                }
            });
        }
        for number in 0..20 {
            let name = format!("before-{number}");
            before.push((name.clone(), id_of(&post(&consume, &name))));
        }
        let backup = back_up(store);
        done.store(true, Ordering::Relaxed);
        backup
    });
    drop(consume);

    let restored = TestStore::new(store.kind);
    restore(&backup, &restored);
    let stored = restored.stored();
    for (name, id) in &before {
        assert!(stored.contains(&(*id, "message".to_owned(), name.clone())), "{name} is missing");
    }
    let consume = restored.consume(&[]);
    wait_until(|| (consume.connect().get("/ready").status == 200).then_some(()));
    // A retry from before the backup is answered as it was, and new ids are above all others.
    for (name, id) in &before {
        assert_eq!(id_of(&post(&consume, name)), *id);
    }
    let newest = stored.iter().map(|(id, _, _)| *id).max().unwrap();
    assert!(id_of(&post(&consume, "after")) > newest);
    assert_eq!(restored.stored().len(), stored.len() + 1);
    assert!(restored.tail(&["-n", "1", "-o", "csv"]).contains("after"));
    // Preparing it again finds nothing to do.
    restored.prepare();
}
