//! What each chat and paging service is sent: a template of its body, and what it takes.

use std::time::Duration;

use url::Url;

use super::render::Part;
use crate::store::outbox::Pace;

/// A service that takes messages in a format of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Preset {
    /// As the URL of a channel begins with it.
    pub name: &'static str,
    /// The text that its body has.
    pub part: Part,
    pub body: &'static str,
    /// The rate limit of the service.
    pub pace: Option<Pace>,
    address: Address,
}

/// Where requests go.
#[derive(Debug, PartialEq, Eq)]
enum Address {
    Url,
    /// What the query says is in the body.
    UrlWithoutQuery,
    /// The last segment of the path is in the body.
    Folder,
}

pub const PRESETS: [Preset; 8] = [
    // "Rate limits": one a second for an incoming webhook.
    Preset {
        name: "slack",
        part: Part::Slack,
        body: include_str!("slack.json"),
        pace: pace(1, 1),
        address: Address::Url,
    },
    // A webhook answers with `X-RateLimit-Limit: 5` and a window of two seconds. Flag 4 suppresses link previews.
    Preset {
        name: "discord",
        part: Part::Discord,
        body: include_str!("discord.json"),
        pace: pace(5, 2),
        address: Address::Url,
    },
    // "Incoming webhooks": 16,383 characters, of which escaping takes some.
    Preset {
        name: "mattermost",
        part: Part::Mattermost,
        body: include_str!("mattermost.json"),
        pace: None,
        address: Address::Url,
    },
    // "Usage limits": one a second for a space; 4,096 characters.
    Preset {
        name: "google-chat",
        part: Part::GoogleChat,
        body: include_str!("google-chat.json"),
        pace: pace(1, 1),
        address: Address::Url,
    },
    // "Create incoming webhooks": four requests a second; 28 KB. Each line is a block of its own.
    Preset {
        name: "teams",
        part: Part::Plain { limit: 3000 },
        body: include_str!("teams.json"),
        pace: pace(4, 1),
        address: Address::Url,
    },
    // "sendMessage": 4,096 characters, of which some count twice; "Bots FAQ": 20 a minute for a group.
    Preset {
        name: "telegram",
        part: Part::Plain { limit: 2000 },
        body: include_str!("telegram.json"),
        pace: pace(20, 60),
        address: Address::UrlWithoutQuery,
    },
    // "Send an alert event": a summary of 1,024 characters, 512 KB in all.
    Preset {
        name: "pagerduty",
        part: Part::Plain { limit: 20_000 },
        body: include_str!("pagerduty.json"),
        pace: None,
        address: Address::UrlWithoutQuery,
    },
    // "Message limits": 4,096 bytes; more becomes an attachment. Publishing as JSON goes to the folder of the topic.
    Preset {
        name: "ntfy",
        part: Part::Plain { limit: 1000 },
        body: include_str!("ntfy.json"),
        pace: None,
        address: Address::Folder,
    },
];

const fn pace(messages: usize, seconds: u64) -> Option<Pace> {
    Some(Pace { messages, window: Duration::from_secs(seconds) })
}

impl Preset {
    pub fn find(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// Where requests for a channel of this URL go.
    pub fn address_of(&self, url: &Url) -> Url {
        let mut url = url.clone();
        match self.address {
            Address::Url => {}
            Address::UrlWithoutQuery => url.set_query(None),
            Address::Folder => {
                if let Ok(mut segments) = url.path_segments_mut() {
                    segments.pop_if_empty().pop().push("");
                }
            }
        }
        url
    }
}
