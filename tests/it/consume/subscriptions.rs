//! `/subscription`: events are claimed, acknowledged, given back and parked over HTTP.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::start;
use crate::util::http::Response;
use crate::util::{Consume, wait_until};

/// Asks something of a subscription.
fn ask(server: &Consume, method: &str, path: &str, body: &Value) -> Response {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = [("Content-Type", "application/json")];
    let headers = if body.is_empty() { &[][..] } else { &headers };
    server.connect().request(method, &format!("/subscription/{path}"), headers, body.as_bytes())
}

fn claim(server: &Consume, name: &str, body: &Value) -> Value {
    let response = ask(server, "POST", &format!("{name}/claim"), body);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

fn ids_of(claim: &Value) -> Vec<i64> {
    claim["events"].as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap()).collect()
}

/// The status of a request about the events of a claim.
fn settle(server: &Consume, path: &str, claim: &Value, more: &Value) -> u16 {
    let mut body = more.as_object().unwrap().clone();
    body.insert("token".to_owned(), claim["token"].clone());
    ask(server, "POST", path, &body.into()).status
}

#[test]
fn a_subscription_is_made_shown_changed_and_removed() {
    let (_directory, server) = start(&[]);
    let made = ask(&server, "PUT", "work", &Value::Null);
    assert_eq!(made.status, 201);
    let shown = made.json();
    let expected = json!({
        "name": "work", "type": null, "order": "parallel", "lease": "30s", "max_attempts": 10, "on_parked": "stop",
        "retain": true, "expires": "30d", "position": 0, "lag": 0, "oldest": null, "in_flight": 0, "waiting": 0,
        "parked": 0, "created_at": shown["created_at"], "claimed_at": shown["created_at"],
    });
    assert_eq!(shown, expected);
    assert_eq!(ask(&server, "GET", "work", &Value::Null).json(), expected);
    let changes = json!({"type": "order.*", "order": "strict", "lease": 5, "max_attempts": 3, "on_parked": "skip",
        "retain": false, "expires": "1h"});
    let changed = ask(&server, "PUT", "work", &changes);
    assert_eq!(changed.status, 200);
    let changed = changed.json();
    let names = ["type", "order", "lease", "max_attempts", "on_parked", "retain", "expires"];
    let values = names.map(|name| changed[name].clone());
    let expected =
        [json!("order.*"), json!("strict"), json!("5s"), json!(3), json!("skip"), json!(false), json!("1h")];
    assert_eq!(values, expected);
    ask(&server, "PUT", "another", &Value::Null);
    let listed = server.connect().get("/subscription").json();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|shown| shown["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["another", "work"]);
    assert_eq!(ask(&server, "DELETE", "work", &Value::Null).status, 204);
    for (method, path) in
        [("GET", "work"), ("DELETE", "work"), ("POST", "work/claim"), ("GET", "work/parked")]
    {
        assert_eq!(ask(&server, method, path, &Value::Null).status, 404, "{method} {path}");
    }
}

#[test]
fn a_subscription_begins_where_it_is_asked_to() {
    let (_directory, server) = start(&[]);
    for _ in 0..3 {
        server.store("a", "");
        thread::sleep(Duration::from_millis(2));
    }
    let second = server.connect().get("/event/2").json()["received_at"].clone();
    for (name, from) in [
        ("beginning", json!("beginning")),
        ("id", json!(3)),
        ("time", second),
        ("future", json!("2999-01-01T00:00:00Z")),
        ("now", json!("now")),
    ] {
        assert_eq!(ask(&server, "PUT", name, &json!({"from": from})).status, 201);
    }
    server.store("a", "");
    for (name, expected) in [
        ("beginning", &[1, 2, 3, 4][..]),
        ("id", &[3, 4]),
        ("time", &[2, 3, 4]),
        ("future", &[4]),
        ("now", &[4]),
    ] {
        assert_eq!(ids_of(&claim(&server, name, &Value::Null)), expected, "{name}");
    }
}

#[test]
fn events_are_handed_out_until_they_are_acknowledged() {
    let (_directory, server) = start(&[]);
    ask(&server, "PUT", "work", &json!({"type": "a", "lease": "200ms"}));
    for event_type in ["a", "b", "a", "a"] {
        server.store(event_type, "payload");
    }
    let first = claim(&server, "work", &json!({"limit": 2}));
    assert_eq!(ids_of(&first), [1, 3]);
    assert_eq!(first["events"][0]["event_payload"], "payload");
    assert_eq!(first["events"][0]["attempts"], 1);
    let second = claim(&server, "work", &Value::Null);
    assert_eq!(ids_of(&second), [4]);
    let none = claim(&server, "work", &Value::Null);
    assert_eq!(none, json!({"token": null, "until": null, "events": []}));
    assert_eq!(settle(&server, "work/ack", &second, &json!({})), 200);
    // A lost answer: what is repeated is still so.
    assert_eq!(settle(&server, "work/ack", &second, &json!({"ids": [4]})), 200);
    assert_eq!(settle(&server, "work/ack", &first, &json!({"ids": [1]})), 200);
    // The lease of the rest ends, and another worker has it.
    let again = claim(&server, "work", &json!({"wait": "20s"}));
    assert_eq!(ids_of(&again), [3]);
    assert_eq!(again["events"][0]["attempts"], 2);
    for more in [json!({}), json!({"ids": [3]}), json!({"up_to": 3}), json!({"ids": [1]})] {
        assert_eq!(settle(&server, "work/ack", &first, &more), 409, "{more}");
        assert_eq!(settle(&server, "work/nack", &first, &more), 409, "{more}");
    }
    assert_eq!(settle(&server, "work/extend", &first, &json!({})), 409);
    assert_eq!(settle(&server, "work/extend", &again, &json!({"lease": "1h"})), 200);
    thread::sleep(Duration::from_millis(400));
    assert_eq!(ids_of(&claim(&server, "work", &Value::Null)), [0; 0]);
    assert_eq!(settle(&server, "work/ack", &again, &json!({"up_to": 3})), 200);
    let shown = ask(&server, "GET", "work", &Value::Null).json();
    assert_eq!(
        ["lag", "in_flight", "waiting", "parked"].map(|name| shown[name].clone()),
        [0, 0, 0, 0].map(|zero: i64| json!(zero))
    );
}

#[test]
fn what_fails_too_often_is_parked_and_replayed_or_skipped() {
    let (_directory, server) = start(&[]);
    ask(&server, "PUT", "work", &json!({"max_attempts": 2}));
    for payload in ["1", "2", "3"] {
        server.store("a", payload);
    }
    for _ in 0..2 {
        let claimed = claim(&server, "work", &Value::Null);
        assert_eq!(ids_of(&claimed), [1, 2, 3]);
        let failed = json!({"ids": [1, 3], "reason": "the printer is on fire"});
        assert_eq!(settle(&server, "work/nack", &claimed, &failed), 200);
        assert_eq!(settle(&server, "work/nack", &claimed, &json!({"ids": [2], "release": true})), 200);
    }
    let parked = ask(&server, "GET", "work/parked", &Value::Null).json();
    assert_eq!(parked.as_array().unwrap().len(), 2);
    assert_eq!(parked[0]["reason"], "the printer is on fire");
    assert_eq!(
        (&parked[1]["id"], &parked[1]["attempts"], &parked[1]["event_payload"]),
        (&json!(3), &json!(2), &json!("3"))
    );
    let page = server.connect().get("/subscription/work/parked?after=1&limit=1").json();
    assert_eq!((page.as_array().unwrap().len(), &page[0]["id"]), (1, &json!(3)));
    let unpark = |body: &Value| ask(&server, "POST", "work/parked", body).json();
    assert_eq!(unpark(&json!({"action": "skip", "ids": [1]})), json!({"count": 1}));
    assert_eq!(unpark(&json!({"action": "replay"})), json!({"count": 1}));
    let claimed = claim(&server, "work", &Value::Null);
    assert_eq!(ids_of(&claimed), [2, 3]);
    assert_eq!(claimed["events"][1]["attempts"], 1);
}

#[test]
fn in_strict_order_nothing_overtakes() {
    let (_directory, server) = start(&[]);
    ask(&server, "PUT", "work", &json!({"order": "strict", "max_attempts": 1}));
    for payload in ["1", "2", "3", "4"] {
        server.store("a", payload);
    }
    let first = claim(&server, "work", &json!({"limit": 3}));
    assert_eq!(ids_of(&first), [1, 2, 3]);
    assert_eq!(ids_of(&claim(&server, "work", &Value::Null)), [0; 0]);
    assert_eq!(settle(&server, "work/ack", &first, &json!({"ids": [2]})), 409);
    assert_eq!(settle(&server, "work/ack", &first, &json!({"up_to": 1})), 200);
    // What comes after a failure is given back, too.
    assert_eq!(settle(&server, "work/nack", &first, &json!({"ids": [2]})), 200);
    assert_eq!(ids_of(&claim(&server, "work", &Value::Null)), [0; 0]);
    ask(&server, "POST", "work/parked", &json!({"action": "skip"}));
    assert_eq!(ids_of(&claim(&server, "work", &Value::Null)), [3, 4]);
}

#[test]
fn a_claim_waits_for_events_and_ends_with_the_service() {
    let (_directory, mut server) = start(&[]);
    ask(&server, "PUT", "work", &json!({"type": "a"}));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| claim(&server, "work", &json!({"wait": "50s"})));
        thread::sleep(Duration::from_millis(200));
        server.store("b", "");
        server.store("a", "");
        assert_eq!(ids_of(&waiting.join().unwrap()), [2]);
    });
    let begun = Instant::now();
    assert_eq!(ids_of(&claim(&server, "work", &json!({"wait": "600ms"}))), [0; 0]);
    assert!(begun.elapsed() >= Duration::from_millis(600));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&server, "POST", "work/claim", &json!({"wait": "50s"})));
        thread::sleep(Duration::from_millis(300));
        server.process.signal(Signal::TERM);
        assert_eq!(waiting.join().unwrap().status, 503);
    });
    assert_eq!(server.process.wait().code(), Some(0));
}

