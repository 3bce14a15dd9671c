//! The examples do what they say.

#[cfg(feature = "postgres")]
mod database;
mod docker;
mod kubernetes;
mod proxy;
mod release;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process_group};
use serde_json::Value;
use tempfile::tempdir;

use crate::util::receiver::{Receiver, Reply};
use crate::util::{Consume, Process, copy, stored_events, wait_until, write_file};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> PathBuf {
    repository().join("examples")
}

/// Copies a folder with all that is in it.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    copy(&from.join("."), to);
}

/// The documents of a YAML file.
fn yaml(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

/// A list of strings; none where there is no list.
fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// A script, in a directory and with `eventctl` on the path.
fn script(directory: &Path, name: &str, arguments: &[&str]) -> Command {
    let programs = Path::new(env!("CARGO_BIN_EXE_eventctl")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(examples().join("shell").join(name));
    command.args(arguments).current_dir(directory).env_clear().env("PATH", path).stdin(Stdio::null());
    command
}

#[test]
#[ignore = "needs cargo, and builds the program again"]
fn the_quickstart_finds_what_it_has_built_wherever_that_is() {
    let elsewhere = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let built = Path::new(env!("CARGO_BIN_EXE_eventctl")).parent().unwrap();
    let target = elsewhere.path().join("debug");
    fs::create_dir(&target).unwrap();
    // The dependencies need not be compiled a second time.
    for folder in [".fingerprint", "build", "deps"] {
        let mut link = Command::new("cp");
        assert!(link.arg("-al").arg(built.join(folder)).arg(&target).status().unwrap().success());
    }
    let mut quickstart = Command::new(examples().join("quickstart.sh"));
    let output = quickstart.env("CARGO_TARGET_DIR", elsewhere.path()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(target.join("eventctl").exists(), "it was built in another place");
    assert!(stdout.contains("takes some minutes"), "{stdout}");
    assert!(stdout.contains("\n7 events sent and stored, the invalid one refused\n"), "{stdout}");
    // What to do next names the program that was built.
    let next: Vec<&str> = stdout.lines().filter_map(|line| line.strip_prefix("next: ")).collect();
    assert_eq!(next.len(), 4, "{stdout}");
    let program = target.join("eventctl");
    let program = program.strip_prefix(repository()).unwrap_or(&program);
    for (line, subcommand) in next.iter().zip(["consume", "propagate", "tail -f"]) {
        assert!(line.starts_with(&format!("{} {subcommand} ", program.display())), "{line}");
    }
    assert!(next[3].contains("README.md"), "{stdout}");
}

/// A running script that ends with its test, and all that it has started with it.
struct Script(Process);

impl Script {
    fn start(command: &mut Command) -> Script {
        Script(Process::start(command.process_group(0)))
    }

    fn assert_runs(&mut self) {
        assert!(self.0.child().try_wait().unwrap().is_none(), "{}", self.0.stderr());
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = kill_process_group(self.0.pid(), Signal::KILL);
    }
}

#[test]
#[ignore = "needs bash"]
fn a_script_waits_for_an_event_and_fails_after_a_time() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    server.store("wanted", "before");
    let output = script(directory.path(), "wait-for-event.sh", &["wanted", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "no event of type wanted within 1 seconds\n");
    let mut command = script(directory.path(), "wait-for-event.sh", &["wanted", "60"]);
    let mut waiting = Process::start(command.stdout(Stdio::piped()));
    let status = wait_until(|| {
        // Whether it waits already does not show.
        server.store("other", "x");
        server.store("wanted", "now");
        waiting.child().try_wait().unwrap()
    });
    assert!(status.success(), "{}", waiting.stderr());
    let text = waiting.stdout();
    assert!(text.lines().count() == 1 && text.contains(r#""event_payload":"now""#), "{text}");
}

#[test]
#[ignore = "needs bash"]
fn a_script_counts_by_type() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    for event_type in ["b", "a,x", "b"] {
        server.store(event_type, "x");
    }
    let output = script(directory.path(), "count-by-type.sh", &["1h"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2\tb\n1\t\"a,x\"\n");
}

#[test]
#[ignore = "needs bash"]
fn a_script_loads_a_file_and_keeps_what_is_refused() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    let good = r#"{"event_type":"a","event_payload":"1"}"#;
    let bad = r#"{"event_type":1,"event_payload":{}}"#;
    write_file(directory.path(), "events.ndjson", format!("{good}\n{bad}\n{good}\n"));
    let url = server.url("/event");
    let mut load = script(directory.path(), "load-file.sh", &["events.ndjson", &url]);
    let output = load.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(stored_events(&directory.path().join("events.db")).len(), 2);
    let refused = fs::read_to_string(directory.path().join("events.ndjson.refused")).unwrap();
    let envelope: Value = serde_json::from_str(&refused).unwrap();
    assert_eq!((&envelope["event"], &envelope["status"]), (&serde_json::from_str(bad).unwrap(), &400.into()));
}

#[test]
#[ignore = "needs bash"]
fn a_script_forwards_what_is_stored_from_now_on() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    server.store("order_1", "before");
    let receiver = Receiver::start(|_, _| Reply::created());
    let url = receiver.url("/event");
    let mut forwarding = Script::start(&mut script(directory.path(), "forward.sh", &[&url, "order_*"]));
    wait_until(|| {
        server.store("order_2", "now");
        server.store("other", "x");
        forwarding.assert_runs();
        (!receiver.arrivals().is_empty()).then_some(())
    });
    let bodies: Vec<String> = receiver.arrivals().into_iter().map(|arrival| arrival.body).collect();
    assert!(
        bodies.iter().all(|body| *body == r#"{"event_payload":"now","event_type":"order_2"}"#),
        "{bodies:?}"
    );
}

#[test]
#[ignore = "needs bash and curl"]
fn a_script_alerts_of_what_matches() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|_, _| Reply::created());
    let slack = format!("slack:{}", receiver.url("/"));
    let arguments = ["--alert-allow-private", "--alert", &slack, "--alert-repeat-after", "0"];
    let server = Consume::start_with(directory.path(), &arguments);
    let url = server.url("");
    let mut watching =
        Script::start(&mut script(directory.path(), "alert-on-match.sh", &[r"disk \w+ full", &url]));
    wait_until(|| {
        server.store("a", "disk sda full");
        server.store("a", "disk sda is fine");
        watching.assert_runs();
        (!receiver.arrivals().is_empty()).then_some(())
    });
}

#[test]
#[ignore = "needs systemd-analyze"]
fn the_units_of_systemd_are_valid_and_hardened() {
    let directory = tempdir().unwrap();
    for name in ["eventctl.service", "eventctl-propagate.service"] {
        let unit = fs::read_to_string(examples().join("systemd").join(name)).unwrap();
        let unit = unit.replace("/usr/local/bin/eventctl", env!("CARGO_BIN_EXE_eventctl"));
        let path = write_file(directory.path(), name, unit);
        let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let mut analysis = Command::new("systemd-analyze");
        let output =
            analysis.args(["security", "--offline=true", "--threshold=20"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let socket = examples().join("systemd/eventctl.socket");
    let path = write_file(directory.path(), "eventctl.socket", fs::read_to_string(socket).unwrap());
    let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
