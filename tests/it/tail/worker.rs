//! `tail --subscription`: a command works on each event, and what succeeds is acknowledged.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::tempdir;

use crate::util::{Consume, Process, eventctl, refusal_of, wait_until};

/// `tail` of a store or a service, which works for a subscription.
fn worker(directory: &Path, source: &[&str], arguments: &[&str]) -> Command {
    let mut command = eventctl(directory);
    command.arg("tail").args(source).args(arguments);
    command
}

fn work(directory: &Path, source: &[&str], arguments: &[&str]) -> Output {
    worker(directory, source, arguments).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn progress(server: &Consume, name: &str) -> Value {
    server.connect().get(&format!("/subscription/{name}")).json()
}

fn counts(server: &Consume, name: &str) -> [i64; 4] {
    let progress = progress(server, name);
    // Before there is one, something is left to do.
    ["lag", "in_flight", "waiting", "parked"].map(|count| progress[count].as_i64().unwrap_or(-1))
}

/// A server with some events, and what names it: its store, or its URL.
fn start(directory: &Path, events: &[(&str, &str)]) -> (Consume, [Vec<String>; 2]) {
    let server = Consume::start(directory);
    for (event_type, payload) in events {
        server.store(event_type, payload);
    }
    let sources =
        [vec!["--db".to_owned(), "events.db".to_owned()], vec!["--endpoint".to_owned(), server.url("")]];
    (server, sources)
}

fn as_str(source: &[String]) -> Vec<&str> {
    source.iter().map(String::as_str).collect()
}

#[test]
fn each_event_is_worked_on_once_in_its_order() {
    let directory = tempdir().unwrap();
    let (server, sources) = start(directory.path(), &[("a", "é\nx"), ("b", "2"), ("a", "")]);
    for (number, source) in sources.iter().enumerate() {
        let name = format!("work{number}");
        let command =
            r#"printf '%s|%s|%s|%s\n' "$EVENT_ID" "$EVENT_TYPE" "$EVENT_ATTEMPT" "$(cat | tr '\n' '_')""#;
        let arguments = ["--subscription", &name, "--exec", command, "--type", "[ab]"];
        let output = work(directory.path(), &as_str(source), &arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(lines(&output), ["1|a|1|é_x", "2|b|1|2", "3|a|1|"]);
        assert_eq!(counts(&server, &name), [0; 4]);
        // Nothing is left for another run.
        assert_eq!(lines(&work(directory.path(), &as_str(source), &arguments)), [""; 0]);
    }
    let time = "date -d \"$EVENT_RECEIVED_AT\" +%Y";
    let output = work(directory.path(), &as_str(&sources[0]), &["--subscription", "time", "--exec", time]);
    assert!(lines(&output)[0].parse::<u32>().unwrap() > 2000);
}

#[test]
fn several_events_come_as_lines_of_json() {
    let directory = tempdir().unwrap();
    let (server, sources) = start(directory.path(), &[("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")]);
    for (number, source) in sources.iter().enumerate() {
        let name = format!("work{number}");
        let arguments = ["--subscription", &name, "--type", "a", "--claim", "2", "--exec", "echo -; cat"];
        let output = work(directory.path(), &as_str(source), &arguments);
        let ids: Vec<Value> = lines(&output)
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).map_or(Value::Null, |event| event["id"].clone()))
            .collect();
        assert_eq!(ids, [Value::Null, 1.into(), 3.into(), Value::Null, 4.into()]);
        assert_eq!(counts(&server, &name), [0; 4]);
    }
}

