//! Tokens: fetched before they are needed, renewed before they run out, and never shown.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tempfile::{TempDir, tempdir};

use super::{Run, arguments, check_keys, finish, payload_of, run, start, write_events};
use crate::util::receiver::{Arrival, Receiver, Reply};
use crate::util::{Consume, PATIENCE, eventctl, refusal_of, stored_events, wait_until, write_file};

const PASSWORD: &str = "correct horse battery staple &=%+é";

/// A directory with events, the password in `password` and a wrong one in `wrong`.
fn prepare(events: usize) -> TempDir {
    let directory = tempdir().unwrap();
    write_events(directory.path(), events);
    write_secret(directory.path(), "password", PASSWORD);
    write_secret(directory.path(), "wrong", "wrong");
    directory
}

fn write_secret(directory: &Path, name: &str, secret: &str) {
    let path = write_file(directory, name, secret);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A server that asks for tokens.
fn consume_with_tokens(directory: &Path) -> Consume {
    Consume::start_with(directory, &["--username", "alice", "--password-file", "password"])
}

const LOGIN: [&str; 4] = ["--username", "alice", "--password-file", "password"];

/// Runs with the login and further arguments.
fn run_logged_in(directory: &Path, endpoint: &str, further: &[&str]) -> Run {
    run(directory, endpoint, &[&LOGIN, further].concat())
}

/// The command for the same.
fn command(directory: &Path, endpoint: &str, further: &[&str]) -> Command {
    let mut command = eventctl(directory);
    command.args(arguments(endpoint, &[&LOGIN, further].concat()));
    command
}

/// A response with a body of JSON.
fn json_reply(status: u16, body: impl ToString) -> Reply {
    let body = body.to_string();
    let length = body.len();
    Reply::Send(format!(
        "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    ))
}

fn token_reply(token: &str, expires_in: u64) -> Reply {
    json_reply(200, json!({"access_token": token, "token_type": "Bearer", "expires_in": expires_in}))
}

fn asks_for_token(arrival: &Arrival) -> bool {
    arrival
        .head
        .lines()
        .next()
        .is_some_and(|line| line.starts_with("POST /") && line.ends_with("/token HTTP/1.1"))
}

/// A receiver that answers requests for tokens with one function, which gets their number from 0, and
/// events with another, which gets the token.
fn receiver(
    give: impl Fn(usize) -> Reply + Send + Sync + 'static,
    take: impl Fn(&str, &Arrival) -> Reply + Send + Sync + 'static,
) -> Receiver {
    let asked = AtomicUsize::new(0);
    Receiver::start(move |arrival, _| {
        if asks_for_token(arrival) {
            return give(asked.fetch_add(1, Ordering::Relaxed));
        }
        let authorization = arrival.headers("authorization");
        assert_eq!(authorization.len(), 1, "{arrival:?}");
        take(authorization[0].strip_prefix("Bearer ").unwrap(), arrival)
    })
}

fn count_fetches(receiver: &Receiver) -> usize {
    receiver.arrivals().iter().filter(|arrival| asks_for_token(arrival)).count()
}

fn posts(receiver: &Receiver) -> Vec<Arrival> {
    receiver.arrivals().into_iter().filter(Arrival::is_post).collect()
}

// The first token.

#[test]
fn a_server_that_asks_for_tokens_gets_them_with_each_grant() {
    let directory = prepare(5);
    let consume = consume_with_tokens(directory.path());
    run(directory.path(), &consume.url("/event"), &["--count", "1"]).check(3, [0, 1, 0]);
    for grant in ["client-credentials", "password"] {
        let run =
            run_logged_in(directory.path(), &consume.url("/event"), &["--count", "5", "--grant", grant]);
        run.check(0, [5, 0, 0]);
        assert_eq!(run.stderr, "");
        // The first event does not meet a 401, nor does any other.
        assert!(run.responses.iter().all(|line| line["status"] == 201), "{:?}", run.responses);
    }
    assert_eq!(stored_events(&directory.path().join("events.db")).len(), 10);
}

#[test]
fn each_grant_is_written_as_its_rfc_says() {
    let directory = prepare(2);
    let encoded = form_urlencoded::byte_serialize(PASSWORD.as_bytes()).collect::<String>();
    for (grant, authorization, form) in [
        (
            "client-credentials",
            vec![format!("Basic {}", STANDARD.encode(format!("alice:{encoded}")))],
            "grant_type=client_credentials".to_owned(),
        ),
        (
            "client-secret-post",
            vec![],
            format!("grant_type=client_credentials&client_id=alice&client_secret={encoded}"),
        ),
        ("password", vec![], format!("grant_type=password&username=alice&password={encoded}")),
    ] {
        let receiver = receiver(
            |_| token_reply("token", 3600),
            |token, _| Reply::status(if token == "token" { 201 } else { 401 }, ""),
        );
        let endpoint = receiver.url("/event");
        run_logged_in(directory.path(), &endpoint, &["--count", "2", "--grant", grant]).check(0, [2, 0, 0]);
        let arrivals = receiver.arrivals();
        assert!(asks_for_token(&arrivals[0]), "{arrivals:?}");
        assert_eq!(arrivals[0].headers("authorization"), authorization);
        assert_eq!(arrivals[0].headers("content-type"), ["application/x-www-form-urlencoded"]);
        assert_eq!(arrivals[0].body, form);
        assert_eq!((count_fetches(&receiver), posts(&receiver).len()), (1, 2));
    }
}

#[test]
fn scope_and_audience_are_asked_for() {
    let directory = prepare(1);
    let receiver = receiver(|_| token_reply("token", 3600), |_, _| Reply::created());
    let further = ["--count", "1", "--scope", "events:write a&b", "--audience", "https://api.example/"];
    run_logged_in(directory.path(), &receiver.url("/event"), &further).check(0, [1, 0, 0]);
    let form = &receiver.arrivals()[0].body;
    let form: Vec<(String, String)> = form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    let expected = [
        ("grant_type", "client_credentials"),
        ("scope", "events:write a&b"),
        ("audience", "https://api.example/"),
    ];
    assert_eq!(form, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn a_wrong_password_ends_the_run_before_anything_is_sent() {
    let directory = prepare(5);
    let consume = consume_with_tokens(directory.path());
    for grant in ["client-credentials", "password"] {
        let further = ["--password-file", "wrong", "--grant", grant];
        let mut command = eventctl(directory.path());
        command.args(arguments(&consume.url("/event"), &["--username", "alice"])).args(further);
        let (error, hint) = refusal_of(&mut command, 1);
        assert!(error.starts_with("cannot fetch a token: status 40"), "{error}");
        assert!(hint.contains("--username"), "{hint}");
    }
    assert_eq!(stored_events(&directory.path().join("events.db")), []);
}

#[test]
fn a_token_server_that_comes_up_late_is_waited_for() {
    let directory = prepare(3);
    let receiver = receiver(
        |number| match number {
            0 => Reply::Reset,
            1 => Reply::SendAndClose(String::new()),
            2 => Reply::status(503, ""),
            3 => Reply::status(429, ""),
            _ => token_reply("token", 3600),
        },
        |_, _| Reply::created(),
    );
    let run = run_logged_in(directory.path(), &receiver.url("/event"), &["--count", "3"]);
    run.check(0, [3, 0, 0]);
    assert_eq!(count_fetches(&receiver), 5);
}

#[test]
fn a_token_endpoint_that_gives_none_ends_the_run_before_anything_is_sent() {
    // What the endpoint does, what is said of it, and how often it is asked.
    type Case = (fn() -> Reply, &'static str, usize);
    let cases: Vec<Case> = vec![
        // It may pass, and is tried again.
        (|| Reply::Reset, "onnection", 2),
        (|| Reply::status(500, ""), "status 500", 2),
        (|| Reply::status(503, "Retry-After: 0\r\n"), "status 503", 2),
        (|| Reply::status(429, ""), "status 429", 2),
        (
            || {
                thread::sleep(PATIENCE);
                Reply::Reset
            },
            "no response within 300ms",
            2,
        ),
        (
            || Reply::Drip("HTTP/1.1 200 OK\r\n\r\n{\"access".to_owned(), Duration::from_millis(10)),
            "no response within 300ms",
            2,
        ),
        // It will not.
        (
            || Reply::Drip("HTTP/1.1 200 OK\r\n\r\n".to_owned() + &" ".repeat(1 << 20), Duration::ZERO),
            "no bearer token",
            1,
        ),
        (|| json_reply(200, "<html>Welcome</html>"), "no bearer token", 1),
        (|| json_reply(200, ""), "no bearer token", 1),
        (|| json_reply(200, "{}"), "no bearer token", 1),
        (|| json_reply(200, r#"{"access_token":"","token_type":"bearer"}"#), "no bearer token", 1),
        (|| json_reply(200, r#"{"access_token":"a\nb","token_type":"bearer"}"#), "no bearer token", 1),
        (|| json_reply(200, r#"{"access_token":7,"token_type":"bearer"}"#), "no bearer token", 1),
        (|| json_reply(200, r#"{"access_token":"a","token_type":"mac"}"#), "no bearer token", 1),
        (|| Reply::status(302, "Location: /event\r\n"), "status 302", 1),
        (|| Reply::status(404, ""), "status 404", 1),
        (|| json_reply(400, r#"{"error":"invalid_grant"}"#), "invalid_grant", 1),
        (|| json_reply(401, r#"{"error":"invalid_client"}"#), "invalid_client", 1),
    ];
    let directory = prepare(3);
    for (number, (reply, reason, fetches)) in cases.into_iter().enumerate() {
        let receiver = receiver(move |_| reply(), |_, _| Reply::created());
        let further = ["--timeout", "300ms", "--retries", "1"];
        let begun = Instant::now();
        let (error, _) = refusal_of(&mut command(directory.path(), &receiver.url("/event"), &further), 1);
        assert!(error.starts_with("cannot fetch a token: "), "{number}: {error}");
        assert!(error.contains(reason), "{number}: {error}");
        assert!(begun.elapsed() < PATIENCE / 6, "{number}: {:?}", begun.elapsed());
        assert_eq!((count_fetches(&receiver), posts(&receiver).len()), (fetches, 0), "{number}");
        assert_eq!(receiver.arrivals().len(), fetches, "{number}: a redirect was followed");
    }
}

#[test]
fn a_signal_ends_the_wait_for_the_first_token() {
    let directory = prepare(3);
    let receiver = receiver(|_| Reply::status(503, ""), |_, _| Reply::created());
    let further = [&LOGIN[..], &["--retries", "1000000"]].concat();
    let mut process = start(directory.path(), &receiver.url("/event"), &further);
    wait_until(|| (count_fetches(&receiver) > 1).then_some(()));
    assert_eq!(process.terminate().code(), Some(0), "{}", process.stderr());
    assert_eq!(posts(&receiver).len(), 0);
}

#[test]
fn the_token_url_is_honoured() {
    let directory = prepare(3);
    let tokens = Receiver::start(|_, _| token_reply("token", 3600));
    let events = receiver(|_| Reply::status(500, ""), |_, _| Reply::created());
    let url = tokens.url("/realms/events/token?x=1");
    let further = ["--count", "3", "--token-url", &url];
    run_logged_in(directory.path(), &events.url("/deep/down?where=here"), &further).check(0, [3, 0, 0]);
    assert_eq!(tokens.arrivals().len(), 1);
    assert!(tokens.arrivals()[0].head.starts_with("POST /realms/events/token?x=1 HTTP/1.1\r\n"));
    assert_eq!(count_fetches(&events), 0);
    // Without it, the token comes from beside the endpoint: behind the same prefix, where there is one.
    let events = receiver(|_| token_reply("token", 3600), |_, _| Reply::created());
    run_logged_in(directory.path(), &events.url("/deep/down?where=here"), &["--count", "3"])
        .check(0, [3, 0, 0]);
    assert!(events.arrivals()[0].head.starts_with("POST /deep/token HTTP/1.1\r\n"));
}

// Renewal.

#[test]
fn a_token_is_renewed_before_it_expires() {
    const LIFETIME: Duration = Duration::from_secs(2);
    let directory = prepare(100);
    let issued: &Mutex<HashMap<String, Instant>> = Box::leak(Box::default());
    let receiver = receiver(
        |number| {
            let token = format!("token-{number}");
            issued.lock().unwrap().insert(token.clone(), Instant::now());
            token_reply(&token, LIFETIME.as_secs())
        },
        |token, _| {
            let fresh = issued.lock().unwrap()[token].elapsed() < LIFETIME;
            Reply::status(if fresh { 201 } else { 401 }, "")
        },
    );
    let further = ["--duration", "4s", "--period", "20ms"];
    let run = run_logged_in(directory.path(), &receiver.url("/event"), &further);
    assert_eq!(run.code, 0, "{:?}", run.responses);
    assert!(run.count("delivered") > 50);
    assert!(run.responses.iter().all(|line| line["status"] == 201), "{:?}", run.responses);
    let fetches = count_fetches(&receiver);
    assert!((2..=4).contains(&fetches), "{fetches} tokens in 4 s that live for 2 s");
}

#[test]
fn tokens_that_do_not_live_at_all_are_not_fetched_in_a_loop() {
    let directory = prepare(10);
    let receiver = receiver(|_| token_reply("token", 0), |_, _| Reply::created());
    let further = ["--duration", "1500ms", "--period", "50ms"];
    assert_eq!(run_logged_in(directory.path(), &receiver.url("/event"), &further).code, 0);
    let fetches = count_fetches(&receiver);
    assert!(fetches <= 3, "{fetches} tokens in 1.5 s");
}

#[test]
fn a_token_that_tells_no_lifetime_or_a_long_one_is_kept() {
    let directory = prepare(10);
    for lifetime in ["", r#","expires_in":18446744073709551615"#, r#","expires_in":null"#] {
        let body = format!(r#"{{"access_token":"a","token_type":"BEARER"{lifetime}}}"#);
        let receiver = receiver(move |_| json_reply(200, &body), |_, _| Reply::created());
        run_logged_in(directory.path(), &receiver.url("/event"), &["--count", "10"]).check(0, [10, 0, 0]);
        assert_eq!(count_fetches(&receiver), 1);
    }
}

#[test]
fn token_responses_are_read_as_providers_write_them() {
    let directory = prepare(3);
    for response in [
        r#"{"access_token":"a"}"#,
        r#"{"access_token":"a","token_type":null}"#,
        r#"{"access_token":"a","expires_in":"3600"}"#,
        r#"{"access_token":"a","expires_in":3599.7,"scope":"x","ext_expires_in":7}"#,
        r#"{"access_token":"a","expires_in":"soon"}"#,
        r#"{"access_token":"a","expires_in":-1}"#,
        r#"{"access_token":"a","expires_in":[1]}"#,
    ] {
        let receiver = receiver(
            move |_| json_reply(200, response),
            |token, _| Reply::status(if token == "a" { 201 } else { 401 }, ""),
        );
        run_logged_in(directory.path(), &receiver.url("/event"), &["--count", "3"]).check(0, [3, 0, 0]);
        assert_eq!(count_fetches(&receiver), 1, "{response}");
    }
}

#[test]
fn a_lifetime_that_is_text_or_a_fraction_is_obeyed() {
    let directory = prepare(3);
    for lifetime in [r#""1""#, "1.5"] {
        let give = move |number| {
            let lifetime = if number == 0 { lifetime } else { "3600" };
            json_reply(200, format!(r#"{{"access_token":"token-{number}","expires_in":{lifetime}}}"#))
        };
        let receiver = receiver(give, |_, _| Reply::created());
        let further = [&LOGIN[..], &["--period", "20ms"]].concat();
        let process = start(directory.path(), &receiver.url("/event"), &further);
        wait_until(|| {
            let renewed = |arrival: &Arrival| arrival.headers("authorization") == ["Bearer token-1"];
            posts(&receiver).iter().any(renewed).then_some(())
        });
        process.signal(rustix::process::Signal::TERM);
        assert_eq!(finish(directory.path(), process).code, 0);
    }
}

#[test]
fn a_renewal_that_fails_is_said_and_tried_again_while_events_go_on() {
    let directory = prepare(10);
    let receiver = receiver(
        |number| match number {
            0 => token_reply("token-0", 1),
            1 => Reply::status(500, ""),
            _ => token_reply("token-1", 3600),
        },
        |_, _| Reply::created(),
    );
    let further = [&LOGIN[..], &["--period", "20ms"]].concat();
    let process = start(directory.path(), &receiver.url("/event"), &further);
    wait_until(|| {
        let renewed = |arrival: &Arrival| arrival.headers("authorization") == ["Bearer token-1"];
        posts(&receiver).iter().any(renewed).then_some(())
    });
    let stderr = process.stderr();
    assert_eq!(stderr.matches("cannot renew the token, and tries again: status 500").count(), 1, "{stderr}");
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(finish(directory.path(), process).code, 0);
}

#[test]
fn a_token_server_that_fails_is_not_asked_again_and_again_for_a_renewal() {
    let directory = prepare(10);
    let receiver = receiver(
        |number| if number == 0 { token_reply("token", 1) } else { Reply::status(500, "") },
        |_, _| Reply::created(),
    );
    let further = ["--duration", "3s", "--period", "50ms"];
    assert_eq!(run_logged_in(directory.path(), &receiver.url("/event"), &further).code, 0);
    let fetches = count_fetches(&receiver);
    assert!((2..50).contains(&fetches), "{fetches} requests for tokens");
}

// Tokens that are refused.

/// Lets requests through when so many have come.
struct Gate {
    closed_for: Mutex<usize>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut left = self.closed_for.lock().unwrap();
        *left = left.saturating_sub(1);
        self.opened.notify_all();
        let (_left, waited) = self.opened.wait_timeout_while(left, PATIENCE, |left| *left > 0).unwrap();
        assert!(!waited.timed_out());
    }
}

#[test]
fn a_revoked_token_is_replaced_once_for_all_events_in_flight() {
    const EVENTS: usize = 30;
    let directory = prepare(EVENTS);
    let gate: &Gate = Box::leak(Box::new(Gate { closed_for: Mutex::new(EVENTS), opened: Condvar::new() }));
    let receiver = receiver(
        |number| {
            // Time for all to ask.
            thread::sleep(Duration::from_millis(if number == 0 { 0 } else { 200 }));
            token_reply(&format!("token-{number}"), 3600)
        },
        |token, _| {
            if token == "token-0" {
                gate.pass();
                return Reply::status(401, "");
            }
            Reply::created()
        },
    );
    let further = ["--count", "30", "--max-in-flight", "30"];
    let run = run_logged_in(directory.path(), &receiver.url("/event"), &further);
    run.check(0, [30, 0, 0]);
    assert_eq!(count_fetches(&receiver), 2);
    let posts = posts(&receiver);
    assert_eq!(posts.len(), 2 * EVENTS);
    check_keys(&posts);
    let mut payloads: Vec<usize> = posts.iter().map(|post| payload_of(&post.body).parse().unwrap()).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, (0..EVENTS).flat_map(|payload| [payload; 2]).collect::<Vec<_>>());
}

#[test]
fn a_token_revoked_by_consume_is_replaced() {
    let directory = prepare(20);
    let start_with_key = |port: &str, key: &str| {
        write_secret(directory.path(), "key", key);
        let tokens = ["--username", "alice", "--password-file", "password", "--signing-key-file", "key"];
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", port]).args(tokens);
        Consume::start_command(&mut command)
    };
    let mut consume = start_with_key("0", &"k".repeat(32));
    let port = consume.address.port().to_string();
    let further = [&LOGIN[..], &["--count", "20", "--period", "50ms", "--retries", "100"]].concat();
    let process = start(directory.path(), &consume.url("/event"), &further);
    let database = directory.path().join("events.db");
    wait_until(|| (stored_events(&database).len() > 3).then_some(()));
    assert!(consume.process.terminate().success());
    // A server with another key knows nothing of the tokens from before.
    let _consume = start_with_key(&port, &"l".repeat(32));
    let run = finish(directory.path(), process);
    run.check(0, [20, 0, 0]);
    assert!(run.responses.iter().any(|line| line["status"] == 401), "{:?}", run.responses);
    assert_eq!(stored_events(&database).len(), 20);
}

#[test]
fn a_server_that_refuses_every_token_is_not_asked_for_more_and_more() {
    let directory = prepare(10);
    let receiver =
        receiver(|number| token_reply(&format!("token-{number}"), 3600), |_, _| Reply::status(401, ""));
    let run = run_logged_in(directory.path(), &receiver.url("/event"), &["--count", "10"]);
    run.check(3, [0, 10, 0]);
    let fetches = count_fetches(&receiver);
    assert!((2..=4).contains(&fetches), "{fetches} tokens for 10 events");
    assert!((11..=20).contains(&posts(&receiver).len()));
    check_keys(&posts(&receiver));
}

#[test]
fn an_event_is_sent_with_one_new_token_however_late_its_refusals_come() {
    let directory = prepare(1);
    let receiver = receiver(
        |number| token_reply(&format!("token-{number}"), 3600),
        |_, _| {
            // Later than the time for which a server that refuses is left alone.
            thread::sleep(Duration::from_millis(1100));
            Reply::status(401, "")
        },
    );
    let run = run_logged_in(directory.path(), &receiver.url("/event"), &["--count", "1"]);
    run.check(3, [0, 1, 0]);
    assert_eq!((count_fetches(&receiver), posts(&receiver).len()), (2, 2));
}

#[test]
fn events_in_flight_share_a_fetch_that_fails() {
    const EVENTS: usize = 10;
    let directory = prepare(EVENTS);
    let gate: &Gate = Box::leak(Box::new(Gate { closed_for: Mutex::new(EVENTS), opened: Condvar::new() }));
    let receiver = receiver(
        |number| {
            if number == 0 {
                return token_reply("old", 3600);
            }
            // Time for all to ask.
            thread::sleep(Duration::from_secs(2));
            Reply::status(503, "")
        },
        |_, _| {
            gate.pass();
            Reply::status(401, "")
        },
    );
    let further = ["--count", "10", "--max-in-flight", "10", "--retries", "0"];
    run_logged_in(directory.path(), &receiver.url("/event"), &further).check(3, [0, 0, 10]);
    assert_eq!((count_fetches(&receiver), posts(&receiver).len()), (2, EVENTS));
}

#[test]
fn a_token_server_that_refuses_is_not_asked_again_for_each_event() {
    const EVENTS: usize = 100;
    let directory = prepare(EVENTS);
    let receiver = receiver(
        |number| match number {
            0 => token_reply("old", 3600),
            _ => json_reply(400, json!({"error": "invalid_grant"})),
        },
        |_, _| Reply::status(401, ""),
    );
    // One after the other, so that they do not share a fetch.
    let further = ["--count", "100", "--max-in-flight", "1"];
    run_logged_in(directory.path(), &receiver.url("/event"), &further).check(3, [0, 100, 0]);
    let fetches = count_fetches(&receiver);
    assert!((2..EVENTS / 2).contains(&fetches), "{fetches} requests for tokens");
}

#[test]
fn events_wait_for_a_token_server_that_is_down() {
    let directory = prepare(3);
    let refused_for = |times: usize| {
        receiver(
            move |number| match number {
                0 => token_reply("old", 3600),
                number if number <= times => Reply::status(503, ""),
                _ => token_reply("new", 3600),
            },
            |token, _| Reply::status(if token == "new" { 201 } else { 401 }, ""),
        )
    };
    let back = refused_for(2);
    run_logged_in(directory.path(), &back.url("/event"), &["--count", "3"]).check(0, [3, 0, 0]);
    check_keys(&posts(&back));
    let down = refused_for(usize::MAX);
    let further = ["--count", "3", "--retries", "2"];
    // Nobody knows whether they would be refused.
    run_logged_in(directory.path(), &down.url("/event"), &further).check(3, [0, 0, 3]);
    assert_eq!(posts(&down).len(), 9);
}

#[test]
fn events_are_rejected_when_the_password_is_no_longer_right() {
    let directory = prepare(3);
    let receiver = receiver(
        |number| match number {
            0 => token_reply("old", 3600),
            _ => json_reply(400, r#"{"error":"invalid_grant"}"#),
        },
        |_, _| Reply::status(401, ""),
    );
    run_logged_in(directory.path(), &receiver.url("/event"), &["--count", "3"]).check(3, [0, 3, 0]);
    assert_eq!(posts(&receiver).len(), 3);
}

// A token that never changes.

#[test]
fn a_token_of_a_file_or_the_environment_is_sent_as_it_is() {
    let directory = prepare(3);
    write_secret(directory.path(), "token", "0123456789abcdef\n");
    let consume = Consume::start_with(directory.path(), &["--token-file", "token"]);
    let endpoint = consume.url("/event");
    run(directory.path(), &endpoint, &["--count", "3"]).check(3, [0, 3, 0]);
    run(directory.path(), &endpoint, &["--count", "3", "--token-file", "token"]).check(0, [3, 0, 0]);
    let mut command = eventctl(directory.path());
    command.args(arguments(&endpoint, &["--count", "3"])).env("EVENTCTL_TOKEN", "0123456789abcdef");
    Run::new(&command.output().unwrap()).check(0, [3, 0, 0]);
    write_secret(directory.path(), "token", "another one that is wrong");
    run(directory.path(), &endpoint, &["--count", "3", "--token-file", "token"]).check(3, [0, 3, 0]);
    assert_eq!(stored_events(&directory.path().join("events.db")).len(), 6);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let directory = prepare(1);
    write_secret(directory.path(), "token", "0123456789abcdef");
    write_secret(directory.path(), "lines", "two\nlines");
    write_secret(directory.path(), "empty", "");
    let receiver = Receiver::start(|_, _| Reply::created());
    let authorization = ["--header", "Authorization: Bearer x"];
    for (further, named) in [
        (vec!["--token-file", "token", authorization[0], authorization[1]], "Authorization"),
        ([&LOGIN[..], &authorization].concat(), "Authorization"),
        ([&LOGIN[..], &["--token-file", "token"]].concat(), "token"),
        (vec!["--username", "alice", "--token-file", "token"], "token"),
        (vec!["--username", "alice"], "password"),
        (vec!["--password-file", "password"], "name"),
        (vec!["--token-file", "lines"], "token"),
        (vec!["--token-file", "empty"], "`empty`"),
        (vec!["--token-file", "missing"], "`missing`"),
    ] {
        let mut command = eventctl(directory.path());
        command.args(arguments(&receiver.url("/event"), &further));
        let (error, _) = refusal_of(&mut command, 1);
        assert!(error.contains(named), "{further:?}: {error}");
    }
    fs::set_permissions(directory.path().join("token"), fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = eventctl(directory.path());
    let (_, hint) =
        refusal_of(command.args(arguments(&receiver.url("/event"), &["--token-file", "token"])), 1);
    assert!(hint.contains("chmod 600"), "{hint}");
    assert_eq!(receiver.arrivals().len(), 0);
}

// Secrets.

#[test]
fn secrets_are_never_shown() {
    const MARKER: &str = "m4rk3r";
    let directory = prepare(4);
    write_secret(directory.path(), "password", &format!("{MARKER}-password"));
    // A server that says all that it knows, and takes some events.
    let token = |number: usize| {
        json!({
            "access_token": format!("{MARKER}-token-{number}"),
            "refresh_token": format!("{MARKER}-refresh"),
            "token_type": "bearer",
            "expires_in": 1,
        })
    };
    let evil = move |status: u16, number: usize| {
        json_reply(status, json!({"error": MARKER, "error_description": MARKER, "token": token(number)}))
    };
    // What is said of an event is repeated, but for what looks like a secret.
    let talkative = move |status: u16| {
        json_reply(status, json!({"error": "it is late", "known": {"token": token(0), "Api-Key": MARKER}}))
    };
    for format in ["json", "text"] {
        let receiver = receiver(
            move |number| match number % 3 {
                0 => json_reply(200, token(number)),
                _ => evil(500, number),
            },
            move |_, arrival| match payload_of(&arrival.body).as_str() {
                "0" => Reply::created(),
                "1" => talkative(401),
                "2" => talkative(400),
                _ => talkative(503),
            },
        );
        let further = ["--duration", "1500ms", "--period", "100ms", "--retries", "1", "-o", format];
        let mut command = command(directory.path(), &receiver.url("/event"), &further);
        let output = command.args(["--dead-letter", "letters"]).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let letters = fs::read_to_string(directory.path().join("letters")).unwrap();
        let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap() + &letters;
        assert!(shown.contains("tries again"), "no renewal failed: {shown}");
        assert!(letters.lines().count() > 1);
        assert!(!shown.contains(MARKER) && shown.contains("it is late"), "{shown}");
    }
    // The same where there is no first token.
    for number in 0..4 {
        let tokens = Receiver::start(move |_, _| match number {
            0 => evil(400, 0),
            1 => evil(500, 0),
            2 => json_reply(200, json!({"access_token": format!("{MARKER}\u{7f}"), "token_type": MARKER})),
            _ => Reply::status(302, &format!("Location: /{MARKER}\r\n")),
        });
        let (error, hint) =
            refusal_of(&mut command(directory.path(), &tokens.url("/event"), &["--retries", "0"]), 1);
        assert!(!(error.clone() + &hint).contains(MARKER), "{error}");
    }
}

#[test]
fn the_command_line_takes_no_secret() {
    let directory = prepare(1);
    let receiver = Receiver::start(|_, _| Reply::created());
    let output = eventctl(directory.path()).args(["propagate", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(!help.contains("--password ") && !help.contains("--token "), "{help}");
    // In the environment it is as good as in a file.
    let mut command = eventctl(directory.path());
    command.args(arguments(&receiver.url("/event"), &["--username", "alice"]));
    let (error, _) = refusal_of(command.env("EVENTCTL_PASSWORD", "m4rk3r"), 1);
    assert!(!error.contains("m4rk3r"), "{error}");
    let form = STANDARD.encode("alice:m4rk3r");
    assert_eq!(receiver.arrivals()[0].headers("authorization"), [format!("Basic {form}")]);
}
