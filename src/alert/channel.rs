//! Channels: where alerts go, as `--alert` names them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use lettre::Address;
use sha2::{Digest, Sha256};
use url::Url;

use crate::core::text::hex;
use crate::store::outbox::Pace;

/// The longest mail address; RFC 5321 allows a few bytes more.
const ADDRESS_LIMIT_BYTES: usize = 240;

const EXPECTED: &str = "expected `mailto:ops@example.com`, `slack:https://…`, `discord:https://…`, `cloudevents:https://…` or `https://…`";

/// A destination of alerts. `Debug` and `Display` show only the host of a URL, which is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Channel {
    pub target: Target,
    name: Arc<str>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    Mail(Address),
    Webhook { format: WebhookFormat, url: Url },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookFormat {
    Slack,
    Discord,
    /// Events as JSON, signed.
    Events,
    /// The same as CloudEvents.
    CloudEvents,
}

impl Target {
    /// The rate limit of the service.
    ///
    /// Source: Slack, "Rate limits": one a second for an incoming webhook. Discord answers with
    /// `X-RateLimit-Limit: 5` and a window of two seconds for a webhook.
    pub fn pace(&self) -> Option<Pace> {
        match self {
            Target::Webhook { format: WebhookFormat::Slack, .. } => {
                Some(Pace { messages: 1, window: Duration::from_secs(1) })
            }
            Target::Webhook { format: WebhookFormat::Discord, .. } => {
                Some(Pace { messages: 5, window: Duration::from_secs(2) })
            }
            Target::Webhook { format: WebhookFormat::Events | WebhookFormat::CloudEvents, .. }
            | Target::Mail(_) => None,
        }
    }
}

impl Channel {
    pub fn mail(address: &str) -> Result<Channel, String> {
        let parsed = address.trim().parse::<Address>().ok();
        let fits = parsed.filter(|address| address.to_string().len() <= ADDRESS_LIMIT_BYTES);
        let address = fits.ok_or("expected an address such as `ops@example.com`")?;
        let name = format!("mailto:{address}").into();
        Ok(Channel { target: Target::Mail(address), name })
    }

    /// Identifies the channel in the store. The same URL always gives the same name, and it contains no secret.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn is_mailbox(&self) -> bool {
        matches!(self.target, Target::Mail(_))
    }

    fn webhook(kind: &str, text: &str, format: WebhookFormat) -> Result<Channel, String> {
        let url: Url = text.parse().map_err(|error| format!("{error}; {EXPECTED}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(EXPECTED.to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("a URL must not contain a name or password; {EXPECTED}"));
        }
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let digest = Sha256::digest(url.as_str());
        let mark = hex(&digest[..4]);
        let name = format!("{kind}:{host}{port}#{mark}");
        if name.len() > 255 {
            return Err("expected a host of at most 240 bytes".to_owned());
        }
        Ok(Channel { name: name.into(), target: Target::Webhook { format, url } })
    }
}

pub fn kind_of(name: &str) -> &'static str {
    match name.split(':').next() {
        Some("mailto") => "mail",
        Some("slack") => "slack",
        Some("discord") => "discord",
        _ => "webhook",
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// A list of channels, separated by commas or spaces. Each mailbox is a channel of its own, so a refused one does not
/// affect the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Channels(pub Vec<Channel>);

impl FromStr for Channels {
    type Err = String;

    fn from_str(text: &str) -> Result<Channels, String> {
        items_of(text).iter().map(|item| item.parse()).collect::<Result<_, _>>().map(Channels)
    }
}

impl FromStr for Channel {
    type Err = String;

    /// Errors do not repeat the URL: it is a secret.
    fn from_str(text: &str) -> Result<Channel, String> {
        match text.split_once(':') {
            Some(("mailto", address)) => Channel::mail(address),
            Some(("slack", url)) => Channel::webhook("slack", url, WebhookFormat::Slack),
            Some(("discord", url)) => Channel::webhook("discord", url, WebhookFormat::Discord),
            Some(("cloudevents", url)) => Channel::webhook("cloudevents", url, WebhookFormat::CloudEvents),
            Some((scheme @ ("http" | "https"), _)) => Channel::webhook(scheme, text, WebhookFormat::Events),
            _ => Err(EXPECTED.to_owned()),
        }
    }
}

/// The items of a list. `mailto:` holds for all addresses up to the next scheme, and a comma in a URL is part of it.
fn items_of(list: &str) -> Vec<String> {
    const SCHEMES: [&str; 6] = ["mailto:", "slack:", "discord:", "cloudevents:", "http:", "https:"];
    let list = list.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    let mut items: Vec<String> = Vec::new();
    for word in list.split_whitespace() {
        for (index, piece) in word.split(',').enumerate() {
            let begins = SCHEMES.iter().any(|scheme| piece.starts_with(scheme));
            match items.last_mut() {
                Some(last) if !begins && last.starts_with("mailto:") => items.push(format!("mailto:{piece}")),
                Some(last) if !begins && index > 0 => *last += &format!(",{piece}"),
                _ => items.push(piece.to_owned()),
            }
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let channels: Channels = text.parse().unwrap();
        channels.0.iter().map(Channel::to_string).collect()
    }

    #[test]
    fn names_of_channels_contain_no_secret_and_distinguish_urls() {
        assert_eq!(
            names("mailto:a@example.com, b@example.com"),
            ["mailto:a@example.com", "mailto:b@example.com"]
        );
        let slack = names("slack:https://hooks.slack.com/services/T0/B0/s3cret");
        assert!(slack[0].starts_with("slack:hooks.slack.com#"), "{slack:?}");
        assert!(!slack[0].contains("s3cret"));
        assert_ne!(slack, names("slack:https://hooks.slack.com/services/T0/B0/other"));
        let debug = format!("{:?}", "https://h:8443/s3cret".parse::<Channels>().unwrap());
        assert!(debug.contains("https:h:8443#") && !debug.contains("s3cret"), "{debug}");
        assert!(names("").is_empty());
    }

    #[test]
    fn channels_are_separated_by_commas_or_spaces() {
        let mails = ["mailto:a@example.com", "mailto:b@example.com"];
        for text in [
            "mailto:a@example.com,b@example.com",
            "mailto:a@example.com b@example.com",
            "mailto:a@example.com, b@example.com",
            " mailto:a@example.com,mailto:b@example.com ",
            "mailto:a@example.com\nmailto:b@example.com",
        ] {
            assert_eq!(names(text), mails, "{text}");
        }
        for text in ["https://h/a,b,mailto:a@example.com", "https://h/a,b mailto:a@example.com"] {
            assert_eq!(names(text), [&names("https://h/a,b")[0], "mailto:a@example.com"], "{text}");
        }
        assert_ne!(names("https://h/a,b"), names("https://h/a"));
    }

    #[test]
    fn an_invalid_channel_is_refused_and_not_repeated() {
        for wrong in [
            "mailto:",
            "mailto:s3cret",
            "mailto:a@example.com,",
            "slack:s3cret",
            "slack:ftp://s3cret/",
            "teams:https://s3cret/",
            "https://user:s3cret@example.com/",
            "s3cret",
        ] {
            let error = wrong.parse::<Channels>().unwrap_err();
            assert!(error.contains("expected") && !error.contains("s3cret"), "{error}");
        }
    }
}
