//! Traces (W3C Trace Context): kept in the log, and sent on.

use std::collections::HashSet;

use serde_json::Value;
use tempfile::tempdir;

use super::{consume, log_of, object};
use crate::util::http::{Connection, event};
use crate::util::receiver::{Arrival, Receiver, Reply};
use crate::util::{Consume, assert_eventctl, write_file};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// What a server logs of the requests that it answers, once it has stopped.
fn requests(server: &mut Consume) -> Vec<Value> {
    assert!(server.process.terminate().success());
    let mut log = log_of(&server.process);
    log.retain(|line| line["target"] == "eventctl::consume::requests");
    log
}

#[test]
fn each_request_is_a_line_with_its_route_and_the_trace_that_it_belongs_to() {
    let (_directory, mut server) = consume(&["-v"], &[]);
    let headers = [("Content-Type", "application/json"), ("Traceparent", &traceparent())];
    let response = server.connect().request("POST", "/event/", &headers, event("a", "b").as_bytes());
    assert_eq!(response.status, 201);
    assert_eq!(server.connect().get("/event/999?x=y").status, 404);
    assert_eq!(server.connect().request("PATCH", "/s3cret", &[], b"").status, 404);
    let log = requests(&mut server);
    let shown: Vec<[&str; 4]> = log
        .iter()
        .map(|line| ["level", "method", "route", "message"].map(|name| line[name].as_str().unwrap()))
        .collect();
    assert_eq!(
        shown,
        [
            ["DEBUG", "POST", "/event", "answered 201"],
            ["DEBUG", "GET", "/event/{id}", "answered 404"],
            ["DEBUG", "other", "other", "answered 404"],
        ]
    );
    assert_eq!((&log[0]["trace_id"], &log[0]["parent_id"]), (&TRACE.into(), &PARENT.into()));
    assert!(log[1].get("trace_id").is_none() && log[1].get("parent_id").is_none(), "{log:?}");
    for (line, status) in log.iter().zip([201, 404, 404]) {
        assert_eq!((&line["status"], &line["client"]), (&status.into(), &"127.0.0.1".into()));
        assert!(line["duration_ms"].as_f64().unwrap() >= 0.0, "{line}");
    }
}

#[test]
fn an_invalid_or_repeated_traceparent_is_ignored() {
    let (_directory, mut server) = consume(&["-v"], &[]);
    let valid = traceparent();
    let zeros = format!("00-{}-{PARENT}-01", "0".repeat(32));
    let later = format!("cc-{TRACE}-{PARENT}-01-what-comes-later");
    let long = "a".repeat(8000);
    let mut sent = 0;
    for values in [
        &["hostile\u{9b}\",\"trace_id\":\"x"][..],
        &[&valid.to_uppercase()],
        &[&format!("ff{}", &valid[2..])],
        &[&format!("{valid}-x")],
        &[&zeros],
        &[&long],
        &[""],
        &[&valid, &valid],
        &[&valid, "x"],
    ] {
        let headers: Vec<(&str, &str)> = values.iter().map(|value| ("traceparent", *value)).collect();
        assert_eq!(server.connect().request("GET", "/health", &headers, b"").status, 200);
        sent += 1;
    }
    assert_eq!(server.connect().request("GET", "/health", &[("traceparent", &later)], b"").status, 200);
    let log = requests(&mut server);
    assert_eq!(log.len(), sent + 1);
    assert!(log[..sent].iter().all(|line| line.get("trace_id").is_none()), "{log:?}");
    assert_eq!((&log[sent]["trace_id"], &log[sent]["parent_id"]), (&TRACE.into(), &PARENT.into()));
}

