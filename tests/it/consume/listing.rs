//! `GET /event`: pages of stored events.

use serde_json::Value;

use crate::util::Consume;
use crate::util::http::{Response, event};

use super::{detail_of, open_store, start};

/// Stores events of alternating types whose payload is their id.
fn store_numbered(server: &Consume, count: usize, event_types: &[&str]) {
    let types = event_types.iter().cycle();
    let events: Vec<String> =
        (1..=count).zip(types).map(|(id, event_type)| event(event_type, &id.to_string())).collect();
    let response = server.connect().post(format!("[{}]", events.join(",")));
    assert_eq!(response.status, 201, "{response:?}");
}

fn ids_of(response: &Response) -> Vec<i64> {
    assert_eq!(response.status, 200, "{response:?}");
    response.json().as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap()).collect()
}

/// The target of the link with this relation.
fn link_of(response: &Response, relation: &str) -> Option<String> {
    let links = response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("link"));
    let mut links = links.flat_map(|(_, value)| value.split(", "));
    links.find_map(|link| {
        let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
        (parameters == format!("; rel=\"{relation}\"")).then(|| response.target("/event", target))
    })
}

/// The ids of all pages from a path on, following one relation.
fn follow(server: &Consume, path: &str, relation: &str) -> Vec<Vec<i64>> {
    let mut connection = server.connect();
    let mut next = Some(path.to_owned());
    let mut pages = Vec::new();
    while let Some(path) = next {
        let response = connection.get(&path);
        next = link_of(&response, relation);
        pages.push(ids_of(&response));
        assert!(pages.len() <= 100, "the links run in a circle: {pages:?}");
    }
    pages
}

#[test]
fn an_event_is_shown_with_its_members() {
    let (_directory, server) = start(&[]);
    let before = jiff::Timestamp::now();
    server.store("message", "grüße 👋");
    let response = server.connect().get("/event/1");
    assert_eq!(response.header("content-type"), Some("application/json"));
    let event = response.json();
    assert_eq!(event.as_object().unwrap().len(), 4, "{event}");
    assert_eq!(event["id"], 1);
    assert_eq!(event["event_type"], "message");
    assert_eq!(event["event_payload"], "grüße 👋");
    let received_at = event["received_at"].as_str().unwrap();
    assert_eq!(received_at.len(), "2024-01-15T12:00:00.000000Z".len(), "{received_at}");
    let received_at: jiff::Timestamp = received_at.parse().unwrap();
    let tolerance = jiff::SignedDuration::from_millis(1);
    assert!((before - tolerance..=jiff::Timestamp::now()).contains(&received_at), "{event}");
    assert_eq!(server.connect().get("/event").json(), Value::Array(vec![event]));
}

#[test]
fn an_empty_store_is_an_empty_array() {
    let (_directory, server) = start(&[]);
    let response = server.connect().get("/event");
    assert_eq!((response.status, response.text().as_str()), (200, "[]\n"));
    assert_eq!(response.header("link"), None);
}

#[test]
fn without_after_the_newest_events_are_shown_oldest_first() {
    let (_directory, server) = start(&[]);
    store_numbered(&server, 250, &["a"]);
    let mut connection = server.connect();
    assert_eq!(ids_of(&connection.get("/event")), (151..=250).collect::<Vec<_>>());
    assert_eq!(ids_of(&connection.get("/event?limit=3")), [248, 249, 250]);
    assert_eq!(ids_of(&connection.get("/event?limit=1000")).len(), 250);
    assert_eq!(ids_of(&connection.get("/event?before=100&limit=3")), [97, 98, 99]);
}

#[test]
fn with_after_the_oldest_events_behind_it_are_shown() {
    let (_directory, server) = start(&[]);
    store_numbered(&server, 250, &["a"]);
    let mut connection = server.connect();
    assert_eq!(ids_of(&connection.get("/event?after=0&limit=3")), [1, 2, 3]);
    assert_eq!(ids_of(&connection.get("/event?after=100")), (101..=200).collect::<Vec<_>>());
    assert_eq!(ids_of(&connection.get("/event?after=100&before=103")), [101, 102]);
    assert_eq!(ids_of(&connection.get("/event?after=249")), [250]);
    assert_eq!(ids_of(&connection.get("/event?after=250")), [] as [i64; 0]);
}

#[test]
fn next_links_show_every_event_once() {
    let (_directory, server) = start(&[]);
    store_numbered(&server, 50, &["a", "b"]);
    for limit in [1, 7, 10, 49, 50, 51] {
        let pages = follow(&server, &format!("/event?after=0&limit={limit}"), "next");
        assert_eq!(pages.concat(), (1..=50).collect::<Vec<_>>(), "{limit}: {pages:?}");
        assert!(pages.iter().all(|page| page.len() <= limit), "{limit}: {pages:?}");
    }
    let pages = follow(&server, "/event?type=b&after=0&limit=4", "next");
    assert_eq!(pages.concat(), (1..=25).map(|number| number * 2).collect::<Vec<_>>(), "{pages:?}");
}

