//! Webhooks of ours: requests to URLs that people have set, which are secrets.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use serde_json::Value;
use thiserror::Error;
use url::{Host, Position, Url};

use super::connector::Reach;
use super::pool::HttpClient;
use super::response::{BodyPrefix, RETRY_AFTER_LIMIT, is_transient, retry_after};
use crate::core::text::excerpt;

/// How long a receiver may take to answer.
const RESPONSE_TIME: Duration = Duration::from_secs(10);

/// The pause of a receiver that answers 429 without `Retry-After`.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest reason of a failure, in characters.
const REASON_LIMIT: usize = 300;

/// The shortest word of a URL that counts as a secret.
const SECRET_WORD_BYTES: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeliveryError {
    #[error("{reason}")]
    Transient {
        reason: String,
        /// How long the channel asks to wait.
        retry_after: Duration,
        /// Whether it asks for a pause of all messages.
        pauses_channel: bool,
    },
    #[error("{0}")]
    Permanent(String),
    /// The URL or the token is wrong: another message would fare no better.
    #[error("{0}")]
    Misdirected(String),
}

impl DeliveryError {
    pub fn transient(reason: String) -> DeliveryError {
        DeliveryError::Transient { reason, retry_after: Duration::ZERO, pauses_channel: false }
    }
}

/// Sends requests to webhooks, within reach.
pub struct WebhookSender(HttpClient);

impl WebhookSender {
    /// Keeps at most this many connections open.
    pub fn new(tls: ClientConfig, reach: Reach, idle_connections: usize) -> WebhookSender {
        WebhookSender(HttpClient::for_webhooks(tls, reach, RESPONSE_TIME, idle_connections))
    }

    /// Sends a request, which must be answered 2xx. What the URL of the settings and the secrets hold is not shown in errors.
    pub async fn send<'a>(
        &self,
        mut request: Request<Full<Bytes>>,
        to: &Url,
        url_of_settings: &Url,
        secrets: impl Iterator<Item = &'a str>,
    ) -> Result<(), DeliveryError> {
        let mut not_shown = secrets_of(url_of_settings);
        not_shown.extend(secrets.map(str::to_owned));
        not_shown.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let transient = |error| DeliveryError::transient(excerpt(&format!("{error:#}"), REASON_LIMIT));
        // The library's message could contain the URL, which is a secret.
        let unusable = |_| DeliveryError::Permanent("the URL cannot be sent".to_owned());
        *request.uri_mut() = to[..Position::AfterQuery].parse().map_err(unusable)?;
        let response = self.0.deliver(request).await.map_err(transient)?;
        let status = response.status();
        let reason = match shown_body(response.body(), &not_shown) {
            body if body.is_empty() => format!("status {status}"),
            body => format!("status {status}: {body}"),
        };
        match status {
            _ if status.is_success() => Ok(()),
            _ if is_transient(status) => {
                let asked = retry_after(response.headers()).or_else(|| retry_after_in(response.body()));
                // A rate limit and a Retry-After hold for all messages of the channel.
                let pauses_channel = asked.is_some() || status == StatusCode::TOO_MANY_REQUESTS;
                let shortest = if pauses_channel { SHORTEST_PAUSE } else { Duration::ZERO };
                let retry_after = asked.unwrap_or(shortest);
                Err(DeliveryError::Transient { reason, retry_after, pauses_channel })
            }
            _ if status.is_redirection() => {
                Err(DeliveryError::Misdirected(format!("{reason}: redirects are not followed")))
            }
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED => Err(DeliveryError::Misdirected(reason)),
            _ => Err(DeliveryError::Permanent(reason)),
        }
    }
}

/// Why a URL can never be used, if it cannot: it is unencrypted, or its address out of reach.
pub fn problem_of_target(url: &Url, reach: Reach) -> Option<&'static str> {
    match url.host() {
        _ if reach == Reach::Anywhere => None,
        _ if url.scheme() == "http" => Some("it is not encrypted"),
        Some(Host::Ipv4(address)) if !reach.allows(address.into()) => Some("its address is not public"),
        Some(Host::Ipv6(address)) if !reach.allows(address.into()) => Some("its address is not public"),
        _ => None,
    }
}

/// How long the body of a refusal asks to wait, in seconds: Telegram has no header for it.
fn retry_after_in(body: &BodyPrefix) -> Option<Duration> {
    let body: Value = serde_json::from_slice(&body.bytes).ok()?;
    let seconds = body.pointer("/parameters/retry_after").or_else(|| body.pointer("/retry_after"))?;
    let wait = Duration::try_from_secs_f64(seconds.as_f64()?).ok()?;
    Some(wait.min(RETRY_AFTER_LIMIT))
}

/// The start of a response's body in one line. Some receivers repeat the URL, or a secret that they were sent.
fn shown_body(body: &BodyPrefix, not_shown: &[String]) -> String {
    let text = String::from_utf8_lossy(&body.bytes);
    let mut text = match body.is_complete {
        true => &*text,
        // The last word may be the start of a secret, which would not be recognized.
        false => text.trim_end_matches(|character: char| !character.is_whitespace()),
    }
    .to_owned();
    for secret in not_shown {
        text = text.replace(secret.as_str(), "[not shown]");
    }
    excerpt(&text.split_whitespace().collect::<Vec<_>>().join(" "), REASON_LIMIT)
}

/// The words of a URL after its host, both encoded and decoded.
fn secrets_of(url: &Url) -> Vec<String> {
    let encoded = &url[Position::BeforePath..];
    let decoded = percent_decode_str(encoded).decode_utf8_lossy();
    let is_part = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_' | '%');
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|character| !is_part(character));
        words.filter(|word| word.len() >= SECRET_WORD_BYTES).map(str::to_owned).collect()
    };
    [words(encoded), words(&decoded)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_body_is_short_and_without_secrets_of_the_url() {
        let url = Url::parse("https://h.example/services/T0/s3cr%C3%A9t.other?key=s-3#fragment").unwrap();
        let shown_of = |text: &str, is_complete| {
            let mut not_shown = secrets_of(&url);
            not_shown.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
            shown_body(&BodyPrefix { bytes: text.as_bytes().to_vec(), is_complete }, &not_shown)
        };
        assert_eq!(shown_of("no_text\r\n", true), "no_text");
        assert_eq!(shown_of("", true), "");
        let repeated = "POST /services/T0/s3cr%C3%A9t.other, s3cr\u{e9}t \u{1b}[2J";
        let shown = r"POST /[not shown]/T0/[not shown].[not shown], [not shown] \u{1b}[2J";
        assert_eq!(shown_of(repeated, true), shown);
        assert_eq!(shown_of("<p>cannot\n  POST /s3cr%C3", false), "<p>cannot POST");
        assert_eq!(shown_of(&"x ".repeat(1000), true).chars().count(), REASON_LIMIT + 1);
    }
}
