//! The texts that messages consist of, and their limits.

/// A text of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The subject of a mail, or a title: one line.
    Subject,
    /// The plain text of a mail.
    Text,
    /// The HTML of a mail.
    Html,
    /// In Slack's mrkdwn.
    Slack,
    /// In Discord's Markdown.
    Discord,
    /// In Mattermost's Markdown.
    Mattermost,
    /// In the markup of Google Chat.
    GoogleChat,
    /// Of a service that takes no markup, and this many characters.
    Plain { limit: usize },
}

impl Part {
    /// The suffixes of its templates, the preferred first.
    pub fn suffixes(self) -> &'static [&'static str] {
        match self {
            Part::Subject => &["subject"],
            Part::Text => &["txt"],
            Part::Html => &["html"],
            Part::Slack => &["slack", "chat"],
            Part::Discord => &["discord", "chat"],
            Part::Mattermost | Part::GoogleChat | Part::Plain { .. } => &["chat"],
        }
    }

    /// The most characters of a payload. Escaping makes up to six of one.
    pub fn payload_limit(self) -> usize {
        match self {
            Part::Subject => 150,
            Part::Text | Part::Html => 64 << 10,
            Part::Slack | Part::Mattermost => 3000,
            Part::GoogleChat => 1500,
            Part::Discord => 800,
            Part::Plain { limit } => limit - limit / 4,
        }
    }

    /// The most characters of the whole text. Slack allows 40,000, Mattermost 16,383, Google Chat 4,096, Discord 2,000.
    pub fn limit(self) -> usize {
        match self {
            Part::Subject => 200,
            Part::Text | Part::Html => 1 << 20,
            Part::Slack => 20_000,
            Part::Mattermost => 16_000,
            Part::GoogleChat => 4000,
            Part::Discord => 1900,
            Part::Plain { limit } => limit,
        }
    }
}
