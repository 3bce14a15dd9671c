//! Requests that are refused for what stands in their head, and bodies that are too large or too late.

use std::thread;

use crate::util::http::event;

use super::{detail_of, start, stored};

/// The largest body unless the settings say otherwise.
const BODY_LIMIT_BYTES: usize = 1 << 20;

#[test]
fn paths_without_anything_are_404() {
    let (_directory, server) = start(&[]);
    server.store("a", "b");
    let mut connection = server.connect();
    for path in [
        "//",
        "/index.html",
        "/events",
        "/Event",
        "//event",
        "/event//",
        "/event/2",
        "/event/0",
        "/event/-1",
        "/event/x",
        "/event/+1",
        "/event/1x",
        "/event/1/2",
        "/event/%31",
        "/event/99999999999999999999",
        "/health/x",
    ] {
        detail_of(&connection.get(path), 404);
    }
    let response = connection.request("POST", "/nothing", &[], event("a", "b").as_bytes());
    detail_of(&response, 404);
}

#[test]
fn other_methods_are_405_and_told_which_there_are() {
    let (directory, server) = start(&[]);
    server.store("a", "b");
    for (method, path, allowed) in [
        ("PUT", "/event", "GET, HEAD, OPTIONS, POST"),
        ("DELETE", "/event", "GET, HEAD, OPTIONS, POST"),
        ("PATCH", "/event/", "GET, HEAD, OPTIONS, POST"),
        ("BREW", "/event", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/event/1", "DELETE, GET, HEAD"),
        ("PUT", "/event/1", "DELETE, GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/ready", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
    ] {
        let response = server.connect().request(method, path, &[], event("a", "b").as_bytes());
        detail_of(&response, 405);
        assert_eq!(response.header("allow"), Some(allowed), "{method} {path}");
    }
    assert_eq!(stored(&directory).len(), 1);
}

#[test]
fn other_media_types_are_415() {
    let (directory, server) = start(&[]);
    for header in [
        ("Content-Type", "text/plain"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Type", "application/json-seq"),
        ("Content-Type", "application/json; charset=iso-8859-1"),
        ("Content-Type", ""),
        ("Content-Type", "é"),
        ("Content-Encoding", "br"),
    ] {
        let response = server.connect().request("POST", "/event", &[header], event("a", "b").as_bytes());
        detail_of(&response, 415);
    }
    assert_eq!(stored(&directory), []);
}

#[test]
fn a_media_type_is_read_as_its_rfc_writes_it() {
    let (_directory, server) = start(&[]);
    let mut connection = server.connect();
    for content_type in [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=\"UTF-8\"",
        "application/x-ndjson",
        "application/x-ndjson; charset=UTF-8",
    ] {
        let headers = [("Content-Type", content_type)];
        let response = connection.request("POST", "/event", &headers, event("a", "b").as_bytes());
        assert_eq!(response.status, 201, "{content_type}: {response:?}");
    }
    assert_eq!(connection.request("POST", "/event", &[], event("a", "b").as_bytes()).status, 201);
}

#[test]
fn a_missing_or_doubled_host_is_400() {
    let (directory, server) = start(&[]);
    let body = event("a", "b");
    for hosts in ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n"] {
        let mut connection = server.connect();
        let request = format!(
            "POST /event HTTP/1.1\r\n{hosts}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.send(request.as_bytes()).unwrap();
        detail_of(&connection.receive().unwrap(), 400);
    }
    assert_eq!(stored(&directory), []);
}

#[test]
fn a_body_that_is_announced_as_too_large_is_413_before_it_is_sent() {
    let (_directory, server) = start(&[]);
    let mut connection = server.connect();
    let length = BODY_LIMIT_BYTES + 1;
    let head = format!(
        "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    connection.send(head.as_bytes()).unwrap();
    let response = connection.receive().unwrap();
    detail_of(&response, 413);
    assert_eq!(response.header("connection"), Some("close"));
}

#[test]
fn a_client_that_still_writes_sees_the_413() {
    const SENT_BYTES: usize = 3 << 20;
    let (directory, server) = start(&[]);
    let length = format!("Content-Length: {SENT_BYTES}\r\n\r\n");
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{SENT_BYTES:x}\r\n");
    for framing in [length, chunked] {
        for _ in 0..5 {
            let mut connection = server.connect();
            connection
                .send(b"POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n")
                .unwrap();
            connection.send(framing.as_bytes()).unwrap();
            for piece in vec![b' '; SENT_BYTES].chunks(64 << 10) {
                connection.send(piece).unwrap();
            }
            detail_of(&connection.receive().unwrap(), 413);
        }
    }
    assert_eq!(stored(&directory), []);
}

#[test]
fn a_body_of_just_the_limit_is_stored() {
    let (directory, server) = start(&["--body-limit", "1000"]);
    let room = 1000 - event("a", "").len();
    let mut connection = server.connect();
    assert_eq!(connection.post_event("a", &"x".repeat(room)).status, 201);
    detail_of(&connection.post_event("a", &"x".repeat(room + 1)), 413);
    assert_eq!(stored(&directory).len(), 1);
}

#[test]
fn a_body_that_does_not_arrive_in_time_is_408() {
    let (directory, server) = start(&["--body-timeout", "200ms"]);
    let body = event("a", "b");
    let mut connection = server.connect();
    let head = format!(
        "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.send(format!("{head}{}", &body[..10]).as_bytes()).unwrap();
    detail_of(&connection.receive().unwrap(), 408);
    assert!(connection.is_closed());
    assert_eq!(stored(&directory), []);
}

#[test]
fn a_body_that_trickles_has_no_more_time() {
    let (_directory, server) = start(&["--body-timeout", "500ms"]);
    let mut connection = server.connect();
    connection.send(b"POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n").unwrap();
    let mut trickle = connection.stream().try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            // Ends when the server closes the connection.
            while std::io::Write::write_all(&mut trickle, b" ").is_ok() {
                thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        detail_of(&connection.receive().unwrap(), 408);
        connection.stream().shutdown(std::net::Shutdown::Both).unwrap();
    });
}

#[test]
fn a_long_head_is_not_repeated_in_the_answer() {
    let (_directory, server) = start(&[]);
    let long = "x".repeat(6000);
    let post = |header| [("Content-Type", "application/json"), header];
    let answers = [
        server.connect().get(&format!("/{long}")),
        server.connect().get(&format!("/event?{long}=1")),
        server.connect().get(&format!("/event?limit={long}")),
        server.connect().get(&format!("/event?since={long}")),
        server.connect().get(&format!("/event?type=[{long}")),
        server.connect().request("POST", "/event", &[("Content-Type", &long)], b"{}"),
        server.connect().request("POST", "/event", &post(("Idempotency-Key", &long)), b"{}"),
    ];
    for answer in answers {
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert!(answer.body.len() < 600, "{} bytes", answer.body.len());
    }
}
