//! `/hook/{name}`: webhooks of other services are verified, and stored once as they came.

use std::io;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use eventctl::testing::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::{TempDir, tempdir};

use super::stored;
use crate::util::http::{Connection, Response, event};
use crate::util::{Consume, eventctl, refusal_of, wait_until, write_file, write_secret};

const SECRET: &str = "a secret of the sender";
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

pub type Headers = Vec<(&'static str, String)>;

/// In Unix seconds.
pub fn now() -> i64 {
    Timestamp::now().as_microseconds() / 1_000_000
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn slack_headers(secret: &str, body: &str) -> Headers {
    let time = now();
    let signature = hex(&mac(secret.as_bytes(), &format!("v0:{time}:{body}")));
    vec![("X-Slack-Request-Timestamp", time.to_string()), ("X-Slack-Signature", format!("v0={signature}"))]
}

pub fn github_headers(secret: &str, delivery: &str, body: &str) -> Headers {
    vec![
        ("X-GitHub-Event", "push".to_owned()),
        ("X-GitHub-Delivery", delivery.to_owned()),
        ("X-Hub-Signature-256", format!("sha256={}", hex(&mac(secret.as_bytes(), body)))),
    ]
}

fn stripe_headers(secret: &str, time: i64, body: &str) -> Headers {
    let signature = hex(&mac(secret.as_bytes(), &format!("{time}.{body}")));
    vec![("Stripe-Signature", format!("t={time},v1={signature},v0={signature}"))]
}

pub fn standard_headers(secret: &str, id: &str, time: i64, body: &str) -> Headers {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let signature = STANDARD.encode(mac(&key, &format!("{id}.{time}.{body}")));
    vec![
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", time.to_string()),
        ("webhook-signature", format!("v1,{signature}")),
    ]
}

fn shopify_headers(secret: &str, id: &str, body: &str) -> Headers {
    vec![
        ("X-Shopify-Topic", "orders/create".to_owned()),
        ("X-Shopify-Webhook-Id", id.to_owned()),
        ("X-Shopify-Hmac-Sha256", STANDARD.encode(mac(secret.as_bytes(), body))),
    ]
}

pub fn try_post(
    server: &Consume,
    hook: &str,
    headers: &Headers,
    body: impl AsRef<[u8]>,
) -> io::Result<Response> {
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Connection::try_open(server.address)?.try_request(
        "POST",
        &format!("/hook/{hook}"),
        &headers,
        body.as_ref(),
    )
}

fn post(server: &Consume, hook: &str, headers: &Headers, body: impl AsRef<[u8]>) -> Response {
    try_post(server, hook, headers, body).unwrap()
}

const HOOKS: &str = r"
consume:
  hook:
  - github=github:secret
  - stripe=stripe:secret
  - slack=slack:secret
  - shop=shopify:secret
  - std=standard:standard
  - {name: fb, verify: meta, secret-file: secret, verify-token-file: secret}
  - {name: bear, verify: bearer, secret-file: secret, type: 'bear.{{ body.kind }}', key: '{{ body.id }}'}
  - {name: base, verify: basic, secret-file: basic}
  - {name: mac, verify: hmac, secret-file: [old, secret], header: X-Mac, encoding: base64, prefix: 'sig ',
     signed: '{{ header[''x-time''] }}/{{ text }}', time-header: X-Time, same-body-within: 0}
  - open=none
";

/// A server with a hook of each scheme.
fn start() -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "secret", SECRET);
    write_secret(directory.path(), "old", "an older secret");
    write_secret(directory.path(), "basic", format!("ada:{SECRET}"));
    write_secret(directory.path(), "standard", STANDARD_SECRET);
    write_file(directory.path(), "config.yaml", HOOKS);
    let server = Consume::start_with(directory.path(), &["--config", "config.yaml"]);
    (directory, server)
}

fn mac_headers(secret: &str, time: i64, body: &str) -> Headers {
    let signature = STANDARD.encode(mac(secret.as_bytes(), &format!("{time}/{body}")));
    vec![("X-Mac", format!("sig {signature}")), ("X-Time", time.to_string())]
}

