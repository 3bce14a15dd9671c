//! `--clients`: what each client may do, and with which events.

use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::{TempDir, tempdir};

use super::tokens::{assert_refused, password_form, refresh_form};
use crate::util::http::{Response, event};
use crate::util::sse::EventStream;
use crate::util::{Consume, eventctl, refusal_of, stored_events, wait_until, write_secret};

const PASSWORD: &str = "correct-horse-battery";

/// That of the password, as `printf %s PASSWORD | argon2 somesaltsomesalt -id -t 2 -k 19456 -e` prints it.
const PASSWORD_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$1q8f/ghfW92aQ6wseScgh5fcvHQwWi7WkdjD3kj2yms";

/// A token of a client, and its digest as the file has it.
fn token(name: &str) -> String {
    format!("{name}-0123456789abcdef")
}

fn digest(name: &str) -> String {
    Sha256::digest(token(name)).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A client for each scope, one for all, and one for some types.
fn clients() -> String {
    let mut clients = String::new();
    for scope in ["write", "read", "work", "admin"] {
        clients += &format!("{scope}:\n  token-sha256: {}\n  scopes: [{scope}]\n", digest(scope));
    }
    clients += &format!("all:\n  token-sha256: {}\n  scopes: [write, read, work, admin]\n", digest("all"));
    clients += &format!(
        "orders:\n  token-sha256: {}\n  scopes: [write, read, work, admin]\n  types: [\"order.*\", \"message\"]\n",
        digest("orders")
    );
    clients + &format!("ada:\n  password-hash: {PASSWORD_HASH}\n  scopes: [read, write]\n")
}

fn start() -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "clients.yaml", clients());
    let server = Consume::start_with(directory.path(), &["--clients", "clients.yaml"]);
    (directory, server)
}

