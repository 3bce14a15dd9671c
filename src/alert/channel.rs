//! Channels: where alerts go, as `--alert` names them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use lettre::Address;
use sha2::{Digest, Sha256};
use url::Url;

use crate::store::backend::Pace;

/// The longest address of a mailbox, in bytes; RFC 5321 allows few more.
const ADDRESS_LIMIT_BYTES: usize = 240;

const EXPECTED: &str =
    "expected `mailto:ops@example.com`, `slack:https://…`, `discord:https://…` or `https://…`";

/// Where alerts go. `Debug` and the name show nothing of a URL but its host.
#[derive(Clone, PartialEq, Eq)]
pub struct Channel {
    /// What kind of message, and where to.
    pub target: Target,
    name: Arc<str>,
}

/// What kind of message, and where to.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// A mail to a mailbox.
    Mail(Address),
    /// A message to an incoming webhook of Slack.
    Slack(Url),
    /// A message to a webhook of Discord.
    Discord(Url),
    /// The event as JSON.
    Webhook(Url),
}

impl Target {
    /// How fast the service takes messages.
    ///
    /// Source: Slack, "Rate limits": one a second for an incoming webhook. Discord answers with
    /// `X-RateLimit-Limit: 5` and a window of two seconds for a webhook.
    pub fn pace(&self) -> Option<Pace> {
        match self {
            Target::Slack(_) => Some(Pace { messages: 1, window: Duration::from_secs(1) }),
            Target::Discord(_) => Some(Pace { messages: 5, window: Duration::from_secs(2) }),
            Target::Mail(_) | Target::Webhook(_) => None,
        }
    }
}

impl Channel {
    /// A mailbox.
    ///
    /// # Errors
    /// The text is no address.
    pub fn mail(address: &str) -> Result<Channel, String> {
        let parsed = address.trim().parse::<Address>().ok();
        let fits = parsed.filter(|address| address.to_string().len() <= ADDRESS_LIMIT_BYTES);
        let address = fits.ok_or("expected an address such as `ops@example.com`")?;
        let name = format!("mailto:{address}").into();
        Ok(Channel { target: Target::Mail(address), name })
    }

    /// What the channel is known by: stays the same for as long as its URL does, and holds no secret.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn web(kind: &str, text: &str, target: impl FnOnce(Url) -> Target) -> Result<Channel, String> {
        let url: Url = text.parse().map_err(|error| format!("{error}; {EXPECTED}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(EXPECTED.to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("a name or password does not belong into a URL; {EXPECTED}"));
        }
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let digest = Sha256::digest(url.as_str());
        let mark = hex(&digest[..4]);
        let name = format!("{kind}:{host}{port}#{mark}");
        if name.len() > 255 {
            return Err("expected a host of at most 240 bytes".to_owned());
        }
        Ok(Channel { name: name.into(), target: target(url) })
    }
}

/// Bytes as digits of base 16.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The kind of the channel of a name.
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

/// The channels of one URL: each of several mailboxes is a channel of its own, so that one that is refused
/// keeps no mail from the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Channels(pub Vec<Channel>);

impl FromStr for Channels {
    type Err = String;

    fn from_str(text: &str) -> Result<Channels, String> {
        let text = text.trim();
        // A variable of the environment that is empty is as good as none.
        if text.is_empty() {
            return Ok(Channels::default());
        }
        // Errors repeat nothing of the URL: it is a secret.
        let channel = match text.split_once(':') {
            Some(("mailto", addresses)) => {
                return addresses.split(',').map(Channel::mail).collect::<Result<_, _>>().map(Channels);
            }
            Some(("slack", url)) => Channel::web("slack", url, Target::Slack)?,
            Some(("discord", url)) => Channel::web("discord", url, Target::Discord)?,
            Some((scheme @ ("http" | "https"), _)) => Channel::web(scheme, text, Target::Webhook)?,
            _ => return Err(EXPECTED.to_owned()),
        };
        Ok(Channels(vec![channel]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let channels: Channels = text.parse().unwrap();
        channels.0.iter().map(Channel::to_string).collect()
    }

    #[test]
    fn names_of_channels_hold_no_secret_and_tell_urls_apart() {
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
    fn what_is_no_channel_is_refused_and_not_repeated() {
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
