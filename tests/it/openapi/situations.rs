//! Servers in all the states that the document tells of.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::tempdir;

use super::document::{DOCUMENT, Operation, Seen};
use super::wire::{Client, Expectation, Framing, Request};
use crate::consume::hooks::slack_headers;
use crate::consume::tokens::{PASSWORD, USERNAME, log_in, password_form, refresh_form, start_for};
use crate::util::disk::{Disk, Fault};
use crate::util::http::event;
use crate::util::receiver::{Receiver, Reply};
use crate::util::sse::EventStream;
use crate::util::{Consume, write_file, write_secret};

const FORM: &str = "application/x-www-form-urlencoded";
const ALERT: &str = r#"{"issues":["service-a-failure"]}"#;
const TOKEN: &str = "a-token-that-never-changes";

/// An operation by its name, such as `POST /event`.
fn operation(name: &str) -> Operation {
    DOCUMENT.operations().into_iter().find(|operation| operation.name() == name).unwrap()
}

/// A request that fits each operation; where the document lists no method, one that is not listed, and HEAD
/// where that is not listed either.
fn one_of_each() -> Vec<Request> {
    let mut requests = Vec::new();
    for operation in DOCUMENT.operations() {
        let target = operation
            .path
            .clone()
            .unwrap_or("/nothing".to_owned())
            .replace("{id}", "1")
            .replace("{name}", "hook");
        let methods = match &operation.method {
            Some(method) => vec![method.clone()],
            None => vec!["DELETE".to_owned(), "POST".to_owned(), "HEAD".to_owned()],
        };
        let listed = operation.path.as_ref().map_or_else(Vec::new, |path| DOCUMENT.methods_of(path));
        for method in methods {
            if operation.method.is_some() || !listed.contains(&method) {
                requests.push(filled(Request::new(&operation, &method, &target)));
            }
        }
    }
    requests
}