#[test]
fn prev_links_show_every_event_once() {
    let (_directory, server) = start(&[]);
    store_numbered(&server, 50, &["a", "b"]);
    for limit in [1, 7, 10, 49, 50, 51] {
        let mut pages = follow(&server, &format!("/event?limit={limit}"), "prev");
        pages.reverse();
        assert_eq!(pages.concat(), (1..=50).collect::<Vec<_>>(), "{limit}: {pages:?}");
    }
    let mut pages = follow(&server, "/event?type=%5Bb%5D*&limit=4", "prev");
    pages.reverse();
    assert_eq!(pages.concat(), (1..=25).map(|number| number * 2).collect::<Vec<_>>(), "{pages:?}");
}

#[test]
fn links_lead_back_to_the_page_they_come_from() {
    let (_directory, server) = start(&[]);
    store_numbered(&server, 30, &["a"]);
    let mut connection = server.connect();
    let first = connection.get("/event?after=0&limit=10");
    assert_eq!(link_of(&first, "prev"), None);
    let second = connection.get(&link_of(&first, "next").unwrap());
    assert_eq!(ids_of(&second), (11..=20).collect::<Vec<_>>());
    assert_eq!(ids_of(&connection.get(&link_of(&second, "prev").unwrap())), ids_of(&first));
    let newest = connection.get("/event?limit=10");
    assert_eq!(link_of(&newest, "next"), None);
    let older = connection.get(&link_of(&newest, "prev").unwrap());
    assert_eq!(ids_of(&older), (11..=20).collect::<Vec<_>>());
    assert_eq!(ids_of(&connection.get(&link_of(&older, "next").unwrap())), ids_of(&newest));
}

#[test]
fn large_events_are_paged_by_their_size_and_none_is_lost() {
    let (_directory, server) = start(&[]);
    let payload = "x".repeat(1_000_000);
    for _ in 0..6 {
        server.store("large", &payload);
    }
    let forward = follow(&server, "/event?after=0&limit=1000", "next");
    assert_eq!(forward.concat(), (1..=6).collect::<Vec<_>>(), "{forward:?}");
    let mut backward = follow(&server, "/event?limit=1000", "prev");
    backward.reverse();
    assert_eq!(backward.concat(), (1..=6).collect::<Vec<_>>(), "{backward:?}");
    assert!(forward.len() > 1 && backward.len() > 1, "{forward:?} {backward:?}");
}

#[test]
fn type_takes_globs() {
    let (_directory, server) = start(&[]);
    let types = ["message", "user_joined", "user_left", "", "[x]", "Message", "m*", "é"];
    store_numbered(&server, types.len(), &types);
    let mut connection = server.connect();
    for (glob, ids) in [
        ("message", &[1][..]),
        ("user_*", &[2, 3]),
        ("*", &[1, 2, 3, 4, 5, 6, 7, 8]),
        ("", &[4]),
        ("?essage", &[1, 6]),
        ("[mM]essage", &[1, 6]),
        ("[!m]essage", &[6]),
        ("[a-z]*", &[1, 2, 3, 7]),
        ("[[]x]", &[5]),
        ("m[*]", &[7]),
        ("?", &[8]),
        ("nothing", &[]),
        ("%", &[]),
        ("' OR 1=1 --", &[]),
    ] {
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("type", glob).finish();
        assert_eq!(ids_of(&connection.get(&format!("/event?{query}"))), ids, "{glob}");
    }
}

#[test]
fn instants_that_depend_on_the_reader_are_explained() {
    let (_directory, server) = start(&[]);
    let mut connection = server.connect();
    const EXPECTED: &str = "expected a duration back from now such as `5m`, RFC 3339 such as `2024-01-15T12:00:00Z`, or Unix \
                            seconds such as `1705320000`";
    for (since, reason) in [
        ("2024-01-15", "a date or a time without its offset from UTC is another instant for everyone; "),
        (
            "2024-01-15T12:00",
            "a date or a time without its offset from UTC is another instant for everyone; ",
        ),
        ("today", "a date or a time without its offset from UTC is another instant for everyone; "),
        ("2024-01-15T12:00:00+02:00", "a space stands for the `+` of its offset, which is `%2B` in a URL; "),
        ("1705320000000", ""),
        ("soon", ""),
    ] {
        for name in ["since", "until"] {
            let detail = detail_of(&connection.get(&format!("/event?{name}={since}")), 400);
            assert_eq!(detail, format!("query parameter `{name}`: {reason}{EXPECTED}"));
        }
    }
}

