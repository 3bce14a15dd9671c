//! Pages of events: what a server lists is what SQLite lists.

use serde_json::Value;

use super::database::{Kind, TestStore, on_every_store, store_all};
use crate::util::Consume;
use crate::util::http::Response;

on_every_store!(
    pages_are_those_of_sqlite,
    patterns_match_as_sqlite_has_it,
    links_show_every_event_once,
    pages_end_early,
    a_filter_that_matches_little_finds_it,
);

const TYPES: [&str; 30] = [
    "message",
    "user_joined",
    "user_left",
    "user%left",
    "a",
    "A",
    "b",
    "c",
    "á",
    "a\u{301}",
    "a ",
    "",
    "100%",
    "100",
    "100x",
    "!",
    "a!b",
    "a_b",
    "a%b",
    "a\\b",
    "\\",
    "\\%",
    "[",
    "]",
    "a]",
    "[a]",
    "^",
    "👋",
    "a👋b",
    "line\nbreak",
];

const PATTERNS: [&str; 50] = [
    "*", "?", "??", "", "a*", "*a", "*a*", "a?b", "user_*", "user%*", "%", "_", "!", "\\", "\\*", "\\%",
    "*\\*", "*%*", "*_*", "*!*", "100%", "100?", "[a-c]", "[!a]", "[^a]", "[!a-c]*", "[a-c]*", "[[]", "[]]",
    "[!]]", "a[]]", "[[]a]", "[á-ü]", "?👋?", "[👋]", "*👋*", "a[!]!b", "a[%_]b", "a[!%]b", "[\\]", "[\\]%",
    "a[\\!]b", "*\n*", "á", "a\u{301}", "a ", "[", "[a", "[!", "[c-a]",
];

fn query(name: &str, value: &str) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish()
}

/// The same events in this store and in one of SQLite, an hour apart, with a server on each.
fn with_a_twin(store: &TestStore, events: &[(&str, &str)]) -> (Consume, TestStore, Consume) {
    let twin = TestStore::new(Kind::Sqlite);
    let servers = [store, &twin].map(|store| {
        let server = store.prepare_and_consume();
        store_all(&server, events);
        store.execute("UPDATE events SET received_at = 1705320000000000 + id * 3600000000");
        server
    });
    let [server, of_twin] = servers;
    (server, twin, of_twin)
}

fn assert_alike(server: &Consume, of_twin: &Consume, path: &str) {
    let [here, there] = [server, of_twin].map(|server| server.connect().get(path));
    assert_eq!((here.status, here.text()), (there.status, there.text()), "{path}");
    assert_eq!(links_of(&here), links_of(&there), "{path}");
}

fn pages_are_those_of_sqlite(store: &TestStore) {
    let payloads: Vec<String> = (1..=250).map(|number| number.to_string()).collect();
    let events: Vec<(&str, &str)> =
        payloads.iter().zip(TYPES.iter().cycle()).map(|(payload, kind)| (*kind, payload.as_str())).collect();
    let (server, _twin, of_twin) = with_a_twin(store, &events);
    for path in [
        "",
        "?limit=1",
        "?limit=32",
        "?limit=33",
        "?limit=250",
        "?limit=249",
        "?limit=1000",
        "?after=0",
        "?after=100",
        "?after=100&limit=7",
        "?after=249",
        "?after=250",
        "?after=9999",
        "?before=1",
        "?before=2",
        "?before=100&limit=64",
        "?after=10&before=20",
        "?after=10&before=12&limit=1",
        "?after=20&before=10",
        "?after=-5&limit=2",
        "?type=message",
        "?type=message&limit=3",
        "?type=message&after=40&limit=3",
        "?type=user*&before=200&limit=5",
        "?type=nothing",
        "?since=2024-01-15T13:00:00Z&limit=3",
        "?until=2024-01-15T15:00:00Z",
        "?since=2024-01-16T00:00:00Z&until=2024-01-17T00:00:00Z&limit=10",
        "?since=2024-01-16T00:00:00Z&until=2024-01-18T00:00:00Z&type=a*&after=0&limit=4",
        "?limit=0",
        "?after=x",
        "/1",
        "/250",
        "/251",
        "/0",
        "/9223372036854775807",
        "?after=9223372036854775807",
        "?before=-9223372036854775808",
    ] {
        assert_alike(&server, &of_twin, &format!("/event{path}"));
    }
}

