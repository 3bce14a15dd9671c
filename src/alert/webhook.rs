//! Messages over HTTP: to Slack, to Discord, and events as JSON with a signature.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use serde_json::{Value, json};
use url::{Host, Position, Url};

use super::channel::{Channel, Target, WebhookFormat};
use super::delivery::{DeliveryError, message_id};
use super::render::{Part, Templates};
use crate::auth::signature::standard::{self, SigningKey};
use crate::client::{self, BodyPrefix, HttpClient, Reach, is_transient, retry_after};
use crate::core::event::StoredEvent;
use crate::core::text::excerpt;
use crate::core::timestamp::Timestamp;
use crate::error::hinted;
use crate::store::outbox::Message;

/// How long a receiver may take to answer.
const RESPONSE_TIME: Duration = Duration::from_secs(10);

/// The pause of a channel that answers 429 without `Retry-After`.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest reason of a failure, in characters.
const REASON_LIMIT: usize = 300;

/// The shortest word of a URL that counts as a secret.
const SECRET_WORD_BYTES: usize = 4;

/// Discord's flag for no link previews.
const SUPPRESS_EMBEDS: u32 = 1 << 2;

const SERIALIZES: &str = "strings and numbers always serialize";

/// Sends messages over HTTP.
pub struct WebhookClient {
    http: HttpClient,
    signing_key: Option<SigningKey>,
}

impl WebhookClient {
    /// Signs events if there is a key.
    pub fn new(tls: ClientConfig, reach: Reach, signing_key: Option<SigningKey>) -> WebhookClient {
        WebhookClient { http: HttpClient::for_webhooks(tls, reach, RESPONSE_TIME), signing_key }
    }

    pub async fn send(
        &self,
        format: WebhookFormat,
        url: &Url,
        message: &Message,
        template: Option<&str>,
        templates: &Templates,
    ) -> Result<(), DeliveryError> {
        let body = body_of(format, message, |part| templates.render(&message.events, template, part));
        let body = Bytes::from(body);
        let mut request = Request::new(Full::from(body.clone()));
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type_of(format, message)));
        headers.insert(USER_AGENT, HeaderValue::from_static(client::USER_AGENT));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if matches!(format, WebhookFormat::Events | WebhookFormat::CloudEvents) {
            let key = self.signing_key.as_ref();
            standard::sign(headers, key, &message_id(message), Timestamp::now(), &body);
        }
        self.post(url, request).await
    }

    async fn post(&self, url: &Url, mut request: Request<Full<Bytes>>) -> Result<(), DeliveryError> {
        let transient = |error| DeliveryError::transient(excerpt(&format!("{error:#}"), REASON_LIMIT));
        // The library's message could contain the URL, which is a secret.
        let unusable = |_| DeliveryError::Permanent("the URL cannot be sent".to_owned());
        *request.uri_mut() = url[..Position::AfterQuery].parse().map_err(unusable)?;
        let response = self.http.deliver(request).await.map_err(transient)?;
        let status = response.status();
        let reason = match shown_body(response.body(), url) {
            body if body.is_empty() => format!("status {status}"),
            body => format!("status {status}: {body}"),
        };
        match status {
            _ if status.is_success() => Ok(()),
            _ if is_transient(status) => {
                let asked = retry_after(response.headers());
                // A rate limit and a Retry-After hold for all messages of the channel.
                let pauses_channel = asked.is_some() || status == StatusCode::TOO_MANY_REQUESTS;
                let shortest = if pauses_channel { SHORTEST_PAUSE } else { Duration::ZERO };
                let retry_after = asked.unwrap_or(shortest);
                Err(DeliveryError::Transient { reason, retry_after, pauses_channel })
            }
            _ if status.is_redirection() => {
                Err(DeliveryError::Permanent(format!("{reason}: redirects are not followed")))
            }
            _ => Err(DeliveryError::Permanent(reason)),
        }
    }
}

