//! `POST /api/v1/health-alert`: what is stored, and what its answer promises.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::tempdir;

use super::hooks::{Hook, ok, start, url_of_nobody};
use super::{deliveries, post_alert, wait_for_deliveries};
use crate::util::http::{Connection, Response};
use crate::util::{Consume, assert_eventctl, stored_events, write_secret};

const PATH: &str = "/api/v1/health-alert";
const JSON: (&str, &str) = ("Content-Type", "application/json");

fn post(connection: &mut Connection, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Response {
    connection.request("POST", PATH, headers, body.as_ref())
}

#[track_caller]
fn assert_answer(response: &Response, status: u16, words: &str) {
    assert_eq!((response.status, response.json()), (status, json!({"status": words})), "{response:?}");
}

#[track_caller]
fn assert_problem(response: &Response, status: u16) -> Value {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
    let problem = response.json();
    assert_eq!((&problem["status"], &problem["type"]), (&json!(status), &json!("about:blank")));
    problem
}

#[test]
fn an_alert_that_is_delivered_is_answered_200_and_stored_as_an_event() {
    let hook = Hook::start(|_, _| {
        thread::sleep(Duration::from_millis(300));
        ok()
    });
    let (directory, server) = start(&[&hook.url("/")], &[]);
    let mut connection = server.connect();
    let body = json!({"issues": ["service-a-failure", "é \"quoted\"\n"]}).to_string();
    let response = post(&mut connection, &[JSON], &body);
    assert_answer(&response, 200, "Health alert email sent");
    assert_eq!(response.text(), r#"{"status":"Health alert email sent"}"#);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("location"), Some("../../event/1"));
    assert_eq!(hook.arrivals().len(), 1);
    let payload = r#"["service-a-failure","é \"quoted\"\n"]"#;
    let event = connection.get("/event/1").json();
    assert_eq!((&event["event_type"], &event["event_payload"]), (&json!("health_alert"), &json!(payload)));
    assert_eq!(connection.get("/event?type=health_alert").json(), json!([event]));
    let shown = assert_eventctl(directory.path()).args(["tail", "-o", "json"]).assert().success();
    let shown: Value = serde_json::from_slice(&shown.get_output().stdout).unwrap();
    assert_eq!(shown, event);
    let [delivery] = &deliveries(directory.path())[..] else { panic!() };
    assert_eq!((delivery.event_id, delivery.state.as_str(), delivery.attempts), (1, "sent", 1));
    assert_eq!((delivery.last_error.as_deref(), delivery.due_at.as_deref()), (None, None));
}

#[test]
fn an_alert_that_a_channel_has_not_taken_is_answered_202() {
    let taking = Hook::taking();
    let failing = Hook::with_status(500, "");
    let refusing = Hook::with_status(404, "");
    let silent = Hook::silent();
    for channels in [
        vec![url_of_nobody("/")],
        vec![failing.url("/")],
        vec![silent.url("/")],
        vec![taking.url("/"), url_of_nobody("/")],
        vec![refusing.url("/"), failing.url("/")],
        vec![taking.url("/"), taking.url("/2"), silent.url("/")],
    ] {
        let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
        let (directory, server) = start(&channels, &[]);
        let begun = Instant::now();
        let response = post_alert(&mut server.connect(), "a");
        assert_answer(&response, 202, "Health alert queued");
        assert_eq!(response.header("location"), Some("../../event/1"));
        assert!(begun.elapsed() > Duration::from_millis(1500), "{channels:?}: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(9), "{channels:?}: {:?}", begun.elapsed());
        assert_eq!(stored_events(&directory.path().join("events.db")).len(), 1);
    }
}

#[test]
fn a_slow_channel_is_answered_202_and_gets_the_alert_all_the_same() {
    let hook = Hook::start(|_, _| {
        thread::sleep(Duration::from_secs(4));
        ok()
    });
    let (directory, server) = start(&[&hook.url("/")], &[]);
    assert_answer(&post_alert(&mut server.connect(), "a"), 202, "Health alert queued");
    wait_for_deliveries(directory.path(), |all| all[0].state == "sent");
    assert_eq!(hook.arrivals().len(), 1);
    // A repeat notifies nobody again, but all have been notified.
    assert_answer(&post_alert(&mut server.connect(), "a"), 200, "Health alert already sent");
}

#[test]
fn an_alert_that_is_refused_permanently_is_answered_as_not_delivered() {
    let (taking, refusing) = (Hook::taking(), Hook::with_status(404, ""));
    for channels in [vec![refusing.url("/")], vec![refusing.url("/"), taking.url("/")]] {
        let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
        let (_directory, server) = start(&channels, &[]);
        assert_answer(&post_alert(&mut server.connect(), "a"), 202, "Health alert not delivered");
    }
}

#[test]
fn where_no_channel_is_configured_nothing_is_stored() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    let response = post_alert(&mut server.connect(), "a");
    let problem = assert_problem(&response, 503);
    assert!(problem["detail"].as_str().unwrap().contains("no channel"), "{problem}");
    // A retry does not help.
    assert_eq!(response.header("retry-after"), None);
    assert!(stored_events(&directory.path().join("events.db")).is_empty());
    assert!(deliveries(directory.path()).is_empty());
}

#[test]
fn a_health_alert_is_sent_whatever_the_rules_are() {
    let hook = Hook::taking();
    let (_directory, server) = start(&[&hook.url("/")], &["--alert-on", "order"]);
    assert_answer(&post_alert(&mut server.connect(), "a"), 200, "Health alert email sent");
    assert_eq!(hook.arrivals().len(), 1);
}

#[test]
fn an_invalid_health_alert_is_refused_by_pointer_and_not_sent() {
    let hook = Hook::taking();
    let (directory, server) = start(&[&hook.url("/")], &[]);
    let mut connection = server.connect();
    for (body, pointers) in [
        (r#"{"issues":"a"}"#, &["/issues"][..]),
        (r#"{"issues":{"a":"b"}}"#, &["/issues"]),
        (r#"{"issues":null}"#, &["/issues"]),
        (r#"{"issues":[]}"#, &["/issues"]),
        (r#"{}"#, &["/issues"]),
        (r#"["a"]"#, &[""]),
        (r#""a""#, &[""]),
        (r#"{"issues":["a",1,null,["b"]]}"#, &["/issues/1", "/issues/2", "/issues/3"]),
        (r#"{"issues":["a"],"severity":1}"#, &["/severity"]),
        (r#"{"issues":["a"],"event_type":"b"}"#, &["/event_type"]),
        (r#"{"issues":["a\u0000"]}"#, &["/issues/0"]),
        (r#"{"issues":["a"],"issues":["a"]}"#, &["/issues"]),
    ] {
        let problem = assert_problem(&post(&mut connection, &[JSON], body), 400);
        let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("{body}: {problem}"));
        let found: Vec<&str> = errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        assert_eq!(found, pointers, "{body}: {problem}");
    }
    for body in ["", "{", "{\"issues\":[\"a\"]}x", "issues=a", "{\"issues\":[\"\\ud800\"]}"] {
        assert_problem(&post(&mut connection, &[JSON], body), 400);
    }
    assert_problem(&post(&mut connection, &[JSON], b"{\"issues\":[\"\xff\"]}"), 400);
    assert!(stored_events(&directory.path().join("events.db")).is_empty());
    assert!(deliveries(directory.path()).is_empty());
    assert_eq!(hook.connections(), 0);
}

#[test]
fn other_methods_and_formats_are_refused() {
    let hook = Hook::taking();
    let (directory, server) = start(&[&hook.url("/")], &[]);
    let mut connection = server.connect();
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let response = connection.request(method, PATH, &[], b"");
        assert_eq!((response.status, response.header("allow")), (405, Some("POST")), "{method}");
    }
    let body = br#"{"issues":["a"]}"#;
    for content_type in
        ["text/plain", "application/x-ndjson", "application/json; charset=latin1", "application/jso"]
    {
        let response = post(&mut server.connect(), &[("Content-Type", content_type)], body);
        let problem = assert_problem(&response, 415);
        assert!(problem["detail"].as_str().unwrap().contains("application/json"), "{problem}");
    }
    let compressed = [JSON, ("Content-Encoding", "br")];
    assert_problem(&post(&mut server.connect(), &compressed, body), 415);
    let large = json!({"issues": ["a".repeat(2 << 20)]}).to_string();
    assert_problem(&post(&mut server.connect(), &[JSON], large), 413);
    assert!(stored_events(&directory.path().join("events.db")).is_empty());
    assert_eq!(hook.connections(), 0);
    for (path, headers) in [("/api/v1/health-alert/", &[JSON][..]), (PATH, &[])] {
        assert_eq!(server.connect().request("POST", path, headers, body).status, 200);
    }
}

#[test]
fn tokens_guard_health_alerts() {
    let hook = Hook::taking();
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "token", "a-token-of-more-than-16");
    let server = super::hooks::start_in(directory.path(), &[&hook.url("/")], &["--token-file", "token"]);
    let response = post_alert(&mut server.connect(), "a");
    assert_problem(&response, 401);
    assert!(response.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
    assert!(stored_events(&directory.path().join("events.db")).is_empty());
    assert_eq!(hook.connections(), 0);
    let headers = [JSON, ("Authorization", "Bearer a-token-of-more-than-16")];
    let response = post(&mut server.connect(), &headers, br#"{"issues":["a"]}"#);
    assert_answer(&response, 200, "Health alert email sent");
}

#[test]
fn an_alert_that_is_repeated_with_its_key_is_stored_and_sent_once() {
    let hook = Hook::taking();
    let (directory, server) = start(&[&hook.url("/")], &["--alert-repeat-after", "0"]);
    let headers = [JSON, ("Idempotency-Key", "key")];
    for _ in 0..4 {
        let response = post(&mut server.connect(), &headers, br#"{"issues":["a"]}"#);
        assert_answer(&response, 200, "Health alert email sent");
        assert_eq!(response.header("location"), Some("../../event/1"));
    }
    assert_problem(&post(&mut server.connect(), &headers, br#"{"issues":["b"]}"#), 422);
    let headers = [JSON, ("Idempotency-Key", "another")];
    let answers: Vec<Response> = thread::scope(|scope| {
        let request = || post(&mut server.connect(), &headers, br#"{"issues":["c"]}"#);
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(request)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for answer in answers {
        assert_eq!((answer.status, answer.header("location")), (200, Some("../../event/2")));
    }
    // Whatever was to be sent twice would be sent before this one.
    assert_eq!(post_alert(&mut server.connect(), "last").status, 200);
    assert_eq!(hook.arrivals().len(), 3);
    assert_eq!(deliveries(directory.path()).len(), 3);
    assert_eq!(stored_events(&directory.path().join("events.db")).len(), 3);
}
