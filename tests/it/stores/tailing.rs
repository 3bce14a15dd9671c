//! `tail` on every store: what it shows, and that a follower misses nothing.

use std::fs::File;
use std::thread;

use serde_json::Value;

use super::database::{Kind, TestStore, on_every_server, on_every_store, store_all};
use crate::util::follower::Follower;
use crate::util::http::event;
use crate::util::{Consume, eventctl, write_file};

on_every_store!(
    tail_shows_what_its_options_ask_for,
    a_follower_shows_events_as_they_are_stored,
    events_move_to_another_store_and_back,
);

mod shared {
    super::on_every_server!(a_follower_shows_every_event_of_two_processes_once);

    use super::a_follower_shows_every_event_of_two_processes_once;
}

fn ids_of(lines: &str) -> Vec<i64> {
    let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_i64().unwrap();
    lines.lines().map(id).collect()
}

fn tail_shows_what_its_options_ask_for(store: &TestStore) {
    let server = store.prepare_and_consume();
    let payloads: Vec<String> = (1..=1500).map(|number| number.to_string()).collect();
    let event_type = |number: usize| if number % 3 == 2 { "user_joined" } else { "message" };
    let events: Vec<(&str, &str)> =
        payloads.iter().enumerate().map(|(number, payload)| (event_type(number), payload.as_str())).collect();
    store_all(&server, &events[..1000]);
    store_all(&server, &events[1000..]);
    let ids: Vec<i64> = store.stored().iter().map(|(id, _, _)| *id).collect();
    let first = ids[0] - 1;
    store.execute(&format!("UPDATE events SET received_at = 1705320000000000 + (id - {first}) * 3600000000"));
    let shown = |arguments: &[&str]| ids_of(&store.tail(&[arguments, &["-o", "json"]].concat()));
    assert_eq!(shown(&[]), ids[1490..]);
    assert_eq!(shown(&["-n", "3"]), ids[1497..]);
    assert_eq!(shown(&["-n", "1200"]), ids[300..]);
    assert_eq!(shown(&["-n", "all"]), ids);
    assert_eq!(shown(&["-n", "0"]), [] as [i64; 0]);
    let after = ids[99].to_string();
    assert_eq!(shown(&["--after", &after]), ids[100..]);
    assert_eq!(shown(&["--after", &after, "-n", "3"]), ids[100..103]);
    assert_eq!(shown(&["--type", "user_*", "-n", "2"]), [ids[1496], ids[1499]]);
    assert_eq!(shown(&["-S", "2024-01-15T14:00:00Z", "-U", "2024-01-15T16:00:00Z"]), ids[1..3]);
    let table = store.tail(&["-n", "1", "-o", "csv"]);
    let row = format!(
        "id,received_at,event_type,event_payload\r\n{},2024-03-18T00:00:00.000000Z,user_joined,1500\r\n",
        ids[1499]
    );
    assert_eq!(table, row);
    assert!(store.tail(&["-n", "1"]).ends_with(" 1500\n"));
}

fn follow(store: &TestStore, arguments: &[&str]) -> Follower {
    Follower::start(store.command("tail").args(["-n", "all"]).args(arguments))
}

fn a_follower_shows_events_as_they_are_stored(store: &TestStore) {
    let server = store.prepare_and_consume();
    let [all, some] = [follow(store, &[]), follow(store, &["--type", "w*"])];
    for number in 0..20 {
        server.store("wanted", &number.to_string());
        server.store("other", "");
        assert_eq!(some.next_payload(), number.to_string());
        assert_eq!((all.next_payload(), all.next_payload()), (number.to_string(), String::new()));
    }
    all.assert_nothing_else();
    some.assert_nothing_else();
}

fn a_follower_shows_every_event_of_two_processes_once(store: &TestStore) {
    const CLIENTS: usize = 8;
    const EVENTS: usize = 50;
    let servers = [store.prepare_and_consume(), store.consume(&[])];
    let follower = follow(store, &[]);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut connection = servers[client % 2].connect();
            scope.spawn(move || {
                for number in 0..EVENTS {
                    let name = format!("{client}/{number}");
                    let response = match number % 3 {
                        0 => connection.post(format!("[{},{}]", event("a", &name), event("b", &name))),
                        1 => connection.try_post_with_key(&name, event("a", &name)).unwrap(),
                        _ => connection.post_event("a", &name),
                    };
                    assert_eq!(response.status, 201, "{response:?}");
                }
            });
        }
    });
    let stored = store.stored();
    assert_eq!(stored.len(), CLIENTS * (EVENTS + 17));
    for (id, _, payload) in stored {
        let event = follower.next();
        assert_eq!(
            (event["id"].as_i64(), event["event_payload"].as_str()),
            (Some(id), Some(payload.as_str()))
        );
    }
    follower.assert_nothing_else();
}

/// Sends all events of one store to another, without what that gives them itself.
fn copy(from: &TestStore, to: &Consume) {
    let lines = from.tail(&["-n", "all", "-o", "json"]);
    let bare = |line: &str| {
        let stored: Value = serde_json::from_str(line).unwrap();
        event(stored["event_type"].as_str().unwrap(), stored["event_payload"].as_str().unwrap()) + "\n"
    };
    let file = write_file(from.path(), "events.ndjson", lines.lines().map(bare).collect::<String>());
    let mut command = eventctl(from.path());
    // One at a time arrive in their order.
    command.args(["propagate", "--file", "-", "--period", "1ms", "--max-in-flight", "1"]);
    command.args(["--endpoint", &to.url("/event")]).stdin(File::open(file).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn events_move_to_another_store_and_back(store: &TestStore) {
    let server = store.prepare_and_consume();
    let payloads: Vec<String> =
        (0..100).map(|number| format!("{number} grüße 👋 \\ ' \u{9b}\u{202e}")).collect();
    let events: Vec<(&str, &str)> = payloads.iter().map(|payload| ("type é", payload.as_str())).collect();
    store_all(&server, &events);
    let other = TestStore::new(Kind::Sqlite);
    let of_other = other.prepare_and_consume();
    copy(store, &of_other);
    assert_eq!(other.payloads(), payloads);
    copy(&other, &server);
    assert_eq!(store.payloads(), [payloads.clone(), payloads].concat());
}
