//! The texts of alerts: templates, rendered with events and escaped for their destination.

mod context;
mod escape;
mod files;
mod part;

use std::path::Path;

use anyhow::Context;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use tracing::warn;
use url::Url;

use self::context::{context_of, to_of};
use self::escape::{escape_for_google_chat, escape_for_markdown, escape_for_slack, shortened, write_escaped};
use self::files::{add_files, reason_of};
pub use self::part::Part;
use crate::core::event::{HEALTH_ALERT, StoredEvent};
use crate::core::text::printable;
use crate::core::timestamp::Timestamp;
use crate::error::Hint;

/// The built-in templates by name. A file of the same name replaces one.
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

/// How many instructions a template may take, so that no loop in a template delays a message.
const FUEL: u64 = 500_000;

pub struct Templates {
    /// HTML is escaped by the name of a template, and nothing else is.
    plain: Environment<'static>,
    slack: Environment<'static>,
    markdown: Environment<'static>,
    google_chat: Environment<'static>,
}

impl Templates {
    /// Loads the built-in templates and those of a folder, and renders each once with a sample event.
    pub fn load(folder: Option<&Path>) -> anyhow::Result<Templates> {
        let mut plain = Environment::new();
        plain.set_undefined_behavior(UndefinedBehavior::Strict);
        plain.set_fuel(Some(FUEL));
        plain.set_auto_escape_callback(|name| match name.rsplit_once('.') {
            Some((_, "html")) => AutoEscape::Html,
            _ => AutoEscape::None,
        });
        for (name, source) in BUILT_IN {
            plain.add_template(name, source).with_context(|| format!("cannot use the template `{name}`"))?;
        }
        if let Some(folder) = folder {
            add_files(&mut plain, folder)?;
        }
        let escaping = |escape: fn(&str) -> String| {
            let mut environment = plain.clone();
            environment.set_auto_escape_callback(|_| AutoEscape::Custom("chat".into()));
            environment.set_formatter(move |out, state, value| write_escaped(out, state, value, escape));
            environment
        };
        let templates = Templates {
            slack: escaping(escape_for_slack),
            markdown: escaping(escape_for_markdown),
            google_chat: escaping(escape_for_google_chat),
            plain,
        };
        templates.try_out()?;
        Ok(templates)
    }

    /// An event to try templates with.
    pub fn sample() -> StoredEvent {
        StoredEvent {
            id: 1,
            received_at: Timestamp::now(),
            event_type: HEALTH_ALERT.to_owned(),
            event_payload: r#"["sample"]"#.to_owned(),
        }
    }

    /// Finds misspelt names at start, not with the first alert.
    fn try_out(&self) -> anyhow::Result<()> {
        let sample = Templates::sample();
        for (name, template) in self.plain.templates() {
            template
                .render(context_of(std::slice::from_ref(&sample), Part::Text))
                .map_err(|error| anyhow::anyhow!("cannot use the template `{name}`: {}", reason_of(&error)))
                .hint("templates know event, events, issues, count and unlisted")?;
        }
        Ok(())
    }

    /// Whether there is a template with this name for any part.
    pub fn contains(&self, name: &str) -> bool {
        self.plain
            .templates()
            .any(|(known, _)| known.rsplit_once('.').is_some_and(|(known, _)| known == name))
    }

    /// What a template of a request's body knows of a message with this id: what other templates know, and its text and
    /// subject.
    pub fn request_context(
        &self,
        id: &str,
        events: &[StoredEvent],
        template: Option<&str>,
        part: Part,
        url: &Url,
    ) -> Value {
        context! {
            id => id,
            subject => self.render(events, template, Part::Subject),
            text => self.render(events, template, part),
            to => to_of(url),
            ..context_of(events, part)
        }
    }

    /// The text for one event or more; `template` is the name that the rule gives, if any.
    ///
    /// If a template fails, the next that fits replaces it, and in the end a list of ids and types: the alert matters
    /// more than its text.
    pub fn render(&self, events: &[StoredEvent], template: Option<&str>, part: Part) -> String {
        let environment = match part {
            Part::Subject | Part::Text | Part::Html | Part::Plain { .. } => &self.plain,
            Part::Slack => &self.slack,
            Part::Discord | Part::Mattermost => &self.markdown,
            Part::GoogleChat => &self.google_chat,
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
            Part::Subject | Part::Text | Part::Plain { .. } => plain,
            Part::Html | Part::Slack => escape_for_slack(&plain),
            Part::Discord | Part::Mattermost => escape_for_markdown(&plain),
            Part::GoogleChat => escape_for_google_chat(&plain),
        };
        shortened(escaped, part)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
    fn event_content_is_escaped_for_every_part() {
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
        assert!(templates.contains("special") && !templates.contains("other"));
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
