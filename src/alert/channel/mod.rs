//! Channels: where alerts go, as `--alert` names them.

mod list;
mod object;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use lettre::Address;
use sha2::{Digest, Sha256};
use url::Url;

pub use self::list::Channels;
use self::object::ChannelObject;
use super::presets::{PRESETS, Preset};
use crate::client::RequestSettings;
use crate::core::name::{self, is_name};
use crate::core::text::hex;
use crate::store::outbox::Pace;

/// The longest mail address; RFC 5321 allows a few bytes more.
const ADDRESS_LIMIT_BYTES: usize = 240;

const EXPECTED: &str = "expected `mailto:ops@example.com`, `https://…`, or `slack:https://…`; discord, mattermost, \
    google-chat, teams, telegram, pagerduty, ntfy and cloudevents are written like slack";

/// A destination of alerts. `Debug` and `Display` show only the host of a URL, which is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Channel {
    pub target: Target,
    name: Arc<str>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    Mail(Address),
    Webhook(Arc<Webhook>),
}

/// A URL, and what is sent there.
#[derive(PartialEq, Eq)]
pub struct Webhook {
    pub url: Url,
    pub format: WebhookFormat,
    pub request: RequestSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookFormat {
    /// Events as JSON, signed.
    Events,
    /// The same as CloudEvents.
    CloudEvents,
    /// What the service takes.
    Preset(&'static Preset),
    /// What the template of the settings makes, signed.
    Template,
}

impl Target {
    /// The rate limit of the service.
    pub fn pace(&self) -> Option<Pace> {
        match self {
            Target::Webhook(webhook) => match webhook.format {
                WebhookFormat::Preset(preset) => preset.pace,
                WebhookFormat::Events | WebhookFormat::CloudEvents | WebhookFormat::Template => None,
            },
            Target::Mail(_) => None,
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

    /// `own_name` distinguishes channels of the same URL.
    fn webhook(
        kind: &str,
        text: &str,
        format: WebhookFormat,
        request: RequestSettings,
        own_name: Option<&str>,
    ) -> Result<Channel, String> {
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
        let mark = own_name.map_or_else(|| hex(&digest[..4]), str::to_owned);
        let name = format!("{kind}:{host}{port}#{mark}");
        if name.len() > 255 {
            return Err("expected a host of at most 180 bytes".to_owned());
        }
        let webhook = Webhook { url, format, request };
        Ok(Channel { name: name.into(), target: Target::Webhook(Arc::new(webhook)) })
    }

    fn of_object(object: ChannelObject) -> Result<Channel, String> {
        let ChannelObject { to, preset, name, method, headers, body, secret_files } = object;
        if name.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(name::EXPECTED.to_owned());
        }
        let scheme = to.split(':').next().unwrap_or_default();
        let format = match preset.as_deref() {
            None if body.is_some() => WebhookFormat::Template,
            None => WebhookFormat::Events,
            Some(preset) => format_of(preset).ok_or(EXPECTED)?,
        };
        let is_fixed = matches!(format, WebhookFormat::Events | WebhookFormat::CloudEvents);
        if is_fixed && body.is_some() {
            return Err("expected a `body`, or the preset cloudevents".to_owned());
        }
        let request = RequestSettings::new(method.as_deref(), headers, body, secret_files)?;
        Channel::webhook(preset.as_deref().unwrap_or(scheme), &to, format, request, name.as_deref())
    }
}

/// What a channel in a list can begin with.
fn is_scheme(text: &str) -> bool {
    matches!(text, "mailto" | "http" | "https") || format_of(text).is_some()
}

/// The format of a prefix of URLs, or of the `preset` of an object.
fn format_of(name: &str) -> Option<WebhookFormat> {
    match name {
        "cloudevents" => Some(WebhookFormat::CloudEvents),
        _ => Preset::find(name).map(WebhookFormat::Preset),
    }
}

/// The kind of a channel by its name.
pub fn kind_of(name: &str) -> &'static str {
    let scheme = name.split(':').next().unwrap_or_default();
    match scheme {
        "mailto" => "mail",
        _ => PRESETS.iter().find(|preset| preset.name == scheme).map_or("webhook", |preset| preset.name),
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

impl FromStr for Channel {
    type Err = String;

    /// Errors do not repeat the URL: it is a secret.
    fn from_str(text: &str) -> Result<Channel, String> {
        if text.starts_with('{') {
            return Channel::of_object(text.parse()?);
        }
        let request = RequestSettings::default();
        match text.split_once(':') {
            Some(("mailto", address)) => Channel::mail(address),
            Some((scheme @ ("http" | "https"), _)) => {
                Channel::webhook(scheme, text, WebhookFormat::Events, request, None)
            }
            Some((kind, url)) => match format_of(kind) {
                Some(format) => Channel::webhook(kind, url, format, request, None),
                None => Err(EXPECTED.to_owned()),
            },
            None => Err(EXPECTED.to_owned()),
        }
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
    fn an_invalid_channel_is_refused_and_not_repeated() {
        for wrong in [
            "mailto:",
            "mailto:s3cret",
            "mailto:a@example.com,",
            "slack:s3cret",
            "slack:ftp://s3cret/",
            "chat:https://s3cret/",
            r#"{"to": "https://h/", "preset": "s3cret"}"#,
            r#"{"to": "https://h/", "method": "s3cret"}"#,
            r#"{"to": "https://h/", "url": "s3cret"}"#,
            r#"{"to": "s3cret"}"#,
            r#"{"to": "https://h/", "preset": "cloudevents", "body": "s3cret"}"#,
            "https://user:s3cret@example.com/",
            "s3cret",
        ] {
            let error = wrong.parse::<Channels>().unwrap_err();
            assert!(error.contains("expected") && !error.contains("s3cret"), "{error}");
        }
    }
}
