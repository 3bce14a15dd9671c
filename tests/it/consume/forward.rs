//! `--forward`: events are pushed to another service, in order and once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use super::stored;
use crate::util::http::{Connection, event};
use crate::util::receiver::{Receiver, Reply};
use crate::util::{Consume, eventctl, free_port, random, refusal_of, wait_until, write_file, write_secret};

/// A server that forwards as a config file says, which has the URL in place of `URL`.
fn edge(url: &str, forward: &str) -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "token", "a-token-that-never-changes");
    write_secret(directory.path(), "secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let forward = forward.replace("URL", url);
    write_file(directory.path(), "config.yaml", format!("consume:\n  forward:\n  - {forward}\n"));
    let server = Consume::start_with(directory.path(), &["--config", "config.yaml", "--alert-allow-private"]);
    (directory, server)
}

fn subscription(server: &Consume) -> Value {
    server.connect().get("/subscription").json()[0].clone()
}

#[test]
fn a_hub_stores_what_the_edge_has_byte_for_byte_and_in_order() {
    let hub_directory = tempdir().unwrap();
    write_secret(hub_directory.path(), "token", "a-token-that-never-changes");
    let hub = Consume::start_with(hub_directory.path(), &["--token-file", "token"]);
    let (directory, server) = edge(&hub.url("/event"), "{to: URL, token-file: token, name: hub}");
    let payloads = ["", "é👋\u{202e}", "{\"a\": 1.10}", "\u{1b}[2J\r\n\t\"\\"];
    for number in 0..100 {
        let body =
            event(&format!("t{}", number % 7), &format!("{}{number}", payloads[number % payloads.len()]));
        assert_eq!(server.connect().post(body).status, 201);
    }
    wait_until(|| (stored(&hub_directory).len() == 100).then_some(()));
    assert_eq!(stored(&hub_directory), stored(&directory));
    let shown = wait_until(|| Some(subscription(&server)).filter(|shown| shown["in_flight"] == 0));
    assert_eq!(
        (&shown["name"], &shown["order"], &shown["lag"]),
        (&"hub".into(), &"strict".into(), &0.into())
    );
}

