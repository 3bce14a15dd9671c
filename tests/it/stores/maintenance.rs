//! What forgets, counts and measures, on every store.

use serde_json::{Value, json};

use super::database::{TestStore, on_every_store};
use crate::util::http::event;
use crate::util::wait_until;

on_every_store!(
    the_oldest_events_are_forgotten_with_their_keys,
    events_are_counted_by_type_and_time,
    types_that_differ_in_spaces_at_their_ends_are_different,
    the_size_of_the_store_is_measured,
);

fn the_oldest_events_are_forgotten_with_their_keys(store: &TestStore) {
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "key")];
    {
        let server = store.prepare_and_consume();
        let response = server.connect().request("POST", "/event", &headers, event("a", "old").as_bytes());
        assert_eq!(response.status, 201);
        let list = format!("[{}]", vec![event("a", "b"); 1500].join(","));
        assert_eq!(server.connect().post(list).status, 201);
    }
    let server = store.consume(&["--keep-events", "5"]);
    let left = wait_until(|| Some(store.stored()).filter(|events| events.len() <= 5));
    assert_eq!(left.len(), 5);
    let newest = left.last().unwrap().0;
    assert!(left.iter().zip(newest - 4..).all(|((id, _, _), expected)| *id == expected), "{left:?}");
    // The key is new again.
    let response = server.connect().request("POST", "/event", &headers, event("a", "new").as_bytes());
    assert_eq!(response.status, 201);
    assert_eq!(store.stored().last().unwrap().2, "new");
}

fn events_are_counted_by_type_and_time(store: &TestStore) {
    let server = store.prepare_and_consume();
    assert_eq!(store.tail(&["--stats"]), "no events\n");
    for (event_type, count) in [("join", 3), ("message", 7), ("leave_é", 1)] {
        (0..count).for_each(|_| server.store(event_type, "x"));
    }
    let object: Value = serde_json::from_str(&store.tail(&["--stats", "-o", "json"])).unwrap();
    assert_eq!(object["events"], 11);
    let types: Vec<(&Value, &Value)> = object["types"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| (&kind["event_type"], &kind["count"]))
        .collect();
    assert_eq!(
        types,
        [(&json!("message"), &json!(7)), (&json!("join"), &json!(3)), (&json!("leave_é"), &json!(1))]
    );
    let counts: Vec<i64> = serde_json::from_value(object["over_time"]["counts"].clone()).unwrap();
    assert_eq!(counts.iter().sum::<i64>(), 11);
    assert!(counts.first() >= Some(&1) && counts.last() >= Some(&1), "{counts:?}");
    let object: Value =
        serde_json::from_str(&store.tail(&["--stats", "--type", "[jl]*", "-o", "json"])).unwrap();
    assert_eq!(object["events"], 4);
    let object: Value =
        serde_json::from_str(&store.tail(&["--stats", "--until", "1h", "-o", "json"])).unwrap();
    assert_eq!(object["events"], 0);
}

fn types_that_differ_in_spaces_at_their_ends_are_different(store: &TestStore) {
    let server = store.prepare_and_consume();
    for (event_type, count) in [("a", 1), ("a ", 2), ("a  ", 4), (" a", 3)] {
        (0..count).for_each(|_| server.store(event_type, "x"));
    }
    let object: Value = serde_json::from_str(&store.tail(&["--stats", "-o", "json"])).unwrap();
    let types: Vec<(&Value, &Value)> = object["types"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| (&kind["event_type"], &kind["count"]))
        .collect();
    let expected = [
        (&json!("a  "), &json!(4)),
        (&json!(" a"), &json!(3)),
        (&json!("a "), &json!(2)),
        (&json!("a"), &json!(1)),
    ];
    assert_eq!(types, expected);
    for (pattern, count) in [("a", 1), ("a ", 2), ("a  ", 4), ("a*", 7), ("a[ ]", 2), ("? ", 2), ("* ", 6)] {
        let lines = store.tail(&["-n", "all", "-o", "json", "--type", pattern]).lines().count();
        assert_eq!(lines, count, "`{pattern}`");
        let mut query = form_urlencoded::Serializer::new(String::new());
        let listed = server.connect().get(&format!("/event?{}", query.append_pair("type", pattern).finish()));
        assert_eq!(listed.json().as_array().unwrap().len(), count, "`{pattern}`");
    }
}

fn the_size_of_the_store_is_measured(store: &TestStore) {
    let server = store.prepare_and_consume();
    server.store("a", "b");
    let text = server.connect().get("/metrics").text();
    let sample = text.lines().find_map(|line| line.strip_prefix("eventctl_store_size_bytes ")).unwrap();
    assert!(sample.parse::<i64>().unwrap() > 0, "{text}");
}
