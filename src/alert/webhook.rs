//! Messages over HTTP: to chats and paging services, and events as JSON with a signature.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use rustls::ClientConfig;

use super::channel::{Channel, Target, Webhook, WebhookFormat};
use super::delivery::message_id;
use super::render::{Part, Templates};
use crate::auth::signature::standard::{self, SigningKey};
use crate::client::{
    self, DeliveryError, Reach, RequestFormat, RequestSettings, WebhookSender, problem_of_target,
};
use crate::core::event::StoredEvent;
use crate::core::event::cloud_event::wrapped;
use crate::core::timestamp::Timestamp;
use crate::error::hinted;
use crate::store::outbox::Message;

const SERIALIZES: &str = "strings and numbers always serialize";

/// The text of a body that a template of the settings makes.
const TEXT_OF_TEMPLATE: Part = Part::Plain { limit: 4000 };

/// Sends messages over HTTP.
pub struct WebhookClient {
    http: WebhookSender,
    signing_key: Option<SigningKey>,
    /// By the name of the channel.
    formats: HashMap<Arc<str>, RequestFormat>,
}

impl WebhookClient {
    /// Signs events if there is a key.
    ///
    /// # Errors
    /// A template or a secret of a channel cannot be used.
    pub fn new(
        tls: ClientConfig,
        reach: Reach,
        signing_key: Option<SigningKey>,
        channels: &[Channel],
        templates: &Templates,
    ) -> anyhow::Result<WebhookClient> {
        let mut formats = HashMap::new();
        for channel in channels {
            let Target::Webhook(webhook) = &channel.target else { continue };
            let format =
                load_format(webhook, templates).with_context(|| format!("cannot alert `{channel}`"))?;
            formats.insert(Arc::clone(channel.name()), format);
        }
        Ok(WebhookClient { http: WebhookSender::new(tls, reach, 0), signing_key, formats })
    }

    pub async fn send(
        &self,
        webhook: &Webhook,
        message: &Message,
        template: Option<&str>,
        templates: &Templates,
    ) -> Result<(), DeliveryError> {
        let format = self.formats.get(&message.channel).expect("every channel has its format");
        let (id, events) = (message_id(message), &message.events);
        let part = part_of(webhook.format);
        let rendered = format.render(|| templates.request_context(&id, events, template, part, &webhook.url));
        let rendered = rendered.map_err(|error| DeliveryError::Permanent(format!("{error:#}")))?;
        let body = Bytes::from(rendered.body.unwrap_or_else(|| body_of(webhook.format, events)));
        let mut request = Request::new(Full::from(body.clone()));
        *request.method_mut() = rendered.method;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type_of(webhook.format, events)));
        headers.insert(USER_AGENT, HeaderValue::from_static(client::USER_AGENT));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.extend(rendered.headers);
        let url = match webhook.format {
            WebhookFormat::Preset(preset) => &preset.address_of(&webhook.url),
            WebhookFormat::Events | WebhookFormat::CloudEvents | WebhookFormat::Template => {
                standard::sign(headers, self.signing_key.as_ref(), &id, Timestamp::now(), &body);
                &webhook.url
            }
        };
        self.http.send(request, url, &webhook.url, format.secrets()).await
    }
}

fn load_format(webhook: &Webhook, templates: &Templates) -> anyhow::Result<RequestFormat> {
    let mut settings: RequestSettings = webhook.request.clone();
    if let WebhookFormat::Preset(preset) = webhook.format {
        settings.body.get_or_insert_with(|| preset.body.to_owned());
    }
    let format = RequestFormat::load(&settings)?;
    // A name that is misspelt is found at start, and not with the first alert.
    let sample = [Templates::sample()];
    let part = part_of(webhook.format);
    format.render(|| templates.request_context("event-1-0", &sample, None, part, &webhook.url))?;
    Ok(format)
}

fn part_of(format: WebhookFormat) -> Part {
    match format {
        WebhookFormat::Preset(preset) => preset.part,
        WebhookFormat::Events | WebhookFormat::CloudEvents | WebhookFormat::Template => TEXT_OF_TEMPLATE,
    }
}

/// The body where no template makes it.
fn body_of(format: WebhookFormat, events: &[StoredEvent]) -> String {
    match (format, events) {
        (WebhookFormat::CloudEvents, [event]) => wrapped(event),
        (WebhookFormat::CloudEvents, events) => {
            format!("[{}]", events.iter().map(wrapped).collect::<Vec<_>>().join(","))
        }
        (_, [event]) => serde_json::to_string(event).expect(SERIALIZES),
        (_, events) => serde_json::to_string(events).expect(SERIALIZES),
    }
}

fn content_type_of(format: WebhookFormat, events: &[StoredEvent]) -> &'static str {
    match (format, events) {
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
    let Target::Webhook(webhook) = &channel.target else { return Ok(()) };
    let Some(problem) = problem_of_target(&webhook.url, reach) else { return Ok(()) };
    Err(hinted(format!("cannot alert `{channel}`: {problem}"), "allow it with --alert-allow-private"))
}
