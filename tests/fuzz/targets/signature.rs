//! Signed webhooks: no header that is made up is taken for a signature; and the settings of hooks.

#![no_main]

use eventctl::testing::{
    Digest, Encoding, HmacScheme, HookList, RequestTemplate, Scheme, Timestamp, verify, verifying_key,
};
use eventctl_fuzz::assert_presentable;
use hyper::header::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

/// 2026-01-15 12:00 UTC.
const NOW: i64 = 1_768_478_400_000_000;

const HEADERS: [&str; 11] = [
    "x-hub-signature-256",
    "stripe-signature",
    "x-slack-signature",
    "x-slack-request-timestamp",
    "x-shopify-hmac-sha256",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "svix-id",
    "x-mac",
    "authorization",
];

fn hmac() -> Scheme {
    Scheme::Hmac(Box::new(HmacScheme {
        header: "x-mac".to_owned(),
        digest: Digest::Sha512,
        encoding: Encoding::Base64,
        prefix: "v1=".to_owned(),
        signed: RequestTemplate::new("{{ header['webhook-id'] }}.{{ text }}").ok(),
        time_header: None,
    }))
}

fuzz_target!(|parts: (Vec<&str>, &[u8], &str)| {
    let (values, body, setting) = parts;
    let headers: HeaderMap = HEADERS
        .into_iter()
        .zip(values)
        .filter_map(|(name, value)| Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?)))
        .collect();
    let now = Timestamp::from_microseconds(NOW);
    for (scheme, secret) in [
        (Scheme::Standard, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        (Scheme::Standard, "whpk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
        (Scheme::Github, "a secret of the sender"),
        (Scheme::Stripe, "a secret of the sender"),
        (Scheme::Slack, "a secret of the sender"),
        (Scheme::Shopify, "a secret of the sender"),
        (Scheme::Bearer, "a secret of the sender"),
        (Scheme::Basic, "ada:a secret of the sender"),
        (hmac(), "a secret of the sender"),
    ] {
        let key = verifying_key(&scheme, &secret.parse().expect("a secret")).expect("a key");
        let error = verify(&scheme, &[key], &headers, body, now).expect_err("nobody can sign this");
        assert_presentable(&error.to_string());
    }
    if let Err(error) = setting.parse::<HookList>() {
        assert_presentable(&error);
    }
});