/// The same request with a body that its operation takes.
fn filled(request: Request) -> Request {
    match request.operation.name().as_str() {
        "POST /event" => request.body("application/json", event("a", "b")),
        name if name.starts_with("POST /subscription") => {
            let unparks = name.ends_with("/parked");
            let claims = name.ends_with("/claim");
            let body = if unparks { r#"{"action":"skip"}"# } else { r#"{"token":"1-1"}"# };
            request.body("application/json", if claims { "{}" } else { body })
        }
        "PUT /subscription/{name}" => request.body("application/json", "{}"),
        "POST /hook/{name}" => request.body("application/json", "{}"),
        "POST /api/v1/health-alert" => request.body("application/json", ALERT),
        "POST /token" => request.body(FORM, password_form(USERNAME, PASSWORD)),
        _ => request,
    }
}

fn takes_body(request: &Request) -> bool {
    DOCUMENT.follow(&format!("{}/requestBody", request.operation.pointer)).is_some()
}

/// The requests with something wrong that is wrong for all of them.
fn with_bad_heads(request: &Request) -> [Request; 7] {
    let plain = Request { expectation: Expectation::DoesNotFit, ..request.clone() };
    [
        plain.clone().header("Host", "another"),
        plain.clone().header("Sec-Fetch-Site", "cross-site"),
        for_another_host(&plain),
        plain.clone().header("Bad Name", ""),
        plain.clone().header("Long", "x".repeat(300 << 10)),
        Request { target: format!("{}?{}", plain.target, "x".repeat(70 << 10)), ..plain.clone() },
        plain.header("Transfer-Encoding", "gzip, chunked"),
    ]
}

fn for_another_host(request: &Request) -> Request {
    let mut request = request.clone();
    request.headers.retain(|(name, _)| name != "Host");
    if ["/health", "/ready"].contains(&request.target.as_str()) {
        request.expectation = Expectation::Anything;
    }
    request.header("Host", "rebound.example")
}

/// Sends requests that make sense, and such that no server takes, to every operation.
fn sweep(client: &mut Client, authorization: Option<&str>) {
    for request in one_of_each() {
        let request = match authorization {
            Some(authorization) => request.header("Authorization", authorization),
            None => request,
        };
        client.send(&request);
        for request in with_bad_heads(&request) {
            client.send(&request);
        }
        if takes_body(&request) {
            client.send(&request.clone().header("Expect", "100-continue"));
            client.send(&Request { framing: Framing::CutOff, ..request.clone() });
            client.send(&request.clone().header("Content-Encoding", "gzip"));
            client.send(&request.clone().header("Content-Encoding", "br"));
            client.send(&(0..101).fold(request.clone(), |request, _| request.header("A", "b")));
            client.send(&Request { body: vec![b' '; (1 << 20) + 1], ..request.clone() });
            client.send(&Request { body: Vec::new(), ..request });
        }
    }
}

pub fn everything_is_asked_for_in_turn() -> Seen {
    let directory = tempdir().unwrap();
    let server = Consume::start_with(directory.path(), &super::LARGE_HEADS);
    let mut client = Client::new(server.address);
    let post = Request::new(&operation("POST /event"), "POST", "/event");
    let with_key = |body: &str| post.clone().header("Idempotency-Key", "key").body("application/json", body);
    assert_eq!(client.send(&with_key(&event("a", "b"))).status, 201);
    assert_eq!(client.send(&with_key(&event("a", "b"))).status, 201);
    assert_eq!(client.send(&with_key(&event("a", "c"))).status, 422);
    let several = format!("[{},{}]", event("a", "b"), event("a", "c"));
    let list = client.send(&post.clone().body("application/json", several));
    assert_eq!((list.status, list.header("location")), (201, None));
    let get = operation("GET /event");
    let page = client.send(&Request::new(&get, "GET", "/event?after=1&limit=1"));
    assert_eq!(page.headers.iter().filter(|(name, _)| name == "link").count(), 2, "{page:?}");
    client.send(&Request::new(&get, "GET", "/event").header("Accept", "application/x-ndjson"));
    let metrics = Request::new(&operation("GET /metrics"), "GET", "/metrics");
    client.send(&metrics.header("Accept", "application/openmetrics-text; version=1.0.0"));
    // The second is there until something deletes it.
    for path in ["/event/99", "/event/1"] {
        client.send(&Request::new(&operation("GET /event/{id}"), "GET", path));
        client.send(&Request::new(&operation("HEAD /event/{id}"), "HEAD", path));
    }
    client.send(&Request::new(&operation("other /event/{id}"), "DELETE", "/event/x"));
    sweep(&mut client, None);
    ask_at_the_limits(&mut client);
    client.seen
}

/// Sends each parameter as small, large or long as it may be, and as it may not be.
fn ask_at_the_limits(client: &mut Client) {
    for request in one_of_each().into_iter().filter(|request| request.operation.method.is_some()) {
        for (pointer, parameter) in DOCUMENT.parameters(&request.operation) {
            let name = parameter["name"].as_str().unwrap();
            for value in at_the_limits(&parameter["schema"]) {
                let fits = DOCUMENT.validate_text(&format!("{pointer}/schema"), &value).is_ok();
                let expectation = if fits { Expectation::Fits } else { Expectation::DoesNotFit };
                let request = Request { expectation, ..request.clone() };
                let request = match parameter["in"].as_str().unwrap() {
                    "header" => request.header(name, &value),
                    "query" => Request { target: format!("{}?{name}={value}", request.target), ..request },
                    _ => Request { target: request.target.replace("/1", &format!("/{value}")), ..request },
                };
                client.send(&request);
            }
        }
    }
}

fn at_the_limits(schema: &Value) -> Vec<String> {
    let limit = |name: &str| schema[name].as_i64().map(i128::from);
    let lengths = [
        limit("minLength").map(|least| least - 1),
        limit("maxLength"),
        limit("maxLength").map(|most| most + 1),
    ];
    let lengths = lengths.into_iter().flatten().map(|length| "x".repeat(usize::try_from(length).unwrap()));
    let least = limit("minimum").into_iter().flat_map(|least| [least, least - 1]);
    let numbers = least.chain(limit("maximum").into_iter().flat_map(|most| [most, most + 1]));
    lengths.chain(numbers.map(|number| number.to_string())).collect()
}

pub fn events_are_followed() -> Seen {
    let directory = tempdir().unwrap();
    let server = Consume::start_with(directory.path(), &["--idle-timeout", "600ms"]);
    server.store("a", "b");
    let follow = Request::new(&operation("GET /event/stream"), "GET", "/event/stream?after=0");
    let mut client = Client::new(server.address);
    assert_eq!(client.send(&follow).status, 200);
    let item = "/components/schemas/StreamItem";
    let mut stream = EventStream::open(server.connect(), "?after=0&type=a", &[]);
    server.store("not followed", "");
    server.store("a", "c");
    let (mut events, mut others) = (0, 0);
    while events < 2 || others < 1 {
        let block = stream.block();
        match (&block.id, &block.data) {
            (Some(id), Some(data)) => {
                DOCUMENT.validate(item, &json!({"id": id, "data": data})).unwrap();
                let event = serde_json::from_str(data).unwrap();
                DOCUMENT.validate(&format!("{item}/properties/data/contentSchema"), &event).unwrap();
                events += 1;
            }
            (Some(id), None) => DOCUMENT.validate(item, &json!({"id": id})).unwrap(),
            (None, data) => {
                assert_eq!(*data, None, "{block:?}");
                others += 1;
            }
        }
    }
    client.seen
}

pub fn tokens_are_asked_for() -> Seen {
    let directory = tempdir().unwrap();
    let server = start_for(directory.path(), USERNAME, PASSWORD, &super::LARGE_HEADS);
    let bearer = format!("Bearer {}", log_in(&server).access);
    let mut client = Client::new(server.address);
    for request in one_of_each() {
        client.send(&request);
        client.send(&request.clone().header("Authorization", "Bearer wrong"));
        client.send(&request.clone().header("Authorization", &bearer).header("Authorization", &bearer));
    }
    sweep(&mut client, Some(&bearer));
    let token = Request::new(&operation("POST /token"), "POST", "/token");
    let mut give = |form: &str, basic: Option<&str>| {
        let request = token.clone().body(FORM, form);
        let basic = basic.map(|basic| format!("Basic {}", STANDARD.encode(basic)));
        client.send(&basic.iter().fold(request, |request, basic| request.header("Authorization", basic)))
    };
    let tokens = give(&password_form(USERNAME, PASSWORD), None).json();
    assert_eq!(give(&refresh_form(tokens["refresh_token"].as_str().unwrap()), None).status, 200);
    let basic = format!("{USERNAME}:{PASSWORD}");
    assert_eq!(give("grant_type=client_credentials", Some(&basic)).status, 200);
    assert_eq!(give("grant_type=client_credentials", Some("ada:wrong")).status, 401);
    for (form, error) in [
        (password_form(USERNAME, "wrong"), "invalid_grant"),
        ("grant_type=password&username=ada".to_owned(), "invalid_request"),
        ("grant_type=implicit".to_owned(), "unsupported_grant_type"),
        ("grant_type=password&scope=all".to_owned(), "invalid_scope"),
    ] {
        let response = give(&form, None);
        assert_eq!((response.status, &response.json()["error"]), (400, &error.into()));
    }
    let mut guesses = (0..100).map(|_| give(&password_form(USERNAME, "wrong"), None).status);
    assert!(guesses.any(|status| status == 429));
    client.seen
}

/// Neither tokens nor metrics are given here.
pub fn some_paths_have_nothing() -> Seen {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "token", TOKEN);
    let arguments =
        [&["--token-file", "token", "--metrics", "127.0.0.1:0"], &super::LARGE_HEADS[..]].concat();
    let server = Consume::start_with(directory.path(), &arguments);
    let mut client = Client::new(server.address);
    for request in one_of_each() {
        client.send(&request);
        client.send(&request.clone().header("Authorization", "Bearer wrong"));
        client.send(&request.header("Authorization", format!("Bearer {TOKEN}")));
    }
    client.seen
}

