//! Rules: which events are sent to which channels.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::hooks::{Hook, start};
use super::{deliveries, post_alert, wait_for_deliveries};
use crate::util::http::event;
use crate::util::{Consume, PATIENCE, eventctl, refusal_of, stored_events, write_file};

/// The ids of the events that a hook was sent, in order.
fn ids(hook: &Hook) -> Vec<i64> {
    let id = |body: &str| serde_json::from_str::<Value>(body).unwrap()["id"].as_i64().unwrap();
    hook.arrivals().iter().map(|arrival| id(&arrival.body)).collect()
}

fn batch(types: &[&str]) -> String {
    let events: Vec<Value> = types
        .iter()
        .map(|event_type| json!({"event_type": event_type, "event_payload": format!("of {event_type}")}))
        .collect();
    json!(events).to_string()
}

/// Waits until everything is delivered.
fn settle(directory: &TempDir) {
    wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.state == "sent"));
}

#[test]
fn each_matching_event_of_a_batch_is_sent_and_no_other() {
    let hook = Hook::taking();
    let globs = ["--alert-on", "order_*", "--alert-on", "health_alert", "--alert-on", "[xy]?"];
    let (directory, server) = start(&[&hook.url("/")], &globs);
    let mut connection = server.connect();
    let types = ["order_1", "order", "x1", "x", "order_2", "preorder_1", "Order_3", "y2", "", "health_alert"];
    assert_eq!(connection.post(batch(&types)).status, 201);
    hook.wait_for(5);
    assert_eq!(post_alert(&mut connection, "a").status, 200);
    assert_eq!(ids(&hook), [1, 3, 5, 8, 10, 11]);
    assert!(hook.arrivals().iter().all(|arrival| arrival.body.starts_with('{')));
    let told: Vec<i64> = deliveries(directory.path()).iter().map(|one| one.event_id).collect();
    assert_eq!(told, [1, 3, 5, 8, 10, 11]);
    let headers = [("Content-Type", "application/x-ndjson")];
    let lines = format!("{}\n{}\n", event("other", ""), event("order_9", ""));
    assert_eq!(connection.request("POST", "/event", &headers, lines.as_bytes()).status, 201);
    settle(&directory);
    assert_eq!(ids(&hook).last(), Some(&13));
}

#[test]
fn a_large_batch_is_matched_in_time_that_grows_with_its_length() {
    let hook = Hook::taking();
    let channels = [&hook.url("/1")[..], &hook.url("/2")];
    let (directory, server) =
        start(&channels, &["--alert-on", "*", "--alert-rate", "1", "--body-limit", "4MiB"]);
    let events: Vec<Value> =
        (0..25_000).map(|n| json!({"event_type": "a", "event_payload": n.to_string()})).collect();
    let begun = Instant::now();
    assert_eq!(server.connect().post(json!(events).to_string()).status, 201);
    // Ten times what it takes, and half of what it takes where each event is compared with all before it.
    assert!(begun.elapsed() < PATIENCE / 3, "{:?}", begun.elapsed());
    assert_eq!(deliveries(directory.path()).len(), 50_000);
}

#[test]
fn without_rules_only_health_alerts_are_sent() {
    let hook = Hook::taking();
    let (directory, server) = start(&[&hook.url("/")], &[]);
    assert_eq!(server.connect().post(batch(&["order", "health_alert", "health_alert_2"])).status, 201);
    settle(&directory);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 200);
    assert_eq!(ids(&hook), [2, 4]);
}

