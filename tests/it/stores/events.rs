//! Events come back as they were sent, with ids that increase.

use std::thread;

use serde_json::Value;

use super::database::{TestStore, on_every_server, on_every_store, store_all};
use crate::util::http::event;
use crate::util::wait_until;

on_every_store!(
    an_event_comes_back_byte_for_byte,
    the_largest_payload_comes_back,
    more_than_a_database_takes_at_once_comes_back,
    the_longest_type_comes_back,
    a_nul_is_refused,
    types_are_told_apart_byte_by_byte,
    ids_increase_over_requests_and_restarts,
    a_list_is_stored_whole_or_not_at_all,
    concurrent_lists_stay_together,
    a_server_that_takes_writes_is_ready,
);

mod servers {
    super::on_every_server!(a_failure_in_the_midst_of_a_batch_stores_none_of_it);

    use super::a_failure_in_the_midst_of_a_batch_stores_none_of_it;
}

/// Strings that something between the request and the disk could change.
const STRINGS: [&str; 26] = [
    "",
    " ",
    "trailing  ",
    " leading",
    "\ttab\r\nline\n",
    "grüße",
    "e\u{301} and \u{e9}",
    "\u{212b}\u{e5}a\u{30a}",
    "👋🏽👨‍👩‍👧‍👦",
    "\u{ffff}\u{fffe}\u{10ffff}\u{feff}\u{fffd}",
    "\u{1}\u{1f}\u{7f}\u{85}\u{a0}\u{2028}",
    "\\",
    "\\0 \\n \\' \\\\",
    "'",
    "''; DROP TABLE events; --",
    "\"quoted\" `too`",
    "100% _ ! ? $1 :name @name",
    "{a,b,NULL}",
    "NULL",
    "(1,2)",
    "0x00",
    "\u{200b}\u{200d}\u{202e}abc",
    "ß ss ẞ",
    "İıiI",
    "漢字かな한글",
    "\u{e000}\u{f8ff}",
];

fn an_event_comes_back_byte_for_byte(store: &TestStore) {
    let server = store.prepare_and_consume();
    for text in STRINGS {
        server.store(text, text);
    }
    let pairs: Vec<(&str, &str)> = STRINGS.iter().map(|text| (*text, *text)).collect();
    store_all(&server, &pairs);
    for text in STRINGS {
        let response = server.connect().try_post_with_key(&fastrand::u64(..).to_string(), event(text, text));
        assert_eq!(response.unwrap().status, 201);
    }
    let listed = server.connect().get("/event?limit=1000").json();
    let tailed = store.tail(&["-n", "all", "-o", "json"]);
    let tailed: Vec<Value> = tailed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stored = store.stored();
    let expected: Vec<&str> = [STRINGS; 3].concat();
    assert_eq!(stored.len(), expected.len());
    for (position, text) in expected.iter().enumerate() {
        let (_, event_type, event_payload) = &stored[position];
        assert_eq!((event_type.as_str(), event_payload.as_str()), (*text, *text));
        for event in [&listed[position], &tailed[position]] {
            assert_eq!((&event["event_type"], &event["event_payload"]), (&(*text).into(), &(*text).into()));
        }
    }
}

fn the_largest_payload_comes_back(store: &TestStore) {
    let server = store.prepare_and_consume();
    let room = (1 << 20) - event("large", "").len();
    let payload: String = "'\\%é👋x".chars().cycle().take(room / 8).collect();
    server.store("large", &payload);
    let plain = "x".repeat(room);
    server.store("large", &plain);
    assert!(store.payloads() == [payload.clone(), plain], "a payload was changed");
    assert!(server.connect().get("/event/1").json()["event_payload"] == payload);
}

fn more_than_a_database_takes_at_once_comes_back(store: &TestStore) {
    store.prepare();
    let server = store.consume(&["--body-limit", "48MiB"]);
    // MariaDB takes queries of 16 MiB, and each quote is two bytes of one.
    let large = "'".repeat(1 << 20);
    let largest = "'".repeat(9 << 20);
    let payloads = [&["first", &largest][..], &[large.as_str(); 16], &["", "last"]].concat();
    let events: Vec<(&str, &str)> = payloads.iter().map(|payload| ("a", *payload)).collect();
    store_all(&server, &events);
    if store.url.starts_with("mysql") {
        let response = server.connect().post_event("a", &"x".repeat(16 << 20));
        assert!(response.status == 503 && response.text().contains("refuses this request"), "{response:?}");
        assert_eq!(server.connect().get("/ready").status, 200);
    }
    server.store("a", "after");
    let stored = store.stored();
    let expected = payloads.into_iter().chain(["after"]);
    for ((id, _, payload), (place, expected)) in stored.iter().zip((1..).zip(expected)) {
        assert!((*id, payload.as_str()) == (place, expected), "{id} is not {place}, or has been changed");
    }
    assert_eq!(stored.len(), 21);
}

fn the_longest_type_comes_back(store: &TestStore) {
    let server = store.prepare_and_consume();
    // 255 characters are more bytes, and more units of UTF-16.
    let longest = "👋".repeat(255);
    server.store(&longest, "");
    assert_eq!(server.connect().post_event(&"a".repeat(256), "").status, 400);
    assert_eq!(store.stored(), [(1, longest, String::new())]);
}

