//! The headers that carry signatures and credentials.

use hyper::header::HeaderMap;

use super::hmac::Encoding;
use super::key::from_base64;
use super::unverified::Unverified;

/// The signatures of Stripe that are compared; a rotation of secrets takes two.
const STRIPE_SIGNATURES: usize = 8;

/// # Errors
/// The header is missing, repeated, or not visible ASCII.
pub fn sole<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Unverified> {
    optional(headers, name)?.ok_or_else(|| Unverified::NoHeader(name.to_owned()))
}

/// # Errors
/// The header is repeated, or not visible ASCII.
pub fn optional<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Unverified> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| Unverified::MalformedHeader(name.to_owned()))
        }
        (Some(_), Some(_)) => Err(Unverified::NoHeader(name.to_owned())),
    }
}

/// `Stripe-Signature: t=1492774577,v1=5257a8…,v1=…,v0=…`
#[derive(Debug, PartialEq, Eq)]
pub struct Stripe<'a> {
    pub timestamp: &'a str,
    pub signatures: Vec<Vec<u8>>,
}

impl Stripe<'_> {
    pub fn parse(header: &str) -> Result<Stripe<'_>, Unverified> {
        let malformed = || Unverified::MalformedHeader("stripe-signature".to_owned());
        let items = || header.split(',').filter_map(|item| item.trim().split_once('='));
        let mut timestamps = items().filter(|(name, _)| *name == "t");
        let (Some((_, timestamp)), None) = (timestamps.next(), timestamps.next()) else {
            return Err(malformed());
        };
        let signatures = items().filter(|(name, _)| *name == "v1").take(STRIPE_SIGNATURES);
        let signatures: Vec<Vec<u8>> = signatures
            .map(|(_, signature)| Encoding::Hex.decode(Some(signature), "stripe-signature"))
            .collect::<Result<_, _>>()?;
        if signatures.is_empty() { Err(malformed()) } else { Ok(Stripe { timestamp, signatures }) }
    }
}

/// The token of `Authorization: Bearer`.
pub fn bearer_token(authorization: &str) -> Option<&str> {
    of_scheme(authorization, "bearer")
}

/// The name and password of `Authorization: Basic`, as `NAME:PASSWORD`.
pub fn basic_credentials(authorization: &str) -> Option<String> {
    let credentials = from_base64(of_scheme(authorization, "basic")?)?;
    String::from_utf8(credentials).ok()
}

fn of_scheme<'a>(authorization: &'a str, scheme: &str) -> Option<&'a str> {
    let (given, credentials) = authorization.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| credentials.trim_start_matches(' '))
}