pub fn there_are_too_many_connections() -> Seen {
    let directory = tempdir().unwrap();
    let server = Consume::start_with(directory.path(), &["--max-connections", "1", "--hook", "hook=none"]);
    let mut only = server.connect();
    assert_eq!(only.get("/health").status, 200);
    let mut client = Client::new(server.address);
    for request in one_of_each() {
        let response = client.send(&request);
        assert_eq!((response.status, response.header("connection")), (503, Some("close")));
    }
    client.seen
}

pub fn bodies_do_not_arrive() -> Seen {
    let directory = tempdir().unwrap();
    let server =
        start_for(directory.path(), USERNAME, PASSWORD, &["--body-timeout", "100ms", "--hook", "hook=none"]);
    let bearer = format!("Bearer {}", log_in(&server).access);
    let mut client = Client::new(server.address);
    for request in one_of_each().into_iter().filter(takes_body) {
        let request = request.header("Authorization", &bearer);
        assert_eq!(client.send(&Request { framing: Framing::Stalled, ..request }).status, 408);
    }
    client.seen
}

/// A server that sends alerts to a receiver.
fn start_alerting(directory: &Path, receiver: &Receiver, arguments: &[&str]) -> Consume {
    Consume::start_with(
        directory,
        &[&["--alert-allow-private", "--alert", &receiver.url("/")], arguments].concat(),
    )
}

