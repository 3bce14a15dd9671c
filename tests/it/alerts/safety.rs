//! Safety: no alert leads into a private network, and no URL, which is a secret, is shown.

use std::fs;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use super::hooks::{Hook, start, start_in, url_of_nobody};
use super::{deliveries, post_alert, wait_for_deliveries};
use crate::util::{Consume, Process, assert_eventctl, eventctl, refusal_of, write_file};

/// Other ways to write addresses of this machine or of its networks.
const LITERALS: [&str; 21] = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0x7f000001",
    "0177.0.0.1",
    "127.0.0.1.",
    "①②⑦.⓪.⓪.①",
    "0.0.0.0",
    "0",
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.0.1",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[fe80::1]",
    "[fd00::1]",
];

fn consume(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = eventctl(directory);
    command.args(["consume", "--port", "0"]).args(arguments);
    command
}

#[test]
fn addresses_that_are_not_public_are_refused_at_start_however_they_are_written() {
    let directory = tempdir().unwrap();
    let hint = "allow it with --alert-allow-private";
    for (number, literal) in LITERALS.into_iter().enumerate() {
        let kind = ["", "slack:", "discord:"][number % 3];
        let url = format!("{kind}https://{literal}:8443/s3cret");
        let (error, advice) = refusal_of(&mut consume(directory.path(), &["--alert", &url]), 1);
        assert!(
            error.starts_with("cannot alert `") && error.ends_with("`: its address is not public"),
            "{error}"
        );
        assert!(!error.contains("s3cret"), "{error}");
        assert_eq!(advice, hint, "{literal}");
    }
    for url in ["http://alerts.example.com/s3cret", "slack:http://hooks.slack.com/s3cret", "http://8.8.8.8/"]
    {
        let (error, advice) = refusal_of(&mut consume(directory.path(), &["--alert", url]), 1);
        assert!(error.ends_with("`: it is not encrypted") && !error.contains("s3cret"), "{error}");
        assert_eq!(advice, hint);
    }
    let rule = r#"{"type":"a","alert":"https://127.0.0.1/s3cret"}"#;
    let (error, advice) = refusal_of(&mut consume(directory.path(), &["--alert-on", rule]), 1);
    assert!(error.contains("its address is not public") && !error.contains("s3cret"), "{error}");
    assert_eq!(advice, hint);
    let mut test = eventctl(directory.path());
    test.args(["alert-test", "--alert", "https://127.0.0.1/s3cret"]);
    assert_eq!(refusal_of(&mut test, 1).1, hint);
    // Nothing was made, and public addresses pass.
    assert!(!directory.path().join("events.db").exists());
    let public =
        ["https://8.8.8.8/", "https://[2606:4700::1111]/", "slack:https://hooks.slack.com/services/T"];
    let arguments: Vec<&str> = public.iter().flat_map(|url| ["--alert", url]).collect();
    Consume::start_with(directory.path(), &arguments);
}

/// Names that stand for this machine.
fn names_of_this_machine() -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "localhost.".to_owned(), "LocalHost".to_owned()];
    for line in fs::read_to_string("/etc/hosts").unwrap_or_default().lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next().and_then(|address| address.parse::<IpAddr>().ok());
        if address.is_some_and(|address| address.is_loopback() && address.is_ipv4()) {
            names.extend(words.filter(|name| *name != "localhost").map(str::to_owned));
        }
    }
    // Not every resolver knows the second spelling.
    names.retain(|name| (name.as_str(), 0).to_socket_addrs().is_ok());
    assert!(names.iter().any(|name| name == "localhost"), "{names:?}");
    names
}