fn patterns_match_as_sqlite_has_it(store: &TestStore) {
    let events = TYPES.map(|event_type| (event_type, ""));
    let (server, twin, of_twin) = with_a_twin(store, &events);
    for pattern in PATTERNS {
        assert_alike(&server, &of_twin, &format!("/event?{}", query("type", pattern)));
        assert_alike(&server, &of_twin, &format!("/event?after=3&limit=2&{}", query("type", pattern)));
    }
    for pattern in ["user_*", "*\\*", "[!a-z]*"] {
        let arguments = ["-o", "json", "-n", "all", "--type", pattern];
        assert_eq!(store.tail(&arguments), twin.tail(&arguments), "{pattern}");
    }
}

fn links_of(response: &Response) -> Vec<&str> {
    let links = response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("link"));
    links.flat_map(|(_, value)| value.split(", ")).collect()
}

/// The target of the link with this relation.
fn link_of(response: &Response, relation: &str) -> Option<String> {
    links_of(response).into_iter().find_map(|link| {
        let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
        parameters.contains(relation).then(|| response.target("/event", target))
    })
}

fn follow(server: &Consume, path: &str, relation: &str) -> Vec<Vec<i64>> {
    let mut pages = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next {
        let response = server.connect().get(&path);
        let events = response.json();
        pages.push(events.as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap()).collect());
        next = link_of(&response, relation);
        assert!(pages.len() <= 200, "the links run in a circle");
    }
    pages
}

fn links_show_every_event_once(store: &TestStore) {
    let server = store.prepare_and_consume();
    store_all(&server, &[("even", ""), ("odd", "")].repeat(35));
    let ids: Vec<i64> = store.stored().iter().map(|(id, _, _)| *id).collect();
    for limit in [1, 31, 32, 33, 69, 70, 71] {
        let pages = follow(&server, &format!("/event?after=0&limit={limit}"), "next");
        assert_eq!(pages.concat(), ids, "{limit}");
        let mut pages = follow(&server, &format!("/event?limit={limit}"), "prev");
        pages.reverse();
        assert_eq!(pages.concat(), ids, "{limit}");
    }
    let odd: Vec<i64> = ids.iter().skip(1).step_by(2).copied().collect();
    assert_eq!(follow(&server, "/event?after=0&limit=4&type=o*", "next").concat(), odd);
}

fn pages_end_early(store: &TestStore) {
    let server = store.prepare_and_consume();
    let payload = "x".repeat(1_000_000);
    for _ in 0..9 {
        server.store("large", &payload);
    }
    // Four megabytes and a little more are four events.
    for (path, relation) in [("/event?after=0&limit=1000", "next"), ("/event?limit=1000", "prev")] {
        let pages = follow(&server, path, relation);
        let lengths: Vec<usize> = pages.iter().map(Vec::len).collect();
        assert_eq!(lengths, [4, 4, 1], "{path}");
    }
    let shown = store.tail(&["-n", "all", "-o", "json"]);
    assert_eq!(shown.lines().count(), 9);
}

/// A set becomes a looser pattern on a server, which then sends more than fits.
fn a_filter_that_matches_little_finds_it(store: &TestStore) {
    let server = store.prepare_and_consume();
    let mut events = vec![("ab", ""); 300];
    events[5].0 = "cb";
    events[290].0 = "cb";
    store_all(&server, &events);
    for path in ["/event?type=[c-d]b", "/event?type=[c-d]b&after=0", "/event?type=[!a]b&limit=2"] {
        let response = server.connect().get(path);
        let ids: Vec<Value> =
            response.json().as_array().unwrap().iter().map(|event| event["id"].clone()).collect();
        assert_eq!(ids.len(), 2, "{path}: {ids:?}");
        assert!(store.stored()[5].0 == ids[0] && store.stored()[290].0 == ids[1], "{ids:?}");
    }
}
