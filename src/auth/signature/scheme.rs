//! The schemes by which senders prove who they are.

use super::hmac::{Digest, Encoding};
use super::template::RequestTemplate;

#[derive(Debug)]
pub enum Scheme {
    /// Standard Webhooks, specification 1.0.0: HMAC (`v1`) and Ed25519 (`v1a`).
    Standard,
    Github,
    Stripe,
    Slack,
    Shopify,
    /// Facebook, Instagram and WhatsApp.
    Meta,
    /// An HMAC of which the settings say everything.
    Hmac(Box<HmacScheme>),
    Bearer,
    Basic,
    /// Anybody may send.
    Unverified,
}

#[derive(Debug)]
pub struct HmacScheme {
    /// The header with the signature.
    pub header: String,
    pub digest: Digest,
    pub encoding: Encoding,
    /// What precedes the signature.
    pub prefix: String,
    /// What is signed; the body where there is none.
    pub signed: Option<RequestTemplate>,
    /// The header with the time of the signature, in Unix seconds.
    pub time_header: Option<String>,
}