pub fn the_store_is_locked() -> Seen {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|_, _| Reply::status(200, ""));
    let limits = ["--store-timeout", "100ms", "--queue-events", "3", "--hook", "hook=none"];
    let server = start_alerting(directory.path(), &receiver, &limits);
    let store = rusqlite::Connection::open(directory.path().join("events.db")).unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut client = Client::new(server.address);
    for (name, path) in [
        ("POST /event", "/event"),
        ("POST /api/v1/health-alert", "/api/v1/health-alert"),
        ("POST /hook/{name}", "/hook/hook"),
    ] {
        assert_eq!(client.send(&filled(Request::new(&operation(name), "POST", path))).status, 504);
    }
    // The three wait for the store, and there is no room for a fourth.
    for request in one_of_each() {
        let response = client.send(&request);
        let waits = request.target.starts_with("/subscription") && response.status == 504;
        assert!(!takes_body(&request) || waits || [404, 503].contains(&response.status), "{response:?}");
    }
    store.execute_batch("COMMIT").unwrap();
    client.seen
}

pub fn the_disk_is_full() -> Seen {
    let directory = tempdir().unwrap();
    let disk = Disk::new(directory.path());
    let receiver = Receiver::start(|_, _| Reply::status(200, ""));
    write_secret(directory.path(), "password", PASSWORD);
    let mut command = disk.eventctl(directory.path());
    command.args(["consume", "--port", "0", "--username", USERNAME, "--password-file", "password"]);
    command.args(["--alert-allow-private", "--alert", &receiver.url("/"), "--hook", "hook=none"]);
    let server = Consume::start_command(&mut command);
    let bearer = format!("Bearer {}", log_in(&server).access);
    disk.switch_on(Fault::NoSpace);
    let mut client = Client::new(server.address);
    for path in ["/event", "/hook/{name}", "/api/v1/health-alert", "/token"] {
        let target = path.replace("{name}", "hook");
        let request = filled(Request::new(&operation(&format!("POST {path}")), "POST", &target));
        assert_eq!(client.send(&request.header("Authorization", &bearer)).status, 507, "{path}");
    }
    for request in one_of_each().into_iter().filter(|request| request.target.starts_with("/subscription")) {
        client.send(&request.header("Authorization", &bearer));
    }
    client.seen
}

