//! The words of an alert: templates, filled in with events and made safe for where they go.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State, UndefinedBehavior, Value, context};
use tracing::warn;

use crate::core::event::{HEALTH_ALERT, StoredEvent};
use crate::core::hint::{Hint, hinted};
use crate::core::text::{excerpt, is_unsafe, printable};
use crate::core::timestamp::Timestamp;

/// The templates that are built in, by name; a file of the same name takes the place of each.
const BUILT_IN: [(&str, &str); 12] = [
    ("health_alert.subject", include_str!("templates/health_alert.subject")),
    ("health_alert.txt", include_str!("templates/health_alert.txt")),
    ("health_alert.html", include_str!("templates/health_alert.html")),
    ("health_alert.chat", include_str!("templates/health_alert.chat")),
    ("event.subject", include_str!("templates/event.subject")),
    ("event.txt", include_str!("templates/event.txt")),
    ("event.html", include_str!("templates/event.html")),
    ("event.chat", include_str!("templates/event.chat")),
    ("digest.subject", include_str!("templates/digest.subject")),
    ("digest.txt", include_str!("templates/digest.txt")),
    ("digest.html", include_str!("templates/digest.html")),
    ("digest.chat", include_str!("templates/digest.chat")),
];

/// How many instructions a template may take: no loop of a template holds a message up.
const FUEL: u64 = 500_000;

/// The longest file of a template, in bytes.
const FILE_LIMIT_BYTES: u64 = 256 << 10;

/// How many issues, or events of a digest, are listed; the rest is counted.
const LISTED: usize = 50;

/// The longest part of an issue, or of an event of a digest, in characters.
const LINE_LIMIT: usize = 300;

/// A text that a message is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The subject of a mail: one line.
    Subject,
    /// The plain text of a mail.
    Text,
    /// The HTML of a mail.
    Html,
    /// Slack's mrkdwn.
    Slack,
    /// Discord's Markdown.
    Discord,
}

impl Part {
    /// The ends of the names of its templates, the first of which that exists is taken.
    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Part::Subject => &["subject"],
            Part::Text => &["txt"],
            Part::Html => &["html"],
            Part::Slack => &["slack", "chat"],
            Part::Discord => &["discord", "chat"],
        }
    }

    /// The longest payload, in characters: what is escaped takes up to six times as many.
    fn payload_limit(self) -> usize {
        match self {
            Part::Subject => 150,
            Part::Text | Part::Html => 64 << 10,
            Part::Slack => 3000,
            Part::Discord => 800,
        }
    }

    /// The longest text, in characters. Slack takes 40,000, and Discord 2,000.
    fn limit(self) -> usize {
        match self {
            Part::Subject => 200,
            Part::Text | Part::Html => 1 << 20,
            Part::Slack => 20_000,
            Part::Discord => 1900,
        }
    }
}

/// Templates for all channels.
pub struct Templates {
    mail: Environment<'static>,
    slack: Environment<'static>,
    discord: Environment<'static>,
}

impl Templates {
    /// The templates that are built in, and those of a folder in their place.
    ///
    /// # Errors
    /// A file is no template, or fails with a sample event.
    pub fn load(folder: Option<&Path>) -> anyhow::Result<Templates> {
        let mut mail = Environment::new();
        mail.set_undefined_behavior(UndefinedBehavior::Strict);
        mail.set_fuel(Some(FUEL));
        mail.set_auto_escape_callback(|name| match name.rsplit_once('.') {
            Some((_, "html")) => AutoEscape::Html,
            _ => AutoEscape::None,
        });
        for (name, source) in BUILT_IN {
            mail.add_template(name, source).with_context(|| format!("cannot use the template `{name}`"))?;
        }
        if let Some(folder) = folder {
            add_files(&mut mail, folder)?;
        }
        let mut slack = mail.clone();
        slack.set_auto_escape_callback(|_| AutoEscape::Custom("slack".into()));
        slack.set_formatter(|out, state, value| write_escaped(out, state, value, escape_for_slack));
        let mut discord = mail.clone();
        discord.set_auto_escape_callback(|_| AutoEscape::Custom("discord".into()));
        discord.set_formatter(|out, state, value| write_escaped(out, state, value, escape_for_discord));
        let templates = Templates { mail, slack, discord };
        templates.try_out()?;
        Ok(templates)
    }