#[test]
fn names_of_loopback_addresses_are_not_connected_to() {
    for name in names_of_this_machine() {
        let hook = Hook::taking();
        let url = format!("https://{name}:{}/", hook.address.port());
        let directory = tempdir().unwrap();
        let channels = ["--alert", &url, "--alert", &format!("slack:{url}")];
        let server = Consume::start_with(directory.path(), &channels);
        assert_eq!(post_alert(&mut server.connect(), "a").status, 202, "{name}");
        let all = wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.last_error.is_some()));
        for delivery in all {
            assert_ne!(delivery.state, "sent", "{delivery:?}");
            let error = delivery.last_error.unwrap();
            assert!(error.contains("not on the public internet: see --alert-allow-private"), "{error}");
        }
        assert_eq!(hook.connections(), 0, "{name}");
        drop(server);
        // The same name is connected to once that is allowed.
        let _server = start_in(directory.path(), &channels[1..2], &[]);
        crate::util::wait_until(|| (hook.connections() > 0).then_some(()));
    }
}

/// All that the program prints about alerts.
fn shown(directory: &Path) -> String {
    let mut shown = String::new();
    for format in ["text", "json", "ndjson", "csv"] {
        let arguments = ["tail", "--alerts", "-n", "all", "-o", format, "--color", "always"];
        let assert = assert_eventctl(directory).args(arguments).assert().success();
        shown += &String::from_utf8_lossy(&assert.get_output().stdout);
        shown += &String::from_utf8_lossy(&assert.get_output().stderr);
    }
    shown
}

#[test]
fn urls_are_shown_nowhere_whatever_becomes_of_messages() {
    let target = Hook::taking();
    let location: &'static str = format!("Location: {}\r\n", target.url("/s3cret")).leak();
    let hooks = [Hook::taking(), Hook::with_status(404, ""), Hook::with_status(302, location)];
    let hooks = hooks.into_iter().chain([
        Hook::with_status(503, ""),
        Hook::start(|arrival, _| {
            // A receiver that repeats all that it gets.
            crate::util::receiver::Reply::SendAndClose(arrival.head.clone())
        }),
    ]);
    let hooks: Vec<Hook> = hooks.collect();
    let mut urls: Vec<String> = hooks.iter().map(|hook| hook.url("/s3cret?key=s3cret#s3cret")).collect();
    urls.push(url_of_nobody("/s3cret"));
    // A server that does not encrypt, and a name that is none.
    urls.push(format!("https://{}/s3cret", hooks[0].address));
    urls.push("https://alerts.invalid/s3cret".to_owned());
    for (position, url) in urls.iter_mut().enumerate() {
        *url = format!("{}{url}", ["", "slack:", "discord:"][position % 3]);
    }
    let channels: Vec<&str> = urls.iter().map(String::as_str).collect();
    let (directory, mut server) = start(&channels, &[]);
    let mut connection = server.connect();
    let response = post_alert(&mut connection, "a");
    assert_eq!(response.status, 202);
    let all = wait_for_deliveries(directory.path(), |all| {
        all.iter().all(|one| one.last_error.is_some() || one.state == "sent")
    });
    assert_eq!(all.len(), channels.len());
    let listed = connection.get("/event").text() + &format!("{response:?}") + &shown(directory.path());
    assert!(!listed.contains("s3cret"), "{listed}");
    // Everything was asked for with its whole URL, and nothing says so.
    assert!(hooks.iter().all(|hook| hook.arrivals()[0].head.contains("/s3cret?key=s3cret HTTP")));
    drop(connection);
    server.process.terminate();
    let stderr = server.process.stderr();
    assert!(stderr.contains("is given up") && !stderr.contains("s3cret"), "{stderr}");
    let mut test = eventctl(directory.path());
    test.args(["alert-test", "--alert-allow-private"]);
    for channel in &channels {
        test.args(["--alert", channel]);
    }
    let output = test.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(said.lines().count() >= channels.len() && !said.contains("s3cret"), "{said}");
    assert_eq!(target.connections(), 0);
}

