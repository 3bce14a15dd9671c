//! Messages over HTTP: to Slack, to Discord, and events as JSON with a signature.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use serde_json::json;
use sha2::Sha256;
use url::{Host, Position, Url};
use zeroize::Zeroizing;

use super::Failure;
use super::channel::{Channel, Target};
use super::render::{Part, Templates};
use crate::client::{self, Beginning, HttpClient, Reach, is_transient, retry_after};
use crate::core::hint::hinted;
use crate::core::secret::Secret;
use crate::core::text::excerpt;
use crate::core::timestamp::Timestamp;
use crate::store::backend::Message;

/// How long a receiver may take to answer.
const RESPONSE_TIME: Duration = Duration::from_secs(10);

/// How long a receiver is left alone that has had too many requests and does not say for how long.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest reason of a failure, in characters.
const REASON_LIMIT: usize = 300;

/// The shortest word of a URL that is taken for a secret, in bytes.
const SECRET_WORD_BYTES: usize = 4;

/// What a secret of the Standard Webhooks scheme begins with, and how many bytes it has.
const SECRET_PREFIX: &str = "whsec_";
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Discord: no preview of what a link leads to.
const SUPPRESS_EMBEDS: u32 = 1 << 2;

/// Sends messages over HTTP.
pub struct Poster {
    client: HttpClient,
    reach: Reach,
    signing_key: Option<Zeroizing<Vec<u8>>>,
}

impl Poster {
    /// A poster that signs events where there is a secret.
    ///
    /// # Errors
    /// The secret is none of the Standard Webhooks scheme.
    pub fn new(tls: ClientConfig, reach: Reach, secret: Option<&Secret>) -> anyhow::Result<Poster> {
        let client = HttpClient::for_webhooks(tls, reach, RESPONSE_TIME);
        let signing_key = secret.map(signing_key).transpose()?;
        Ok(Poster { client, reach, signing_key })
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
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
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
            Some(Host::Ipv4(address)) if !self.reach.allows(address.into()) => "its address is not public",
            Some(Host::Ipv6(address)) if !self.reach.allows(address.into()) => "its address is not public",
            _ => return Ok(()),
        };
        Err(hinted(format!("cannot alert `{channel}`: {problem}"), "allow it with --alert-allow-private"))
    }

    async fn post(&self, url: &Url, mut request: Request<Full<Bytes>>) -> Result<(), Failure> {
        let transient = |error| Failure::transient(excerpt(&format!("{error:#}"), REASON_LIMIT));
        *request.uri_mut() = url[..Position::AfterQuery].parse().map_err(|_| Failure::Permanent {
            // What the library says could repeat the URL.
            reason: "the URL cannot be sent".to_owned(),
        })?;
        let response = self.client.deliver(request).await.map_err(transient)?;
        let status = response.status();
        let reason = match what_was_said(response.body(), url) {
            said if said.is_empty() => format!("status {status}"),
            said => format!("status {status}: {said}"),
        };
        match status {
            _ if status.is_success() => Ok(()),
            _ if is_transient(status) => {
                let asked = retry_after(response.headers());
                // Too many requests are those of all messages, and whoever names a time is not ready before.
                let closes = asked.is_some() || status == StatusCode::TOO_MANY_REQUESTS;
                let retry_after = asked.unwrap_or(if closes { SHORTEST_PAUSE } else { Duration::ZERO });
                Err(Failure::Transient { reason, retry_after, closes })
            }
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

/// The start of what a receiver said, in one line. Some repeat the URL, which is a secret.
fn what_was_said(beginning: &Beginning, url: &Url) -> String {
    let text = String::from_utf8_lossy(&beginning.bytes);
    let mut text = match beginning.is_whole {
        true => &*text,
        // The last word may be the start of a secret, which would not be found.
        false => text.trim_end_matches(|character: char| !character.is_whitespace()),
    }
    .to_owned();
    for secret in secrets_of(url) {
        text = text.replace(&secret, "[not shown]");
    }
    excerpt(&text.split_whitespace().collect::<Vec<_>>().join(" "), REASON_LIMIT)
}

/// The words of a URL behind its host, as they stand there and decoded, the longest first.
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
    fn what_a_receiver_said_is_short_and_repeats_no_url() {
        let url = Url::parse("https://h.example/services/T0/s3cr%C3%A9t.other?key=s-3#fragment").unwrap();
        let said = |text: &str, is_whole| {
            what_was_said(&Beginning { bytes: text.as_bytes().to_vec(), is_whole }, &url)
        };
        assert_eq!(said("no_text\r\n", true), "no_text");
        assert_eq!(said("", true), "");
        let repeated = "POST /services/T0/s3cr%C3%A9t.other, s3cr\u{e9}t \u{1b}[2J";
        let shown = r"POST /[not shown]/T0/[not shown].[not shown], [not shown] \u{1b}[2J";
        assert_eq!(said(repeated, true), shown);
        assert_eq!(said("<p>cannot\n  POST /s3cr%C3", false), "<p>cannot POST");
        assert_eq!(said(&"x ".repeat(1000), true).chars().count(), REASON_LIMIT + 1);
    }

    #[test]
    fn secrets_are_checked() {
        for wrong in ["secret", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%"] {
            let error = signing_key(&wrong.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("whsec_") && !error.contains("c2hvcnQ"), "{error}");
        }
    }
}