pub fn alerts_are_sent() -> Seen {
    let directories = [tempdir().unwrap(), tempdir().unwrap()];
    let receivers = [200, 500].map(|status| Receiver::start(move |_, _| Reply::status(status, "")));
    let mut seen = Seen::new();
    for ((directory, receiver), status) in directories.iter().zip(&receivers).zip([200, 202]) {
        let server = start_alerting(directory.path(), receiver, &[]);
        let mut client = Client::new(server.address);
        let path = "/api/v1/health-alert";
        let request = filled(Request::new(&operation("POST /api/v1/health-alert"), "POST", path));
        assert_eq!(client.send(&request).status, status);
        if status == 200 {
            let with_key = |body: &str| {
                let request = Request::new(&request.operation, "POST", path).header("Idempotency-Key", "key");
                request.body("application/json", body)
            };
            assert_eq!(client.send(&with_key(ALERT)).status, 200);
            assert_eq!(client.send(&with_key(r#"{"issues":["another"]}"#)).status, 422);
        }
        seen.extend(client.seen);
    }
    seen
}

/// A server with hooks that ask whether they are ours, and that find nothing signed.
pub fn webhooks_are_sent() -> Seen {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "secret", "slack's secret");
    write_file(
        directory.path(),
        "config.yaml",
        "consume:\n  hook:\n  - slack=slack:secret\n  - name: meta\n    verify: meta\n    secret-file: secret\n    \
         verify-token-file: secret\n",
    );
    let server = Consume::start_with(directory.path(), &["--config", "config.yaml"]);
    let mut client = Client::new(server.address);
    let post = Request::new(&operation("POST /hook/{name}"), "POST", "/hook/slack");
    let question = r#"{"type":"url_verification","challenge":"3eZbrw1a"}"#;
    let signed = slack_headers("slack's secret", question).into_iter();
    let asked = signed.fold(post.clone(), |request, (name, value)| request.header(name, value));
    assert_eq!(
        client.send(&asked.body("application/json", question)).json(),
        json!({"challenge": "3eZbrw1a"})
    );
    assert_eq!(client.send(&post.body("application/json", question)).status, 401);
    let confirm = operation("GET /hook/{name}");
    let target = "/hook/meta?hub.mode=subscribe&hub.challenge=1158&hub.verify_token=slack%27s%20secret";
    assert_eq!(client.send(&Request::new(&confirm, "GET", target)).text(), "1158");
    client.seen
}

pub fn subscriptions_are_worked_off() -> Seen {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    let mut client = Client::new(server.address);
    let mut ask = |name: &str, path: &str, body: Value| {
        let method = name.split(' ').next().unwrap();
        let request = Request::new(&operation(name), method, &format!("/subscription/{path}"));
        let request =
            if body.is_null() { request } else { request.body("application/json", body.to_string()) };
        client.send(&request)
    };
    let (itself, claim) = ("/subscription/{name}", "POST /subscription/{name}/claim");
    assert_eq!(ask(&format!("HEAD {itself}"), "work", Value::Null).status, 404);
    assert_eq!(ask(&format!("HEAD {itself}/parked"), "work/parked", Value::Null).status, 404);
    assert_eq!(ask(&format!("GET {itself}/parked"), "work/parked", Value::Null).status, 404);
    let definition = json!({"type": "a", "max_attempts": 1});
    assert_eq!(ask(&format!("PUT {itself}"), "work", definition.clone()).status, 201);
    assert_eq!(ask(&format!("PUT {itself}"), "work", definition).status, 200);
    server.store("a", "b");
    server.store("a", "c");
    let claimed = ask(claim, "work/claim", json!({"limit": 1})).json();
    let token = &claimed["token"];
    let settle = |path: &str| (format!("POST {itself}/{path}"), format!("work/{path}"));
    for (path, body, status) in [
        ("extend", json!({"token": token}), 200),
        ("ack", json!({"token": token, "ids": [1]}), 200),
        ("ack", json!({"token": token, "ids": [2]}), 409),
        ("nack", json!({"token": token, "ids": [2]}), 409),
        ("extend", json!({"token": token}), 409),
    ] {
        let (name, target) = settle(path);
        assert_eq!(ask(&name, &target, body).status, status, "{path}");
    }
    let claimed = ask(claim, "work/claim", json!({})).json();
    let (nack, target) = settle("nack");
    assert_eq!(ask(&nack, &target, json!({"token": claimed["token"], "reason": "no"})).status, 200);
    assert_eq!(ask(claim, "work/claim", json!({})).json()["events"], json!([]));
    assert_eq!(ask(&format!("GET {itself}/parked"), "work/parked", Value::Null).json()[0]["id"], 2);
    assert_eq!(ask(&format!("HEAD {itself}/parked"), "work/parked", Value::Null).status, 200);
    let (unpark, target) = settle("parked");
    assert_eq!(ask(&unpark, &target, json!({"action": "replay"})).json(), json!({"count": 1}));
    assert_eq!(ask(&format!("GET {itself}"), "work", Value::Null).status, 200);
    assert_eq!(ask(&format!("HEAD {itself}"), "work", Value::Null).status, 200);
    client.seen
}