#[test]
fn wrong_urls_are_refused_and_not_repeated() {
    let directory = tempdir().unwrap();
    for wrong in [
        "s3cret",
        "chat:https://example.com/s3cret",
        "slack:s3cret",
        "slack:mailto:s3cret@example.com",
        "discord:ftp://example.com/s3cret",
        "https://user:s3cret@example.com/",
        "https://s3cret@example.com/",
        "https://",
        "https:///",
        "https://example.com:99999/s3cret",
        "https://exa mple.com/s3cret",
        "file:///s3cret",
        "HTTPX://s3cret",
    ] {
        let mut in_environment = consume(directory.path(), &[]);
        in_environment.env("EVENTCTL_ALERT", wrong);
        let rule = serde_json::json!({"type": "a", "alert": [wrong]}).to_string();
        write_file(directory.path(), "url.yaml", format!("consume:\n  alert: [\"{wrong}\"]\n"));
        write_file(directory.path(), "rule.yaml", format!("consume:\n  alert-on: [{rule}]\n"));
        write_file(directory.path(), "object.yaml", format!("consume:\n  alert:\n    url: \"{wrong}\"\n"));
        for mut command in [
            consume(directory.path(), &["--alert", wrong]),
            in_environment,
            consume(directory.path(), &["--alert-on", &rule]),
            consume(directory.path(), &["--config", "url.yaml"]),
            consume(directory.path(), &["--config", "rule.yaml"]),
            consume(directory.path(), &["--config", "object.yaml"]),
        ] {
            let (error, hint) = refusal_of(&mut command, 2);
            assert!(error.contains("`[not shown]`") && error.contains("expected"), "{command:?}: {error}");
            assert!(!error.contains("s3cret") && !hint.contains("s3cret"), "{error} {hint}");
        }
    }
}

#[test]
fn urls_in_wrong_places_are_not_repeated() {
    let directory = tempdir().unwrap();
    let url = "slack:https://hooks.slack.com/services/s3cret";
    let second = "https://alerts.example.com/s3cret";
    let mut commands = vec![
        // As one would expect after the first: a further channel.
        consume(directory.path(), &["--alert", url, second]),
        consume(directory.path(), &["--alert", url, url]),
        consume(directory.path(), &["--alert-on", &format!(r#"{{"type":"a","url":"{url}"}}"#)]),
        consume(directory.path(), &["--alert-on", &format!(r#"{{"type":["{url}"]}}"#)]),
        consume(directory.path(), &["--alert-on", &format!(r#"{{"type":"a","alert":"{url}""#)]),
        consume(directory.path(), &[&format!("--alerts={url}")]),
    ];
    for (number, config) in [
        format!("consume:\n  {url}: alert\n"),
        format!("consume:\n  alert: {url}\n  alert: {url}\n"),
        format!("consume:\n  alert:\n  - {url}\n {url}\n"),
        format!("consume: {url}\n"),
        format!("{url}\n"),
        format!("consume:\n  alert-on:\n  - type: a\n    urls: {url}\n"),
        format!("consume:\n  alert: {{{url}: {url}}}\n"),
        format!("consume:\n  alert: *{url}\n"),
        format!("consume:\n  alert: !{url} a\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("config-{number}.yaml");
        write_file(directory.path(), &name, config);
        commands.push(consume(directory.path(), &["--config", &name]));
    }
    for command in &mut commands {
        let mut process = Process::start(command);
        let (status, said) = (process.wait(), process.stderr());
        assert!(matches!(status.code(), Some(1 | 2)), "{command:?}: {said}");
        assert!(said.contains("hint: ") && !said.contains("s3cret"), "{command:?}: {said}");
    }
    assert!(!directory.path().join("events.db").exists());
}

#[test]
fn deliveries_of_a_channel_that_is_gone_are_kept() {
    let hook = Hook::taking();
    let directory = tempdir().unwrap();
    let gone = url_of_nobody("/");
    let server = start_in(directory.path(), &[&gone], &[]);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 202);
    drop(server);
    let server = start_in(directory.path(), &[&hook.url("/")], &[]);
    assert_eq!(post_alert(&mut server.connect(), "b").status, 200);
    let states: Vec<String> = deliveries(directory.path()).into_iter().map(|one| one.state).collect();
    assert_eq!(states[1], "sent");
    assert!(matches!(states[0].as_str(), "pending" | "sending"), "{states:?}");
    assert_eq!(hook.arrivals().len(), 1);
}
