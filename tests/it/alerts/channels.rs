//! Channels: how they are named, and what each of them is sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::tempdir;

use super::hooks::{Hook, ok, start, start_in};
use super::{deliveries, post_alert, wait_for_deliveries};
use crate::util::receiver::{Arrival, Reply};
use crate::util::{Consume, eventctl, refusal_of, write_file, write_secret};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

fn secret() -> String {
    format!("whsec_{}", STANDARD.encode(KEY))
}

/// The value of a header, of which there must be one.
#[track_caller]
fn header<'a>(arrival: &'a Arrival, name: &str) -> &'a str {
    let [value] = arrival.headers(name)[..] else { panic!("{name}: {arrival:?}") };
    value
}

fn body(arrival: &Arrival) -> Value {
    serde_json::from_str(&arrival.body).unwrap()
}

/// Source: Standard Webhooks, "Verifying webhooks": what a receiver computes of what it has got.
#[track_caller]
fn assert_signed(arrival: &Arrival, key: &[u8]) {
    let (id, timestamp) = (header(arrival, "webhook-id"), header(arrival, "webhook-timestamp"));
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(format!("{id}.{timestamp}.{}", arrival.body).as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(header(arrival, "webhook-signature"), signature, "{arrival:?}");
    let sent_at: i64 = timestamp.parse().unwrap();
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    assert!((now - 300..=now).contains(&sent_at), "{sent_at}");
}

#[test]
fn slack_is_sent_a_text() {
    let hook = Hook::taking();
    let (_directory, server) = start(&[&format!("slack:{}", hook.url("/services/T0?a=b"))], &[]);
    assert_eq!(post_alert(&mut server.connect(), "a & b").status, 200);
    let [arrival] = &hook.arrivals()[..] else { panic!() };
    assert!(arrival.head.starts_with("POST /services/T0?a=b HTTP/1.1\r\n"), "{}", arrival.head);
    assert_eq!(header(arrival, "host"), hook.address.to_string());
    assert_eq!(header(arrival, "content-type"), "application/json");
    assert!(header(arrival, "user-agent").starts_with("eventctl/"));
    let body = body(arrival);
    assert_eq!(body.as_object().unwrap().len(), 3);
    // What an event links to is not fetched for a preview.
    assert_eq!((&body["unfurl_links"], &body["unfurl_media"]), (&Value::Bool(false), &Value::Bool(false)));
    let text = body["text"].as_str().unwrap();
    assert!(text.starts_with("Health alert 1 of ") && text.ends_with("\n• a &amp; b"), "{text}");
    assert!(arrival.headers("webhook-id").is_empty());
}

#[test]
fn discord_is_sent_a_text_that_mentions_nobody() {
    let hook = Hook::taking();
    let (_directory, server) = start(&[&format!("discord:{}", hook.url("/api/webhooks/1/t"))], &[]);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 200);
    let [arrival] = &hook.arrivals()[..] else { panic!() };
    assert!(arrival.head.starts_with("POST /api/webhooks/1/t HTTP/1.1\r\n"), "{}", arrival.head);
    assert_eq!(header(arrival, "content-type"), "application/json");
    let body = body(arrival);
    assert_eq!(body["allowed_mentions"], json!({"parse": []}));
    let content = body["content"].as_str().unwrap();
    assert!(content.starts_with("Health alert 1 of ") && content.ends_with("\n• a"), "{content}");
}

#[test]
fn a_webhook_is_sent_the_event_as_it_is_listed() {
    let hook = Hook::taking();
    let (_directory, server) = start(&[&hook.url("/")], &["--alert-on", "*"]);
    let mut connection = server.connect();
    for (event_type, payload) in [("order", "{\"n\":1}"), ("é👋", "\u{1b}[2J\u{202e}\r\n\t\"\\"), ("", "")]
    {
        assert_eq!(connection.post_event(event_type, payload).status, 201);
    }
    for (position, arrival) in hook.wait_for(3).iter().enumerate() {
        let listed = connection.get(&format!("/event/{}", position + 1)).text();
        assert_eq!(arrival.body, listed.trim_end());
        assert!(header(arrival, "webhook-id").starts_with(&format!("event-{}-", position + 1)));
        assert!(arrival.headers("webhook-signature").is_empty());
    }
}

#[test]
fn webhooks_are_signed_and_a_retry_has_the_same_id() {
    let hook = Hook::start(|_, number| if number < 2 { Reply::status(503, "") } else { ok() });
    let directory = tempdir().unwrap();
    let slack = Hook::taking();
    write_secret(directory.path(), "secret", format!("{}\n", secret()));
    let channels = [&hook.url("/")[..], &format!("slack:{}", slack.url("/"))];
    let server = start_in(directory.path(), &channels, &["--alert-secret-file", "secret"]);
    post_alert(&mut server.connect(), "a");
    wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.state == "sent"));
    let arrivals = hook.arrivals();
    assert_eq!(arrivals.len(), 3);
    for arrival in &arrivals {
        assert_signed(arrival, KEY);
        assert_eq!(header(arrival, "webhook-id"), header(&arrivals[0], "webhook-id"));
        assert_eq!(arrival.body, arrivals[0].body);
    }
    // Another alert has another id, and chats have no use for one.
    assert_eq!(post_alert(&mut server.connect(), "b").status, 200);
    assert_ne!(header(&hook.arrivals()[3], "webhook-id"), header(&arrivals[0], "webhook-id"));
    assert!(slack.arrivals().iter().all(|arrival| arrival.headers("webhook-signature").is_empty()));
}

