//! What is shown of alerts: by `alert-test`, and by `tail --alerts`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::hooks::{Hook, start, url_of_nobody};
use super::{Delivery, deliveries, post_alert, wait_for_deliveries};
use crate::util::receiver::Reply;
use crate::util::{assert_eventctl, eventctl, refusal_of, write_file};

fn alert_test(directory: &Path, channels: &[String], further: &[&str]) -> Command {
    let mut command = eventctl(directory);
    command.args(["alert-test", "--alert-allow-private"]).args(further);
    for channel in channels {
        command.args(["--alert", channel]);
    }
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn alert_test_has_a_line_for_each_channel() {
    let directory = tempdir().unwrap();
    let hooks = [Hook::taking(), Hook::taking(), Hook::taking()];
    let kinds = ["slack:", "discord:", ""];
    let channels: Vec<String> =
        kinds.iter().zip(&hooks).map(|(kind, hook)| format!("{kind}{}", hook.url("/s3cret"))).collect();
    let output = alert_test(directory.path(), &channels, &[]).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(lines.len(), 3);
    for ((line, hook), kind) in lines.iter().zip(&hooks).zip(["slack:", "discord:", "http:"]) {
        assert!(line.starts_with(&format!("{kind}{}#", hook.address)) && line.ends_with(": sent"), "{line}");
        let [arrival] = &hook.arrivals()[..] else { panic!() };
        assert!(arrival.body.contains("this is a test by eventctl alert"), "{}", arrival.body);
    }
    let sample: Value = serde_json::from_str(&hooks[2].arrivals()[0].body).unwrap();
    assert_eq!((&sample["event_type"], &sample["id"]), (&json!("health_alert"), &json!(0)));
    assert!(!directory.path().join("events.db").exists());
}

#[test]
fn alert_test_fails_where_a_channel_does_and_tries_the_others() {
    let directory = tempdir().unwrap();
    let hooks = [Hook::with_status(404, ""), Hook::taking(), Hook::with_status(503, "")];
    let controls =
        Hook::start(|_, _| Reply::Send("HTTP/1.1 500 \u{1b}[2J\r\nContent-Length: 0\r\n\r\n".to_owned()));
    let mut channels: Vec<String> = hooks.iter().map(|hook| hook.url("/")).collect();
    channels.extend([url_of_nobody("/"), controls.url("/")]);
    let Output { status, stdout, stderr } = alert_test(directory.path(), &channels, &[]).output().unwrap();
    assert_eq!(status.code(), Some(1));
    let stderr: Vec<&str> = text(&stderr).lines().collect();
    assert_eq!(stderr[0], "error: 4 of the channels did not take the sample");
    assert!(stderr.len() == 2 && stderr[1].starts_with("hint: "), "{stderr:?}");
    assert!(!text(&stdout).contains('\u{1b}'));
    let lines: Vec<&str> = text(&stdout).lines().collect();
    let endings = [": status 404 Not Found", ": sent", ": status 503 Service Unavailable"];
    assert_eq!(lines.len(), 5);
    for (line, ending) in lines.iter().zip(endings) {
        assert!(line.ends_with(ending), "{line}");
    }
    assert!(lines[3].contains(": cannot connect: "), "{}", lines[3]);
    // Each is asked once.
    assert!(hooks.iter().all(|hook| hook.arrivals().len() == 1));
}

#[test]
fn alert_test_without_a_channel_says_how_to_give_one() {
    let directory = tempdir().unwrap();
    let (error, hint) = refusal_of(&mut alert_test(directory.path(), &[], &[]), 1);
    assert_eq!(error, "there is no channel to test");
    assert!(hint.contains("--alert "), "{hint}");
}

#[test]
fn alert_test_reads_the_same_settings_and_templates() {
    let directory = tempdir().unwrap();
    fs::create_dir(directory.path().join("words")).unwrap();
    write_file(&directory.path().join("words"), "order.slack", "mine: {{ event.payload }}");
    let hook = Hook::taking();
    let channel = format!("slack:{}", hook.url("/"));
    let further = ["--alert-templates", "words", "--event-type", "order", "--payload", "<7>"];
    let mut by_flags = alert_test(directory.path(), std::slice::from_ref(&channel), &further);
    let config = format!(
        "alert-test:\n  alert: {channel}\n  alert-allow-private: true\n  alert-templates: words\n  \
            event-type: order\n  payload: <7>\n"
    );
    write_file(directory.path(), "config.yaml", config);
    let mut by_config = eventctl(directory.path());
    by_config.args(["alert-test", "--config", "config.yaml"]);
    let mut by_environment = eventctl(directory.path());
    by_environment.args(["alert-test", "--event-type", "order", "--payload", "<7>"]);
    by_environment.env("EVENTCTL_ALERT", &channel).env("EVENTCTL_ALERT_ALLOW_PRIVATE", "true");
    by_environment.env("EVENTCTL_ALERT_TEMPLATES", "words");
    for command in [&mut by_flags, &mut by_config, &mut by_environment] {
        let output = command.output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{command:?}");
        let body: Value = serde_json::from_str(&hook.arrivals().last().unwrap().body).unwrap();
        assert_eq!(body["text"], "mine: &lt;7&gt;");
    }
    assert_eq!(hook.arrivals().len(), 3);
}

#[test]
fn alert_test_sends_nothing_again_from_a_store_that_is_missing_or_an_id_that_is_none() {
    let directory = tempdir().unwrap();
    let (error, _) = refusal_of(&mut alert_test(directory.path(), &[], &["--resend", "all"]), 1);
    assert!(error.starts_with("cannot use `events.db`"), "{error}");
    assert!(!directory.path().join("events.db").exists());
    for wrong in ["0", "some", "1.5"] {
        let (error, _) = refusal_of(&mut alert_test(directory.path(), &[], &["--resend", wrong]), 2);
        assert!(error.contains("--resend"), "{error}");
    }
}

// `tail --alerts`.

/// What `tail --alerts` prints; it must succeed and say nothing else.
fn tail(directory: &Path, arguments: &[&str]) -> String {
    let mut command = assert_eventctl(directory);
    let assert = command.args(["tail", "--alerts"]).args(arguments).assert().code(0).stderr("");
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

#[test]
fn every_state_is_shown() {
    let taking = Hook::taking();
    let dead = Hook::with_status(404, "");
    let waiting = Hook::with_status(503, "Retry-After: 3600\r\n");
    let silent = Hook::silent();
    let hooks = [&taking, &dead, &waiting, &silent];
    let urls: Vec<String> = hooks.iter().map(|hook| hook.url("/")).collect();
    let (directory, server) = start(&urls.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 202);
    server.store("health_alert", "[\"a\"]");
    let all = wait_for_deliveries(directory.path(), |all| {
        let settled = all.iter().filter(|one| one.settled_at.is_some());
        settled.count() == 6 && all.iter().any(|one| one.state == "sending")
    });
    let of = |hook: &Hook, event_id: i64| -> Delivery {
        let channel = format!("{}#", hook.address);
        all.iter().find(|one| one.event_id == event_id && one.channel.contains(&channel)).unwrap().clone()
    };
    let expected = [
        (of(&taking, 1), "sent", "http:"),
        (of(&dead, 1), "dead", ": status 404 Not Found"),
        (of(&waiting, 1), "pending", ": status 503 Service Unavailable"),
        (of(&silent, 1), "sending", "http:"),
        (of(&taking, 2), "repeated", ", repeats 1"),
    ];
    let shown = tail(directory.path(), &["-n", "all"]);
    assert_eq!(shown.lines().count(), 8);
    for (delivery, state, words) in &expected {
        assert_eq!(&delivery.state, state);
        assert_eq!(delivery.event_type.as_deref(), Some("health_alert"));
        let mut lines = shown.lines();
        let line = lines
            .find(|line| line.contains(&format!("{:>8} {state:<9} {}", delivery.event_id, delivery.channel)));
        let line = line.unwrap_or_else(|| panic!("{delivery:?}: {shown}"));
        assert!(line.starts_with(&delivery.created_at) && line.contains("health_alert"), "{line}");
        assert!(line.contains(words), "{line}");
        let next = delivery.due_at.as_ref().filter(|_| *state == "pending");
        assert_eq!(next.map(|at| line.contains(&format!(", next {at}"))), next.map(|_| true), "{line}");
    }
    // A table has the same.
    let table = tail(directory.path(), &["-n", "all", "-o", "csv"]);
    let mut lines = table.split("\r\n");
    let header = "event_id,created_at,state,channel,event_type,attempts,due_at,settled_at,repeats,last_error";
    assert_eq!(lines.next(), Some(header));
    for (line, delivery) in lines.zip(deliveries(directory.path())) {
        let start = format!(
            "{},{},{},{},health_alert,",
            delivery.event_id, delivery.created_at, delivery.state, delivery.channel
        );
        assert!(
            line.starts_with(&start) && line.ends_with(&delivery.last_error.unwrap_or_default()),
            "{line}"
        );
        assert_eq!(line.split(',').count(), 10, "{line}");
    }
}

/// A store with deliveries of these types, channels and errors; nothing of them was ever sent.
fn stored(rows: &[(Option<&str>, &str, Option<&str>)]) -> TempDir {
    let directory = tempdir().unwrap();
    assert_eventctl(directory.path()).arg("init-db").assert().success();
    let database = Connection::open(directory.path().join("events.db")).unwrap();
    for (position, (event_type, channel, error)) in rows.iter().enumerate() {
        let id = i64::try_from(position).unwrap() + 1;
        if let Some(event_type) = event_type {
            let insert =
                "INSERT INTO events (id, received_at, event_type, event_payload) VALUES (?, 0, ?, '')";
            database.execute(insert, rusqlite::params![id, event_type]).unwrap();
        }
        let insert = "INSERT INTO deliveries (event_id, channel, digest, state, attempts, created_at, last_error) \
            VALUES (?, ?, '', 'dead', 2, ?, ?)";
        database.execute(insert, rusqlite::params![id, channel, id * 1_000_000, error]).unwrap();
    }
    directory
}

#[test]
fn no_control_character_of_an_alert_reaches_a_terminal() {
    const HOSTILE: &str =
        "a\u{1b}[31m\u{7}\r\n\t\u{7f}\u{9b}2J\u{61c}\u{200e}\u{202e}\u{2066}\u{2069}\u{2028}é👋,\"b\"";
    let directory = stored(&[(Some(HOSTILE), "https:h#1", Some(HOSTILE)), (Some("a"), HOSTILE, None)]);
    for format in ["text", "json", "ndjson"] {
        let shown = tail(directory.path(), &["-o", format]);
        assert_eq!(shown.lines().count(), 2, "{shown:?}");
        let unsafe_character = |character: char| {
            character.is_control() && character != '\n'
                || matches!(character, '\u{61c}' | '\u{200e}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!shown.contains(unsafe_character), "{format}: {shown:?}");
        assert!(shown.contains("é👋"), "{shown}");
    }
    // What is no terminal gets a table with the very characters, and on a terminal with escapes.
    assert_eq!(tail(directory.path(), &["-o", "csv"]).matches('\u{1b}').count(), 3);
    // JSON reads back as what is stored.
    let all = deliveries(directory.path());
    assert_eq!((all[0].event_type.as_deref(), all[0].last_error.as_deref()), (Some(HOSTILE), Some(HOSTILE)));
    assert_eq!(all[1].channel, HOSTILE);
}

#[test]
fn the_newest_alerts_are_shown_oldest_first() {
    let rows: Vec<_> = (0..15).map(|_| (Some("a"), "https:h#1", None)).collect();
    let directory = stored(&rows);
    let ids = |arguments: &[&str]| -> Vec<i64> {
        let shown = tail(directory.path(), &[arguments, &["-o", "json"]].concat());
        shown.lines().map(|line| serde_json::from_str::<Delivery>(line).unwrap().event_id).collect()
    };
    assert_eq!(ids(&[]), (6..=15).collect::<Vec<i64>>());
    assert_eq!(ids(&["-n", "3"]), [13, 14, 15]);
    assert_eq!(ids(&["-n", "0"]), [0; 0]);
    for all in ["all", "15", "16", "18446744073709551615"] {
        assert_eq!(ids(&["-n", all]), (1..=15).collect::<Vec<i64>>());
    }
}

#[test]
fn an_alert_whose_event_is_gone_is_still_shown() {
    let directory = stored(&[(None, "https:h#1", Some("status 500")), (Some(""), "https:h#1", None)]);
    let shown = tail(directory.path(), &[]);
    assert!(shown.lines().next().unwrap().ends_with("https:h#1 (gone), 2 attempts: status 500"), "{shown}");
    assert_eq!(deliveries(directory.path())[0].event_type, None);
    let table = tail(directory.path(), &["-o", "csv"]);
    assert!(table.contains(",dead,https:h#1,,2,,,,status 500\r\n"), "{table}");
}

#[test]
fn alerts_are_coloured_as_events_are() {
    let directory = stored(&[(Some("a"), "https:h#1", None)]);
    assert!(tail(directory.path(), &["--color", "always"]).contains("\u{1b}[1mdead     \u{1b}[0m"));
    assert!(!tail(directory.path(), &["--color", "auto"]).contains('\u{1b}'));
}

#[test]
fn an_empty_store_has_no_alerts_and_a_missing_one_is_not_made() {
    let directory = stored(&[]);
    for format in ["text", "json", "ndjson"] {
        assert_eq!(tail(directory.path(), &["-o", format]), "");
    }
    let header =
        "event_id,created_at,state,channel,event_type,attempts,due_at,settled_at,repeats,last_error\r\n";
    assert_eq!(tail(directory.path(), &["-o", "csv"]), header);
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    refusal_of(command.args(["tail", "--alerts"]), 1);
    assert!(!directory.path().join("events.db").exists());
}

#[test]
fn alerts_are_not_followed_and_not_selected() {
    let directory = stored(&[]);
    for arguments in [
        &["-f"][..],
        &["--after", "1"],
        &["--type", "a"],
        &["--since", "5m"],
        &["--until", "5m"],
        &["-n", "x"],
    ] {
        let mut command = eventctl(directory.path());
        let (error, _) = refusal_of(command.args(["tail", "--alerts"]).args(arguments), 2);
        assert!(error.contains("--"), "{error}");
    }
    // By whatever way it is asked for both.
    let mut command = eventctl(directory.path());
    refusal_of(command.args(["tail", "-f"]).env("EVENTCTL_ALERTS", "true"), 2);
}