#[test]
fn only_some_types_are_sent_signed_and_as_cloud_events() {
    let hub_directory = tempdir().unwrap();
    write_secret(hub_directory.path(), "secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let hub = Consume::start_with(hub_directory.path(), &["--hook", "edge=standard:secret"]);
    let (_signed, signed) = edge(&hub.url("/hook/edge"), "{to: URL, type: 'a*', secret-file: secret}");
    let (_wrapped, wrapped) =
        edge(&hub.url("/event"), "{to: URL, type: c, format: cloudevents, order: parallel}");
    for server in [&signed, &wrapped] {
        for event_type in ["a1", "b", "c", "a2"] {
            server.store(event_type, "payload");
        }
    }
    let mut types: Vec<String> =
        wait_until(|| Some(stored(&hub_directory)).filter(|events| events.len() == 3))
            .into_iter()
            .map(|(event_type, _)| event_type)
            .collect();
    types.sort();
    assert_eq!(types, ["a1", "a2", "c"]);
}

#[test]
fn what_the_receiver_refuses_is_parked_and_what_it_cannot_take_now_waits() {
    let receiver = Receiver::start(|arrival, number| match number {
        0 => Reply::status(503, ""),
        1 => Reply::status(401, ""),
        _ if arrival.body.contains("\"bad\"") => Reply::status(422, ""),
        _ => Reply::created(),
    });
    let (_directory, server) = edge(&receiver.url("/"), "URL");
    for payload in ["1", "bad", "3"] {
        server.store("a", payload);
    }
    let shown = wait_until(|| {
        Some(subscription(&server)).filter(|shown| {
            shown["parked"] == 1 && shown["lag"] == 0 && shown["in_flight"] == 0 && shown["waiting"] == 0
        })
    });
    let path = format!("/subscription/{}/parked", shown["name"].as_str().unwrap());
    let parked = server.connect().get(&path).json();
    assert_eq!(parked[0]["event_payload"], "bad");
    assert!(parked[0]["reason"].as_str().unwrap().contains("422"), "{parked}");
    let arrivals = receiver.arrivals();
    let payloads: Vec<String> = arrivals
        .iter()
        .map(|arrival| {
            serde_json::from_str::<Value>(&arrival.body).unwrap()["event_payload"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(payloads, ["1", "1", "1", "bad", "3"]);
    // A retry has the same key.
    assert_eq!(arrivals[0].headers("idempotency-key"), arrivals[2].headers("idempotency-key"));
    assert_ne!(arrivals[2].headers("idempotency-key"), arrivals[4].headers("idempotency-key"));

    let stops = Receiver::start(|_, _| Reply::status(422, ""));
    let (_directory, server) = edge(&stops.url("/"), "{to: URL, on-parked: stop}");
    server.store("a", "1");
    server.store("a", "2");
    wait_until(|| (subscription(&server)["parked"] == 1).then_some(()));
    thread::sleep(Duration::from_millis(300));
    assert_eq!(stops.arrivals().len(), 1);
}

#[test]
fn a_forward_may_have_a_method_headers_and_a_body_of_its_own() {
    let receiver = Receiver::start(|_, _| Reply::created());
    let forward = r#"{to: URL, name: crm, method: PUT, headers: {Authorization: "Basic {{ secret.token }}"},
      body: '{"user": {{ json.user }}, "type": {{ event.type }}, "key": {{ key }}}', secret-files: {token: token}}"#;
    let (_directory, server) = edge(&receiver.url("/users"), forward);
    server.store("user\"s", r#"{"user": "a \"b\" </x>"}"#);
    // Not what the template needs: parked, and the next is sent.
    server.store("b", "no JSON");
    server.store("c", r#"{"user": 7}"#);
    let arrivals = wait_until(|| Some(receiver.arrivals()).filter(|arrivals| arrivals.len() == 2));
    let body = |number: usize| -> Value { serde_json::from_str(&arrivals[number].body).unwrap() };
    assert!(arrivals[0].head.starts_with("PUT /users HTTP/1.1\r\n"), "{}", arrivals[0].head);
    assert_eq!(arrivals[0].headers("authorization"), ["Basic a-token-that-never-changes"]);
    assert_eq!(body(0)["user"], "a \"b\" </x>");
    assert_eq!((&body(0)["type"], &body(1)["user"]), (&"user\"s".into(), &7.into()));
    assert_eq!(body(0)["key"], arrivals[0].key());
    let parked = server.connect().get("/subscription/crm/parked").json();
    assert_eq!(parked[0]["id"], 2, "{parked}");
    assert!(parked[0]["reason"].as_str().unwrap().contains("the template of `body`"), "{parked}");
}

#[test]
fn what_cannot_be_forwarded_is_refused() {
    let directory = tempdir().unwrap();
    let refusal = |forward: &[&str], code| {
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0"]);
        for forward in forward {
            command.args(["--forward", forward]);
        }
        let (error, hint) = refusal_of(&mut command, code);
        assert!(!format!("{error}{hint}").contains("s3cret"), "{error} {hint}");
        format!("{error} {hint}")
    };
    assert!(refusal(&["s3cret"], 2).contains("https://hub.example.com/event"));
    assert!(refusal(&["http://hub.example/s3cret"], 1).contains("--alert-allow-private"));
    assert!(refusal(&["https://10.0.0.1/s3cret"], 1).contains("not public"));
    assert!(refusal(&["https://h.example/s3cret", "https://h.example/s3cret"], 1).contains("two forwards"));
    let misspelt = r#"{"to": "https://h.example/s3cret", "body": "{{ evnt.id }}"}"#;
    assert!(refusal(&[misspelt], 1).contains("a template has the unknown name `evnt`"));
}

/// How often edge and hub are killed; more proves more.
fn rounds() -> usize {
    std::env::var("TEST_KILL_ROUNDS").map_or(8, |rounds| rounds.parse().unwrap())
}

#[test]
fn edge_and_hub_are_killed_and_the_hub_has_each_event_once_in_order() {
    let directories = [tempdir().unwrap(), tempdir().unwrap()];
    let ports = [free_port().to_string(), free_port().to_string()];
    let hub_url = format!("http://127.0.0.1:{}/event", ports[1]);
    let start = |side: usize| {
        let mut command = eventctl(directories[side].path());
        command.args(["consume", "--port", &ports[side]]);
        if side == 0 {
            command.args(["--forward", &hub_url, "--alert-allow-private"]);
        }
        Consume::start_command(&mut command)
    };
    let mut servers = [start(0), start(1)];
    let address = servers[0].address;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..2 {
            let is_over = &is_over;
            scope.spawn(move || {
                for number in 0.. {
                    let key = format!("{writer}-{number}");
                    while Connection::try_open(address)
                        .and_then(|mut connection| connection.try_post_with_key(&key, event("a", &key)))
                        .is_ok_and(|response| response.status == 201)
                        .eq(&false)
                    {
                        thread::sleep(Duration::from_millis(5));
                        if is_over.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let mut random = random();
        for _ in 0..rounds() {
            thread::sleep(Duration::from_millis(random.u64(20..200)));
            let side = random.usize(..2);
            servers[side].process.kill();
            servers[side] = start(side);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let edge = stored(&directories[0]);
    let hub = wait_until(|| Some(stored(&directories[1])).filter(|hub| hub.len() >= edge.len()));
    assert!(edge.len() > 20, "{} events", edge.len());
    assert_eq!(hub, edge);
}
