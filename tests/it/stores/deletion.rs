//! `DELETE /event/{id}` over every store.

use std::time::Duration;

use serde_json::{Value, json};

use super::database::{TestStore, on_every_store, store_all};
use crate::util::Consume;
use crate::util::follower::Follower;
use crate::util::http::Response;
use crate::util::sse::EventStream;

on_every_store!(
    a_deleted_event_is_gone_and_its_key_stays,
    followers_pass_over_deleted_events,
    subscriptions_pass_over_deleted_events,
);

fn delete(server: &Consume, id: i64) -> Response {
    server.connect().request("DELETE", &format!("/event/{id}"), &[], b"")
}

fn ids_of(events: &Value) -> Vec<i64> {
    events.as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap()).collect()
}

fn a_deleted_event_is_gone_and_its_key_stays(store: &TestStore) {
    let server = store.prepare_and_consume();
    let post = || {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k")];
        let body = r#"{"event_type": "a", "event_payload": "s3cret"}"#;
        server.connect().request("POST", "/event", &headers, body.as_bytes())
    };
    let stored = post();
    assert_eq!(stored.status, 201);
    store_all(&server, &[("b", "2"), ("b", "3")]);
    let first = ids_of(&server.connect().get("/event").json())[0];
    let deleted = delete(&server, first);
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    assert_eq!(server.connect().get(&format!("/event/{first}")).status, 404);
    assert_eq!(delete(&server, first).status, 404);
    assert_eq!(store.payloads(), ["2", "3"]);
    let repeated = post();
    assert_eq!((repeated.status, repeated.body), (201, stored.body));
    assert_eq!(store.payloads(), ["2", "3"]);
    assert_eq!(delete(&server, i64::MAX).status, 404);
    let method = server.connect().request("POST", &format!("/event/{first}"), &[], b"");
    assert_eq!((method.status, method.header("allow")), (405, Some("DELETE, GET, HEAD")));
}

/// Also where the newest event is deleted, and for a client that resumes after it.
fn followers_pass_over_deleted_events(store: &TestStore) {
    let server = store.prepare_and_consume();
    store_all(&server, &[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")]);
    let ids = ids_of(&server.connect().get("/event").json());
    let mut stream = EventStream::open(server.connect(), "?after=0", &[]);
    assert_eq!(stream.payloads(4), ["1", "2", "3", "4"]);
    let tail = ["--lines", "all"];
    let local = Follower::start(store.command("tail").args(tail));
    let url = server.url("/event");
    let mut remote = crate::util::eventctl(store.path());
    let remote = Follower::start(remote.args(["tail", "--endpoint", &url]).args(tail));
    for payload in ["1", "2", "3", "4"] {
        assert_eq!((local.next_payload(), remote.next_payload()), (payload.to_owned(), payload.to_owned()));
    }
    for id in [ids[3], ids[1], ids[2]] {
        assert_eq!(delete(&server, id).status, 204);
        // Longer than followers take to look again.
        std::thread::sleep(Duration::from_millis(400));
    }
    let last = ids[3].to_string();
    let mut resumed = EventStream::open(server.connect(), "", &[("Last-Event-ID", &last)]);
    server.store("a", "5");
    assert_eq!(stream.payloads(1), ["5"]);
    assert_eq!(resumed.payloads(1), ["5"]);
    assert_eq!((local.next_payload(), remote.next_payload()), ("5".to_owned(), "5".to_owned()));
    local.assert_nothing_else();
    remote.assert_nothing_else();
    assert!(!server.process.stderr().contains("replaced"), "{}", server.process.stderr());
}

fn subscriptions_pass_over_deleted_events(store: &TestStore) {
    let server = store.prepare_and_consume();
    let ask = |path: &str, body: Value| {
        let method = if path.contains('/') { "POST" } else { "PUT" };
        let headers = [("Content-Type", "application/json")];
        let path = format!("/subscription/{path}");
        let answer = server.connect().request(method, &path, &headers, body.to_string().as_bytes());
        assert_eq!(answer.status / 100, 2, "{path}: {answer:?}");
        answer.json()
    };
    ask("s", json!({"order": "strict", "max_attempts": 1}));
    store_all(&server, &[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")]);
    let ids = ids_of(&server.connect().get("/event").json());
    // Not claimed yet, claimed, and parked.
    assert_eq!(delete(&server, ids[0]).status, 204);
    let claim = ask("s/claim", json!({"limit": 2}));
    assert_eq!(ids_of(&claim["events"]), ids[1..3]);
    assert_eq!(delete(&server, ids[1]).status, 204);
    ask("s/ack", json!({"token": claim["token"]}));
    let claim = ask("s/claim", json!({}));
    assert_eq!(ids_of(&claim["events"]), ids[3..]);
    ask("s/nack", json!({"token": claim["token"], "reason": "no"}));
    server.store("a", "5");
    assert_eq!(ask("s/claim", json!({}))["events"], json!([]), "a parked event stops a strict subscription");
    assert_eq!(delete(&server, ids[3]).status, 204);
    assert_eq!(ask("s/claim", json!({}))["events"][0]["event_payload"], "5");
    let shown = server.connect().get("/subscription/s").json();
    assert_eq!((&shown["parked"], &shown["lag"], &shown["in_flight"]), (&json!(0), &json!(0), &json!(1)));
}