fn body_of(format: WebhookFormat, message: &Message, render: impl Fn(Part) -> String) -> String {
    match (format, message.events.as_slice()) {
        (WebhookFormat::Slack, _) => {
            // No link previews.
            let unfurl = false;
            json!({"text": render(Part::Slack), "unfurl_links": unfurl, "unfurl_media": unfurl}).to_string()
        }
        (WebhookFormat::Discord, _) => json!({
            "content": render(Part::Discord),
            "allowed_mentions": {"parse": []},
            "flags": SUPPRESS_EMBEDS,
        })
        .to_string(),
        (WebhookFormat::CloudEvents, [event]) => cloud_event(event).to_string(),
        (WebhookFormat::CloudEvents, events) => events.iter().map(cloud_event).collect::<Value>().to_string(),
        (WebhookFormat::Events, [event]) => serde_json::to_string(event).expect(SERIALIZES),
        (WebhookFormat::Events, events) => serde_json::to_string(events).expect(SERIALIZES),
    }
}

/// An event as the data of a CloudEvent, whose id stays the same when it is sent again, alone or with others.
fn cloud_event(event: &StoredEvent) -> Value {
    // An attribute is never empty.
    let event_type = if event.event_type.is_empty() { "-" } else { &event.event_type };
    json!({
        "specversion": "1.0",
        "id": format!("{}-{:x}", event.id, event.received_at.as_microseconds()),
        "source": "eventctl",
        "type": event_type,
        "time": event.received_at.to_string(),
        "datacontenttype": "application/json",
        "data": event,
    })
}

fn content_type_of(format: WebhookFormat, message: &Message) -> &'static str {
    match (format, message.events.as_slice()) {
        (WebhookFormat::CloudEvents, [_]) => "application/cloudevents+json",
        (WebhookFormat::CloudEvents, _) => "application/cloudevents-batch+json",
        _ => "application/json",
    }
}

/// Refuses a URL that could never be used: unencrypted, or with an address out of reach.
pub fn check(channel: &Channel, reach: Reach) -> anyhow::Result<()> {
    let Target::Webhook { url, .. } = &channel.target else { return Ok(()) };
    let problem = match url.host() {
        _ if reach == Reach::Anywhere => return Ok(()),
        _ if url.scheme() == "http" => "it is not encrypted",
        Some(Host::Ipv4(address)) if !reach.allows(address.into()) => "its address is not public",
        Some(Host::Ipv6(address)) if !reach.allows(address.into()) => "its address is not public",
        _ => return Ok(()),
    };
    Err(hinted(format!("cannot alert `{channel}`: {problem}"), "allow it with --alert-allow-private"))
}

/// The start of a response's body in one line. Some receivers repeat the URL, which is a secret.
fn shown_body(body: &BodyPrefix, url: &Url) -> String {
    let text = String::from_utf8_lossy(&body.bytes);
    let mut text = match body.is_complete {
        true => &*text,
        // The last word may be the start of a secret, which would not be recognized.
        false => text.trim_end_matches(|character: char| !character.is_whitespace()),
    }
    .to_owned();
    for secret in secrets_of(url) {
        text = text.replace(&secret, "[not shown]");
    }
    excerpt(&text.split_whitespace().collect::<Vec<_>>().join(" "), REASON_LIMIT)
}

/// The words of a URL after its host, both encoded and decoded, the longest first.
fn secrets_of(url: &Url) -> Vec<String> {
    let encoded = &url[Position::BeforePath..];
    let decoded = percent_decode_str(encoded).decode_utf8_lossy();
    let is_part = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_' | '%');
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|character| !is_part(character));
        words.filter(|word| word.len() >= SECRET_WORD_BYTES).map(str::to_owned).collect()
    };
    let mut secrets = [words(encoded), words(&decoded)].concat();
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_body_is_short_and_without_secrets_of_the_url() {
        let url = Url::parse("https://h.example/services/T0/s3cr%C3%A9t.other?key=s-3#fragment").unwrap();
        let shown_of = |text: &str, is_complete| {
            shown_body(&BodyPrefix { bytes: text.as_bytes().to_vec(), is_complete }, &url)
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