#[test]
fn retention_waits_for_subscriptions_unless_they_do_without() {
    let (_directory, server) = start(&["--keep-events", "1"]);
    ask(&server, "PUT", "waits", &Value::Null);
    ask(&server, "PUT", "does-not", &json!({"retain": false}));
    for payload in ["1", "2", "3"] {
        server.store("a", payload);
    }
    let listed = || {
        let events = server.connect().get("/event").json();
        events.as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    let claimed = claim(&server, "waits", &json!({"limit": 2}));
    let other = claim(&server, "does-not", &json!({"limit": 2}));
    assert_eq!((ids_of(&claimed), ids_of(&other)), (vec![1, 2], vec![1, 2]));
    settle(&server, "waits/ack", &claimed, &json!({"ids": [1]}));
    wait_until(|| (listed() == [2, 3]).then_some(()));
    let rest = claim(&server, "waits", &Value::Null);
    assert_eq!(ids_of(&rest), [3]);
    settle(&server, "waits/ack", &claimed, &json!({}));
    wait_until(|| (listed() == [3]).then_some(()));
    // The other has lost what it did not do in time.
    assert_eq!(ask(&server, "GET", "does-not", &Value::Null).json()["in_flight"], 0);
}

#[test]
fn a_subscription_that_nobody_claims_from_ends_and_says_so() {
    let (_directory, mut server) = start(&[]);
    ask(&server, "PUT", "idle", &json!({"lease": "1s", "expires": "1s"}));
    ask(&server, "PUT", "other", &Value::Null);
    server.process.wait_for_stderr("the subscription `idle` has ended");
    let listed = server.connect().get("/subscription").json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &json!("other")));
}

