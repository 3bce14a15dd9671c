//! Templates: custom texts, and text from events that stays text.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use super::hooks::{Hook, start_in};
use super::{post_alert, wait_for_deliveries};
use crate::util::http::event;
use crate::util::{Consume, Process, eventctl, refusal_of, write_file};

/// A directory with a folder of templates.
fn with_templates(templates: &[(&str, &str)]) -> TempDir {
    let directory = tempdir().unwrap();
    let folder = directory.path().join("words");
    fs::create_dir(&folder).unwrap();
    for (name, source) in templates {
        write_file(&folder, name, source);
    }
    directory
}

/// A Slack and a Discord, and a server that tells them of everything in the words of the folder.
fn start_chats(directory: &Path) -> (Hook, Hook, Consume) {
    let (slack, discord) = (Hook::taking(), Hook::taking());
    let channels = [format!("slack:{}", slack.url("/")), format!("discord:{}", discord.url("/"))];
    let further = ["--alert-on", "*", "--alert-templates", "words", "--alert-repeat-after", "0"];
    let server = start_in(directory, &[&channels[0], &channels[1]], &further);
    (slack, discord, server)
}

/// What one event comes to in Slack and Discord.
fn texts_of(chats: &(Hook, Hook, Consume), event_type: &str, payload: &str) -> [String; 2] {
    let (slack, discord, server) = chats;
    let count = slack.arrivals().len();
    assert_eq!(server.connect().post_event(event_type, payload).status, 201);
    [(slack, "text"), (discord, "content")].map(|(hook, member)| {
        let arrivals = hook.wait_for(count + 1);
        assert_eq!(arrivals.len(), count + 1);
        let body: Value = serde_json::from_str(&arrivals[count].body).unwrap();
        body[member].as_str().unwrap().to_owned()
    })
}