fn a_nul_is_refused(store: &TestStore) {
    let server = store.prepare_and_consume();
    let nul = r#"{"event_type":"a","event_payload":"b\u0000c"}"#;
    let list = format!("[{},{nul}]", event("a", "fine"));
    for (body, pointer) in [(nul, "/event_payload"), (list.as_str(), "/1/event_payload")] {
        let response = server.connect().post(body);
        assert_eq!(response.status, 400, "{response:?}");
        assert_eq!(response.json()["errors"][0]["pointer"], pointer, "{response:?}");
    }
    for path in ["/event?type=a%00b", "/event?type=%00*"] {
        let response = server.connect().get(path);
        assert_eq!(response.status, 400, "{response:?}");
    }
    assert_eq!(store.stored(), []);
    server.store("a", "b");
}

fn types_are_told_apart_byte_by_byte(store: &TestStore) {
    let types = ["a", "A", "á", "a\u{301}", "a ", " a", "à", "ａ", "a\u{200b}", "", " ", "ß", "ss", "SS"];
    let server = store.prepare_and_consume();
    let events: Vec<(&str, &str)> = types.iter().map(|event_type| (*event_type, *event_type)).collect();
    store_all(&server, &events);
    for event_type in types {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("type", event_type).finish();
        let page = server.connect().get(&format!("/event?{query}")).json();
        assert_eq!(page.as_array().unwrap().len(), 1, "`{event_type}`: {page}");
        assert_eq!(page[0]["event_payload"], event_type);
        assert_eq!(store.tail(&["--type", event_type, "-o", "json"]).lines().count(), 1, "`{event_type}`");
    }
}

fn ids_increase_over_requests_and_restarts(store: &TestStore) {
    let mut server = store.prepare_and_consume();
    for round in 0..3 {
        for _ in 0..5 {
            server.store("one", "");
            store_all(&server, &[("many", ""); 300]);
        }
        assert_eq!(server.connect().get("/ready").status, 200);
        if round < 2 {
            assert!(server.process.terminate().success());
            server = store.consume(&[]);
        }
    }
    let ids: Vec<i64> = store.stored().iter().map(|(id, _, _)| *id).collect();
    assert_eq!(ids.len(), 15 * 301);
    assert!(ids[0] >= 1 && ids.is_sorted_by(|earlier, later| earlier < later), "{ids:?}");
}

fn a_list_is_stored_whole_or_not_at_all(store: &TestStore) {
    let server = store.prepare_and_consume();
    let bad = format!("[{},{{\"event_type\":1,\"event_payload\":\"\"}}]", event("a", "b"));
    assert_eq!(server.connect().post(bad).status, 400);
    assert_eq!(store.stored(), []);
    let payloads: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    let events: Vec<(&str, &str)> = payloads.iter().map(|payload| ("a", payload.as_str())).collect();
    store_all(&server, &events);
    assert_eq!(store.payloads(), payloads);
}

fn a_failure_in_the_midst_of_a_batch_stores_none_of_it(store: &TestStore) {
    let server = store.prepare_and_consume();
    server.store("a", "before");
    store.execute(match store.url.starts_with("postgres") {
        true => {
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.event_type = 'bad' THEN RAISE 'no'; END IF; RETURN NEW; END $$; \
             CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()"
        }
        false => {
            "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW \
             IF NEW.event_type = 'bad' THEN SIGNAL SQLSTATE '45000'; END IF"
        }
    });
    let list = format!("[{},{},{}]", event("a", "1"), event("bad", "2"), event("a", "3"));
    let long = format!("[{}{}]", format!("{},", event("a", "")).repeat(100), event("bad", ""));
    for (key, list) in [("first", &list), ("second", &long)] {
        let response = server.connect().try_post_with_key(key, list).unwrap();
        assert_eq!(response.status, 503, "{response:?}");
        wait_until(|| (server.connect().get("/ready").status == 200).then_some(()));
        assert_eq!(server.connect().post(list).status, 503);
        wait_until(|| (server.connect().get("/ready").status == 200).then_some(()));
    }
    assert_eq!(store.payloads(), ["before"]);
    store.execute(match store.url.starts_with("postgres") {
        true => "DROP TRIGGER refuse ON events",
        false => "DROP TRIGGER refuse",
    });
    let response = server.connect().try_post_with_key("first", &list).unwrap();
    assert_eq!(response.status, 201, "{response:?}");
    assert_eq!(store.payloads(), ["before", "1", "2", "3"]);
}

fn concurrent_lists_stay_together(store: &TestStore) {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 10;
    let server = store.prepare_and_consume();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut connection = server.connect();
            scope.spawn(move || {
                for number in 0..REQUESTS {
                    let name = format!("{client}/{number}");
                    let list = format!("[{},{},{}]", event("0", &name), event("1", &name), event("2", &name));
                    let response = connection.post(list);
                    assert_eq!(response.status, 201, "{response:?}");
                }
            });
        }
    });
    let stored = store.stored();
    assert_eq!(stored.len(), CLIENTS * REQUESTS * 3);
    for list in stored.chunks(3) {
        let [(first, _, name), rest @ ..] = list else { panic!("{list:?}") };
        for ((id, event_type, payload), position) in rest.iter().zip(1..) {
            assert_eq!((*id, event_type, payload), (first + position, &position.to_string(), name));
        }
    }
}

fn a_server_that_takes_writes_is_ready(store: &TestStore) {
    let server = store.prepare_and_consume();
    assert_eq!(server.connect().get("/ready").status, 200);
    assert_eq!(store.stored(), []);
}
