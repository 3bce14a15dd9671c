//! Limits: the same alert is not repeated, and a channel has a rate.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::hooks::{Hook, start};
use super::{Delivery, deliveries, post_alert, wait_for_deliveries};
use crate::util::PATIENCE;
use crate::util::http::event;

fn bodies(hook: &Hook) -> Vec<Value> {
    hook.arrivals().iter().map(|arrival| serde_json::from_str(&arrival.body).unwrap()).collect()
}

fn states(all: &[Delivery]) -> Vec<(i64, &str, Option<i64>)> {
    all.iter().map(|one| (one.event_id, one.state.as_str(), one.repeats)).collect()
}

#[test]
fn the_same_alert_is_stored_and_not_sent_again() {
    let hook = Hook::taking();
    let (directory, server) = start(&[&hook.url("/")], &["--alert-on", "*"]);
    let mut connection = server.connect();
    for number in 1..=3 {
        let response = post_alert(&mut connection, "a");
        // All channels have been notified.
        assert_eq!(response.status, 200);
        assert_eq!(response.header("location"), Some(&*format!("../../event/{number}")));
    }
    // What differs in anything is something else.
    assert_eq!(post_alert(&mut connection, "b").status, 200);
    for (event_type, payload) in [("ab", "c"), ("a", "bc"), ("a", "bc "), ("A", "bc"), ("a", "bc")] {
        assert_eq!(connection.post_event(event_type, payload).status, 201);
    }
    let all = wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.settled_at.is_some()));
    let sent = |id| (id, "sent", None);
    let expected = [
        sent(1),
        (2, "repeated", Some(1)),
        (3, "repeated", Some(1)),
        sent(4),
        sent(5),
        sent(6),
        sent(7),
        sent(8),
        (9, "repeated", Some(6)),
    ];
    assert_eq!(states(&all), expected);
    assert!(all.iter().all(|one| (one.attempts == 1) == (one.state == "sent")), "{all:?}");
    let ids: Vec<Value> = bodies(&hook).into_iter().map(|body| body["id"].clone()).collect();
    assert_eq!(ids, [1, 4, 5, 6, 7, 8].map(Value::from));
}

#[test]
fn repeats_within_a_batch_are_sent_once() {
    let hook = Hook::taking();
    let (directory, server) = start(&[&hook.url("/")], &["--alert-on", "*"]);
    let body = format!("[{0},{0},{1},{0}]", event("a", ""), event("b", ""));
    assert_eq!(server.connect().post(body).status, 201);
    let all = wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.settled_at.is_some()));
    let expected = [(1, "sent", None), (2, "repeated", Some(1)), (3, "sent", None), (4, "repeated", Some(1))];
    assert_eq!(states(&all), expected);
    assert_eq!(hook.arrivals().len(), 2);
}

#[test]
fn after_its_time_the_same_alert_is_sent_again() {
    let hook = Hook::taking();
    let (directory, server) = start(&[&hook.url("/")], &["--alert-repeat-after", "1s"]);
    let mut connection = server.connect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(connection.post_event("health_alert", "[\"a\"]").status, 201);
        thread::sleep(Duration::from_millis(100));
    }
    let all = wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.settled_at.is_some()));
    let mut last_sent: Option<(i64, jiff::Timestamp)> = None;
    for one in &all {
        let at: jiff::Timestamp = one.created_at.parse().unwrap();
        let original = last_sent.filter(|(_, sent)| at.duration_since(*sent).as_secs_f64() < 1.0);
        match original {
            Some((id, _)) => assert_eq!((one.state.as_str(), one.repeats), ("repeated", Some(id)), "{all:?}"),
            None => {
                assert_eq!((one.state.as_str(), one.repeats), ("sent", None), "{all:?}");
                last_sent = Some((one.event_id, at));
            }
        }
    }
    let sent = all.iter().filter(|one| one.state == "sent").count();
    assert!(sent >= 3 && all.len() > sent, "{all:?}");
    assert_eq!(hook.arrivals().len(), sent);
}

#[test]
fn with_a_repeat_time_of_zero_every_alert_is_sent() {
    let hook = Hook::taking();
    let (directory, server) = start(&[&hook.url("/")], &["--alert-repeat-after", "0"]);
    for _ in 0..5 {
        assert_eq!(post_alert(&mut server.connect(), "a").status, 200);
    }
    assert_eq!(hook.arrivals().len(), 5);
    assert!(deliveries(directory.path()).iter().all(|one| one.state == "sent"));
}

