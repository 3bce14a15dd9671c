//! Streams of events on every store: what they have, and that those of all processes have it all.

use std::thread;

use super::database::{TestStore, on_every_server, on_every_store, store_all};
use crate::util::http::event;
use crate::util::sse::EventStream;
use crate::util::{Consume, wait_until};

on_every_store!(
    a_stream_has_history_and_news_of_its_types,
    a_stream_of_a_store_with_other_events_under_the_same_ids_says_so_and_has_them,
);

mod shared {
    super::on_every_server!(streams_of_two_processes_have_every_event_of_both_once);

    use super::streams_of_two_processes_have_every_event_of_both_once;
}

fn stream(server: &Consume, query: &str) -> EventStream {
    EventStream::open(server.connect(), query, &[])
}

fn a_stream_has_history_and_news_of_its_types(store: &TestStore) {
    let server = store.prepare_and_consume();
    let payloads: Vec<String> = (0..1500).map(|number| number.to_string()).collect();
    let event_type = |number: usize| ["noise", "wanted_1", "wanted%2"][number % 3];
    let events: Vec<(&str, &str)> =
        payloads.iter().enumerate().map(|(number, payload)| (event_type(number), payload.as_str())).collect();
    store_all(&server, &events[..1000]);
    let mut streams = ["", "&type=wanted*", "&type=wanted[_]1", "&type=nothing*"]
        .map(|filter| stream(&server, &format!("?after=0{filter}")));
    store_all(&server, &events[1000..]);
    let selected = |select: fn(usize) -> bool| -> Vec<String> {
        (0..1500).filter(|number| select(*number)).map(|number| number.to_string()).collect()
    };
    assert_eq!(streams[0].payloads(1500), payloads);
    assert_eq!(streams[1].payloads(1000), selected(|number| number % 3 != 0));
    assert_eq!(streams[2].payloads(500), selected(|number| number % 3 == 1));
    server.store("nothing else", "last");
    assert_eq!(streams[3].payloads(1), ["last"]);
}

/// As after a failover that lost events: the primary gives their ids again.
fn a_stream_of_a_store_with_other_events_under_the_same_ids_says_so_and_has_them(store: &TestStore) {
    let mut server = store.prepare_and_consume();
    let (mut all, mut filtered) = (stream(&server, ""), stream(&server, "?type=*"));
    for (number, payload) in ["one", "two", "three", "four"].iter().enumerate() {
        server.store("a", payload);
        // Each in a poll of its own.
        assert_eq!(
            (all.payloads(1), filtered.payloads(1)),
            (vec![payload.to_string()], vec![payload.to_string()])
        );
        assert_eq!(all.last_event_id, (number + 1).to_string());
    }
    store.execute("UPDATE events SET received_at = 7, event_payload = 'other four' WHERE id = 4");
    server.process.wait_for_stderr("the store was replaced: event streams continue after event 3");
    for stream in [&mut all, &mut filtered] {
        let told =
            wait_until(|| Some(stream.block()).filter(|block| block.comments == 1 && block.id.is_some()));
        assert_eq!((told.id.as_deref(), told.data), (Some("3"), None));
        assert_eq!(stream.payloads(1), ["other four"]);
    }
    // And where there is more than the same ids.
    store.execute(
        "BEGIN;\nUPDATE events SET received_at = 8, event_payload = 'another' WHERE id > 2;\n\
            INSERT INTO events VALUES (5, 9, 'a', 'five');\nCOMMIT",
    );
    server.process.wait_for_stderr("continue after event 2");
    for stream in [&mut all, &mut filtered] {
        assert_eq!(stream.payloads(3), ["another", "another", "five"]);
    }
}

fn streams_of_two_processes_have_every_event_of_both_once(store: &TestStore) {
    const CLIENTS: usize = 8;
    const EVENTS: usize = 50;
    let servers = [store.prepare_and_consume(), store.consume(&[])];
    let mut streams = [0, 1, 0, 1].map(|server: usize| stream(&servers[server], ""));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut connection = servers[client % 2].connect();
            scope.spawn(move || {
                for number in 0..EVENTS {
                    let response = connection.post(event("a", &format!("{client}/{number}")));
                    assert_eq!(response.status, 201, "{response:?}");
                }
            });
        }
    });
    let stored = store.payloads();
    assert_eq!(stored.len(), CLIENTS * EVENTS);
    for stream in &mut streams {
        assert_eq!(stream.payloads(stored.len()), stored);
    }
    // Who comes again to the other process goes on where it was.
    let last = streams[0].last_event_id.clone();
    servers[0].store("a", "last");
    let headers = [("Last-Event-ID", last.as_str())];
    let mut stream = EventStream::open(servers[1].connect(), "", &headers);
    assert_eq!(stream.payloads(1), ["last"]);
}