#[test]
fn a_refused_batch_sends_no_alert() {
    let hook = Hook::taking();
    let (directory, server) = start(&[&hook.url("/")], &["--alert-on", "*"]);
    let mut connection = server.connect();
    let bad = format!("[{},{}]", event("a", ""), r#"{"event_type":1,"event_payload":""}"#);
    assert_eq!(connection.post(bad).status, 400);
    assert_eq!(connection.try_post_with_key("key", event("a", "first")).unwrap().status, 201);
    assert_eq!(connection.try_post_with_key("key", event("a", "second")).unwrap().status, 422);
    settle(&directory);
    assert_eq!(connection.post_event("a", "last").status, 201);
    settle(&directory);
    assert_eq!(ids(&hook).len(), 2);
    assert_eq!(deliveries(directory.path()).len(), 2);
}

#[test]
fn a_request_that_is_repeated_with_its_key_alerts_once() {
    let hook = Hook::taking();
    let (directory, server) = start(&[&hook.url("/")], &["--alert-on", "*", "--alert-repeat-after", "0"]);
    for _ in 0..3 {
        let response = server.connect().try_post_with_key("key", batch(&["a", "b", "a"])).unwrap();
        assert_eq!(response.status, 201);
    }
    settle(&directory);
    assert_eq!(server.connect().post_event("last", "").status, 201);
    settle(&directory);
    assert_eq!(ids(&hook), [1, 2, 3, 4]);
    assert_eq!(stored_events(&directory.path().join("events.db")).len(), 4);
}

fn with_config(directory: &Path, config: &str) -> Command {
    write_file(
        directory,
        "config.yaml",
        format!("consume:\n  port: 0\n  alert-allow-private: true\n{config}"),
    );
    let mut command = eventctl(directory);
    command.args(["consume", "--config", "config.yaml"]);
    command
}

#[test]
fn rules_of_the_config_file_have_channels_and_templates_of_their_own() {
    let hooks: Vec<Hook> = (0..3).map(|_| Hook::taking()).collect();
    let [everyone, orders, failures] = &hooks[..] else { unreachable!() };
    let directory = tempdir().unwrap();
    std::fs::create_dir(directory.path().join("words")).unwrap();
    write_file(&directory.path().join("words"), "orders.slack", "an order: {{ event.payload }}");
    let config = format!(
        "  alert: {}\n  alert-templates: words\n  alert-on:\n  - health_alert\n  - type: order_*\n    \
            alert: slack:{}\n    template: orders\n  - type: '*_failed'\n    alert: [\"${{FAILURES}}\", \
            \"discord:{}\"]\n  - type: order_lost\n    alert: slack:{}\n",
        everyone.url("/"),
        orders.url("/"),
        failures.url("/chat"),
        orders.url("/"),
    );
    let mut command = with_config(directory.path(), &config);
    let server = Consume::start_command(command.env("FAILURES", failures.url("/json")));
    let types = ["order_1", "health_alert", "login_failed", "other", "order_failed", "order_lost"];
    assert_eq!(server.connect().post(batch(&types)).status, 201);
    settle(&directory);
    let mut told: Vec<(i64, String)> = deliveries(directory.path())
        .into_iter()
        .map(|one| (one.event_id, one.channel.split('#').next().unwrap().to_owned()))
        .collect();
    told.sort();
    let [http, slack, discord] = ["http", "slack", "discord"];
    let name = |kind: &str, hook: &Hook| format!("{kind}:{}", hook.address);
    let mut expected = vec![
        (1, name(slack, orders)),
        (2, name(http, everyone)),
        (3, name(http, failures)),
        (3, name(discord, failures)),
        (5, name(slack, orders)),
        (5, name(http, failures)),
        (5, name(discord, failures)),
        // Two rules bring it to one channel: once is enough.
        (6, name(slack, orders)),
    ];
    expected.sort();
    assert_eq!(told, expected);
    let text = |body: &str| serde_json::from_str::<Value>(body).unwrap()["text"].clone();
    let texts: Vec<_> = orders.arrivals().iter().map(|arrival| text(&arrival.body)).collect();
    let expected = ["order_1", "order_failed", "order_lost"].map(|name| format!("an order: of {name}"));
    assert_eq!(texts, expected);
}

#[test]
fn rules_that_cannot_be_used_are_refused() {
    let directory = tempdir().unwrap();
    let expected = "expected a pattern, or a rule of `type`, `alert` and `template`";
    for (rule, code, problem) in [
        ("{type: a, channel: 'https://example.com'}", 2, expected),
        ("{alert: 'https://example.com'}", 2, expected),
        ("{type: [a, b]}", 2, expected),
        ("{type: {a: b}}", 2, expected),
        ("{type: a, alert: {url: b}}", 2, "expected a channel of `to`"),
        ("{type: a, template: [b]}", 2, expected),
        ("{type: 'a[', alert: 'https://example.com'}", 2, "expected"),
        ("'a['", 2, "expected"),
        ("{type: a, template: missing}", 1, "there is no template `missing`"),
        ("{type: a, alert: 'mailto:a@example.com'}", 1, "`mailto:a@example.com` has no mail server"),
    ] {
        let (error, hint) =
            refusal_of(&mut with_config(directory.path(), &format!("  alert-on:\n  - {rule}\n")), code);
        assert!(error.contains(problem), "{rule}: {error}");
        assert!(code == 1 || error.contains("`consume: alert-on` in `config.yaml`"), "{rule}: {error}");
        assert!(code == 2 || hint.contains("--alert-templates") || hint.contains("SMTP_HOST"), "{hint}");
    }
}

#[test]
fn a_rule_may_name_the_only_channels() {
    let hook = Hook::taking();
    let rule = json!({"type": "order", "alert": [hook.url("/"), hook.url("/")]}).to_string();
    let (directory, server) = start(&[], &["--alert-on", &rule]);
    // No channel would be notified of a health alert.
    assert_eq!(post_alert(&mut server.connect(), "a").status, 503);
    assert_eq!(server.connect().post(batch(&["order", "health_alert"])).status, 201);
    settle(&directory);
    assert_eq!(ids(&hook), [1]);
}