/// A request with a token, and a JSON body if it is not null.
fn ask(server: &Consume, token: &str, method: &str, path: &str, body: &Value) -> Response {
    let authorization = format!("Bearer {token}");
    let mut headers = vec![("Authorization", authorization.as_str())];
    if !body.is_null() {
        headers.push(("Content-Type", "application/json"));
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    server.connect().request(method, path, &headers, body.as_bytes())
}

fn of_type(event_type: &str) -> Value {
    json!({"event_type": event_type, "event_payload": "x"})
}

#[test]
fn each_scope_permits_its_requests_and_no_others() {
    let (_directory, server) = start();
    let requests = [
        ("POST", "/event", of_type("a"), &["write"][..]),
        ("GET", "/event", Value::Null, &["read"]),
        ("GET", "/event/1", Value::Null, &["read"]),
        ("HEAD", "/event/stream", Value::Null, &["read"]),
        ("GET", "/metrics", Value::Null, &["read"]),
        ("DELETE", "/event/999", Value::Null, &["admin"]),
        ("POST", "/api/v1/health-alert", json!({"issues": ["a"]}), &["write"]),
        ("PUT", "/subscription/s", json!({}), &["admin"]),
        ("GET", "/subscription/s", Value::Null, &["read", "work", "admin"]),
        ("GET", "/subscription", Value::Null, &["read", "work", "admin"]),
        ("POST", "/subscription/s/claim", json!({}), &["work"]),
        ("POST", "/subscription/s/ack", json!({"token": "x"}), &["work"]),
        ("POST", "/subscription/s/nack", json!({"token": "x"}), &["work"]),
        ("POST", "/subscription/s/extend", json!({"token": "x"}), &["work"]),
        ("GET", "/subscription/s/parked", Value::Null, &["work"]),
        ("POST", "/subscription/s/parked", json!({"action": "replay"}), &["work"]),
        ("DELETE", "/subscription/s", Value::Null, &["admin"]),
        ("OPTIONS", "/event", Value::Null, &["write"]),
    ];
    for (method, path, body, scopes) in requests {
        for scope in ["write", "read", "work", "admin"] {
            let response = ask(&server, &token(scope), method, path, &body);
            let asked = format!("{scope}: {method} {path}: {response:?}");
            assert_eq!(response.status != 403, scopes.contains(&scope), "{asked}");
            assert_ne!(response.status, 401, "{asked}");
            if response.status == 403 {
                let challenge = format!(
                    r#"Bearer realm="eventctl", error="insufficient_scope", scope="{}""#,
                    scopes.join(" ")
                );
                assert_eq!(response.header("www-authenticate"), Some(challenge.as_str()), "{asked}");
            }
        }
    }
}

#[test]
fn a_client_of_some_types_writes_and_reads_no_others() {
    let (directory, server) = start();
    let orders = token("orders");
    assert_eq!(ask(&server, &orders, "POST", "/event", &of_type("order.new")).status, 201);
    assert_eq!(ask(&server, &token("all"), "POST", "/event", &of_type("user.new")).status, 201);
    let mixed = json!([of_type("message"), of_type("user.new")]);
    for refused in [of_type("user.new"), of_type("messages"), mixed] {
        let response = ask(&server, &orders, "POST", "/event", &refused);
        assert_eq!(response.status, 403, "{response:?}");
        let pointer = if refused.is_array() { "`/1/event_type`" } else { "`/event_type`" };
        assert!(response.json()["detail"].as_str().unwrap().starts_with(pointer), "{response:?}");
    }
    let headers = [
        ("Authorization", format!("Bearer {orders}")),
        ("Content-Type", "application/cloudevents+json".to_owned()),
    ];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let event = br#"{"specversion": "1.0", "id": "1", "source": "/s", "type": "user.new"}"#;
    assert_eq!(server.connect().request("POST", "/event", &headers, event).status, 403);
    let alert = json!({"issues": ["a"]});
    assert_eq!(ask(&server, &orders, "POST", "/api/v1/health-alert", &alert).status, 403);
    let types: Vec<String> =
        stored_events(&directory.path().join("events.db")).into_iter().map(|(_, kind, _)| kind).collect();
    assert_eq!(types, ["order.new", "user.new"]);

    let listed = |path: &str| {
        let events = ask(&server, &orders, "GET", path, &Value::Null).json();
        let ids = events.as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(listed("/event"), [1]);
    assert_eq!(listed("/event?type=*new"), [1]);
    assert!(listed("/event?type=user.*").is_empty());
    assert_eq!(ask(&server, &orders, "GET", "/event/1", &Value::Null).status, 200);
    for method in ["GET", "DELETE"] {
        assert_eq!(ask(&server, &orders, method, "/event/2", &Value::Null).status, 404);
    }
    assert_eq!(ask(&server, &token("all"), "GET", "/event/2", &Value::Null).status, 200);

    let bearer = format!("Bearer {orders}");
    let mut stream = EventStream::open(server.connect(), "?after=0", &[("Authorization", &bearer)]);
    assert_eq!(stream.event()["id"], 1);
    for event_type in ["user.old", "message"] {
        ask(&server, &token("all"), "POST", "/event", &of_type(event_type));
    }
    assert_eq!(stream.event()["id"], 4);
}

#[test]
fn a_client_of_some_types_works_on_subscriptions_of_these_alone() {
    let (_directory, server) = start();
    let (orders, all) = (token("orders"), token("all"));
    let define = |token: &str, name: &str, definition: Value| {
        ask(&server, token, "PUT", &format!("/subscription/{name}"), &definition).status
    };
    assert_eq!(define(&orders, "own", json!({"type": "order.*"})), 201);
    for definition in [json!({}), json!({"type": "*"}), json!({"type": "order*"})] {
        assert_eq!(define(&orders, "own", definition.clone()), 403, "{definition}");
        assert_eq!(define(&orders, "another", definition), 403);
    }
    assert_eq!(define(&all, "everything", json!({})), 201);
    for (method, path) in [
        ("GET", "everything"),
        ("PUT", "everything"),
        ("DELETE", "everything"),
        ("POST", "everything/claim"),
        ("GET", "everything/parked"),
    ] {
        let response = ask(&server, &orders, method, &format!("/subscription/{path}"), &Value::Null);
        assert_eq!(response.status, 403, "{method} {path}: {response:?}");
    }
    let names = |token: &str| {
        let listed = ask(&server, token, "GET", "/subscription", &Value::Null).json();
        let names = listed.as_array().unwrap().iter().map(|shown| shown["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&orders), ["own"]);
    assert_eq!(names(&all), ["everything", "own"]);
    ask(&server, &all, "POST", "/event", &json!([of_type("user.new"), of_type("order.new")]));
    let claim = ask(&server, &orders, "POST", "/subscription/own/claim", &Value::Null).json();
    assert_eq!(claim["events"][0]["id"], 2, "{claim}");
}

/// The tokens of a login, or of a refresh.
fn granted(server: &Consume, form: &str) -> (String, String, String) {
    let response = server.connect().post_form(form);
    assert_eq!(response.status, 200, "{response:?}");
    let body = response.json();
    let text = |member: &str| body[member].as_str().unwrap().to_owned();
    (text("access_token"), text("refresh_token"), text("scope"))
}

#[test]
fn tokens_have_the_scopes_that_were_asked_for_and_their_successors_no_more() {
    let (_directory, server) = start();
    let login = password_form("ada", PASSWORD);
    let (access, _, scope) = granted(&server, &login);
    assert_eq!(scope, "write read");
    assert_eq!(ask(&server, &access, "POST", "/event", &of_type("a")).status, 201);
    assert_eq!(ask(&server, &access, "GET", "/event", &Value::Null).status, 200);
    assert_eq!(ask(&server, &access, "DELETE", "/event/1", &Value::Null).status, 403);

    let (access, refresh, scope) = granted(&server, &format!("{login}&scope=read"));
    assert_eq!(scope, "read");
    assert_eq!(ask(&server, &access, "GET", "/event", &Value::Null).status, 200);
    assert_eq!(ask(&server, &access, "POST", "/event", &of_type("a")).status, 403);
    for wider in ["write", "read write", "read admin", "everything"] {
        let form = format!("{}&scope={}", refresh_form(&refresh), wider.replace(' ', "+"));
        assert_refused(&server.connect().post_form(form), "invalid_scope");
    }
    // A forged token with more scopes is not known.
    let forged = refresh.replace(".read", ".read-write");
    assert_ne!(forged, refresh);
    assert_refused(&server.connect().post_form(refresh_form(&forged)), "invalid_grant");
    let (access, _, scope) = granted(&server, &refresh_form(&refresh));
    assert_eq!(scope, "read");
    assert_eq!(ask(&server, &access, "POST", "/event", &of_type("a")).status, 403);

    assert_refused(&server.connect().post_form(format!("{login}&scope=work")), "invalid_scope");
    assert_refused(&server.connect().post_form(password_form("ada", "wrong")), "invalid_grant");
    assert_refused(&server.connect().post_form(password_form("all", &token("all"))), "invalid_grant");
}

fn replace_clients(directory: &Path, server: &mut Consume, clients: &str, said: &str) {
    write_secret(directory, "clients.yaml", clients);
    server.process.signal(Signal::HUP);
    server.process.wait_for_stderr(said);
}

#[test]
fn clients_are_read_again_on_sighup() {
    let (directory, mut server) = start();
    let (access, refresh, _) = granted(&server, &password_form("ada", PASSWORD));
    let reads = |server: &Consume, token: &str| ask(server, token, "GET", "/event", &Value::Null).status;
    assert_eq!((reads(&server, &access), reads(&server, &token("read"))), (200, 200));

    replace_clients(directory.path(), &mut server, "read: {}", "the file of clients stays as it was");
    assert_eq!((reads(&server, &access), reads(&server, &token("read"))), (200, 200));

    // Without its scope, and then without its client, an access token that is valid still permits nothing.
    let fewer = format!("ada: {{password-hash: \"{PASSWORD_HASH}\", scopes: [write]}}");
    replace_clients(directory.path(), &mut server, &fewer, "the file of clients was read again");
    wait_until(|| (reads(&server, &access) == 403).then_some(()));
    assert_eq!(reads(&server, &token("read")), 401);
    let other = format!("bob: {{token-sha256: {}, scopes: [read]}}", digest("bob"));
    replace_clients(directory.path(), &mut server, &other, "was read again");
    wait_until(|| (reads(&server, &access) == 401).then_some(()));
    assert_eq!(reads(&server, &token("bob")), 200);
    assert_refused(&server.connect().post_form(refresh_form(&refresh)), "invalid_grant");
}

#[test]
fn the_clients_of_the_file_and_of_the_other_settings_go_together() {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "clients.yaml", clients());
    write_secret(directory.path(), "token", token("own"));
    write_secret(directory.path(), "password", "another-password");
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0", "--clients", "clients.yaml", "--token-file", "token"]);
    command.args(["--username", "bob", "--password-file", "password"]);
    let server = Consume::start_command(&mut command);
    let (access, _, scope) = granted(&server, &password_form("bob", "another-password"));
    assert_eq!(scope, "write read work admin");
    for token in [token("own"), access, token("admin")] {
        assert_eq!(ask(&server, &token, "PUT", "/subscription/s", &Value::Null).status / 100, 2);
    }
    assert_eq!(ask(&server, &token("read"), "PUT", "/subscription/s", &Value::Null).status, 403);
    granted(&server, &password_form("ada", PASSWORD));
    assert_eq!(server.connect().post(event("a", "b")).status, 401);
}

#[test]
fn a_file_that_does_not_hold_clients_is_refused_without_its_secrets() {
    let directory = tempdir().unwrap();
    let digest = digest("a");
    let twice = format!(
        "a: {{token-sha256: {digest}, scopes: [read]}}\nb: {{token-sha256: {digest}, scopes: [read]}}"
    );
    for (clients, problem) in [
        ("s3cret", "does not hold clients"),
        ("a: {token: s3cret, scopes: [read]}", "does not hold clients, line 1"),
        ("a: {scopes: [read]}", "expected `password-hash` or `token-sha256`"),
        ("a: {token-sha256: s3cret, scopes: [read]}", "expected `token-sha256` as 64 hexadecimal digits"),
        ("a: {password-hash: s3cret, scopes: [read]}", "expected an Argon2id hash"),
        (&format!("a: {{token-sha256: {digest}, scopes: []}}"), "expected a scope"),
        (
            &format!("a: {{token-sha256: {digest}, scopes: [delete]}}"),
            "expected the scopes write, read, work and admin",
        ),
        (&format!("a: {{token-sha256: {digest}, scopes: [read], types: [\"[\"]}}"), "expected a `]`"),
        (&format!("\"\": {{token-sha256: {digest}, scopes: [read]}}"), "expected a name"),
        (&twice, "the clients `a` and `b` have the same token"),
    ] {
        write_secret(directory.path(), "clients.yaml", clients);
        let mut command = eventctl(directory.path());
        let (error, hint) =
            refusal_of(command.args(["consume", "--port", "0", "--clients", "clients.yaml"]), 1);
        assert!(error.contains(problem), "{clients}: {error}");
        let shown = error + &hint;
        assert!(!shown.contains("s3cret") && !shown.contains(&digest), "{shown}");
    }
    let mut command = eventctl(directory.path());
    let (error, hint) = refusal_of(command.args(["consume", "--port", "0", "--clients", "missing.yaml"]), 1);
    assert!(error.contains("cannot read `missing.yaml`"), "{error} {hint}");
}