    /// Fills every template in once: a name that is misspelt shows at start, not with the first alert.
    fn try_out(&self) -> anyhow::Result<()> {
        let sample = StoredEvent {
            id: 1,
            received_at: Timestamp::now(),
            event_type: HEALTH_ALERT.to_owned(),
            event_payload: r#"["sample"]"#.to_owned(),
        };
        for (name, template) in self.mail.templates() {
            template
                .render(context_of(std::slice::from_ref(&sample), Part::Text))
                .map_err(|error| anyhow::anyhow!("cannot use the template `{name}`: {}", reason_of(&error)))
                .hint("templates know event, events, issues, count and unlisted")?;
        }
        Ok(())
    }

    /// Whether there is a template of this name, for whatever part.
    pub fn knows(&self, name: &str) -> bool {
        self.mail.templates().any(|(known, _)| known.rsplit_once('.').is_some_and(|(known, _)| known == name))
    }

    /// The text for events, which are not none; `template` is the name that the rule gives, if it gives one.
    ///
    /// A template that fails is replaced by the next that fits, and the last by ids and types: the alert matters
    /// more than its words.
    pub fn render(&self, events: &[StoredEvent], template: Option<&str>, part: Part) -> String {
        let environment = match part {
            Part::Subject | Part::Text | Part::Html => &self.mail,
            Part::Slack => &self.slack,
            Part::Discord => &self.discord,
        };
        let event_type = events.first().map(|event| event.event_type.as_str());
        let names = match events {
            [_] => [template, event_type, Some("event")],
            _ => [Some("digest"), None, None],
        };
        let candidates = names
            .into_iter()
            .flatten()
            .flat_map(|name| part.suffixes().iter().map(move |suffix| format!("{name}.{suffix}")));
        let context = context_of(events, part);
        for name in candidates {
            let Ok(template) = environment.get_template(&name) else { continue };
            match template.render(&context) {
                Ok(text) => return shortened(text, part),
                Err(error) => warn!("the template `{name}` fails: {}", reason_of(&error)),
            }
        }
        let plain = events.iter().map(|event| format!("{} {}", event.id, printable(&event.event_type)));
        let plain = plain.collect::<Vec<_>>().join("\n");
        let escaped = match part {
            Part::Subject | Part::Text => plain,
            Part::Html | Part::Slack => escape_for_slack(&plain),
            Part::Discord => escape_for_discord(&plain),
        };
        shortened(escaped, part)
    }
}

fn add_files(environment: &mut Environment<'static>, folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    let cannot = || format!("cannot read the templates of `{shown}`");
    let hint = "name a folder with files such as health_alert.txt, order_created.slack, event.html";
    for entry in fs::read_dir(folder).with_context(cannot).hint(hint)? {
        let entry = entry.with_context(cannot)?;
        let metadata = fs::metadata(entry.path()).with_context(cannot)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // What editors and Kubernetes leave beside the files.
        if !metadata.is_file() || name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        let known = ["subject", "txt", "html", "chat", "slack", "discord"];
        if !name.rsplit_once('.').is_some_and(|(_, suffix)| known.contains(&suffix)) {
            let problem = format!("cannot use the template `{name}` of `{shown}`: unknown ending");
            return Err(hinted(problem, format!("end its name in one of .{}", known.join(", ."))));
        }
        if metadata.len() > FILE_LIMIT_BYTES {
            let problem = format!("cannot use the template `{name}` of `{shown}`: too large");
            return Err(hinted(problem, format!("write at most {FILE_LIMIT_BYTES} bytes")));
        }
        let source = fs::read_to_string(entry.path())
            .with_context(|| format!("cannot read the template `{name}` of `{shown}`"))?;
        environment.add_template_owned(name.clone(), source).map_err(|error| {
            let problem = format!("cannot use the template `{name}` of `{shown}`: {}", reason_of(&error));
            hinted(problem, "write it in Jinja's language: {{ event.type }}, {% for issue in issues %}")
        })?;
    }
    Ok(())
}