#[test]
fn the_secret_may_stand_in_the_environment_and_the_config_file() {
    let hook = Hook::taking();
    let url = hook.url("/");
    let directory = tempdir().unwrap();
    let config = format!(
        "consume:\n  port: 0\n  alert: {url}\n  alert-allow-private: true\n  alert-secret: ${{HOOK_SECRET}}\n"
    );
    write_file(directory.path(), "config.yaml", config);
    let mut from_config = eventctl(directory.path());
    from_config.args(["consume", "--config", "config.yaml"]).env("HOOK_SECRET", secret());
    let mut from_environment = eventctl(directory.path());
    from_environment.args(["consume", "--port", "0"]).env("EVENTCTL_ALERT", &url);
    from_environment.env("EVENTCTL_ALERT_ALLOW_PRIVATE", "true").env("EVENTCTL_ALERT_SECRET", secret());
    for (number, mut command) in [from_config, from_environment].into_iter().enumerate() {
        let server = Consume::start_command(&mut command);
        assert_eq!(post_alert(&mut server.connect(), &format!("issue {number}")).status, 200);
        assert_signed(hook.arrivals().last().unwrap(), KEY);
        assert!(!server.process.stderr().contains("whsec_"));
    }
    assert_eq!(hook.arrivals().len(), 2);
}

#[test]
fn wrong_secrets_are_refused_and_not_shown() {
    let directory = tempdir().unwrap();
    let encoded = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![b's'; bytes]));
    for wrong in [
        "s3cret".to_owned(),
        "whsec_".to_owned(),
        STANDARD.encode(KEY),
        "whsec_!s3cret!".to_owned(),
        encoded(23),
        encoded(65),
        secret().replace("whsec_", "whsec-"),
    ] {
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0"]).env("EVENTCTL_ALERT_SECRET", &wrong);
        let (error, hint) = refusal_of(&mut command, 1);
        assert!(error.contains("alert-secret-file") && hint.contains("openssl rand"), "{error} {hint}");
        let content = wrong.trim_start_matches("whsec_");
        assert!(content.is_empty() || !error.contains(content), "{error}");
    }
    let path = write_file(directory.path(), "secret", secret());
    crate::util::set_mode(&path, 0o644);
    let command = || {
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0"]);
        command
    };
    let (error, hint) = refusal_of(command().args(["--alert-secret-file", "secret"]), 1);
    assert!(error.contains("`secret`") && hint.contains("chmod 600"), "{error} {hint}");
    crate::util::set_mode(&path, 0o600);
    let mut both = command();
    both.args(["--alert-secret-file", "secret"]).env("EVENTCTL_ALERT_SECRET", secret());
    let (error, _) = refusal_of(&mut both, 1);
    assert_eq!(error, "both `--alert-secret-file` and `EVENTCTL_ALERT_SECRET` are given");
    let (error, hint) = refusal_of(command().args(["--alert-secret", &secret()]), 2);
    assert!(error.contains("`--alert-secret` on the command line") && !error.contains("whsec_"), "{error}");
    assert_eq!(hint, "give --alert-secret-file, or set EVENTCTL_ALERT_SECRET");
}

#[test]
fn every_channel_is_notified_wherever_it_is_named() {
    let hooks: Vec<Hook> = (0..3).map(|_| Hook::taking()).collect();
    let [first, second, third] = [0, 1, 2].map(|number| hooks[number].url("/"));
    let (slack, discord) = (format!("slack:{second}"), format!("discord:{third}"));
    let directory = tempdir().unwrap();
    write_file(
        directory.path(),
        "list.yaml",
        format!("consume:\n  alert: [\"{first}\", \"{slack}\", \"{discord}\"]\n"),
    );
    write_file(directory.path(), "line.yaml", format!("consume:\n  alert: {first} {slack} {discord}\n"));
    let command = |arguments: &[&str]| {
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0", "--alert-allow-private"]).args(arguments);
        command
    };
    let mut spaced = command(&[]);
    spaced.env("EVENTCTL_ALERT", format!(" {first}  {slack} {discord} "));
    // A channel that is named twice is notified once.
    let flags = ["--alert", &first, "--alert", &slack, "--alert", &discord, "--alert", &first];
    for (number, mut command) in
        [spaced, command(&flags), command(&["--config", "list.yaml"]), command(&["--config", "line.yaml"])]
            .into_iter()
            .enumerate()
    {
        let server = Consume::start_command(&mut command);
        let response = post_alert(&mut server.connect(), &format!("issue {number}"));
        assert_eq!(response.status, 200, "{number}: {}", server.process.stderr());
        assert!(hooks.iter().all(|hook| hook.arrivals().len() == number + 1), "{command:?}");
    }
    assert_eq!(deliveries(directory.path()).len(), 12);
}

#[test]
fn an_empty_variable_names_no_channel() {
    let directory = tempdir().unwrap();
    for (name, value) in [("EVENTCTL_ALERT", ""), ("EVENTCTL_ALERT", " "), ("HEALTH_ALERT_RECEIVER", "")] {
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0"]).env(name, value);
        let server = Consume::start_command(&mut command);
        assert_eq!(post_alert(&mut server.connect(), "a").status, 503);
    }
    // A flag wins over the variable, as everywhere.
    let hook = Hook::taking();
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0", "--alert-allow-private", "--alert", &hook.url("/")]);
    let server = Consume::start_command(command.env("EVENTCTL_ALERT", "https://alerts.example.com/"));
    assert_eq!(post_alert(&mut server.connect(), "a").status, 200);
    assert_eq!(deliveries(directory.path()).len(), 1);
}