#[test]
fn an_alert_that_was_given_up_suppresses_no_other() {
    let dead = Hook::with_status(404, "");
    let taking = Hook::taking();
    let (directory, server) = start(&[&dead.url("/"), &taking.url("/")], &[]);
    for _ in 0..2 {
        assert_eq!(post_alert(&mut server.connect(), "a").status, 202);
    }
    let all = wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.settled_at.is_some()));
    // Each channel for itself.
    let of = |hook: &Hook| -> Vec<String> {
        let own = all.iter().filter(|one| one.channel.contains(&format!("{}#", hook.address)));
        own.map(|one| one.state.clone()).collect()
    };
    assert_eq!((of(&dead), of(&taking)), (vec!["dead".into(); 2], vec!["sent".into(), "repeated".into()]));
    assert_eq!((dead.arrivals().len(), taking.arrivals().len()), (2, 1));
}

#[test]
fn a_repeat_of_a_pending_alert_is_answered_with_its_outcome() {
    let hook = Hook::with_status(503, "Retry-After: 3600\r\n");
    let (directory, server) = start(&[&hook.url("/")], &[]);
    for _ in 0..2 {
        assert_eq!(post_alert(&mut server.connect(), "a").status, 202);
    }
    let all = deliveries(directory.path());
    assert_eq!(states(&all), [(1, "pending", None), (2, "repeated", Some(1))]);
    assert_eq!(hook.arrivals().len(), 1);
}

/// The events that a message to a webhook is about.
fn events_in(body: &Value) -> Vec<Value> {
    body.as_array().cloned().unwrap_or_else(|| vec![body.clone()])
}

#[test]
#[ignore = "takes more than a minute"]
fn beyond_its_rate_a_channel_gets_one_digest() {
    const RATE: usize = 3;
    let (hook, slack) = (Hook::taking(), Hook::taking());
    let channels = [&hook.url("/")[..], &format!("slack:{}", slack.url("/"))];
    let (directory, server) = start(&channels, &["--alert-on", "*", "--alert-rate", "3"]);
    let mut connection = server.connect();
    for number in 0..8 {
        assert_eq!(connection.post_event("order", &number.to_string()).status, 201);
        // The first of them are not to wait for each other.
        if number < RATE {
            hook.wait_for(number + 1);
            slack.wait_for(number + 1);
        }
    }
    // An alert of health that is held back is answered as such.
    assert_eq!(post_alert(&mut connection, "a").status, 202);
    thread::sleep(Duration::from_secs(10));
    assert_eq!(connection.post_event("order", "late").status, 201);
    assert_eq!((hook.arrivals().len(), slack.arrivals().len()), (RATE, RATE));
    let begun = Instant::now();
    while deliveries(directory.path()).iter().any(|one| one.state != "sent") {
        assert!(begun.elapsed() < PATIENCE * 2, "{:?}", deliveries(directory.path()));
        thread::sleep(Duration::from_millis(100));
    }
    // What comes then is sent by itself again.
    assert_eq!(connection.post_event("order", "after").status, 201);
    for hook in [&hook, &slack] {
        let arrivals = hook.wait_for(RATE + 2);
        assert_eq!(arrivals.len(), RATE + 2);
        for (earlier, later) in arrivals.iter().zip(&arrivals[RATE..]) {
            // Counted is from claim to claim, seen from arrival to arrival.
            assert!(later.at.duration_since(earlier.at) > Duration::from_secs(59), "{arrivals:?}");
        }
    }
    let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
    let listed = connection.get("/event").json();
    for body in bodies(&hook) {
        for event in events_in(&body) {
            let id = event["id"].as_i64().unwrap();
            *seen.entry(id).or_default() += 1;
            assert_eq!(listed[usize::try_from(id).unwrap() - 1], event);
        }
    }
    assert_eq!(seen, (1..=11).map(|id| (id, 1)).collect());
    assert!(bodies(&hook)[RATE].is_array());
    assert_eq!(bodies(&hook)[RATE].as_array().unwrap().len(), 7);
    let id = hook.arrivals()[RATE].headers("webhook-id")[0].to_owned();
    assert!(id.starts_with("events-4-10-"), "{id}");
    let digest = bodies(&slack)[RATE]["text"].as_str().unwrap().to_owned();
    assert!(digest.starts_with("7 alerts came faster than they may be sent"), "{digest}");
    for number in 4..=10 {
        assert_eq!(digest.matches(&format!("\n• {number} ")).count(), 1, "{digest}");
    }
}