#[test]
fn what_does_not_fit_is_refused_by_its_name() {
    let (_directory, server) = start(&[]);
    ask(&server, "PUT", "work", &Value::Null);
    for (method, path, body, detail) in [
        ("PUT", "a", json!({"lease": "0s"}), "`lease`"),
        ("PUT", "a", json!({"lease": "2d"}), "`lease`"),
        ("PUT", "a", json!({"lease": "soon"}), "duration"),
        ("PUT", "a", json!({"max_attempts": 0}), "`max_attempts`"),
        ("PUT", "a", json!({"type": "["}), "`type`"),
        ("PUT", "a", json!({"from": "yesterday?"}), "expected \\\"beginning\\\""),
        ("PUT", "a", json!({"order": "random"}), "unknown variant"),
        ("PUT", "a", json!({"expires": "1s"}), "`expires`"),
        ("PUT", "a", json!({"typ": "a"}), "unknown field"),
        ("POST", "work/claim", json!({"limit": 0}), "`limit`"),
        ("POST", "work/claim", json!({"limit": 1001}), "`limit`"),
        ("POST", "work/ack", json!({}), "token"),
        ("POST", "work/ack", json!({"token": "1-1", "ids": [1], "up_to": 1}), "either"),
        ("POST", "work/extend", json!({"token": "1-1", "lease": "0s"}), "`lease`"),
        ("POST", "work/parked", json!({"action": "burn"}), "unknown variant"),
        ("POST", "work/claim", json!([]), "expected an object"),
    ] {
        let response = ask(&server, method, path, &body);
        assert_eq!(response.status, 400, "{path} {body} {response:?}");
        assert!(response.text().contains(detail), "{detail}: {}", response.text());
    }
    assert_eq!(ask(&server, "POST", "work/ack", &json!({"token": "none"})).status, 409);
    assert_eq!(ask(&server, "POST", "work/ack", &json!({"token": "1-1"})).status, 409);
    let text = [("Content-Type", "text/plain")];
    assert_eq!(server.connect().request("POST", "/subscription/work/claim", &text, b"{}").status, 415);
    for path in ["a%20b", ".a", &"x".repeat(65), "work/other", "work/claim/x"] {
        assert_eq!(ask(&server, "PUT", path, &Value::Null).status, 404, "{path}");
    }
}
