//! Chats and paging services: what each is sent fits what it documents, however large and hostile an event is.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::tempdir;

use super::hooks::{Hook, ok, start, start_in};
use super::{post_alert, wait_for_deliveries};
use crate::util::http::event;
use crate::util::receiver::{Arrival, Reply};
use crate::util::{Consume, eventctl, refusal_of, write_file, write_secret};

/// A service: how its channel is written, where requests arrive, and what it takes.
struct Service {
    preset: &'static str,
    path: &'static str,
    arrives_at: &'static str,
    schema: Value,
    /// Of the whole body.
    limit_bytes: usize,
    /// What must not be in a text, because it would call people or be markup.
    forbidden: &'static [&'static str],
    /// How it refuses what comes too fast, for a second.
    too_many: (&'static str, &'static str),
}

/// The members of an object, all of them required, and no others.
fn object(members: Value) -> Value {
    let names: Vec<&String> = members.as_object().unwrap().keys().collect();
    json!({"type": "object", "required": names, "properties": members, "additionalProperties": false})
}

const HEADER: &str = "Retry-After: 1\r\n";

fn services() -> Vec<Service> {
    vec![
        // https://api.slack.com/methods/chat.postMessage: 40,000 characters.
        Service {
            preset: "slack",
            path: "/services/T0/B0/s3cret",
            arrives_at: "/services/T0/B0/s3cret",
            schema: object(json!({
                "text": {"type": "string", "minLength": 1, "maxLength": 40_000},
                "unfurl_links": {"const": false},
                "unfurl_media": {"const": false},
            })),
            limit_bytes: 200_000,
            forbidden: &["<!channel>", "<script", "<@U1>"],
            too_many: (HEADER, ""),
        },
        // https://discord.com/developers/docs/resources/webhook#execute-webhook: 2,000 characters.
        Service {
            preset: "discord",
            path: "/api/webhooks/1/s3cret",
            arrives_at: "/api/webhooks/1/s3cret",
            schema: object(json!({
                "content": {"type": "string", "minLength": 1, "maxLength": 2000},
                "allowed_mentions": {"const": {"parse": []}},
                "flags": {"const": 4},
            })),
            limit_bytes: 200_000,
            forbidden: &["@everyone", " *b*"],
            too_many: (
                "",
                r#"{"message": "You are being rate limited.", "retry_after": 1.0, "global": false}"#,
            ),
        },
        // https://developers.mattermost.com/integrate/webhooks/incoming/: 16,383 characters.
        Service {
            preset: "mattermost",
            path: "/hooks/s3cret",
            arrives_at: "/hooks/s3cret",
            schema: object(json!({"text": {"type": "string", "minLength": 1, "maxLength": 16_383}})),
            limit_bytes: 200_000,
            forbidden: &["@everyone", "@all", " *b*"],
            too_many: ("X-RateLimit-Limit: 1\r\nX-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 1\r\n", ""),
        },
        // https://developers.google.com/workspace/chat/api/reference/rest/v1/spaces.messages: 4,096 characters.
        Service {
            preset: "google-chat",
            path: "/v1/spaces/A/messages?key=k3y&token=s3cret",
            arrives_at: "/v1/spaces/A/messages?key=k3y&token=s3cret",
            schema: object(json!({"text": {"type": "string", "minLength": 1, "maxLength": 4096}})),
            limit_bytes: 32_000,
            forbidden: &["<users/all>", "<script"],
            too_many: ("", r#"{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}"#),
        },
        // https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using: 28 KB;
        // https://adaptivecards.io/explorer/RichTextBlock.html.
        Service {
            preset: "teams",
            path: "/workflows/1/triggers/manual/paths/invoke?sig=s3cret",
            arrives_at: "/workflows/1/triggers/manual/paths/invoke?sig=s3cret",
            schema: object(json!({
                "type": {"const": "message"},
                "attachments": {"type": "array", "minItems": 1, "maxItems": 1, "items": object(json!({
                    "contentType": {"const": "application/vnd.microsoft.card.adaptive"},
                    "content": object(json!({
                        "$schema": {"const": "http://adaptivecards.io/schemas/adaptive-card.json"},
                        "type": {"const": "AdaptiveCard"},
                        "version": {"const": "1.4"},
                        "body": {"type": "array", "minItems": 1, "items": object(json!({
                            "type": {"const": "RichTextBlock"},
                            "inlines": {"type": "array", "minItems": 1, "items": object(json!({
                                "type": {"const": "TextRun"},
                                "text": {"type": "string", "minLength": 1},
                                "weight": {"enum": ["default", "bolder", "lighter"]},
                            }))},
                        }))},
                    })),
                }))},
            })),
            limit_bytes: 28_000,
            forbidden: &[],
            too_many: (HEADER, ""),
        },
        // https://core.telegram.org/bots/api#sendmessage: 1 to 4,096 characters, as UTF-16 counts them.
        Service {
            preset: "telegram",
            path: "/bot1:s3cret/sendMessage?chat_id=-100123",
            arrives_at: "/bot1:s3cret/sendMessage",
            schema: object(json!({
                "chat_id": {"const": "-100123"},
                "text": {"type": "string", "minLength": 1, "maxLength": 2048},
                "link_preview_options": {"const": {"is_disabled": true}},
            })),
            limit_bytes: 200_000,
            forbidden: &[],
            too_many: (
                "",
                r#"{"ok": false, "error_code": 429, "description": "Too Many Requests", "parameters": {"retry_after": 1}}"#,
            ),
        },
        // https://developer.pagerduty.com/docs/events-api-v2-overview: a summary of 1,024 characters, 512 KB.
        Service {
            preset: "pagerduty",
            path: "/v2/enqueue?routing_key=s3cret",
            arrives_at: "/v2/enqueue",
            schema: object(json!({
                "routing_key": {"const": "s3cret"},
                "event_action": {"enum": ["trigger", "acknowledge", "resolve"]},
                "dedup_key": {"type": "string", "minLength": 1, "maxLength": 255},
                "payload": object(json!({
                    "summary": {"type": "string", "minLength": 1, "maxLength": 1024},
                    "source": {"type": "string", "minLength": 1},
                    "severity": {"enum": ["critical", "error", "warning", "info"]},
                    "timestamp": {"type": "string", "format": "date-time"},
                    "class": {"type": "string"},
                    "custom_details": {"type": "object"},
                })),
            })),
            limit_bytes: 512_000,
            forbidden: &[],
            too_many: (HEADER, r#"{"status": "throttle exceeded"}"#),
        },
        // https://docs.ntfy.sh/publish/#publish-as-json: 4,096 bytes of a message.
        Service {
            preset: "ntfy",
            path: "/ntfy/my-topic",
            arrives_at: "/ntfy/",
            schema: object(json!({
                "topic": {"const": "my-topic"},
                "title": {"type": "string", "minLength": 1, "maxLength": 250},
                "message": {"type": "string", "minLength": 1, "maxLength": 1024},
                "priority": {"type": "integer", "minimum": 1, "maximum": 5},
            })),
            limit_bytes: 5000,
            forbidden: &[],
            too_many: ("", r#"{"code": 42901, "http": 429, "error": "limit reached: too many requests"}"#),
        },
    ]
}

fn body_of(service: &Service, arrival: &Arrival) -> Value {
    let line = arrival.head.lines().next().unwrap();
    assert_eq!(line, format!("POST {} HTTP/1.1", service.arrives_at));
    assert_eq!(arrival.headers("content-type"), ["application/json"]);
    assert!(arrival.headers("webhook-id").is_empty(), "{}: {}", service.preset, arrival.head);
    let length = arrival.body.len();
    assert!(length <= service.limit_bytes, "{}: {length} bytes", service.preset);
    let body: Value = serde_json::from_str(&arrival.body).unwrap();
    let options = jsonschema::options().should_validate_formats(true);
    let validator = options.build(&service.schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
    assert!(
        errors.is_empty(),
        "{}: {}",
        service.preset,
        errors.join("\n").chars().take(500).collect::<String>()
    );
    body
}

fn strings_of(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(strings_of).collect(),
        Value::Object(members) => members.values().flat_map(strings_of).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn each_service_is_sent_what_it_documents() {
    let hostile = "\"}</script> <!channel> <@U1> <users/all> @everyone @all *b* [x](http://y) `c` \u{1b}[2J\r\n\u{202e}";
    let payloads = [
        "ordinary".to_owned(),
        String::new(),
        hostile.to_owned(),
        "\u{1F388}".repeat(100_000),
        "\u{1}".repeat(100_000),
        "<*@\"\\".repeat(50_000),
        "\n".repeat(100_000),
        "a\n".repeat(50_000),
    ];
    for service in services() {
        let hook = Hook::taking();
        let channel = format!("{}:{}", service.preset, hook.url(service.path));
        let (_directory, server) = start(&[&channel], &["--alert-on", "*", "--alert-rate", "1000"]);
        for payload in &payloads {
            assert_eq!(server.connect().post(event(&"t".repeat(255), payload)).status, 201);
        }
        server.store(hostile, hostile);
        for arrival in hook.wait_for(payloads.len() + 1) {
            let body = body_of(&service, &arrival);
            for text in strings_of(&body) {
                let found = service.forbidden.iter().find(|forbidden| text.contains(*forbidden));
                assert_eq!(found, None, "{}: {text}", service.preset);
                assert!(
                    !text.contains(['\u{1b}', '\r', '\u{202e}', '\u{1}']),
                    "{}: {text:?}",
                    service.preset
                );
            }
        }
    }
}

#[test]
fn a_digest_fits_each_service_too() {
    for service in services() {
        let hook = Hook::taking();
        let channel = format!("{}:{}", service.preset, hook.url(service.path));
        let (_directory, server) = start(&[&channel], &["--alert-on", "*", "--alert-rate", "1"]);
        for _ in 0..2 {
            let events: Vec<String> = (0..60).map(|_| event("type", &"\u{1F388}".repeat(1000))).collect();
            assert_eq!(server.connect().post(format!("[{}]", events.join(","))).status, 201);
        }
        hook.wait_for(1).iter().for_each(|arrival| drop(body_of(&service, arrival)));
    }
}

#[test]
fn each_service_that_asks_for_a_pause_gets_the_same_message_after_it() {
    for service in services() {
        let (headers, body) = service.too_many;
        let hook = Hook::start(move |_, number| match number {
            0 => Reply::Send(format!(
                "HTTP/1.1 429 Too Many Requests\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )),
            _ => ok(),
        });
        let channel = format!("{}:{}", service.preset, hook.url(service.path));
        let (directory, server) = start(&[&channel], &[]);
        post_alert(&mut server.connect(), "a");
        let sent = wait_for_deliveries(directory.path(), |all| all[0].state == "sent");
        assert_eq!(sent[0].attempts, 2, "{}", service.preset);
        let arrivals = hook.arrivals();
        assert_eq!(arrivals[0].body, arrivals[1].body);
        assert!(arrivals[1].at - arrivals[0].at >= Duration::from_secs(1), "{}", service.preset);
        let log = server.process.stderr();
        assert!(log.contains("429") && !log.contains("s3cret"), "{log}");
    }
}

/// A server with channels of a config file.
fn start_config(directory: &Path, config: &str) -> Consume {
    write_file(directory, "config.yaml", config);
    let mut command = eventctl(directory);
    Consume::start_command(command.args([
        "consume",
        "--port",
        "0",
        "--alert-allow-private",
        "--config",
        "config.yaml",
    ]))
}

#[test]
fn a_channel_may_have_a_method_headers_and_a_body_of_its_own() {
    let (hook, plain, paging) = (Hook::taking(), Hook::taking(), Hook::taking());
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "token", "s3cret-token");
    write_secret(directory.path(), "key", "r0uting-key");
    let config = format!(
        r#"
consume:
  alert-on: order
  alert:
  - to: {}
    name: tickets
    method: PUT
    headers:
      Authorization: "Bearer {{{{ secret.token }}}}"
      X-Type: "{{{{ event.type }}}}"
    body: '{{"title": {{{{ subject }}}}, "payload": {{{{ event.payload }}}}, "n": {{{{ count }}}}}}'
    secret-files:
      token: token
  - to: {}
    headers: {{Content-Type: text/plain, X-Extra: "1"}}
    body: "{{{{ text }}}}"
  - to: {}
    preset: pagerduty
    secret-files: {{routing_key: key}}
"#,
        hook.url("/tickets"),
        plain.url("/"),
        paging.url("/v2/enqueue"),
    );
    let server = start_config(directory.path(), &config);
    let payload = "a \"b\"\u{1F388}\n</x>";
    server.store("order", payload);
    let arrival = &hook.wait_for(1)[0];
    assert!(arrival.head.starts_with("PUT /tickets HTTP/1.1\r\n"), "{}", arrival.head);
    assert_eq!(arrival.headers("authorization"), ["Bearer s3cret-token"]);
    assert_eq!(arrival.headers("x-type"), ["order"]);
    let body: Value = serde_json::from_str(&arrival.body).unwrap();
    assert_eq!((&body["payload"], &body["n"]), (&json!(payload), &json!(1)));
    assert!(!arrival.headers("webhook-id").is_empty());
    let arrival = &plain.wait_for(1)[0];
    assert_eq!(
        (arrival.headers("content-type"), arrival.headers("x-extra")),
        (vec!["text/plain"], vec!["1"])
    );
    assert!(arrival.body.ends_with(payload), "{}", arrival.body);
    let body: Value = serde_json::from_str(&paging.wait_for(1)[0].body).unwrap();
    assert_eq!(body["routing_key"], "r0uting-key");
    assert!(body["payload"]["summary"].as_str().unwrap().starts_with("Event order: a \"b\""), "{body}");
}

#[test]
fn a_channel_that_cannot_work_is_refused_at_start() {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "token", "s3cret");
    for (channel, code, problem) in [
        (r#"{"to": "https://h/", "body": "{{ txt }}"}"#, 1, "the template of `body` is wrong"),
        (r#"{"to": "https://h/", "body": "{\"a\": \"{{ text }}\"}"}"#, 1, "gives no JSON"),
        (r#"{"to": "https://h/", "headers": {"X-A": "{{"}}"#, 1, "the template of `x-a` is wrong"),
        (
            r#"{"to": "https://h/", "body": "{}", "secret-files": {"a": "missing"}}"#,
            1,
            "cannot read `missing`",
        ),
        (r#"{"to": "https://h/", "method": "BREW"}"#, 2, "expected the method POST, PUT or PATCH"),
        (r#"{"to": "https://h/", "headers": {"X A": "b"}}"#, 2, "expected the name of a header"),
        (r#"{"to": "https://h/", "preset": "fax"}"#, 2, "expected `mailto:"),
        ("telegram:https://api.telegram.org/bot1:s3cret/sendMessage", 1, "the template of `body` is wrong"),
    ] {
        let mut command = eventctl(directory.path());
        let (error, hint) = refusal_of(command.args(["consume", "--port", "0", "--alert", channel]), code);
        assert!(error.contains(problem), "{channel}: {error}");
        assert!(!error.contains("s3cret") && !hint.contains("s3cret"), "{error} {hint}");
    }
    let mut command = eventctl(directory.path());
    let twice = [r#"{"to": "https://h/", "method": "PUT"}"#, "https://h/"];
    command.args(["consume", "--port", "0", "--alert", twice[0], "--alert", twice[1]]);
    let (error, hint) = refusal_of(&mut command, 1);
    assert!(
        error.starts_with("two channels are `https:h#") && hint == "give one of them a `name`",
        "{error} {hint}"
    );
}

/// Two channels of one URL are notified both where they have names.
#[test]
fn channels_of_one_url_are_told_apart_by_their_names() {
    let hook = Hook::taking();
    let directory = tempdir().unwrap();
    let channel =
        |name: &str| json!({"to": hook.url("/"), "name": name, "body": format!("\"{name}\"")}).to_string();
    let server = start_in(directory.path(), &[&channel("one"), &channel("two")], &[]);
    post_alert(&mut server.connect(), "a");
    let mut bodies: Vec<String> = hook.wait_for(2).into_iter().map(|arrival| arrival.body).collect();
    bodies.sort();
    assert_eq!(bodies, ["\"one\"", "\"two\""]);
    let names: Vec<String> =
        wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.state == "sent"))
            .into_iter()
            .map(|delivery| delivery.channel)
            .collect();
    assert!(names.iter().all(|name| name.ends_with("#one") || name.ends_with("#two")), "{names:?}");
}