#[test]
fn since_is_inclusive_and_until_is_not() {
    let (directory, server) = start(&[]);
    store_numbered(&server, 5, &["a"]);
    let noon = "2024-01-15T12:00:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond();
    let store = open_store(directory.path());
    // An hour apart, the third at noon.
    let update = "UPDATE events SET received_at = ?1 + (id - 3) * 3600000000";
    store.execute(update, [noon]).unwrap();
    let mut connection = server.connect();
    for (query, ids) in [
        ("since=2024-01-15T12:00:00Z", &[3, 4, 5][..]),
        ("since=2024-01-15T12:00:00.000001Z", &[4, 5]),
        ("until=2024-01-15T12:00:00Z", &[1, 2]),
        ("until=2024-01-15T12:00:00.000001Z", &[1, 2, 3]),
        ("since=2024-01-15T11:00:00Z&until=2024-01-15T13:00:00Z", &[2, 3]),
        ("since=2024-01-15T13:00:00%2B01:00", &[3, 4, 5]),
        ("since=1705323600", &[4, 5]),
        ("since=1h", &[]),
        ("until=1h", &[1, 2, 3, 4, 5]),
        ("since=2024-01-15T11:00:00Z&type=a&limit=2&after=0", &[2, 3]),
    ] {
        assert_eq!(ids_of(&connection.get(&format!("/event?{query}"))), ids, "{query}");
    }
}

#[test]
fn between_two_ids_there_are_links_to_both_sides() {
    let (_directory, server) = start(&[]);
    store_numbered(&server, 9, &["a"]);
    let mut connection = server.connect();
    // What is beyond the bound of the query comes next, although the page itself has ended at it.
    let response = connection.get("/event?after=3&before=6");
    assert_eq!(ids_of(&response), [4, 5]);
    assert_eq!(link_of(&response, "next").as_deref(), Some("/event?after=5"));
    assert_eq!(link_of(&response, "prev").as_deref(), Some("/event?before=4"));
    let response = connection.get("/event?after=3&before=9&limit=2");
    assert_eq!(ids_of(&response), [4, 5]);
    assert_eq!(link_of(&response, "next").as_deref(), Some("/event?limit=2&after=5"));
}

#[test]
fn lines_are_sent_to_who_asks_for_them() {
    let (_directory, server) = start(&[]);
    store_numbered(&server, 3, &["a\n"]);
    let mut connection = server.connect();
    let array = connection.get("/event?limit=2").json();
    for accept in
        ["application/x-ndjson", "text/html, application/x-ndjson;q=0.9", "Application/X-NDJSON; q=0.001"]
    {
        let response = connection.request("GET", "/event?limit=2", &[("Accept", accept)], b"");
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some("application/x-ndjson"));
        assert_eq!(response.header("vary"), Some("Accept, Accept-Encoding"));
        assert_eq!(link_of(&response, "prev").as_deref(), Some("/event?limit=2&before=2"));
        let text = response.text();
        assert!(text.ends_with('\n'));
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(Value::Array(lines), array);
    }
    let refused = ["application/x-ndjson;q=0", "application/x-ndjson ; Q = 0.000", "application/x-ndjson2"];
    for accept in ["*/*", "application/json"].into_iter().chain(refused) {
        let response = connection.request("GET", "/event", &[("Accept", accept)], b"");
        assert_eq!(response.header("content-type"), Some("application/json"), "{accept}");
        assert_eq!(response.header("vary"), Some("Accept, Accept-Encoding"), "{accept}");
    }
}

#[test]
fn a_bad_query_parameter_is_400_and_named() {
    let (_directory, server) = start(&[]);
    let mut connection = server.connect();
    for (query, name) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit=ten", "limit"),
        ("limit=%2B5", "limit"),
        ("limit=1&limit=2", "limit"),
        ("after=x", "after"),
        ("after=", "after"),
        ("after=%2B5", "after"),
        ("after=1.5", "after"),
        ("after=99999999999999999999", "after"),
        ("before=x", "before"),
        ("since=yesterday", "since"),
        ("since=2024-13-01T00:00:00Z", "since"),
        ("until=", "until"),
        ("type=%5Ba", "type"),
        ("offset=5", "offset"),
        ("Limit=5", "Limit"),
        ("limit=5&a%00b=1", "a\\u{0}b"),
    ] {
        let detail = detail_of(&connection.get(&format!("/event?{query}")), 400);
        assert!(detail.contains(&format!("`{name}`")), "{query}: {detail}");
    }
}