/// A webhook of each service, signed with a secret that may be a wrong one, at a time: hook, headers, body, and the
/// type that its event gets.
fn webhooks(
    secret: &str,
    standard: &str,
    time: i64,
) -> Vec<(&'static str, Headers, &'static str, &'static str)> {
    let stripe = r#"{"id":"evt_1","type":"invoice.paid"}"#;
    let slack = r#"{"event_id":"Ev1","type":"event_callback","event":{"type":"message"}}"#;
    let command = "command=%2Fdeploy&trigger_id=1.2";
    let own = r#"{"event_type":"order.paid","event_payload":"1"}"#;
    let meta = r#"{"object":"page"}"#;
    let bear = r#" {"kind":"brown","id":1.50} "#;
    let slack_at = |body: &str| {
        let signature = hex(&mac(secret.as_bytes(), &format!("v0:{time}:{body}")));
        vec![
            ("X-Slack-Request-Timestamp", time.to_string()),
            ("X-Slack-Signature", format!("v0={signature}")),
        ]
    };
    let basic = STANDARD.encode(format!("ada:{secret}"));
    vec![
        ("github", github_headers(secret, "1", "{\"é\": 1}\n"), "{\"é\": 1}\n", "github.push"),
        ("stripe", stripe_headers(secret, time, stripe), stripe, "stripe.invoice.paid"),
        ("slack", slack_at(slack), slack, "slack.message"),
        ("slack", slack_at(command), command, "slack"),
        ("shop", shopify_headers(secret, "1", "\u{feff}{}"), "\u{feff}{}", "shop.orders/create"),
        ("std", standard_headers(standard, "msg_1", time, r#"{"type":"a.b"}"#), r#"{"type":"a.b"}"#, "a.b"),
        ("std", standard_headers(standard, "msg_2", time, own), own, "order.paid"),
        ("std", standard_headers(standard, "msg_3", time, "no JSON"), "no JSON", "std"),
        ("fb", vec![github_headers(secret, "1", meta).remove(2)], meta, "fb.page"),
        ("bear", vec![("Authorization", format!("Bearer {secret}"))], bear, "bear.brown"),
        ("base", vec![("Authorization", format!("Basic {basic}"))], "{}", "base"),
        ("mac", mac_headers(secret, time, ""), "", "mac"),
        ("mac", mac_headers("an older secret", time, "old"), "old", "mac"),
    ]
}

#[test]
fn webhooks_are_stored_as_they_came() {
    let (directory, server) = start();
    let sent = webhooks(SECRET, STANDARD_SECRET, now());
    for (number, (hook, headers, body, _)) in sent.iter().enumerate() {
        let response = post(&server, hook, headers, body);
        assert_eq!(
            (response.status, response.text().as_str()),
            (201, r#"{"status":"success"}"#),
            "{response:?}"
        );
        let expected = format!("../event/{}", number + 1);
        assert_eq!(response.header("location"), Some(expected.as_str()));
    }
    let expected = sent.iter().map(|(_, _, body, event_type)| ((*event_type).to_owned(), (*body).to_owned()));
    assert_eq!(stored(&directory), expected.collect::<Vec<_>>());
}

#[test]
fn what_is_not_verified_is_401_and_not_stored() {
    let (directory, server) = start();
    let wrong = webhooks("another secret of 16", OTHER_SECRET, now());
    for (hook, headers, body, _) in &wrong {
        // The older secret of the last one is the right one.
        if *body != "old" {
            let response = post(&server, hook, headers, body);
            assert_eq!(response.status, 401, "{hook} {headers:?} {response:?}");
            assert!(response.header("www-authenticate").is_some() && !response.text().contains("secret of"));
        }
    }
    for (hook, headers, body, _) in &webhooks(SECRET, STANDARD_SECRET, now()) {
        let changed = format!("{body} ");
        let signs_the_body = !["bear", "base"].contains(hook);
        assert!(!signs_the_body || post(&server, hook, headers, changed).status == 401, "{hook}");
        assert_eq!(post(&server, hook, &Vec::new(), body).status, 401, "{hook}");
        for left_out in 0..headers.len() {
            let name = headers[left_out].0;
            let is_signed =
                !["X-GitHub-Event", "X-GitHub-Delivery", "X-Shopify-Topic", "X-Shopify-Webhook-Id"]
                    .contains(&name);
            let mut headers = headers.clone();
            headers.remove(left_out);
            assert!(!is_signed || post(&server, hook, &headers, body).status == 401, "{hook} {name}");
        }
    }
    for time in [now() - 301, now() + 330, 0] {
        for (hook, headers, body, _) in &webhooks(SECRET, STANDARD_SECRET, time) {
            let has_time = ["stripe", "slack", "std", "mac"].contains(hook);
            assert!(!has_time || post(&server, hook, headers, body).status == 401, "{hook} {time}");
        }
    }
    let has_time =
        |event_type: &str| ["std", "mac", "slack", "stripe"].iter().any(|hook| event_type.starts_with(hook));
    assert!(stored(&directory).iter().all(|(event_type, _)| !has_time(event_type)));
}

#[test]
fn a_redelivery_is_stored_once_and_answered_alike() {
    let (directory, server) = start();
    let time = now();
    let stripe = [
        r#"{"id":"evt_1","type":"a","pending_webhooks":2}"#,
        r#"{"id":"evt_1","type":"a","pending_webhooks":1}"#,
    ];
    let slack = r#"{"event_id":"Ev1","event":{"type":"message"}}"#;
    let bear = |id: &str| format!(r#"{{"kind":"brown","id":"{id}"}}"#);
    let bearer = vec![("Authorization", format!("Bearer {SECRET}"))];
    let github = |id: &str, body: &str| ("github", github_headers(SECRET, id, body), body.to_owned());
    let standard = |id: &str, time: i64, body: &str| {
        ("std", standard_headers(STANDARD_SECRET, id, time, body), body.to_owned())
    };
    let stripe = |time: i64, index: usize| {
        ("stripe", stripe_headers(SECRET, time, stripe[index]), stripe[index].to_owned())
    };
    // By pairs: a delivery, and what is the same.
    for (first, second) in [
        // Providers sign anew, with a new time.
        (stripe(time, 0), stripe(time - 20, 0)),
        (stripe(time, 0), stripe(time - 20, 1)),
        (standard("m1", time, "{}"), standard("m1", time - 20, "{}")),
        (standard("m1", time, "{}"), standard("m1", time, r#"{"other":1}"#)),
        (
            ("slack", slack_headers(SECRET, slack), slack.to_owned()),
            ("slack", slack_headers(SECRET, slack), slack.to_owned()),
        ),
        (github("1", "a"), github("1", "a")),
        // The id of a delivery is not signed: a replay may have another.
        (github("1", "a"), github("2", "a")),
        (github("1", "a"), github("1", "b")),
        (
            ("shop", shopify_headers(SECRET, "1", "{}"), "{}".to_owned()),
            ("shop", shopify_headers(SECRET, "2", "{}"), "{}".to_owned()),
        ),
        (("bear", bearer.clone(), bear("7")), ("bear", bearer.clone(), bear("7").replace("brown", "black"))),
    ] {
        let send = |(hook, headers, body): &(&str, Headers, String)| post(&server, hook, headers, body);
        let (first_answer, second_answer) = (send(&first), send(&second));
        assert_eq!(first_answer.status, 201, "{first:?} {first_answer:?}");
        let parts =
            |answer: &Response| (answer.status, answer.header("location").map(str::to_owned), answer.text());
        assert_eq!(parts(&first_answer), parts(&second_answer), "{second:?}");
    }
    assert_eq!(stored(&directory).len(), 6);
    // Others are others: another id with another body, and another hook.
    assert_eq!(post(&server, "github", &github_headers(SECRET, "3", "c"), "c").status, 201);
    assert_eq!(post(&server, "bear", &bearer, bear("8")).status, 201);
    // Nothing names these.
    for _ in 0..2 {
        assert_eq!(post(&server, "mac", &mac_headers(SECRET, now(), "same"), "same").status, 201);
        assert_eq!(post(&server, "open", &Vec::new(), "{}").status, 201);
    }
    let named = vec![("Idempotency-Key", "k".to_owned())];
    for _ in 0..2 {
        assert_eq!(post(&server, "open", &named, "{}").status, 201);
    }
    assert_eq!(stored(&directory).len(), 13);
}

#[test]
fn keys_of_clients_and_of_hooks_are_apart() {
    let (directory, server) = start();
    let key = " hook github 1";
    let mut request = server.connect();
    let headers = [("Idempotency-Key", key), ("Content-Type", "application/json")];
    // A space at the beginning is no part of a header's value.
    assert_eq!(request.request("POST", "/event", &headers, event("a", "b").as_bytes()).status, 201);
    assert_eq!(post(&server, "github", &github_headers(SECRET, "1", "{}"), "{}").status, 201);
    assert_eq!(stored(&directory).len(), 2);
}

#[test]
fn what_cannot_be_an_event_is_refused() {
    let (directory, server) = start();
    let long = format!(r#"{{"kind":"{}","id":"1"}}"#, "x".repeat(255));
    let bearer = vec![("Authorization", format!("Bearer {SECRET}"))];
    for (body, detail) in [
        (&b"\xff"[..], "not UTF-8 at byte 0"),
        (b"{\"kind\":\"a\",\"id\":\"\0\"}", "cannot be made from the request: the body is not JSON"),
        (b"{}", "a header or a member of the body is missing"),
        (long.as_bytes(), "does not fit"),
    ] {
        let response = post(&server, "bear", &bearer, body);
        assert_eq!(response.status, 400);
        assert!(response.text().contains(detail), "{response:?}");
    }
    let null = "\0";
    let response = post(&server, "github", &github_headers(SECRET, "1", null), null);
    assert_eq!((response.status, &response.json()["errors"][0]["pointer"]), (400, &json!("/event_payload")));
    assert!(stored(&directory).is_empty());
}

#[test]
fn a_page_cannot_use_a_hook_that_asks_for_no_signature() {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "basic", format!("ada:{SECRET}"));
    write_file(
        directory.path(),
        "config.yaml",
        "consume:\n  hook:\n  - base=basic:basic\n  - open=none\n  - {name: sns, verify: none, allow: text/plain}\n",
    );
    let arguments = ["--config", "config.yaml", "--allow-origin", "https://shop.example"];
    let server = Consume::start_with(directory.path(), &arguments);
    let basic = ("Authorization", format!("Basic {}", STANDARD.encode(format!("ada:{SECRET}"))));
    let text = |name| ("Content-Type", format!("{name}; charset=utf-8"));
    for (hook, headers, status) in [
        ("open", vec![text("text/plain")], 415),
        ("open", vec![text("application/x-www-form-urlencoded")], 415),
        ("open", vec![text("application/ld+json")], 201),
        ("base", vec![basic.clone(), text("text/plain")], 415),
        ("base", vec![basic, text("application/json")], 201),
        ("sns", vec![text("Text/Plain")], 201),
        ("sns", vec![text("text/html")], 415),
        ("sns", vec![text("text/plain"), ("Origin", "https://evil.example".to_owned())], 403),
        ("sns", vec![text("text/plain"), ("Origin", "https://shop.example".to_owned())], 201),
    ] {
        assert_eq!(post(&server, hook, &headers, "{}").status, status, "{hook} {headers:?}");
    }
    assert!(
        server.process.stderr().contains("the hook `open` verifies nothing"),
        "{}",
        server.process.stderr()
    );
}

#[test]
fn services_that_ask_whether_a_hook_is_ours_get_their_answer() {
    let (directory, server) = start();
    let question = r#"{"token":"x","challenge":"3eZbrw1a","type":"url_verification"}"#;
    let response = post(&server, "slack", &slack_headers(SECRET, question), question);
    assert_eq!((response.status, response.json()), (200, json!({"challenge": "3eZbrw1a"})));
    assert_eq!(post(&server, "slack", &slack_headers("wrong", question), question).status, 401);

    let confirm = |hook: &str, query: &str| server.connect().get(&format!("/hook/{hook}?{query}"));
    let token = "hub.verify_token=a%20secret%20of%20the%20sender";
    let response = confirm("fb", &format!("hub.mode=subscribe&hub.challenge=1158201444&{token}"));
    assert_eq!((response.status, response.text().as_str()), (200, "1158201444"));
    for (hook, query) in [
        ("fb", "hub.mode=subscribe&hub.challenge=1&hub.verify_token=wrong".to_owned()),
        ("fb", format!("hub.mode=unsubscribe&hub.challenge=1&{token}")),
        ("fb", token.to_owned()),
        ("github", format!("hub.mode=subscribe&hub.challenge=1&{token}")),
    ] {
        assert_eq!(confirm(hook, &query).status, 403, "{hook} {query}");
    }

    for path in ["/hook/open", "/event"] {
        let asks = [("WebHook-Request-Origin", "eventemitter.example.com"), ("WebHook-Request-Rate", "120")];
        let response = server.connect().request("OPTIONS", path, &asks, b"");
        assert_eq!(response.status, 204);
        assert_eq!(response.header("webhook-allowed-origin"), Some("eventemitter.example.com"));
        assert_eq!(response.header("webhook-allowed-rate"), Some("*"));
        assert!(response.header("allow").unwrap().contains("POST"));
    }
    assert!(stored(&directory).is_empty());
}

#[test]
fn hangup_reads_the_secrets_again() {
    let (directory, mut server) = start();
    let body = "{}";
    write_secret(directory.path(), "secret", "a newer secret of the sender");
    server.process.signal(Signal::HUP);
    server.process.wait_for_stderr("the secret of each hook was read again");
    assert_eq!(post(&server, "github", &github_headers(SECRET, "1", body), body).status, 401);
    assert_eq!(
        post(&server, "github", &github_headers("a newer secret of the sender", "1", body), body).status,
        201
    );
    write_secret(directory.path(), "standard", "not a secret of this kind");
    server.process.signal(Signal::HUP);
    server.process.wait_for_stderr("the secret of each hook stays as it was: ");
    assert_eq!(
        post(&server, "github", &github_headers("a newer secret of the sender", "2", body), body).status,
        201
    );
}

#[test]
fn other_names_are_not_found() {
    let (_directory, server) = start();
    for path in ["/hook/other", "/hook/", "/hook", "/hook/github/x"] {
        let response = server.connect().request("POST", path, &[], b"{}");
        assert_eq!(response.status, 404, "{path}");
    }
    let response = server.connect().request("POST", "/hook/open/", &[], b"{}");
    assert_eq!((response.status, response.header("location")), (201, Some("../../event/1")));
    let (_directory, server) = super::start(&[]);
    assert_eq!(server.connect().request("POST", "/hook/github", &[], b"{}").status, 404);
}

#[test]
fn wrong_settings_are_refused_with_what_to_do() {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "secret", SECRET);
    let refusal = |hooks: &[&str], code| {
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0"]);
        for hook in hooks {
            command.args(["--hook", hook]);
        }
        refusal_of(&mut command, code)
    };
    for (hook, expected) in [
        ("github", "NAME=SCHEME:FILE"),
        ("github=hubgit:secret", "expected the scheme standard"),
        ("github=github", "github=github:FILE"),
        ("open=none:secret", "no secret"),
        ("a/b=github:secret", "for /hook/NAME"),
        ("mac=hmac:secret", "`header`"),
        (r#"{"name":"a","verify":"github","secret-file":"secret","header":"x"}"#, "hmac alone"),
        (r#"{"name":"a","verify":"github","secret-file":"secret","types":"x"}"#, "unknown field"),
        (r#"{"name":"a","verify":"github","secret-file":"secret","type":"{{"}"#, "template"),
        (r#"{"name":"a","verify":"github","secret-file":"secret","same-body-within":"5"}"#, "unit"),
        (r#"{"name":"a","verify":"hmac","secret-file":"secret","header":"x","digest":"md5"}"#, "sha256"),
    ] {
        let (error, hint) = refusal(&[hook], 2);
        assert!(format!("{error} {hint}").contains(expected), "{hook}: {error} {hint}");
    }
    let (error, _) = refusal(&["a=github:secret", "a=slack:secret"], 1);
    assert!(error.contains("two hooks have the name `a`"), "{error}");
    let (error, hint) = refusal(&["a=standard:secret"], 1);
    assert!(error.contains("for the hook `a`") && hint.contains("whsec_"), "{error} {hint}");
    let (error, _) = refusal(&["a=github:missing"], 1);
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn the_environment_names_several_hooks() {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "secret", SECRET);
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0"]).env("EVENTCTL_HOOK", "a=github:secret b=none");
    let server = Consume::start_command(&mut command);
    assert_eq!(post(&server, "b", &Vec::new(), "{}").status, 201);
    assert_eq!(post(&server, "a", &github_headers(SECRET, "1", "{}"), "{}").status, 201);
}

/// `propagate` and alerts sign what a hook verifies, and send CloudEvents that `/event` takes.
#[test]
fn our_own_sides_meet() {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "secret", STANDARD_SECRET);
    let hub = Consume::start_with(directory.path(), &["--hook", "std=standard:secret"]);
    let (valid, invalid) = (event("order", "1"), r#"{"event_type": 7, "event_payload": "x"}"#);
    write_file(directory.path(), "valid.ndjson", &valid);
    write_file(directory.path(), "both.ndjson", format!("{valid}\n{invalid}\n"));
    let propagate = |arguments: &[&str]| {
        let mut command = eventctl(directory.path());
        command.args(["propagate", "--period", "1ms", "--order", "sequential", "-q"]).args(arguments);
        command.output().unwrap().status.code()
    };
    let [hook, events] = ["/hook/std", "/event"].map(|path| hub.url(path));
    let signed = ["--file", "valid.ndjson", "--count", "2", "--endpoint", &hook];
    assert_eq!(propagate(&[&signed[..], &["--sign-secret-file", "secret"]].concat()), Some(0));
    assert_eq!(propagate(&signed), Some(3));
    let wrapped = ["--format", "cloudevents", "--file", "both.ndjson", "--count", "2", "--endpoint", &events];
    assert_eq!(propagate(&wrapped), Some(3));
    let sent = stored(&directory);
    assert_eq!(sent[..2], [("order".to_owned(), valid.clone()), ("order".to_owned(), valid.clone())]);
    let [wrapped] = &sent[2..] else { panic!("{sent:?}") };
    let payload: Value = serde_json::from_str(&wrapped.1).unwrap();
    assert_eq!(
        (wrapped.0.as_str(), &payload["source"], &payload["type"]),
        ("order", &json!("eventctl"), &json!("order"))
    );
    assert!(wrapped.1.ends_with(&format!(r#","data":{valid}}}"#)), "{}", wrapped.1);

    for arguments in [
        ["--alert", &format!("cloudevents:{events}"), "--alert-secret-file", "secret"],
        ["--alert", &hook, "--alert-secret-file", "secret"],
    ] {
        let edge = tempdir().unwrap();
        write_secret(edge.path(), "secret", STANDARD_SECRET);
        let known = stored(&directory).len();
        let arguments = [&arguments[..], &["--alert-on", "*", "--alert-allow-private"]].concat();
        let server = Consume::start_with(edge.path(), &arguments);
        server.store("shipped", "2");
        server.store("", "3");
        let alerts = wait_until(|| Some(stored(&directory)).filter(|events| events.len() == known + 2));
        for (alert, (event_type, payload)) in alerts[known..].iter().zip([("shipped", "2"), ("", "3")]) {
            let sent: Value = serde_json::from_str(&alert.1).unwrap();
            let sent = if sent["specversion"] == "1.0" { &sent["data"] } else { &sent };
            assert_eq!((&sent["event_type"], &sent["event_payload"]), (&json!(event_type), &json!(payload)));
            let expected = if event_type.is_empty() { ["-", "std"] } else { [event_type; 2] };
            assert!(expected.contains(&alert.0.as_str()), "{alert:?}");
        }
    }
}

/// What those who send webhooks sign with.
#[test]
#[ignore = "needs the libraries that .ci/servers installs"]
fn what_the_libraries_of_senders_sign_is_taken() {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "secret", STANDARD_SECRET);
    let hooks = "standard=standard:secret stripe=stripe:secret slack=slack:secret";
    let server = Consume::start_with(directory.path(), &["--hook", hooks]);
    let python = std::env::var("TEST_SENDERS_PYTHON").expect("TEST_SENDERS_PYTHON is set by .ci/servers");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/consume/senders.py");
    let sent = Command::new(python).arg(script).arg(server.url("")).output().unwrap();
    let lines = String::from_utf8_lossy(&sent.stdout).into_owned();
    let expected = ["standard", "svix", "stripe", "slack", "structured", "binary", "binary again"];
    let expected: String = expected.iter().map(|name| format!("{name} 201\n")).collect();
    assert_eq!(lines, expected, "{}", String::from_utf8_lossy(&sent.stderr));
    let types: Vec<String> = stored(&directory).into_iter().map(|(event_type, _)| event_type).collect();
    let expected = [
        "order.created",
        "order.created",
        "stripe.invoice.paid",
        "slack.message",
        "order.paid",
        "order.paid",
    ];
    assert_eq!(types, expected);
}
