//! Messages over HTTP: to Slack, to Discord, and events as JSON with a signature.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use rustls::ClientConfig;
use serde_json::json;
use url::Url;

use super::channel::{Channel, Target, WebhookFormat};
use super::delivery::message_id;
use super::render::{Part, Templates};
use crate::auth::signature::standard::{self, SigningKey};
use crate::client::{self, DeliveryError, Reach, WebhookSender, problem_of_target};
use crate::core::event::cloud_event::wrapped;
use crate::core::timestamp::Timestamp;
use crate::error::hinted;
use crate::store::outbox::Message;

/// Discord's flag for no link previews.
const SUPPRESS_EMBEDS: u32 = 1 << 2;

const SERIALIZES: &str = "strings and numbers always serialize";

/// Sends messages over HTTP.
pub struct WebhookClient {
    http: WebhookSender,
    signing_key: Option<SigningKey>,
}

impl WebhookClient {
    /// Signs events if there is a key.
    pub fn new(tls: ClientConfig, reach: Reach, signing_key: Option<SigningKey>) -> WebhookClient {
        WebhookClient { http: WebhookSender::new(tls, reach, 0), signing_key }
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
        self.http.post(url, request).await
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
        (WebhookFormat::CloudEvents, [event]) => wrapped(event),
        (WebhookFormat::CloudEvents, events) => {
            format!("[{}]", events.iter().map(wrapped).collect::<Vec<_>>().join(","))
        }
        (WebhookFormat::Events, [event]) => serde_json::to_string(event).expect(SERIALIZES),
        (WebhookFormat::Events, events) => serde_json::to_string(events).expect(SERIALIZES),
    }
}

fn content_type_of(format: WebhookFormat, message: &Message) -> &'static str {
    match (format, message.events.as_slice()) {
        (WebhookFormat::CloudEvents, [_]) => "application/cloudevents+json",
        (WebhookFormat::CloudEvents, _) => "application/cloudevents-batch+json",
        _ => "application/json",
    }
}

/// Refuses a URL that could never be used.
///
/// # Errors
/// It is unencrypted, or its address out of reach.
pub fn check(channel: &Channel, reach: Reach) -> anyhow::Result<()> {
    let Target::Webhook { url, .. } = &channel.target else { return Ok(()) };
    let Some(problem) = problem_of_target(url, reach) else { return Ok(()) };
    Err(hinted(format!("cannot alert `{channel}`: {problem}"), "allow it with --alert-allow-private"))
}
