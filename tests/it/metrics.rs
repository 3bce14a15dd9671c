//! Metrics: OpenMetrics or Prometheus text that tells what happened, with few and fixed labels.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use tempfile::tempdir;

use crate::consume::tokens::start_guarded;
use crate::util::http::{Connection, event};
use crate::util::receiver::{Receiver, Reply};
use crate::util::{Consume, Process, eventctl, refusal_of, wait_until, word_after, write_file};

/// What Prometheus 3 accepts.
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
    application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
    text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

/// The samples of a scrape: name and labels, as they stand, with the value.
fn scrape(address: SocketAddr) -> BTreeMap<String, f64> {
    let response = Connection::open(address).request("GET", "/metrics", &[("Accept", OPEN_METRICS)], b"");
    assert_eq!(response.status, 200, "{response:?}");
    let content_type = response.header("content-type").unwrap();
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = response.text();
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let mut samples = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap().to_owned();
        }
        if line.starts_with('#') {
            continue;
        }
        // The samples of a family stand together, behind its type.
        assert!(line.starts_with(&family), "{line} is not of {family}");
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line} twice");
    }
    samples
}

/// Where a process serves its metrics.
fn metrics_address(process: &mut Process) -> SocketAddr {
    let line = process.wait_for_stderr("metrics on http://");
    word_after(&line, "metrics on http://").strip_suffix("/metrics").unwrap().parse().unwrap()
}

