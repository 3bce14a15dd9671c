//! What is in no log, however much is logged: secrets, and what events hold.

use std::process::Command;

use rustix::process::Signal;
use serde_json::json;
use tempfile::tempdir;

use super::object;
use crate::util::http::event;
use crate::util::http2::Http2Connection;
use crate::util::receiver::{Receiver, Reply};
use crate::util::tls::{Authority, TlsClient};
use crate::util::{Consume, eventctl, wait_until, write_file, write_secret};

/// A part of everything that is not to be seen.
const MARKER: &str = "zx81s3cretqq";

/// Everything is logged that can be.
fn loud(command: &mut Command) -> &mut Command {
    command.arg("-vv").env("RUST_LOG", "trace,h2=trace,hyper=trace,rustls=trace,lettre=trace")
}

#[test]
fn no_secret_and_no_payload_is_logged_at_any_level_by_either_side() {
    let directory = tempdir().unwrap();
    let path = directory.path();
    let authority = Authority::new("authority");
    authority.write(path, "authority");
    authority.issue("127.0.0.1").write(path, "server");
    let (password, token, key) = (
        format!("password-{MARKER}"),
        format!("token-{MARKER}-0123456789"),
        format!("key-{MARKER}-0123456789-0123456789-0123456789"),
    );
    write_secret(path, "password", &password);
    write_secret(path, "token", &token);
    write_secret(path, "key", &key);
    // The hook refuses permanently, which is logged.
    let hook = Receiver::start(|_, number| {
        Reply::status(if number == 0 { 503 } else { 410 }, "X: zx81s3cretqq\r\n")
    });
    let mut command = eventctl(path);
    command.args(["consume", "--port", "0", "--tls-cert", "server.pem", "--tls-key", "server.key"]);
    command.args(["--username", "ada", "--password-file", "password", "--signing-key-file", "key"]);
    command.args(["--token-file", "token", "--alert-allow-private", "--alert-on", "*"]);
    command.env("EVENTCTL_ALERT", hook.url(&format!("/{MARKER}?{MARKER}={MARKER}")));
    let mut server = Consume::start_command(loud(&mut command));

    let payload = format!("payload-{MARKER}");
    let client = TlsClient::new(&authority);
    let bearer = format!("Bearer {token}");
    let headers = |authorization| {
        [
            ("content-type", "application/json"),
            ("authorization", authorization),
            ("idempotency-key", MARKER),
            ("cookie", MARKER),
            ("traceparent", MARKER),
        ]
    };
    let form = |password: &str| format!("grant_type=password&username=ada&password={password}");
    let query = format!("/event?type={MARKER}*&{MARKER}={MARKER}");
    let form_headers = [("content-type", "application/x-www-form-urlencoded")];
    let mut statuses = Vec::new();
    let mut http2 = Http2Connection::open(&client, server.address).unwrap();
    let wrong = format!("Bearer {MARKER}");
    for (method, target, headers, body) in [
        ("POST", "/event", &headers(&bearer)[..], event(MARKER, &payload)),
        ("POST", "/event", &headers(&wrong)[..], event(MARKER, &payload)),
        ("POST", "/event", &headers(&bearer)[..], format!("{{\"{MARKER}\": {MARKER}")),
        ("POST", "/event", &headers(&bearer)[..], json!({ MARKER: MARKER }).to_string()),
        ("GET", query.as_str(), &headers(&bearer)[..], String::new()),
        ("GET", "/event/1", &headers(&bearer)[..], String::new()),
        ("POST", "/token", &form_headers, form(&password)),
        ("POST", "/token", &form_headers, form(MARKER)),
        ("POST", &format!("/{MARKER}"), &headers(&bearer)[..], payload.clone()),
    ] {
        for answer in [
            client
                .http1(server.address)
                .unwrap()
                .try_request(method, target, headers, body.as_bytes())
                .unwrap(),
            http2.try_request(method, target, headers, body.as_bytes()).unwrap(),
        ] {
            statuses.push(answer.status);
        }
    }
    assert!([200, 201, 400, 401, 404].iter().all(|status| statuses.contains(status)), "{statuses:?}");

    write_file(path, "events.json", format!("{}\n\"{MARKER}\"\n", event(MARKER, &payload)));
    let mut command = eventctl(path);
    command.args([
        "propagate",
        "--count",
        "2",
        "--period",
        "10ms",
        "--cacert",
        "authority.pem",
        "--file",
        "-",
    ]);
    command.args(["--username", "ada", "--password-file", "password", "--endpoint", &server.url("/event")]);
    command.args(["--header", &format!("X-Key: {MARKER}"), "--dead-letter", "dead", "-o", "json"]);
    let input = std::fs::File::open(path.join("events.json")).unwrap();
    let sent = loud(&mut command).env("TRACESTATE", MARKER).stdin(input).output().unwrap();
    let sent_log = String::from_utf8(sent.stderr).unwrap();
    assert!(sent_log.lines().any(|line| object(line)["message"] == "sent"), "{sent_log}");
    assert!(sent_log.contains("not an event: expected an object at line 2"), "{sent_log}");

    wait_until(|| server.process.stderr().contains("is given up").then_some(()));
    server.process.signal(Signal::TERM);
    assert!(server.process.wait().success());
    let log = server.process.stderr();
    assert!(log.contains("answered 201") && log.contains("cannot deliver alerts to"), "{log}");
    for line in log.lines().chain(sent_log.lines()) {
        assert!(!line.to_lowercase().contains(MARKER), "{line}");
        assert!(object(line)["target"].as_str().unwrap().starts_with("eventctl"), "{line}");
        // A token is a JWT.
        assert!(!line.contains("eyJ") && !line.contains(&token), "{line}");
    }
}
