//! Stores that can be read and not written to: read-only media, and files of others.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;
use tempfile::{TempDir, tempdir};

use crate::util::{Consume, Process, eventctl, refusal_of, set_mode, stored_events};

/// A command that finds the directory on a read-only file system.
fn on_read_only_media(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = eventctl(directory);
    let mut unshare = Command::new("unshare");
    if !geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let script = "mount --bind . . && mount -o remount,bind,ro . && cd \"$PWD\" && exec \"$@\"";
    unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(command.get_program()).args(arguments);
    command = unshare;
    command.current_dir(directory).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command
}

/// A command by somebody who is not the superuser.
fn as_another(directory: &Path, arguments: &[&str]) -> Command {
    if !geteuid().is_root() {
        let mut command = eventctl(directory);
        command.args(arguments);
        return command;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_eventctl")]);
    command.args(arguments).current_dir(directory).env_clear();
    command
}

/// A store with an event, whose `consume` was stopped in order.
fn store() -> TempDir {
    let directory = tempdir().unwrap();
    let mut consume = Consume::start(directory.path());
    consume.store("message", "kept");
    assert_eq!(consume.connect().get("/event").status, 200);
    assert!(consume.process.terminate().success());
    directory
}

fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs to mount"]
fn a_store_on_read_only_media_is_shown_and_copied() {
    let directory = store();
    assert!(output_of(&mut on_read_only_media(directory.path(), &["tail", "-o", "csv"])).contains("kept"));
    let stats = output_of(&mut on_read_only_media(directory.path(), &["tail", "--stats"]));
    assert!(stats.contains("message"), "{stats}");
    let elsewhere = tempdir().unwrap();
    let copy = elsewhere.path().join("copy.db");
    output_of(&mut on_read_only_media(
        directory.path(),
        &["init-db", "--db", copy.to_str().unwrap(), "--from", "events.db"],
    ));
    assert_eq!(stored_events(&copy), [(1, "message".to_owned(), "kept".to_owned())]);
}

#[test]
#[ignore = "needs to mount"]
fn a_store_whose_log_cannot_be_read_is_not_shown_without_it() {
    let directory = tempdir().unwrap();
    let mut consume = Consume::start(directory.path());
    consume.store("message", "in the log alone");
    consume.process.kill();
    // As a copy of both files has it.
    fs::remove_file(directory.path().join("events.db-shm")).unwrap();
    let (error, hint) = refusal_of(&mut on_read_only_media(directory.path(), &["tail"]), 1);
    assert!(error.starts_with("cannot open `events.db`: "), "{error}");
    assert!(error.contains("`events.db-wal`"), "{error}");
    assert!(hint.starts_with("copy both to a directory that you may write to"), "{hint}");
    // As the hint says.
    let elsewhere = tempdir().unwrap();
    for name in ["events.db", "events.db-wal"] {
        fs::copy(directory.path().join(name), elsewhere.path().join(name)).unwrap();
    }
    assert!(output_of(eventctl(elsewhere.path()).args(["tail", "-o", "csv"])).contains("in the log alone"));
}

#[test]
#[ignore = "needs to mount"]
fn read_only_media_are_named_as_such_to_who_wants_to_write() {
    let directory = store();
    for subcommand in ["consume", "init-db"] {
        let mut command = on_read_only_media(directory.path(), &[subcommand]);
        let (error, hint) = refusal_of(command.env("APP_PORT", "0"), 1);
        assert_eq!(error, "cannot write `events.db`: Read-only file system (os error 30)", "{subcommand}");
        assert!(hint.contains("on a file system that is not read-only"), "{hint}");
    }
}

/// A directory that everybody may look into.
fn open_directory(directory: &Path, mode: u32) {
    set_mode(directory, mode);
}

#[test]
#[ignore = "needs another user"]
fn a_store_in_a_directory_of_somebody_else_is_shown_and_followed() {
    let directory = store();
    let database = directory.path().join("events.db");
    set_mode(&database, 0o444);
    open_directory(directory.path(), 0o555);
    let mut command = as_another(directory.path(), &["tail", "-o", "csv"]);
    assert!(output_of(&mut command).contains("kept"));
    for subcommand in ["consume", "init-db"] {
        let mut command = as_another(directory.path(), &[subcommand]);
        let (error, hint) = refusal_of(command.env("APP_PORT", "0"), 1);
        assert_eq!(error, "cannot write `events.db`: Permission denied (os error 13)", "{subcommand}");
        assert!(hint.starts_with("make the file and its directory writable"), "{hint}");
    }
    // Nothing was locked; yet what changes is noticed.
    let mut follower = Process::start(
        as_another(directory.path(), &["tail", "-f", "-n", "all", "-o", "json"])
            .stdout(std::process::Stdio::piped()),
    );
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follower.child().stdout.take().unwrap()));
    assert!(lines.next().unwrap().unwrap().contains("kept"));
    set_mode(&database, 0o644);
    open_directory(directory.path(), 0o755);
    let mut consume = Consume::start(directory.path());
    consume.store("message", "later");
    assert!(consume.process.terminate().success());
    assert!(lines.next().unwrap().unwrap().contains("later"));
    follower.kill();
}

#[test]
#[ignore = "needs another user"]
fn a_store_that_may_not_be_read_is_told_from_one_that_is_missing() {
    let directory = store();
    set_mode(&directory.path().join("events.db"), 0o000);
    open_directory(directory.path(), 0o755);
    let (error, hint) = refusal_of(&mut as_another(directory.path(), &["tail"]), 1);
    assert_eq!(error, "cannot open `events.db`: Permission denied (os error 13)");
    assert!(hint.starts_with("give this user read access to the file"), "{hint}");
    let (error, hint) = refusal_of(&mut as_another(directory.path(), &["tail", "--db", "none.db"]), 1);
    assert_eq!(error, "cannot open `none.db`: No such file or directory (os error 2)");
    assert_eq!(hint, "check the path, or run eventctl init-db --db none.db");
}