#[test]
fn requests_events_and_commits_are_counted() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    server.store("a", "b");
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "key")];
    for (body, status) in [(event("a", "1"), 201), (event("a", "1"), 201), (event("a", "2"), 422)] {
        let response = server.connect().request("POST", "/event", &headers, body.as_bytes());
        assert_eq!(response.status, status, "{response:?}");
    }
    let list = format!("[{},{},{}]", event("a", "x"), event("a", "y"), event("a", "z"));
    assert_eq!(server.connect().post(list).status, 201);
    assert_eq!(server.connect().post("{}").status, 400);
    assert_eq!(server.connect().get("/event/1").status, 200);
    assert_eq!(server.connect().get("/event/999").status, 404);
    let samples = scrape(server.address);
    for (sample, value) in [
        (r#"eventctl_http_requests_total{route="/event",method="POST",status="201"}"#, 4.0),
        (r#"eventctl_http_requests_total{route="/event",method="POST",status="422"}"#, 1.0),
        (r#"eventctl_http_requests_total{route="/event",method="POST",status="400"}"#, 1.0),
        (r#"eventctl_http_requests_total{route="/event/{id}",method="GET",status="200"}"#, 1.0),
        (r#"eventctl_http_requests_total{route="/event/{id}",method="GET",status="404"}"#, 1.0),
        (r#"eventctl_http_request_duration_seconds_count{route="/event"}"#, 6.0),
        (r#"eventctl_events_total{outcome="stored"}"#, 5.0),
        (r#"eventctl_events_total{outcome="repeated"}"#, 1.0),
        (r#"eventctl_events_total{outcome="key_reused"}"#, 1.0),
        ("eventctl_commit_events_sum", 7.0),
        ("eventctl_commit_duration_seconds_count", 5.0),
        ("eventctl_queue_events", 0.0),
        ("eventctl_queue_size_bytes", 0.0),
        ("eventctl_store_failures_total", 0.0),
        (concat!(r#"eventctl_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""}"#), 1.0),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample} in {samples:#?}");
    }
    assert!(samples["eventctl_store_size_bytes"] > 0.0 && samples["eventctl_store_log_size_bytes"] > 0.0);
    assert!(samples["eventctl_last_commit_timestamp_seconds"] > 1.7e9, "{samples:#?}");
    assert!(samples["eventctl_connections"] >= 1.0, "{samples:#?}");
}

#[test]
fn no_label_comes_from_a_client() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    for number in 0..50 {
        server.connect().get(&format!("/made/up/{number}"));
        server.connect().request(&format!("METHOD{number}"), "/event", &[], b"");
        server.store(&format!("type-{number}"), "b");
    }
    let samples = scrape(server.address);
    let strange = samples.keys().filter(|sample| sample.contains("made") || sample.contains("METHOD"));
    assert_eq!(strange.count(), 0, "{samples:#?}");
    assert!(!samples.keys().any(|sample| sample.contains("type-")), "{samples:#?}");
    assert_eq!(samples[r#"eventctl_http_requests_total{route="other",method="GET",status="404"}"#], 50.0);
    assert_eq!(samples[r#"eventctl_http_requests_total{route="/event",method="other",status="405"}"#], 50.0);
}

#[test]
fn metrics_on_the_port_ask_for_a_token_where_events_do() {
    let (_directory, server) = start_guarded(&[]);
    assert_eq!(server.connect().get("/metrics").status, 401);
    let (_directory, mut server) = start_guarded(&["--metrics", "127.0.0.1:0"]);
    let address = metrics_address(&mut server.process);
    assert!(scrape(address).contains_key("eventctl_connections"));
}

#[test]
fn metrics_have_an_address_of_their_own() {
    let directory = tempdir().unwrap();
    let mut server = Consume::start_with(directory.path(), &["--metrics", "127.0.0.1:0"]);
    server.store("a", "b");
    assert_eq!(server.connect().get("/metrics").status, 404);
    let address = metrics_address(&mut server.process);
    assert_eq!(scrape(address)[r#"eventctl_events_total{outcome="stored"}"#], 1.0);
    assert_eq!(Connection::open(address).get("/event").status, 404);
    let response = Connection::open(address).request("POST", "/metrics", &[], b"");
    assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")));
    assert!(server.process.terminate().success());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = eventctl(directory.path());
    let (error, hint) = refusal_of(command.args(["consume", "--port", "0", "--metrics", &address]), 1);
    assert!(error.starts_with(&format!("cannot listen on {address} for metrics: ")), "{error}");
    assert!(hint.starts_with("give --metrics an address"), "{hint}");
}

#[test]
fn deliveries_are_counted_by_kind_and_outcome() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|_, _| Reply::created());
    let refusing = Receiver::start(|_, _| Reply::status(410, ""));
    let slack = format!("slack:{}", receiver.url("/s3cret"));
    let arguments =
        ["--alert-allow-private", "--alert", &slack, "--alert", &refusing.url("/s3cret"), "--alert-on", "a"];
    let server = Consume::start_with(directory.path(), &arguments);
    server.store("a", "b");
    let sample = |kind: &str, outcome: &str| {
        format!(r#"eventctl_alert_deliveries_total{{channel="{kind}",outcome="{outcome}"}}"#)
    };
    let samples = wait_until(|| {
        let samples = scrape(server.address);
        let done = samples.contains_key(&sample("slack", "sent"))
            && samples.contains_key(&sample("webhook", "dead"));
        done.then_some(samples)
    });
    assert_eq!((samples[&sample("slack", "sent")], samples[&sample("webhook", "dead")]), (1.0, 1.0));
    assert!(!samples.keys().any(|sample| sample.contains("s3cret") || sample.contains("127.0.0.1")));
}

#[test]
fn propagate_tells_what_it_sends() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "events.json", "[{\"event_type\":\"a\"}]");
    let receiver = Receiver::start(|_, number| match number {
        0 => Reply::status(503, ""),
        1 => Reply::status(400, ""),
        _ => Reply::created(),
    });
    let mut command = eventctl(directory.path());
    let endpoint = receiver.url("/event");
    let arguments = ["propagate", "--endpoint", &endpoint, "--period", "20ms", "--metrics", "127.0.0.1:0"];
    let mut process = Process::start(command.args(arguments).stdout(Stdio::null()));
    let address = metrics_address(&mut process);
    let samples = wait_until(|| {
        let samples = scrape(address);
        let delivered = samples.get(r#"eventctl_propagate_events_total{outcome="delivered"}"#);
        (delivered >= Some(&5.0)).then_some(samples)
    });
    assert_eq!(samples[r#"eventctl_propagate_attempts_total{status="5xx"}"#], 1.0);
    assert_eq!(samples[r#"eventctl_propagate_attempts_total{status="4xx"}"#], 1.0);
    assert_eq!(samples[r#"eventctl_propagate_events_total{outcome="rejected"}"#], 1.0);
    assert!(samples[r#"eventctl_propagate_attempts_total{status="2xx"}"#] >= 5.0);
    for measured in ["jitter", "latency", "latency_from_schedule"] {
        assert!(samples[&format!("eventctl_propagate_{measured}_seconds_count")] >= 5.0, "{measured}");
    }
    assert!(samples.contains_key("eventctl_propagate_missed_ticks_total"));
}

/// A text of each format, from an address where nothing is counted between the two.
fn both_formats(address: SocketAddr) -> [String; 2] {
    [OPEN_METRICS, "*/*"]
        .map(|accept| Connection::open(address).request("GET", "/metrics", &[("Accept", accept)], b"").text())
}

#[test]
fn the_format_is_the_one_that_is_accepted() {
    let directory = tempdir().unwrap();
    let mut server = Consume::start_with(directory.path(), &["--metrics", "127.0.0.1:0"]);
    server.store("a", "b");
    let address = metrics_address(&mut server.process);
    for (accept, open) in [
        (None, false),
        (Some("*/*"), false),
        (Some("text/html"), false),
        (Some("text/plain"), false),
        (Some(OPEN_METRICS), true),
        (Some("application/openmetrics-text"), true),
        (Some("application/openmetrics-text;q=0"), false),
        (Some("application/openmetrics-text;q=0.1, text/plain"), false),
    ] {
        let headers: Vec<_> = accept.iter().map(|accept| ("Accept", *accept)).collect();
        let response = Connection::open(address).request("GET", "/metrics", &headers, b"");
        let expected = match open {
            true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            false => "text/plain; version=0.0.4; charset=utf-8",
        };
        assert_eq!(response.header("content-type"), Some(expected), "{accept:?}");
        assert_eq!(response.header("vary"), Some("Accept"));
        assert_eq!(response.text().ends_with("# EOF\n"), open, "{accept:?}");
    }
    // The samples are the same; the values of some may change between the two.
    let samples = both_formats(address).map(|text| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>()
    });
    assert!(samples[0].len() > 10);
    assert_eq!(samples[0], samples[1]);
}

/// What the tool has to say of a text, which is nothing.
fn assert_promtool_accepts(text: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool is installed");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[test]
fn subscriptions_have_their_lag_and_what_is_in_flight_and_parked() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    let ask = |method: &str, path: &str, body: &str| {
        let headers = [("Content-Type", "application/json")];
        server.connect().request(method, &format!("/subscription/{path}"), &headers, body.as_bytes()).json()
    };
    ask("PUT", "work", r#"{"max_attempts": 1}"#);
    for _ in 0..5 {
        server.store("a", "b");
    }
    let token = ask("POST", "work/claim", r#"{"limit": 1}"#)["token"].clone();
    ask("POST", "work/nack", &format!(r#"{{"token": {token}}}"#));
    ask("POST", "work/claim", r#"{"limit": 2}"#);
    let samples = scrape(server.address);
    let of = |name: &str| samples[&format!(r#"eventctl_subscription_{name}{{subscription="work"}}"#)];
    assert_eq!([of("lag"), of("in_flight"), of("parked")], [2.0, 2.0, 1.0]);
    assert!(of("oldest_timestamp_seconds") > 1.7e9);
}

#[test]
#[ignore = "needs promtool"]
fn promtool_finds_nothing_wrong() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|_, _| Reply::status(410, ""));
    let alerts = ["--alert-allow-private", "--alert", &receiver.url("/"), "--alert-on", "a"];
    let server = Consume::start_with(directory.path(), &alerts);
    server.store("a", "b");
    assert_eq!(server.connect().get("/event").status, 200);
    wait_until(|| server.connect().get("/metrics").text().contains("alert_deliveries_total{").then_some(()));
    assert_promtool_accepts(&server.connect().get("/metrics").text());
    write_file(directory.path(), "events.json", "[{\"event_type\":\"a\"}]");
    let mut command = eventctl(directory.path());
    let endpoint = receiver.url("/event");
    let arguments = ["propagate", "--endpoint", &endpoint, "--period", "20ms", "--metrics", "127.0.0.1:0"];
    let mut process = Process::start(command.args(arguments).stdout(Stdio::null()));
    let address = metrics_address(&mut process);
    let text = wait_until(|| {
        let text = Connection::open(address).get("/metrics").text();
        text.contains("events_total{").then_some(text)
    });
    assert_promtool_accepts(&text);
}
