//! Webhooks that are delivered again and again, while processes are killed and connections are cut: each is stored once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::database::{TestStore, on_every_store};
use crate::consume::hooks::{Headers, github_headers, standard_headers, try_post};
use crate::util::{random, write_secret};

on_every_store!(a_delivery_is_stored_once_by_any_of_its_names, redeliveries_through_kills_are_stored_once);

const SECRET: &str = "a secret of the sender";
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

const HOOKS: [&str; 4] = ["--hook", "github=github:secret", "--hook", "std=standard:standard"];

fn prepare(store: &TestStore) {
    store.prepare();
    write_secret(store.path(), "secret", SECRET);
    write_secret(store.path(), "standard", STANDARD_SECRET);
}

fn a_delivery_is_stored_once_by_any_of_its_names(store: &TestStore) {
    prepare(store);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let server = store.consume(&HOOKS);
        for (id, body) in [("1", "a"), ("2", "a"), ("1", "b"), ("3", "c"), ("4", "c"), ("3", "d")] {
            let response = try_post(&server, "github", &github_headers(SECRET, id, body), body).unwrap();
            assert_eq!(response.status, 201);
            answers.push(response.header("location").unwrap().to_owned());
        }
    }
    assert!(answers.iter().take(3).all(|location| *location == answers[0]), "{answers:?}");
    assert_eq!(answers[..6], answers[6..]);
    let payloads: Vec<String> = store.payloads();
    assert_eq!(payloads, ["a", "c"]);
}

fn redeliveries_through_kills_are_stored_once(store: &TestStore) {
    const DELIVERIES: usize = 100;
    const REDELIVERIES: usize = 1000;
    prepare(store);
    let delivery = |number: usize, time: i64| -> (&str, Headers, String) {
        let body = format!(r#"{{"type":"a","number":{number}}}"#);
        match number % 2 {
            0 => ("github", github_headers(SECRET, &format!("{number}-{}", time % 2), &body), body),
            _ => ("std", standard_headers(STANDARD_SECRET, &format!("msg_{number}"), time, &body), body),
        }
    };
    let sent = AtomicUsize::new(0);
    while sent.load(Ordering::Relaxed) < REDELIVERIES {
        let mut server = store.consume(&HOOKS);
        thread::scope(|scope| {
            for _ in 0..4 {
                let (server, sent) = (&server, &sent);
                scope.spawn(move || {
                    let mut random = random();
                    // Until the process is killed.
                    loop {
                        let number = random.usize(..DELIVERIES);
                        let time = crate::consume::hooks::now() - random.i64(0..200);
                        let (hook, headers, body) = delivery(number, time);
                        match try_post(server, hook, &headers, body) {
                            Ok(response) => assert_eq!(response.status, 201, "{response:?}"),
                            Err(_) => break,
                        }
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            thread::sleep(Duration::from_millis(random().u64(20..150)));
            rustix::process::kill_process(server.process.pid(), rustix::process::Signal::KILL).unwrap();
        });
        server.process.kill();
    }
    let server = store.consume(&HOOKS);
    for number in 0..DELIVERIES {
        let (hook, headers, body) = delivery(number, crate::consume::hooks::now());
        assert_eq!(try_post(&server, hook, &headers, body).unwrap().status, 201);
    }
    let payloads = store.payloads();
    assert_eq!(payloads.len(), DELIVERIES);
    assert_eq!(payloads.iter().collect::<BTreeSet<_>>().len(), DELIVERIES);
}