#[test]
fn a_server_error_is_a_warning_with_the_trace() {
    let (_directory, mut server) = consume(&[], &[]);
    let headers = [("Content-Type", "application/json"), ("traceparent", &traceparent())];
    let alert = |connection: &mut Connection| {
        connection.request("POST", "/api/v1/health-alert", &headers, br#"{"issues":["a"]}"#).status
    };
    assert_eq!(alert(&mut server.connect()), 503);
    // What a client did wrong is no failure.
    assert_eq!(server.connect().request("POST", "/event", &headers, b"{").status, 400);
    let log = requests(&mut server);
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!((&log[0]["level"], &log[0]["trace_id"]), (&"WARN".into(), &TRACE.into()));
    assert_eq!((&log[0]["route"], &log[0]["status"]), (&"/api/v1/health-alert".into(), &503.into()));
    let message = log[0]["message"].as_str().unwrap();
    assert!(message.starts_with("answered 503: ") && message.contains("channel"), "{message}");
}

#[test]
fn a_flood_of_failures_logs_few_lines_and_counts_them_all() {
    let (_directory, mut server) = consume(&[], &[]);
    let json = [("Content-Type", "application/json")];
    let mut connection = server.connect();
    for _ in 0..300 {
        let path = "/api/v1/health-alert";
        assert_eq!(connection.request("POST", path, &json, br#"{"issues":["a"]}"#).status, 503);
    }
    let log = requests(&mut server);
    // One a second, and one at the end for the rest: fewer than requests, however slow the machine is.
    assert!(log.len() < 150, "{}", log.len());
    let logged =
        log.iter().filter(|line| line["message"].as_str().unwrap().starts_with("answered 503: ")).count();
    let held_back: u64 = log.iter().filter_map(|line| line["held_back"].as_u64()).sum();
    assert_eq!(logged as u64 + held_back, 300, "{log:?}");
}

#[test]
fn refused_connections_are_logged() {
    let (_directory, mut server) = consume(&["--max-connections", "1"], &[]);
    let mut first = server.connect();
    assert_eq!(first.get("/health").status, 200);
    let headers = [("traceparent", traceparent())];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(server.connect().request("GET", "/health", &headers, b"").status, 503);
    drop(first);
    let log = requests(&mut server);
    assert_eq!(log[0]["message"], "answered 503: too many connections: not stored");
    assert_eq!((&log[0]["level"], &log[0]["trace_id"]), (&"WARN".into(), &TRACE.into()));
}

/// What arrives of three events, the first of which is answered 503 once, and what was logged.
fn propagate(arguments: &[&str], variables: &[(&str, &str)]) -> (Vec<Arrival>, Vec<Value>) {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "events.json", event("a", "b"));
    let receiver = Receiver::start(|arrival, number| match (arrival.is_post(), number) {
        (true, 1) => Reply::status(503, ""),
        (true, _) => Reply::created(),
        (false, _) => Reply::status(200, ""),
    });
    let mut command = assert_eventctl(directory.path());
    command.args(["propagate", "--count", "3", "--period", "1ms", "--max-in-flight", "1"]);
    command.args(["--endpoint", &receiver.url("/event"), "--health", &receiver.url("/health")]);
    let assert = command.args(arguments).envs(variables.iter().copied()).assert().code(0);
    let log = str::from_utf8(&assert.get_output().stderr).unwrap().lines().map(object).collect();
    (receiver.arrivals(), log)
}

fn values_of<'a>(arrivals: &'a [Arrival], name: &str) -> Vec<Vec<&'a str>> {
    arrivals.iter().map(|arrival| arrival.headers(name)).collect()
}

