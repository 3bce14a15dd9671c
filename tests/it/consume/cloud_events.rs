//! CloudEvents at `POST /event`: structured, batched, binary, each stored once by its source and id.

use serde_json::{Value, json};

use super::{start, stored};
use crate::util::Consume;
use crate::util::http::Response;

const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";
const BATCH: &str = "application/cloudevents-batch+json";

fn cloud_event(source: &str, id: &str, data: &str) -> String {
    format!(
        r#"{{ "specversion":"1.0", "type":"order.created", "source":"{source}", "id":"{id}", "data":{data} }}"#
    )
}

fn post(server: &Consume, content_type: &str, body: &str) -> Response {
    server.connect().request("POST", "/event", &[("Content-Type", content_type)], body.as_bytes())
}

#[test]
fn a_structured_event_is_its_payload_byte_for_byte() {
    let (directory, server) = start(&[]);
    let body = cloud_event("/shop", "1", "{\"total\": 1.10}");
    let response = post(&server, STRUCTURED, &body);
    assert_eq!((response.status, response.text().as_str()), (201, r#"{"status":"success"}"#));
    assert_eq!(response.header("location"), Some("event/1"));
    assert_eq!(stored(&directory), [("order.created".to_owned(), body)]);
}

#[test]
fn an_event_is_stored_once_by_source_and_id_however_it_comes() {
    let (directory, server) = start(&[]);
    let event = |source: &str, id: &str, data: &str| cloud_event(source, id, data);
    let first = post(&server, STRUCTURED, &event("/shop", "1", "1"));
    for again in [event("/shop", "1", "1"), event("/shop", "1", "2")] {
        let again = post(&server, STRUCTURED, &again);
        assert_eq!((again.status, again.header("location")), (201, first.header("location")));
    }
    let batch =
        format!("[{},{},{}]", event("/shop", "2", "1"), event("/shop", "1", "1"), event("/shop", "2", "1"));
    for _ in 0..2 {
        let response = post(&server, BATCH, &batch);
        assert_eq!((response.status, response.text().as_str()), (201, r#"{"status":"success","count":3}"#));
        assert_eq!(response.header("location"), None);
    }
    let binary = [("ce-specversion", "1.0"), ("ce-type", "a"), ("ce-source", "/shop"), ("ce-id", "2")];
    let response = server.connect().request("POST", "/event", &binary, b"{}");
    assert_eq!((response.status, response.header("location")), (201, Some("event/2")));
    assert_eq!(stored(&directory).len(), 2);
    // Neither is a part of the other.
    for (source, id) in
        [("/shop 1", "2"), ("/shop", "1 2"), ("/sh", "op1"), ("/other", "1"), ("\u{e9}", &"9".repeat(300))]
    {
        assert_eq!(post(&server, STRUCTURED, &event(source, id, "1")).status, 201);
    }
    assert_eq!(stored(&directory).len(), 7);
}

#[test]
fn a_batch_keeps_its_order_and_is_refused_whole() {
    let (directory, server) = start(&[]);
    let events: Vec<String> = (0..500).map(|id| cloud_event("/shop", &id.to_string(), "null")).collect();
    let bad = format!("[{},{{}}]", events[..10].join(","));
    let response = post(&server, BATCH, &bad);
    assert_eq!((response.status, &response.json()["errors"][0]["pointer"]), (400, &json!("/10/specversion")));
    assert_eq!(post(&server, BATCH, "[]").status, 400);
    assert!(stored(&directory).is_empty());
    assert_eq!(post(&server, BATCH, &format!("[{}]", events.join(","))).status, 201);
    let payloads: Vec<String> = stored(&directory).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, events);
}

#[test]
fn binary_mode_becomes_the_json_format() {
    let (directory, server) = start(&[]);
    let attributes = [
        ("ce-specversion", "1.0"),
        ("ce-type", "a"),
        ("ce-source", "/ä%20%C3%A4"),
        ("ce-time", "2024-01-15T12:00:00Z"),
    ];
    for (id, content_type, data, expected) in [
        ("1", "application/json", &b"{\"a\": 1.10}"[..], r#"{"a": 1.10}"#),
        ("2", "text/plain", b"caf\xc3\xa9", r#""café""#),
        ("3", "image/png", b"\x89\0", r#""iQA=""#),
    ] {
        let headers = [&attributes[..], &[("ce-id", id), ("Content-Type", content_type)]].concat();
        let response = server.connect().request("POST", "/event", &headers, data);
        assert_eq!(response.status, 201, "{response:?}");
        let (event_type, payload) = stored(&directory).pop().unwrap();
        let event: Value = serde_json::from_str(&payload).unwrap();
        assert_eq!((event_type.as_str(), &event["source"], &event["id"]), ("a", &json!("/ä ä"), &json!(id)));
        assert_eq!(event["datacontenttype"], content_type);
        assert!(payload.ends_with(&format!("{expected}}}")), "{payload}");
    }
    let refused = [("ce-specversion", "1.0"), ("ce-type", "a"), ("ce-source", "/a")];
    assert_eq!(server.connect().request("POST", "/event", &refused, b"{}").status, 400);
    let cut = [&refused[..], &[("ce-id", "9")]].concat();
    assert_eq!(server.connect().request("POST", "/event", &cut, b"{").status, 400);
    assert_eq!(stored(&directory).len(), 3);
}