fn reason_of(error: &minijinja::Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes too long{line}"),
        _ => format!("{}{line}", excerpt(&detail, LINE_LIMIT)),
    }
}

fn context_of(events: &[StoredEvent], part: Part) -> Value {
    let shown: Vec<Value> = events.iter().take(LISTED).map(|event| shown_of(event, part)).collect();
    context! {
        issues => issues_of(events),
        event => shown.first().cloned(),
        count => events.len(),
        unlisted => events.len().saturating_sub(LISTED),
        events => shown,
    }
}

/// An event as templates see it; `summary` is the payload in one short line.
fn shown_of(event: &StoredEvent, part: Part) -> Value {
    let limit = part.payload_limit();
    Value::from_pairs([
        ("id", Value::from(event.id)),
        ("type", printable(&event.event_type).into()),
        ("payload", clean(&event.event_payload, limit, part).into()),
        ("summary", excerpt(&event.event_payload, LINE_LIMIT.min(limit)).into()),
        ("received_at", event.received_at.to_string().into()),
    ])
}

/// The issues of a health alert; none for other events. A payload that is no list of them is one itself: an event
/// of this type can be posted like any other.
fn issues_of(events: &[StoredEvent]) -> Vec<String> {
    let [event] = events else { return Vec::new() };
    if event.event_type != HEALTH_ALERT {
        return Vec::new();
    }
    let issues: Vec<String> =
        serde_json::from_str(&event.event_payload).unwrap_or_else(|_| vec![event.event_payload.clone()]);
    let mut shown: Vec<String> = issues.iter().take(LISTED).map(|issue| excerpt(issue, LINE_LIMIT)).collect();
    if let Some(unlisted) = issues.len().checked_sub(LISTED).filter(|unlisted| *unlisted > 0) {
        shown.push(format!("and {unlisted} more"));
    }
    shown
}

/// Text without what a terminal, a mail reader or a browser could obey; line breaks stay where there is room.
fn clean(text: &str, limit: usize, part: Part) -> String {
    if part == Part::Subject {
        return excerpt(text, limit);
    }
    let mut cleaned = String::new();
    for (position, character) in text.chars().enumerate() {
        if position == limit {
            let _ = write!(cleaned, "… ({} bytes in all)", text.len());
            break;
        }
        match character {
            '\n' | '\t' => cleaned.push(character),
            _ if is_unsafe(character) => cleaned.push_str(&printable(character.encode_utf8(&mut [0; 4]))),
            _ => cleaned.push(character),
        }
    }
    cleaned
}

/// At most as long as the part may be, with no half of an escape at the end.
fn shortened(text: String, part: Part) -> String {
    let text = if part == Part::Subject { text.replace(is_unsafe, " ") } else { text };
    let text = text.trim_end();
    let Some((end, _)) = text.char_indices().nth(part.limit()) else { return text.to_owned() };
    let mut kept = &text[..end];
    if part == Part::Slack
        && let Some(entity) = kept.rfind('&').filter(|at| !kept[*at..].contains(';'))
    {
        kept = &kept[..entity];
    }
    format!("{}…", kept.trim_end_matches('\\'))
}

fn write_escaped(
    out: &mut Output<'_>,
    _: &State<'_, '_>,
    value: &Value,
    escape: fn(&str) -> String,
) -> Result<(), minijinja::Error> {
    let text = value.to_string();
    let text = if value.is_safe() { text } else { escape(&text) };
    out.write_str(&text).map_err(minijinja::Error::from)
}