#[test]
fn a_trace_of_the_environment_is_sent_on_with_a_new_step_for_each_send() {
    let state = "rojo=1, congo=t61rcWkgMzE";
    let (arrivals, log) = propagate(&["-v"], &[("TRACEPARENT", &traceparent()), ("TRACESTATE", state)]);
    assert_eq!(arrivals.len(), 5, "a probe, three events and a retry");
    let parents: Vec<&str> = values_of(&arrivals, "traceparent").into_iter().flatten().collect();
    assert_eq!(parents.len(), 5, "one each: {parents:?}");
    assert!(
        parents.iter().all(|parent| parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-01"))
    );
    let mut steps: HashSet<&str> = parents.iter().map(|parent| &parent[36..52]).collect();
    assert_eq!(steps.len(), 5, "{parents:?}");
    assert!(!steps.contains(PARENT));
    assert!(values_of(&arrivals, "tracestate").iter().all(|states| *states == [state]));
    // The log has each step but that of the probe.
    assert_eq!(log.len(), 4, "{log:?}");
    for line in &log {
        assert_eq!((&line["trace_id"], &line["level"]), (&TRACE.into(), &"DEBUG".into()));
        assert!(steps.remove(line["span_id"].as_str().unwrap()), "{line}");
    }
    let mut sends: Vec<(u64, u64)> =
        log.iter().map(|line| (line["status"].as_u64().unwrap(), line["retry"].as_u64().unwrap())).collect();
    sends.sort_unstable();
    assert_eq!(sends, [(201, 0), (201, 0), (201, 1), (503, 0)]);
}

#[test]
fn without_a_trace_none_is_sent_unless_a_header_gives_one() {
    let (arrivals, log) = propagate(&[], &[("TRACESTATE", "a=1"), ("TRACEPARENT", "")]);
    assert!(arrivals.iter().all(|arrival| arrival.headers("traceparent").is_empty()), "{arrivals:?}");
    assert!(arrivals.iter().all(|arrival| arrival.headers("tracestate").is_empty()), "{arrivals:?}");
    assert!(log.is_empty(), "{log:?}");
    // A flag goes before the environment.
    let header = "traceparent: mine";
    let environment = [("TRACEPARENT", &*traceparent()), ("TRACESTATE", "a=1")];
    let (arrivals, log) = propagate(&["--header", header], &environment);
    assert!(values_of(&arrivals, "traceparent").iter().all(|values| *values == ["mine"]), "{arrivals:?}");
    assert!(arrivals.iter().all(|arrival| arrival.headers("tracestate").is_empty()), "{arrivals:?}");
    assert!(log.is_empty(), "{log:?}");
}

#[test]
fn a_trace_that_is_not_valid_is_not_sent_and_this_is_said_without_repeating_it() {
    let valid = traceparent();
    for (variables, name) in [
        ([("TRACEPARENT", "hostile\r\nX: y"), ("TRACESTATE", "a=1")], "TRACEPARENT"),
        ([("TRACEPARENT", &valid.to_uppercase()), ("TRACESTATE", "a=1")], "TRACEPARENT"),
        ([("TRACEPARENT", &valid), ("TRACESTATE", "hostile\r\nX: y")], "TRACESTATE"),
    ] {
        let (arrivals, log) = propagate(&[], &variables);
        assert_eq!(log.len(), 1, "{log:?}");
        assert_eq!(log[0]["message"], format!("ignoring {name}: it is not valid"));
        assert_eq!(log[0]["level"], "WARN");
        for arrival in &arrivals {
            assert!(
                arrival.headers("tracestate").is_empty() && arrival.headers("x").is_empty(),
                "{arrival:?}"
            );
            assert_eq!(arrival.headers("traceparent").len(), usize::from(name == "TRACESTATE"));
        }
    }
}

#[test]
fn a_trace_goes_from_one_log_to_the_other() {
    let (directory, mut server) = consume(&["-v"], &[]);
    write_file(directory.path(), "events.json", event("a", "b"));
    let mut command = assert_eventctl(directory.path());
    command.args(["propagate", "-v", "--count", "1", "--endpoint", &server.url("/event")]);
    let assert = command.env("TRACEPARENT", traceparent()).assert().code(0);
    let sent = object(str::from_utf8(&assert.get_output().stderr).unwrap());
    let taken = requests(&mut server).remove(0);
    assert_eq!((&taken["trace_id"], &taken["parent_id"]), (&sent["trace_id"], &sent["span_id"]));
    assert_eq!(sent["trace_id"], TRACE);
}
