//! Messages over HTTP: to Slack, to Discord, and events as JSON with a signature.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use rustls::ClientConfig;
use serde_json::json;
use sha2::Sha256;
use url::{Host, Url};
use zeroize::Zeroizing;

use super::Failure;
use super::channel::{Channel, Target};
use super::render::{Part, Templates};
use crate::client::{self, Reach, is_transient, retry_after, send_once};
use crate::core::hint::hinted;
use crate::core::network::is_public;
use crate::core::secret::Secret;
use crate::core::text::excerpt;
use crate::core::timestamp::Timestamp;
use crate::store::backend::Message;

/// How long a receiver may take to answer.
const RESPONSE_TIME: Duration = Duration::from_secs(10);

/// What a secret of the Standard Webhooks scheme begins with, and how many bytes it has.
const SECRET_PREFIX: &str = "whsec_";
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Discord: no preview of what a link leads to.
const SUPPRESS_EMBEDS: u32 = 1 << 2;

/// Sends messages over HTTP.
pub struct Poster {
    tls: Arc<ClientConfig>,
    reach: Reach,
    signing_key: Option<Zeroizing<Vec<u8>>>,
}

impl Poster {
    /// A poster that signs events where there is a secret.
    ///
    /// # Errors
    /// The secret is none of the Standard Webhooks scheme.
    pub fn new(mut tls: ClientConfig, reach: Reach, secret: Option<&Secret>) -> anyhow::Result<Poster> {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let signing_key = secret.map(signing_key).transpose()?;
        Ok(Poster { tls: Arc::new(tls), reach, signing_key })
    }

    /// Sends a message to a target that is not a mailbox.
    ///
    /// # Errors
    /// Why not, and whether to try again.
    pub async fn send(
        &self,
        target: &Target,
        message: &Message,
        template: Option<&str>,
        templates: &Templates,
    ) -> Result<(), Failure> {
        let render = |part| templates.render(&message.events, template, part);
        let (url, body, signed) = match target {
            Target::Slack(url) => {
                // No preview of what a link leads to.
                let unfurl = false;
                let body =
                    json!({"text": render(Part::Slack), "unfurl_links": unfurl, "unfurl_media": unfurl});
                (url, body.to_string(), false)
            }
            Target::Discord(url) => {
                let body = json!({
                    "content": render(Part::Discord),
                    "allowed_mentions": {"parse": []},
                    "flags": SUPPRESS_EMBEDS,
                });
                (url, body.to_string(), false)
            }
            Target::Webhook(url) => {
                let body = match message.events.as_slice() {
                    [event] => serde_json::to_string(event),
                    events => serde_json::to_string(events),
                };
                (url, body.expect("strings and numbers always serialize"), true)
            }
            Target::Mail(_) => return Err(Failure::Permanent { reason: "this is a mailbox".to_owned() }),
        };
        let body = Bytes::from(body);
        let mut request = Request::new(Full::from(body.clone()));
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(client::USER_AGENT));
        if signed {
            self.sign(headers, &super::identity_of(message), Timestamp::now(), &body);
        }
        self.post(url, request).await
    }

    /// Refuses a URL that could never be sent to.
    ///
    /// # Errors
    /// It is not encrypted, or names this machine or a private network.
    pub fn check(&self, channel: &Channel) -> anyhow::Result<()> {
        let (Target::Slack(url) | Target::Discord(url) | Target::Webhook(url)) = &channel.target else {
            return Ok(());
        };
        let problem = match url.host() {
            _ if self.reach == Reach::Anywhere => return Ok(()),
            _ if url.scheme() == "http" => "it is not encrypted",
            Some(Host::Ipv4(address)) if !is_public(address.into()) => "its address is not public",
            Some(Host::Ipv6(address)) if !is_public(address.into()) => "its address is not public",
            _ => return Ok(()),
        };
        Err(hinted(format!("cannot alert `{channel}`: {problem}"), "allow it with --alert-allow-private"))
    }

    async fn post(&self, url: &Url, request: Request<Full<Bytes>>) -> Result<(), Failure> {
        let response = send_once(url, request, &self.tls, self.reach, RESPONSE_TIME).await;
        let response = response.map_err(|error| Failure::Transient {
            reason: excerpt(&format!("{error:#}"), 300),
            retry_after: Duration::ZERO,
        })?;
        let status = response.status();
        let reason = format!("status {status}");
        match status {
            _ if status.is_success() => Ok(()),
            _ if is_transient(status) => Err(Failure::Transient {
                reason,
                retry_after: retry_after(response.headers()).unwrap_or_default(),
            }),
            _ if status.is_redirection() => {
                Err(Failure::Permanent { reason: format!("{reason}: redirects are not followed") })
            }
            _ => Err(Failure::Permanent { reason }),
        }
    }

    /// Source: Standard Webhooks, specification 1.0.0, "Signature scheme".
    fn sign(&self, headers: &mut HeaderMap, id: &str, now: Timestamp, body: &[u8]) {
        let seconds = now.as_microseconds() / 1_000_000;
        let mut insert = |name: &'static str, value: String| {
            let value = HeaderValue::try_from(value).expect("digits, letters and Base64 fit into a header");
            headers.insert(HeaderName::from_static(name), value);
        };
        insert("webhook-id", id.to_owned());
        insert("webhook-timestamp", seconds.to_string());
        let Some(key) = &self.signing_key else { return };
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body);
        insert("webhook-signature", format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())));
    }
}

fn signing_key(secret: &Secret) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let encoded = secret.expose().strip_prefix(SECRET_PREFIX);
    let key = encoded.and_then(|encoded| STANDARD.decode(encoded).ok()).map(Zeroizing::new);
    key.filter(|key| SECRET_BYTES.contains(&key.len())).ok_or_else(|| {
        let problem = "the secret of `--alert-secret-file` is not `whsec_` and 24 to 64 bytes in Base64";
        hinted(problem, "make one with echo whsec_$(openssl rand -base64 32)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Trust, client_config};

    #[test]
    fn signatures_are_those_of_the_specification() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let tls = client_config(Trust::Web, None).unwrap();
        let poster = Poster::new(tls, Reach::PublicOnly, Some(&secret)).unwrap();
        let mut headers = HeaderMap::new();
        let now = Timestamp::from_microseconds(1_614_265_330_000_000);
        poster.sign(&mut headers, "msg_p5jXN8AQM9LWM0D4loKWxJek", now, br#"{"test": 2432232314}"#);
        assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_checked() {
        for wrong in ["secret", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%"] {
            let error = signing_key(&wrong.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("whsec_") && !error.contains("c2hvcnQ"), "{error}");
        }
    }
}