#[test]
fn a_folder_overrides_by_type_and_channel() {
    let directory = with_templates(&[
        ("order_created.slack", "order {{ event.payload }} of {{ event.type }}, {{ count }}"),
        ("event.chat", "any {{ event.payload }}"),
        ("health_alert.discord", "{% for issue in issues %}[{{ issue }}]{% endfor %}"),
        (".hidden", "{% broken"),
        ("order_created.slack~", "{% broken"),
    ]);
    fs::create_dir(directory.path().join("words/folder.txt")).unwrap();
    let chats = start_chats(directory.path());
    assert_eq!(
        texts_of(&chats, "order_created", "<7>"),
        ["order &lt;7&gt; of order_created, 1", "any \\<7\\>"]
    );
    assert_eq!(texts_of(&chats, "other", "7"), ["any 7", "any 7"]);
    let [slack, discord] = texts_of(&chats, "health_alert", r#"["a","b c"]"#);
    assert!(slack.ends_with("• a\n• b c"), "{slack}");
    assert_eq!(discord, "[a][b c]");
}

#[test]
fn a_broken_template_is_refused_at_start_with_file_and_line() {
    let endless = "{% for a in range(9000) %}{% for b in range(9000) %}{% endfor %}{% endfor %}";
    for (name, source, problem) in [
        ("order.chat", "a\nb {% for %}", "in line 2"),
        ("order.txt", "a\nb\n{{ event.type", "in line 3"),
        ("order.html", "{% if event %}", "in line 1"),
        ("order.slack", "a\n{{ evnt.type }}", "in line 2"),
        ("order.discord", "{{ event.tpye }}", "in line 1"),
        ("order.subject", "\n\n{{ event.type | nonsense }}", "in line 3"),
        ("order.chat", endless, "it takes too long"),
        ("order.doc", "a", "unknown ending"),
        ("order", "a", "unknown ending"),
        ("order.txt", &"a".repeat(300 << 10), "too large"),
    ] {
        let directory = with_templates(&[(name, source)]);
        for subcommand in ["consume", "alert-test"] {
            let mut command = eventctl(directory.path());
            command.args([
                subcommand,
                "--alert-templates",
                "words",
                "--alert",
                "https://alerts.example.com/",
            ]);
            let (error, hint) = refusal_of(&mut command, 1);
            assert!(
                error.contains(&format!("template `{name}`")) && error.contains(problem),
                "{name}: {error}"
            );
            assert!(error.len() < 400 && !hint.is_empty(), "{error}");
        }
    }
    let directory = with_templates(&[]);
    fs::write(directory.path().join("words/order.txt"), b"\xff").unwrap();
    for folder in ["words", "missing", "words/order.txt"] {
        let mut command = eventctl(directory.path());
        let mut process = Process::start(command.args(["consume", "--alert-templates", folder]));
        let (status, said) = (process.wait(), process.stderr());
        assert!(status.code() == Some(1) && said.contains(folder), "{said}");
    }
}

#[test]
fn an_alert_whose_template_fails_is_sent_with_another() {
    let directory = with_templates(&[
        // With the sample there is an issue, and the id is 1.
        ("order.chat", "mine {{ issues[event.id - 1] }}"),
        ("order.slack", "mine {{ issues[0].nothing.at.all if event.id > 1 }}"),
        (
            "loop.chat",
            "{% if event.id > 1 %}{% for a in range(9000) %}{% for b in range(9000) %}{% endfor %}{% endfor %}{% endif %}",
        ),
    ]);
    let mut chats = start_chats(directory.path());
    texts_of(&chats, "first", "");
    for event_type in ["order", "loop"] {
        for text in texts_of(&chats, event_type, "the payload") {
            assert!(text.contains(event_type) && text.contains("the payload"), "{text}");
        }
    }
    for name in ["order.slack", "order.chat", "loop.chat"] {
        chats.2.process.wait_for_stderr(&format!("the template `{name}` fails: "));
    }
}

#[test]
fn the_fallback_text_of_an_alert_mentions_nobody() {
    let fails = "{{ issues[event.id - 1] }}";
    let directory = with_templates(&[("event.chat", fails), ("digest.chat", fails)]);
    let chats = start_chats(directory.path());
    texts_of(&chats, "first", "");
    let [slack, discord] = texts_of(&chats, "<!channel> & @everyone *b*", "a");
    assert!(slack.contains("&lt;!channel&gt; &amp; @everyone"), "{slack}");
    assert!(
        discord.contains("channel") && !discord.contains("@everyone") && !discord.contains("*b*"),
        "{discord}"
    );
}

#[test]
fn a_health_alert_that_is_no_list_shows_what_it_says() {
    let directory = with_templates(&[]);
    let chats = start_chats(directory.path());
    for payload in ["disk full", "{\"disk\":\"full\"}", "[1,\"disk full\"]", "[\"disk full\""] {
        for text in texts_of(&chats, "health_alert", payload) {
            assert!(text.contains("disk") && text.contains("full"), "{payload}: {text}");
        }
    }
}

/// Whether a text has what a terminal or a reader could obey; line breaks and tabs are no harm.
fn has_controls(text: &str) -> bool {
    text.chars().any(|character| {
        let moves =
            matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
        moves || character.is_control() && character != '\n' && character != '\t'
    })
}

#[test]
fn hostile_text_arrives_escaped() {
    const HOSTILE: &str = "<script>alert(1)</script> <!channel> <!here> <@U1> <https://evil.example|click> \
        @everyone @here <@&1> [click](https://evil.example) **b** `c` ||d|| # e\r\nTo: f\u{1b}[31m\u{7f}\u{9b}2J\
        \u{202e}\u{2066}\u{200f}\u{2028}é👋\\\"&amp;";
    let directory = tempdir().unwrap();
    let (slack, discord, webhook) = (Hook::taking(), Hook::taking(), Hook::taking());
    let channels =
        [format!("slack:{}", slack.url("/")), format!("discord:{}", discord.url("/")), webhook.url("/")];
    let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
    let server = start_in(directory.path(), &channels, &["--alert-on", "*"]);
    let payloads = [
        HOSTILE.to_owned(),
        serde_json::json!([HOSTILE, "<!channel>\n@everyone"]).to_string(),
        "<!channel>@everyone\u{1b}\u{202e}\\`".repeat(1 << 13),
        "\u{1}".repeat(100_000),
        "&".repeat(900 << 10),
        "👋".repeat(100_000),
        "\n".repeat(500 << 10),
    ];
    let large: usize = payloads.iter().map(String::len).max().unwrap();
    assert!(large > 900_000);
    let mut sent = Vec::new();
    for payload in &payloads {
        for event_type in ["order", "health_alert", &HOSTILE[..100]] {
            assert_eq!(server.connect().post(event(event_type, payload)).status, 201);
            sent.push((event_type, payload));
        }
    }
    let all = wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.state == "sent"));
    assert_eq!(all.len(), sent.len() * 3);
    for ((event_type, payload), arrival) in sent.iter().zip(webhook.wait_for(sent.len())) {
        assert!(!arrival.body.chars().any(|character| character < ' '));
        let body: Value = serde_json::from_str(&arrival.body).unwrap();
        assert_eq!(
            (body["event_type"].as_str(), body["event_payload"].as_str()),
            (Some(*event_type), Some(payload.as_str()))
        );
    }
    for arrival in slack.wait_for(sent.len()) {
        let body: Value = serde_json::from_str(&arrival.body).unwrap();
        let text = body["text"].as_str().unwrap();
        assert!(!text.contains(['<', '>']) && !has_controls(text), "{text}");
        // Each ampersand begins one of the three that Slack knows.
        let rest = text.replace("&lt;", "").replace("&gt;", "").replace("&amp;", "");
        assert!(!rest.contains('&'), "{rest}");
        assert!(text.chars().count() <= 40_000 && !text.is_empty());
    }
    for arrival in discord.wait_for(sent.len()) {
        let body: Value = serde_json::from_str(&arrival.body).unwrap();
        assert_eq!(body["allowed_mentions"], serde_json::json!({"parse": []}));
        let text = body["content"].as_str().unwrap();
        assert!(!text.contains("@everyone") && !text.contains("@here") && !has_controls(text), "{text}");
        for markup in ["](", "**b", " `c", " ||d", "<@", "\n# "] {
            assert!(!text.contains(markup), "{markup}: {text}");
        }
        assert!(text.chars().count() <= 2000 && !text.is_empty());
    }
    // Headers are ours alone.
    for arrival in slack.arrivals().iter().chain(&discord.arrivals()).chain(&webhook.arrivals()) {
        assert!(arrival.headers("to").is_empty() && arrival.head.lines().count() < 12, "{}", arrival.head);
    }
}

#[test]
fn a_health_alert_as_large_as_a_body_may_be_arrives() {
    let directory = with_templates(&[]);
    let chats = start_chats(directory.path());
    let issues = serde_json::json!({"issues": vec!["<!channel>"; 70_000]}).to_string();
    let headers = [("Content-Type", "application/json")];
    let response = chats.2.connect().request("POST", "/api/v1/health-alert", &headers, issues.as_bytes());
    assert!(matches!(response.status, 200 | 202), "{response:?}");
    let arrivals = chats.0.wait_for(1);
    assert!(arrivals[0].body.contains("and 69950 more") && !arrivals[0].body.contains('<'));
    chats.1.wait_for(1);
    assert_eq!(post_alert(&mut chats.2.connect(), "small").status, 200);
}