/// Source: Slack, "Formatting text for app surfaces": with these three escaped, no mention and no link is left.
fn escape_for_slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A backslash before all that Markdown or a mention could be made of.
fn escape_for_discord(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_punctuation()
            && !matches!(character, '.' | ',' | ';' | '"' | '\'' | '/' | '?' | '%')
        {
            escaped.push('\\');
        }
        escaped.push(character);
        // A name behind it, such as `everyone`, is then not one that is called.
        if character == '@' {
            escaped.push('\u{200b}');
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event_type: &str, event_payload: &str) -> StoredEvent {
        StoredEvent {
            id: 17,
            received_at: Timestamp::from_microseconds(1_705_320_000_000_000),
            event_type: event_type.to_owned(),
            event_payload: event_payload.to_owned(),
        }
    }

    fn render(event: StoredEvent, part: Part) -> String {
        Templates::load(None).unwrap().render(&[event], None, part)
    }

    #[test]
    fn a_health_alert_lists_its_issues() {
        let alert = event(HEALTH_ALERT, r#"["service-a-failure","b & c"]"#);
        assert_eq!(render(alert.clone(), Part::Subject), "Health alert: service-a-failure, b & c");
        let text = "Health alert 17 of 2024-01-15T12:00:00.000000Z\n\n- service-a-failure\n- b & c";
        assert_eq!(render(alert.clone(), Part::Text), text);
        assert!(render(alert.clone(), Part::Html).contains("<li>b &amp; c</li>"));
        assert!(render(alert, Part::Slack).ends_with("• service-a-failure\n• b &amp; c"));
    }

    #[test]
    fn what_an_event_holds_stays_text_wherever_it_goes() {
        let hostile =
            "<script>alert(1)</script> <!channel> @everyone *b* [x](http://y) `c` \u{1b}[2J\r\nTo: x";
        let subject = render(event(hostile, hostile), Part::Subject);
        assert!(!subject.contains(char::is_control), "{subject:?}");
        let html = render(event(hostile, hostile), Part::Html);
        assert!(!html.contains("<script") && html.contains("&lt;script&gt;"), "{html}");
        let slack = render(event(hostile, hostile), Part::Slack);
        assert!(!slack.contains('<') && slack.contains("&lt;!channel&gt;"), "{slack}");
        let discord = render(event(hostile, hostile), Part::Discord);
        assert!(!discord.contains("@everyone") && discord.contains("\\*b\\*"), "{discord}");
        for part in [Part::Text, Part::Html, Part::Slack, Part::Discord] {
            let text = render(event(hostile, hostile), part);
            assert!(!text.contains(['\u{1b}', '\r']), "{text:?}");
        }
    }

    #[test]
    fn texts_are_cut_where_channels_would_refuse_them() {
        for payload in ["<".repeat(1 << 20), "\\".repeat(1 << 20), "é".repeat(1 << 19)] {
            for (part, limit) in [(Part::Subject, 201), (Part::Slack, 20_001), (Part::Discord, 1901)] {
                let text = render(event("a", &payload), part);
                assert!(text.chars().count() <= limit, "{part:?}: {}", text.chars().count());
            }
        }
        let many: Vec<StoredEvent> = (0..60).map(|_| event("a", "b")).collect();
        let digest = Templates::load(None).unwrap().render(&many, None, Part::Text);
        assert!(digest.starts_with("60 alerts") && digest.contains("and 10 more"), "{digest}");
    }

    #[test]
    fn a_folder_overrides_by_type_and_channel() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, source: &str| fs::write(folder.path().join(name), source).unwrap();
        write("order.slack", "order {{ event.payload }}");
        write("event.chat", "any {{ event.payload }}");
        write("special.txt", "special {{ event.type }}");
        let templates = Templates::load(Some(folder.path())).unwrap();
        let order = [event("order", "<7>")];
        assert_eq!(templates.render(&order, None, Part::Slack), "order &lt;7&gt;");
        assert_eq!(templates.render(&order, None, Part::Discord), "any \\<7\\>");
        assert_eq!(templates.render(&order, Some("special"), Part::Text), "special order");
        assert!(templates.knows("special") && !templates.knows("other"));
        for (name, source) in [("a.txt", "{{ evnt.type }}"), ("a.txt", "{% for %}"), ("a.doc", "")] {
            write(name, source);
            assert!(Templates::load(Some(folder.path())).is_err(), "{name}: {source}");
        }
    }

    #[test]
    fn a_template_that_fails_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("order.txt"), "{{ issues[event.id - 1] }}").unwrap();
        let templates = Templates::load(Some(folder.path())).unwrap();
        let text = templates.render(&[event("order", "7")], None, Part::Text);
        assert!(text.contains("Type: order"), "{text}");
    }
}
