//! `Idempotency-Key`: a repeated request is stored once and answered alike.

use std::thread;

use crate::util::Consume;
use crate::util::http::{Response, event};

use super::{detail_of, start, stored};

fn answer_of(response: &Response) -> (u16, Option<&str>, &[u8]) {
    (response.status, response.header("location"), &response.body)
}

#[test]
fn a_repeated_request_is_stored_once_and_answered_alike() {
    let (directory, server) = start(&[]);
    server.store("other", "");
    let mut connection = server.connect();
    let first = connection.try_post_with_key("key", event("a", "b")).unwrap();
    assert_eq!((first.status, first.header("location")), (201, Some("event/2")));
    server.store("other", "");
    let second = connection.try_post_with_key("key", event("a", "b")).unwrap();
    assert_eq!(answer_of(&first), answer_of(&second));
    assert_eq!(stored(&directory).len(), 3);
}

#[test]
fn without_a_key_nothing_is_deduplicated() {
    let (directory, server) = start(&[]);
    server.store("a", "b");
    server.store("a", "b");
    assert_eq!(stored(&directory).len(), 2);
}

#[test]
fn another_key_is_another_event() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    // Keys are told apart byte by byte.
    for key in ["key", "Key", "key2", "ke y", "KEY"] {
        assert_eq!(connection.try_post_with_key(key, event("a", "b")).unwrap().status, 201);
    }
    assert_eq!(stored(&directory).len(), 5);
}

#[test]
fn concurrent_repetitions_are_stored_once_and_answered_alike() {
    let (directory, server) = start(&[]);
    for round in 0..5 {
        let key = format!("key {round}");
        let answers: Vec<Response> = thread::scope(|scope| {
            let post = || server.connect().try_post_with_key(&key, event("a", &key)).unwrap();
            let clients: Vec<_> = (0..32).map(|_| scope.spawn(post)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        assert_eq!(answers[0].status, 201);
        assert!(answers.iter().all(|answer| answer_of(answer) == answer_of(&answers[0])), "{answers:?}");
        assert_eq!(stored(&directory).len(), round + 1);
    }
}

#[test]
fn a_key_with_another_body_is_422_and_not_stored() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    assert_eq!(connection.try_post_with_key("key", event("a", "b")).unwrap().status, 201);
    detail_of(&connection.try_post_with_key("key", event("a", "c")).unwrap(), 422);
    detail_of(&connection.try_post_with_key("key", format!("[{}]", event("a", "b"))).unwrap(), 422);
    assert_eq!(connection.try_post_with_key("key", event("a", "b")).unwrap().status, 201);
    assert_eq!(stored(&directory), [("a".to_owned(), "b".to_owned())]);
}

#[test]
fn concurrent_requests_with_one_key_and_different_bodies_store_one_of_them() {
    let (directory, server) = start(&[]);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let server = &server;
        let post = move |number: usize| {
            server.connect().try_post_with_key("key", event("a", &number.to_string())).unwrap().status
        };
        let clients: Vec<_> = (0..32).map(|number| scope.spawn(move || post(number))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 422).count(), 31, "{statuses:?}");
    assert_eq!(stored(&directory).len(), 1);
}

#[test]
fn a_repeated_list_is_stored_once_and_answered_alike() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    let list = format!("[{},{},{}]", event("a", "1"), event("a", "2"), event("a", "3"));
    let first = connection.try_post_with_key("key", &list).unwrap();
    let second = connection.try_post_with_key("key", &list).unwrap();
    assert_eq!((first.status, first.text().as_str()), (201, r#"{"status":"success","count":3}"#));
    assert_eq!(answer_of(&first), answer_of(&second));
    assert_eq!(stored(&directory).len(), 3);
}

#[test]
fn a_refused_request_does_not_use_up_its_key() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    detail_of(&connection.try_post_with_key("key", r#"{"event_type":1}"#).unwrap(), 400);
    assert_eq!(connection.try_post_with_key("key", event("a", "b")).unwrap().status, 201);
    assert_eq!(stored(&directory).len(), 1);
}

#[test]
fn a_key_outlives_the_server() {
    let (directory, mut server) = start(&[]);
    let first = server.connect().try_post_with_key("key", event("a", "b")).unwrap();
    assert!(server.process.terminate().success());
    let server = Consume::start(directory.path());
    let second = server.connect().try_post_with_key("key", event("a", "b")).unwrap();
    assert_eq!(answer_of(&first), answer_of(&second));
    detail_of(&server.connect().try_post_with_key("key", event("a", "c")).unwrap(), 422);
    assert_eq!(stored(&directory).len(), 1);
}

#[test]
fn a_key_is_1_to_255_printable_ascii_characters_given_once() {
    let (directory, server) = start(&[]);
    let post = |headers: &[(&str, &str)]| {
        server.connect().request("POST", "/event", headers, event("a", "b").as_bytes())
    };
    let (longest, too_long) = ("k".repeat(255), "k".repeat(256));
    for key in ["", &too_long, "é", "a\tb"] {
        let detail = detail_of(&post(&[("Idempotency-Key", key)]), 400);
        assert!(detail.contains("Idempotency-Key"), "{detail}");
    }
    detail_of(&post(&[("Idempotency-Key", "a"), ("Idempotency-Key", "a")]), 400);
    assert_eq!(stored(&directory), []);
    assert_eq!(post(&[("Idempotency-Key", &longest)]).status, 201);
}

#[test]
fn a_key_with_the_same_bytes_of_another_type_is_422_or_answered_alike() {
    let (directory, server) = start(&[]);
    let post = |key: &str, content_type: &str| {
        let headers = [("Content-Type", content_type), ("Idempotency-Key", key)];
        server.connect().request("POST", "/event", &headers, event("a", key).as_bytes())
    };
    let (json, lines) = ("application/json", "application/x-ndjson");
    // As a line after the event, which is also how lines of a former version are found.
    let first = post("one", json);
    assert_eq!(answer_of(&post("one", lines)), answer_of(&first));
    assert_eq!(answer_of(&post("one", json)), answer_of(&first));
    // As an event after the line.
    let first = post("two", lines);
    assert_eq!((first.status, first.text().as_str()), (201, r#"{"status":"success","count":1}"#));
    detail_of(&post("two", json), 422);
    assert_eq!(answer_of(&post("two", lines)), answer_of(&first));
    assert_eq!(answer_of(&post("two", "application/jsonl")), answer_of(&first));
    assert_eq!(stored(&directory).len(), 2);
}

#[test]
fn a_key_with_another_line_is_422_and_not_stored() {
    let (directory, server) = start(&[]);
    let headers = [("Content-Type", "application/x-ndjson"), ("Idempotency-Key", "key")];
    let post =
        |payload: &str| server.connect().request("POST", "/event", &headers, event("a", payload).as_bytes());
    assert_eq!(post("b").status, 201);
    detail_of(&post("c"), 422);
    assert_eq!(stored(&directory).len(), 1);
}
