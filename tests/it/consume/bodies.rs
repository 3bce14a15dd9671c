//! What `POST /event` takes, and how it refuses what it does not take.

use crate::util::http::{Connection, Response, event};

use super::{detail_of, pointers_of, start, stored};

const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");

fn post_lines(connection: &mut Connection, lines: impl AsRef<[u8]>) -> Response {
    connection.request("POST", "/event", &[NDJSON], lines.as_ref())
}

fn owned(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(kind, payload)| ((*kind).to_owned(), (*payload).to_owned())).collect()
}

#[test]
fn an_array_is_stored_whole_and_in_its_order() {
    let (directory, server) = start(&[]);
    let array = format!("[{},\n {}, {}]", event("a", "1"), event("b", "2"), event("a", "3"));
    let response = server.connect().post(array);
    assert_eq!(response.status, 201);
    assert_eq!(response.text(), r#"{"status":"success","count":3}"#);
    assert_eq!(stored(&directory), owned(&[("a", "1"), ("b", "2"), ("a", "3")]));
}

#[test]
fn lines_are_stored_whole_and_in_their_order() {
    let (directory, server) = start(&[]);
    let lines = format!("{}\r\n\n{}\n{}", event("a", "1"), event("b", "2"), event("a", "3"));
    let response = post_lines(&mut server.connect(), lines);
    assert_eq!(response.status, 201);
    assert_eq!(response.text(), r#"{"status":"success","count":3}"#);
    assert_eq!(stored(&directory), owned(&[("a", "1"), ("b", "2"), ("a", "3")]));
}

#[test]
fn a_list_of_one_is_counted_too() {
    let (_directory, server) = start(&[]);
    let mut connection = server.connect();
    let array = connection.post(format!("[{}]", event("a", "1")));
    assert_eq!((array.status, array.text().as_str()), (201, r#"{"status":"success","count":1}"#));
    let line = post_lines(&mut connection, event("a", "1"));
    assert_eq!((line.status, line.text().as_str()), (201, r#"{"status":"success","count":1}"#));
}

#[test]
fn one_bad_item_refuses_the_whole_list() {
    let (directory, server) = start(&[]);
    let bad = r#"{"event_type":"a","event_payload":7}"#.to_owned();
    let items = [event("a", "0"), event("a", "1"), event("a", "2"), bad, event("a", "4")];
    let mut connection = server.connect();
    let array = connection.post(format!("[{}]", items.join(",")));
    detail_of(&array, 400);
    assert_eq!(pointers_of(&array), ["/3/event_payload"]);
    let lines = post_lines(&mut connection, items.join("\n"));
    detail_of(&lines, 400);
    assert_eq!(pointers_of(&lines), ["/3/event_payload"]);
    assert_eq!(stored(&directory), []);
}

#[test]
fn every_bad_item_is_named() {
    let (directory, server) = start(&[]);
    let array = r#"[{"event_type":1,"event_payload":{}}, "x", {"event_type":"a","event_payload":"b"},
        {"event_type":"a"}, {"event_type":"a","event_payload":"b","a/b":1}]"#;
    let response = server.connect().post(array);
    detail_of(&response, 400);
    let expected = ["/0/event_type", "/0/event_payload", "/1", "/3/event_payload", "/4/a~1b"];
    assert_eq!(pointers_of(&response), expected);
    assert_eq!(response.json()["errors"][0]["detail"], "expected a string, got a number");
    assert_eq!(stored(&directory), []);
}

#[test]
fn what_does_not_fit_is_400_and_named_by_pointer() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    for (body, pointers) in [
        (r#"{}"#, &["/event_type", "/event_payload"][..]),
        (r#"{"event_type":"a"}"#, &["/event_payload"]),
        (r#"{"event_payload":"a"}"#, &["/event_type"]),
        (r#"{"event_type":123,"event_payload":{}}"#, &["/event_type", "/event_payload"]),
        (r#"{"event_type":null,"event_payload":"a"}"#, &["/event_type"]),
        (r#"{"event_type":"a","event_payload":["b"]}"#, &["/event_payload"]),
        (r#"{"event_type":"a","event_payload":true}"#, &["/event_payload"]),
        (r#"{"event_type":"a","event_payload":"b","other":"c"}"#, &["/other"]),
        (r#"{"event_type":"a","event_payload":"b","Event_type":"c"}"#, &["/Event_type"]),
        (r#"{"event_type":"a","event_type":"a","event_payload":"b"}"#, &["/event_type"]),
        (r#"{"event_type":"a","event_payload":"b","event_payload":"b"}"#, &["/event_payload"]),
        (r#"{"event_type":"a","\u0065vent_type":"a","event_payload":"b"}"#, &["/event_type"]),
        (r#"{"event_type":"a\u0000b","event_payload":"b"}"#, &["/event_type"]),
        (r#"{"event_type":"a","event_payload":"\u0000"}"#, &["/event_payload"]),
        (r#""text""#, &[""]),
        ("7", &[""]),
        ("null", &[""]),
        ("[]", &[""]),
        ("[[]]", &["/0"]),
    ] {
        let response = connection.post(body);
        detail_of(&response, 400);
        assert_eq!(pointers_of(&response), pointers, "{body}");
    }
    assert_eq!(stored(&directory), []);
}

#[test]
fn what_is_not_json_is_400() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    let good = event("a", "b");
    for body in [
        "",
        " \n",
        "{",
        "hello",
        "event_type=a&event_payload=b",
        "{'event_type':'a','event_payload':'b'}",
        r#"{"event_type":"a","event_payload":"b",}"#,
        r#"{"event_type":"a","event_payload":"b"}}"#,
        r#"{"event_type":"a" "event_payload":"b"}"#,
        r#"{"event_type":"a","event_payload":NaN}"#,
        r#"{"event_type":"a","event_payload":"\x41"}"#,
        "{\"event_type\":\"a\",\"event_payload\":\"a\nb\"}",
        "{\"event_type\":\"a\",\"event_payload\":\"a\0b\"}",
        "\u{feff}\u{feff}{\"event_type\":\"a\",\"event_payload\":\"b\"}",
        &format!("{good}{good}"),
        &format!("{good}\n{good}"),
        &format!("[{good}"),
        &format!("[{good},]"),
        &format!("[{good}] x"),
        &"[".repeat(100_000),
        &r#"{"a":"#.repeat(100_000),
    ] {
        let response = connection.post(body);
        detail_of(&response, 400);
    }
    for lines in ["", "\n\n", "{", &format!("{good}\n{{"), &format!("{good} {good}"), &format!("[{good}]")] {
        detail_of(&post_lines(&mut connection, lines), 400);
    }
    assert_eq!(stored(&directory), []);
}

#[test]
fn a_byte_order_mark_at_the_start_of_a_body_is_passed_over() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    assert_eq!(connection.post(format!("\u{feff}{}", event("a", "1"))).status, 201);
    assert_eq!(
        connection.post(format!("\u{feff} [{}]", event("a", "2"))).text(),
        r#"{"status":"success","count":1}"#
    );
    assert_eq!(post_lines(&mut connection, format!("\u{feff}{}\n", event("a", "\u{feff}3"))).status, 201);
    assert_eq!(stored(&directory), owned(&[("a", "1"), ("a", "2"), ("a", "\u{feff}3")]));
}

#[test]
fn lines_that_have_lost_their_ends_or_their_type_are_said_to_have() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    let good = event("a", "b");
    let detail = detail_of(&post_lines(&mut connection, format!("{good}{good}")), 400);
    assert!(detail.contains("line 1 of the body") && detail.contains("--data-binary"), "{detail}");
    let detail = detail_of(&connection.post(format!("{good}\n{good}\n")), 400);
    assert!(detail.contains("Content-Type: application/x-ndjson"), "{detail}");
    let detail = detail_of(&post_lines(&mut connection, "{\n\"event_type\": \"a\"\n}"), 400);
    assert!(detail.contains("application/json"), "{detail}");
    // Lines are counted as an editor counts them, and items as they are stored.
    let detail = detail_of(&post_lines(&mut connection, format!("\n{good}\n\nnot json\n")), 400);
    assert!(detail.starts_with("line 4 of the body"), "{detail}");
    let response = post_lines(&mut connection, format!("\n{good}\n\n{{}}\n"));
    assert_eq!(pointers_of(&response), ["/1/event_type", "/1/event_payload"]);
    assert_eq!(stored(&directory), []);
}

#[test]
fn common_names_of_utf_8_are_taken_and_others_are_415() {
    let (directory, server) = start(&[]);
    let post = |content_type: &str| {
        let headers = [("Content-Type", content_type)];
        server.connect().request("POST", "/event", &headers, event("a", "b").as_bytes())
    };
    for charset in ["utf-8", "UTF8", "utf8", "us-ascii", "\"US-ASCII\""] {
        for media_type in ["application/json", "application/x-ndjson"] {
            assert_eq!(post(&format!("{media_type}; charset={charset}")).status, 201, "{charset}");
        }
    }
    for charset in ["utf-16", "iso-8859-1", ""] {
        detail_of(&post(&format!("application/json; charset={charset}")), 415);
    }
    assert_eq!(stored(&directory).len(), 10);
}

#[test]
fn more_unknown_members_than_are_listed_are_counted() {
    let (_directory, server) = start(&[]);
    let members: Vec<String> = (0..150).map(|number| format!("\"m{number}\":1")).collect();
    let response = server.connect().post(format!("{{{}}}", members.join(",")));
    assert_eq!(detail_of(&response, 400), "the body does not fit; 52 more errors are not listed");
    assert_eq!(pointers_of(&response).len(), 100);
}

#[test]
fn bodies_for_people_end_with_a_newline_and_promised_ones_do_not() {
    let (_directory, server) = start(&[]);
    let mut connection = server.connect();
    assert_eq!(connection.post(event("a", "b")).body, br#"{"status":"success"}"#);
    for path in ["/event", "/event/1", "/event/2", "/nothing", "/openapi.json", "/metrics"] {
        let body = connection.get(path).body;
        assert!(body.ends_with(b"\n") && !body.ends_with(b"\n\n"), "{path}");
    }
}

#[test]
fn browsers_neither_guess_types_nor_give_responses_to_other_sites() {
    let (_directory, server) = start(&[]);
    let mut connection = server.connect();
    let mut responses = vec![connection.post(event("a", "b")), connection.post("{")];
    responses.extend(
        ["/event", "/event/1", "/nothing", "/health", "/openapi.json", "/metrics", "/"]
            .map(|path| connection.get(path)),
    );
    for response in responses {
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{response:?}");
        assert_eq!(response.header("cross-origin-resource-policy"), Some("same-origin"), "{response:?}");
    }
}

#[test]
fn a_lone_surrogate_is_400() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    for escapes in [r"\ud800", r"\udfff", r"\ud800\ud800", r"\ude00\ud83d", r"\ud83dx", r"\uD83D\n"] {
        for member in ["event_type", "event_payload"] {
            let body = event("TYPE", "PAYLOAD");
            let marker = if member == "event_type" { "TYPE" } else { "PAYLOAD" };
            detail_of(&connection.post(body.replace(marker, escapes)), 400);
        }
        detail_of(&post_lines(&mut connection, event("a", "b").replace('b', escapes)), 400);
    }
    assert_eq!(stored(&directory), []);
}

#[test]
fn bytes_that_are_not_utf8_are_400_wherever_they_stand() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    // A stray byte, an overlong slash, an encoded surrogate, a code above U+10FFFF, a sequence cut short.
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
        for (before, after) in [
            (&br#"{"event_type":""#[..], &br#"","event_payload":"b"}"#[..]),
            (br#"{"event_type":"a","event_payload":""#, br#""}"#),
            (br#"{"event_type":"a","event_payload":"b","other":""#, br#""}"#),
            (br#"{"event_type":"a","event_payload":"b",""#, br#"":1}"#),
            (br#"{"event_type":"a","event_payload":"b"}"#, b""),
        ] {
            let body = [before, bytes, after].concat();
            let detail = detail_of(&connection.post(&body), 400);
            assert!(detail.contains(&format!("not UTF-8 at byte {}", before.len())), "{detail}");
            detail_of(&post_lines(&mut connection, &body), 400);
        }
    }
    assert_eq!(stored(&directory), []);
}

#[test]
fn a_type_has_at_most_255_characters_however_many_bytes() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    for character in ["x", "é", "世", "👋"] {
        let longest = character.repeat(255);
        assert_eq!(connection.post_event(&longest, "").status, 201);
        let response = connection.post_event(&format!("{longest}{character}"), "");
        detail_of(&response, 400);
        assert_eq!(pointers_of(&response), ["/event_type"]);
        assert_eq!(stored(&directory).pop(), Some((longest, String::new())));
    }
    assert_eq!(stored(&directory).len(), 4);
}

#[test]
fn empty_strings_are_stored() {
    let (directory, server) = start(&[]);
    assert_eq!(server.connect().post_event("", "").status, 201);
    assert_eq!(stored(&directory), owned(&[("", "")]));
    let event = server.connect().get("/event/1").json();
    assert_eq!((&event["event_type"], &event["event_payload"]), (&"".into(), &"".into()));
}

#[test]
fn an_unknown_length_is_read_to_its_end() {
    let (directory, server) = start(&[]);
    let mut connection = server.connect();
    let (body, mut chunks) = (event("a", "chunked"), String::new());
    for character in body.chars() {
        chunks += &format!("1;extension=x\r\n{character}\r\n");
    }
    let head = "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.send(format!("{head}{chunks}0\r\nTrailer: x\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(connection.receive().unwrap().status, 201);
    assert_eq!(stored(&directory), owned(&[("a", "chunked")]));
    assert_eq!(connection.get("/health").status, 200);
}

#[test]
fn a_refusal_is_small_however_large_the_input() {
    const MEBIBYTE: usize = 1 << 20;
    let (directory, server) = start(&[]);
    let long = "x".repeat(MEBIBYTE - 100);
    let controls = r"\u0001".repeat(10);
    let members: Vec<String> = (0..100).map(|number| format!("\"{controls}{number}\":1")).collect();
    let inputs = [
        long.clone(),
        format!("\"{long}\""),
        format!(r#"{{"event_type":"{long}","event_payload":""}}"#),
        format!(r#"{{"{long}":1}}"#),
        format!(r#"{{"event_type":"a","event_payload":"{long}"#),
        format!("[{}1]", "1,".repeat(MEBIBYTE / 2 - 10)),
        format!("[{}{{}}]", "{},".repeat(MEBIBYTE / 3 - 10)),
        format!("{{{}}}", members.join(",")),
        format!("{{{}\"a\":1}}", "\"a\":1,".repeat(MEBIBYTE / 6 - 10)),
        format!("{{{}\"event_type\":1}}", "\"event_type\":1,".repeat(MEBIBYTE / 15 - 10)),
        "\n7".repeat(MEBIBYTE / 2 - 10),
    ];
    let mut connection = server.connect();
    for input in inputs {
        let start: String = input.chars().take(40).collect();
        for content_type in ["application/json", "application/x-ndjson"] {
            let headers = [("Content-Type", content_type)];
            let response = connection.request("POST", "/event", &headers, input.as_bytes());
            detail_of(&response, 400);
            assert!(response.body.len() < 16 << 10, "{} bytes for {start}…", response.body.len());
        }
    }
    assert_eq!(stored(&directory), []);
}
