//! What a verified request becomes: the type of its event, and the keys that a repetition has.

use std::time::Duration;

use hyper::header::HeaderMap;
use sha2::{Digest, Sha256};

use super::settings::HookSettings;
use crate::auth::signature::standard::message_id;
use crate::auth::signature::{Scheme, TemplateError};
use crate::core::members::Members;
use crate::core::text::hex;
use crate::core::timestamp::Timestamp;
use crate::store::backend::IdempotencyKey;

/// A verified request.
pub struct Delivery<'a> {
    pub hook: &'a HookSettings,
    pub headers: &'a HeaderMap,
    pub text: &'a str,
    /// None where the body is no JSON object.
    members: Option<Members<'a>>,
}

/// What could not be made by a template of the settings.
#[derive(Debug)]
pub struct Unfit {
    pub what: &'static str,
    pub reason: TemplateError,
}

impl<'a> Delivery<'a> {
    pub fn new(hook: &'a HookSettings, headers: &'a HeaderMap, text: &'a str) -> Delivery<'a> {
        let members = match hook.scheme {
            Scheme::Standard | Scheme::Stripe | Scheme::Slack | Scheme::Meta => Members::of(text).ok(),
            _ => None,
        };
        Delivery { hook, headers, text, members }
    }

    /// Slack's question whether the hook is ours.
    pub fn challenge(&self) -> Option<String> {
        let is_question = matches!(self.hook.scheme, Scheme::Slack)
            && self.member(&["type"]).as_deref() == Some("url_verification");
        is_question.then(|| self.member(&["challenge"])).flatten()
    }

    pub fn event_type(&self) -> Result<String, Unfit> {
        if let Some(template) = &self.hook.event_type {
            let rendered = template.render(self.headers, self.text);
            return rendered.map_err(|reason| Unfit { what: "type", reason });
        }
        let name = &self.hook.name;
        let detail = match self.hook.scheme {
            Scheme::Standard => {
                let own = || self.member(&["event_type"]);
                return Ok(self.member(&["type"]).or_else(own).unwrap_or_else(|| name.clone()));
            }
            Scheme::Github => self.header("x-github-event"),
            Scheme::Stripe => self.member(&["type"]),
            Scheme::Slack => self.member(&["event", "type"]).or_else(|| self.member(&["type"])),
            Scheme::Shopify => self.header("x-shopify-topic"),
            Scheme::Meta => self.member(&["object"]),
            Scheme::Hmac(_) | Scheme::Bearer | Scheme::Basic | Scheme::Unverified => None,
        };
        Ok(detail.map_or_else(|| name.clone(), |detail| format!("{name}.{detail}")))
    }

    /// The names of this delivery: one is enough to know it again.
    pub fn keys(&self, now: Timestamp) -> Result<Vec<IdempotencyKey>, Unfit> {
        let name = self.hook.name.as_str();
        let id = match &self.hook.key {
            Some(template) => {
                let id = template.render(self.headers, self.text);
                Some(id.map_err(|reason| Unfit { what: "key", reason })?).filter(|id| !id.is_empty())
            }
            None => self.id(),
        };
        let mut keys: Vec<IdempotencyKey> =
            id.map(|id| IdempotencyKey::of_parts(&["hook", name, &id])).into_iter().collect();
        // The id of Slack's events is signed; its commands have none.
        let is_named = matches!(self.hook.scheme, Scheme::Slack) && !keys.is_empty();
        if !is_named {
            keys.extend(self.body_keys(now));
        }
        Ok(keys)
    }

    fn id(&self) -> Option<String> {
        match self.hook.scheme {
            Scheme::Standard => message_id(self.headers).ok().map(str::to_owned),
            Scheme::Github => self.header("x-github-delivery"),
            Scheme::Stripe => self.member(&["id"]),
            Scheme::Slack => self.member(&["event_id"]),
            Scheme::Shopify => self.header("x-shopify-webhook-id"),
            Scheme::Bearer | Scheme::Basic | Scheme::Unverified => self.header("idempotency-key"),
            Scheme::Meta | Scheme::Hmac(_) => None,
        }
    }

    /// The body as a name, in this window of time and in the next: a request with the same body that comes at least as
    /// soon as the settings say finds one of them.
    fn body_keys(&self, now: Timestamp) -> Vec<IdempotencyKey> {
        let window = self.hook.same_body_within;
        let Some(number) = number_of_window(now, window) else { return Vec::new() };
        let digest = hex(&Sha256::digest(self.text));
        let window = format!("{}us", window.as_micros());
        let key = |number: i64| {
            IdempotencyKey::of_parts(&[
                "hook",
                &self.hook.name,
                "body",
                &window,
                &number.to_string(),
                &digest,
            ])
        };
        vec![key(number), key(number + 1)]
    }

    fn member(&self, path: &[&str]) -> Option<String> {
        self.members.as_ref()?.string_at(path).filter(|text| !text.is_empty())
    }

    fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name)?.to_str().ok()?;
        (!value.is_empty()).then(|| value.to_owned())
    }
}

fn number_of_window(now: Timestamp, window: Duration) -> Option<i64> {
    let window = i64::try_from(window.as_micros()).ok().filter(|window| *window > 0)?;
    Some(now.as_microseconds().div_euclid(window))
}
