//! `eventctl consume`: what clients of the HTTP interface rely on.

use tempfile::tempdir;

use crate::util::{Consume, stored_events};

#[test]
fn an_event_is_stored_and_located() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    let response = server.connect().post(r#"{"event_type": "message", "event_payload": "hello"}"#);
    assert_eq!(response.status, 201);
    assert_eq!(response.text(), r#"{"status":"success"}"#);
    assert_eq!(response.header("location"), Some("/event/1"));
    let event = server.connect().get("/event/1").json();
    assert_eq!(event["event_type"], "message");
    assert_eq!(event["event_payload"], "hello");
    let stored = stored_events(&directory.path().join("events.db"));
    assert_eq!(stored, [(1, "message".to_owned(), "hello".to_owned())]);
}