#[test]
fn the_status_says_what_becomes_of_an_event() {
    let directory = tempdir().unwrap();
    let (server, sources) = start(directory.path(), &[("a", "0"), ("a", "75"), ("a", "1"), ("a", "kill")]);
    for (number, source) in sources.iter().enumerate() {
        let name = format!("work{number}");
        let path = format!("/subscription/{name}");
        let headers = [("Content-Type", "application/json")];
        assert_eq!(server.connect().request("PUT", &path, &headers, br#"{"max_attempts": 1}"#).status, 201);
        let command = r#"status=$(cat); [ "$status" != kill ] || kill -9 $$; exit "$status""#;
        let output = work(directory.path(), &as_str(source), &["--subscription", &name, "--exec", command]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(counts(&server, &name), [0, 0, 1, 2]);
        let parked = server.connect().get(&format!("{path}/parked")).json();
        assert_eq!((&parked[0]["id"], &parked[0]["reason"]), (&3.into(), &"exit status: 1".into()));
        assert!(parked[1]["reason"].as_str().unwrap().contains("signal: 9"), "{parked}");
        // The other try does not count.
        let again = ["--subscription", &name, "--exec", "echo $EVENT_ATTEMPT", "-f"];
        let mut process = Process::start(
            worker(directory.path(), &as_str(source), &again).stdout(std::process::Stdio::piped()),
        );
        wait_until(|| (counts(&server, &name) == [0, 0, 0, 2]).then_some(()));
        assert_eq!(process.terminate().code(), Some(0));
        assert_eq!(process.stdout(), "1\n");
    }
}

#[test]
fn a_worker_that_is_asked_to_stop_finishes_what_runs() {
    let directory = tempdir().unwrap();
    let (server, sources) = start(directory.path(), &[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")]);
    for (number, source) in sources.iter().enumerate() {
        let name = format!("work{number}");
        let command = "echo begun >> begun; sleep 0.5; echo done >> done";
        let arguments = ["--subscription", &name, "-f", "--parallel", "2", "--exec", command];
        let mut process = Process::start(&mut worker(directory.path(), &as_str(source), &arguments));
        let written =
            |file: &str| fs::read_to_string(directory.path().join(file)).unwrap_or_default().lines().count();
        wait_until(|| (written("begun") == 2).then_some(()));
        process.signal(Signal::TERM);
        assert_eq!(process.wait().code(), Some(0));
        assert_eq!((written("begun"), written("done")), (2, 2));
        assert_eq!(counts(&server, &name), [2, 0, 0, 0]);
        for file in ["begun", "done"] {
            fs::remove_file(directory.path().join(file)).unwrap();
        }
    }
}

#[test]
fn a_lease_is_prolonged_while_a_command_runs_and_ends_with_the_worker() {
    let directory = tempdir().unwrap();
    let (server, sources) = start(directory.path(), &[("a", "1")]);
    for (number, source) in sources.iter().enumerate() {
        let name = format!("work{number}");
        let path = format!("/subscription/{name}");
        let headers = [("Content-Type", "application/json")];
        assert_eq!(server.connect().request("PUT", &path, &headers, br#"{"lease": "400ms"}"#).status, 201);
        let slow = ["--subscription", &name, "--exec", "sleep 1.5"];
        let mut process = Process::start(&mut worker(directory.path(), &as_str(source), &slow));
        wait_until(|| (counts(&server, &name)[1] == 1).then_some(()));
        thread::sleep(Duration::from_millis(900));
        let other =
            work(directory.path(), &as_str(source), &["--subscription", &name, "--exec", "echo stolen"]);
        assert_eq!(lines(&other), [""; 0]);
        process.kill();
        let again = ["--subscription", &name, "-f", "--exec", "echo again $EVENT_ATTEMPT"];
        let mut again = Process::start(
            worker(directory.path(), &as_str(source), &again).stdout(std::process::Stdio::piped()),
        );
        wait_until(|| (counts(&server, &name) == [0; 4]).then_some(()));
        again.terminate();
        assert_eq!(again.stdout(), "again 2\n");
    }
}

#[test]
fn a_service_that_restarts_is_waited_for() {
    let directory = tempdir().unwrap();
    let port = crate::util::free_port().to_string();
    let start = || {
        let mut command = eventctl(directory.path());
        Consume::start_command(command.args(["consume", "--port", &port]))
    };
    let server = start();
    let url = server.url("");
    let arguments = ["--subscription", "work", "-f", "--exec", "cat"];
    let mut command = worker(directory.path(), &["--endpoint", &url], &arguments);
    let mut process = Process::start(command.stdout(std::process::Stdio::piped()));
    server.store("a", "1");
    wait_until(|| (counts(&server, "work")[0] == 0).then_some(()));
    drop(server);
    process.wait_for_stderr("waiting for");
    let server = start();
    server.store("a", "2");
    wait_until(|| (counts(&server, "work") == [0; 4]).then_some(()));
    assert_eq!(process.terminate().code(), Some(0));
    assert_eq!(process.stdout(), "12");
}

#[test]
fn what_cannot_be_worked_off_is_refused() {
    let directory = tempdir().unwrap();
    let (_server, sources) = start(directory.path(), &[]);
    let source = as_str(&sources[1]);
    for (arguments, expected) in [
        (&["--subscription", "work"][..], "--exec"),
        (&["--exec", "true"], "--subscription"),
        (&["--claim", "2"], "--subscription"),
        (&["--subscription", "a b", "--exec", "true"], "letters"),
        (&["--subscription", "work", "--exec", "true", "--claim", "0"], "1 to 1000"),
        (&["--subscription", "work", "--exec", "true", "--stats"], "--stats"),
        (&["--subscription", "work", "--exec", "true", "-n", "3"], "--lines"),
    ] {
        let (error, _) = refusal_of(&mut worker(directory.path(), &source, arguments), 2);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    let missing = ["--subscription", "work", "--exec", "true"];
    let (error, _) = refusal_of(&mut worker(directory.path(), &["--db", "missing.db"], &missing), 1);
    assert!(error.contains("missing.db"), "{error}");
    assert!(!directory.path().join("missing.db").exists());
}
