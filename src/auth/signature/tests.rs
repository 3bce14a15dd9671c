use hyper::header::{HeaderName, HeaderValue};
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::header::Stripe;
use super::*;

const SECRET: &str = "It's a Secret to Everybody";
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A signed request, as the services document it.
struct Sample {
    scheme: Scheme,
    secret: &'static str,
    headers: Vec<(&'static str, String)>,
    body: &'static str,
    /// When it was signed, in Unix seconds; none where the scheme has no time.
    signed_at: Option<i64>,
}

impl Sample {
    fn verify(&self, headers: &HeaderMap, body: &[u8], secret: &str, seconds: i64) -> Result<(), Unverified> {
        let key = verifying_key(&self.scheme, &secret.parse().unwrap()).unwrap();
        verify(&self.scheme, &[key], headers, body, Timestamp::from_microseconds(seconds * 1_000_000))
    }

    fn headers(&self) -> HeaderMap {
        let header = |(name, value): &(&str, String)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(value).unwrap())
        };
        self.headers.iter().map(header).collect()
    }

    fn other_secret(&self) -> String {
        match self.scheme {
            Scheme::Standard => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx".to_owned(),
            _ => format!("{}!", self.secret),
        }
    }
}

fn hmac_scheme(
    digest: Digest,
    encoding: Encoding,
    signed: Option<&str>,
    time_header: Option<&str>,
) -> Scheme {
    Scheme::Hmac(Box::new(HmacScheme {
        header: "x-mac".to_owned(),
        digest,
        encoding,
        prefix: "p:".to_owned(),
        signed: signed.map(|signed| RequestTemplate::new(signed).unwrap()),
        time_header: time_header.map(str::to_owned),
    }))
}

/// Stripe's, Shopify's and the configured ones are computed with openssl; the others are those of the documentation.
fn samples() -> Vec<Sample> {
    let owned = |headers: &[(&'static str, &str)]| {
        headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<_>>()
    };
    let sample = |scheme, secret, headers: &[(&'static str, &str)], body, signed_at| Sample {
        scheme,
        secret,
        headers: owned(headers),
        body,
        signed_at,
    };
    let github = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let standard = [
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,AAAA v1a,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ];
    let slack = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
        &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
        &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
        &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    vec![
        sample(Scheme::Github, SECRET, &[("x-hub-signature-256", github)], "Hello, World!", None),
        sample(Scheme::Meta, SECRET, &[("x-hub-signature-256", github)], "Hello, World!", None),
        sample(Scheme::Standard, STANDARD_SECRET, &standard, r#"{"test": 2432232314}"#, Some(1_614_265_330)),
        sample(
            Scheme::Slack,
            "8f742231b10e8888abcd99yyyzzz85a5",
            &[
                ("x-slack-request-timestamp", "1531420618"),
                ("x-slack-signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
            ],
            slack,
            Some(1_531_420_618),
        ),
        sample(
            Scheme::Stripe,
            "whsec_test",
            &[(
                "stripe-signature",
                "t=1614265330,v1=347e9afe3d74ec4c5cbefd270edc9246513ae3da7b375223e302560fbd4146eb",
            )],
            r#"{"id":"evt_1"}"#,
            Some(1_614_265_330),
        ),
        sample(
            Scheme::Shopify,
            "hush",
            &[("x-shopify-hmac-sha256", "VnKUjZsLuN5iZWjn5EntcBVCF9kMN43LglzCE1/GSeY=")],
            r#"{"id":1}"#,
            None,
        ),
        sample(
            hmac_scheme(Digest::Sha512, Encoding::Base64, None, None),
            "hush",
            &[(
                "x-mac",
                "p:6gzhm/GpwQ0z+qyCze6TnBqY0YLODcoMcWse69FLPW3iGrVgl6EQ4xyKKQ4R0GgOn+bJZCXv7WCqiE688G30Ig==",
            )],
            "body",
            None,
        ),
        sample(
            hmac_scheme(
                Digest::Sha1,
                Encoding::Hex,
                Some("{{ header['x-time'] }}.{{ text }}"),
                Some("x-time"),
            ),
            "hush",
            &[("x-mac", "p:8ffb1268bf6cb19ecc70a3f2776eec7b2e48779e"), ("x-time", "1614265330")],
            "body",
            Some(1_614_265_330),
        ),
        sample(
            Scheme::Bearer,
            "0123456789abcdef",
            &[("authorization", "Bearer 0123456789abcdef")],
            "body",
            None,
        ),
        sample(
            Scheme::Basic,
            "name:0123456789abcdef",
            &[("authorization", "basic bmFtZTowMTIzNDU2Nzg5YWJjZGVm")],
            "body",
            None,
        ),
    ]
}

#[test]
fn what_the_services_sign_is_verified() {
    for sample in samples() {
        let now = sample.signed_at.unwrap_or(1_700_000_000);
        let verify =
            |seconds| sample.verify(&sample.headers(), sample.body.as_bytes(), sample.secret, seconds);
        assert_eq!(verify(now), Ok(()), "{:?}", sample.scheme);
        let bound = i64::try_from(unverified::TOLERANCE.as_secs()).unwrap();
        assert_eq!((verify(now + bound), verify(now - bound)), (Ok(()), Ok(())), "{:?}", sample.scheme);
        if sample.signed_at.is_some() {
            for seconds in [now + bound + 1, now - bound - 1, 0, i64::MAX / 1_000_000, i64::MIN / 1_000_000] {
                assert_eq!(verify(seconds), Err(Unverified::OutOfTime), "{:?}", sample.scheme);
            }
        }
    }
}

#[test]
fn another_secret_and_any_flipped_bit_is_refused() {
    for sample in samples() {
        let now = sample.signed_at.unwrap_or(1_700_000_000);
        let headers = sample.headers();
        let verify = |headers: &HeaderMap, body: &[u8]| sample.verify(headers, body, sample.secret, now);
        let other = sample.verify(&headers, sample.body.as_bytes(), &sample.other_secret(), now);
        assert!(other.is_err(), "{:?}", sample.scheme);
        let signs_the_body = !matches!(sample.scheme, Scheme::Bearer | Scheme::Basic);
        for at in 0..sample.body.len() * 8 {
            let mut body = sample.body.as_bytes().to_vec();
            body[at / 8] ^= 1 << (at % 8);
            assert_eq!(verify(&headers, &body).is_err(), signs_the_body, "{:?} {at}", sample.scheme);
        }
        for (name, value) in &sample.headers {
            let mut without = headers.clone();
            without.remove(*name);
            assert!(verify(&without, sample.body.as_bytes()).is_err(), "{:?} {name}", sample.scheme);
            let mut twice = headers.clone();
            twice.append(*name, HeaderValue::from_str(value).unwrap());
            assert!(verify(&twice, sample.body.as_bytes()).is_err(), "{:?} {name}", sample.scheme);
            for at in 0..value.len() * 8 {
                let mut changed = value.clone().into_bytes();
                changed[at / 8] ^= 1 << (at % 8);
                // A letter of another case is the same digit, or the same name of a scheme; a wrong signature beside
                // the right one is passed over.
                let is_same = changed.eq_ignore_ascii_case(value.as_bytes())
                    && match &sample.scheme {
                        Scheme::Standard | Scheme::Shopify => false,
                        Scheme::Hmac(scheme) => scheme.encoding == Encoding::Hex && at / 8 >= "p:".len(),
                        Scheme::Bearer => at / 8 < "bearer".len(),
                        Scheme::Basic => at / 8 < "basic".len(),
                        _ => true,
                    };
                let is_spare = *name == "webhook-signature" && at / 8 < "v1,AAAA v1a,AAAA".len();
                let Ok(changed) = HeaderValue::from_bytes(&changed) else { continue };
                let mut headers = headers.clone();
                headers.insert(*name, changed);
                let verified = verify(&headers, sample.body.as_bytes());
                assert!(verified.is_err() || is_same || is_spare, "{:?} {headers:?}", sample.scheme);
            }
        }
    }
}

#[test]
fn headers_of_another_scheme_are_refused() {
    let samples = samples();
    for (one, sample) in samples.iter().enumerate() {
        for (other, headers) in samples.iter().enumerate() {
            let same_header = sample.headers[0].0 == headers.headers[0].0;
            if one != other && !(same_header && matches!(sample.scheme, Scheme::Github | Scheme::Meta)) {
                let now = sample.signed_at.unwrap_or(1_700_000_000);
                let verified = sample.verify(&headers.headers(), sample.body.as_bytes(), sample.secret, now);
                assert!(verified.is_err(), "{:?} {:?}", sample.scheme, headers.scheme);
            }
        }
    }
}

#[test]
fn public_keys_verify_what_their_owner_signs() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let body = br#"{"type":"a"}"#;
    let now = Timestamp::from_microseconds(1_614_265_330_000_000);
    let mut headers = HeaderMap::new();
    standard::sign(&mut headers, None, "msg_1", now, body);
    let mut signed = b"msg_1.1614265330.".to_vec();
    signed.extend_from_slice(body);
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let signature = base64(pair.sign(&signed).as_ref());
    let key = |public: &[u8]| {
        let secret = format!("whpk_{}", base64(public)).parse().unwrap();
        verifying_key(&Scheme::Standard, &secret).unwrap()
    };
    let mut verify_with = |signature: String, public: &[u8], body: &[u8]| {
        headers.insert("webhook-signature", HeaderValue::try_from(signature).unwrap());
        verify(&Scheme::Standard, &[key(public)], &headers, body, now)
    };
    let public = pair.public_key().as_ref();
    assert_eq!(verify_with(format!("v1a,{signature}"), public, body), Ok(()));
    assert_eq!(verify_with(format!("v1a,{signature}"), public, b"{}"), Err(Unverified::WrongSignature));
    assert_eq!(verify_with(format!("v1a,{signature}"), &[9; 32], body), Err(Unverified::WrongSignature));
    // A public key is no secret that anybody could sign with.
    assert_eq!(verify_with(format!("v1,{signature}"), public, body), Err(Unverified::WrongSignature));
}

#[test]
fn our_signature_is_that_of_the_specification() {
    let key = standard::signing_key(&STANDARD_SECRET.parse().unwrap(), "--flag").unwrap();
    let mut headers = HeaderMap::new();
    let now = Timestamp::from_microseconds(1_614_265_330_000_000);
    standard::sign(&mut headers, Some(&key), "msg_p5jXN8AQM9LWM0D4loKWxJek", now, br#"{"test": 2432232314}"#);
    assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
    assert_eq!(headers["webhook-timestamp"], "1614265330");
    assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    // The names before there was a specification.
    for name in ["id", "timestamp", "signature"] {
        let value = headers.remove(format!("webhook-{name}")).unwrap();
        headers.insert(HeaderName::try_from(format!("svix-{name}")).unwrap(), value);
    }
    let key = verifying_key(&Scheme::Standard, &STANDARD_SECRET.parse().unwrap()).unwrap();
    assert_eq!(verify(&Scheme::Standard, &[key], &headers, br#"{"test": 2432232314}"#, now), Ok(()));
}

#[test]
fn secrets_are_checked_and_not_shown() {
    for (scheme, secrets) in [
        (Scheme::Standard, &["secret", "whsec_c2hvcnQ=", "whsec_%%%", "whpk_c2hvcnQ="][..]),
        (Scheme::Bearer, &["tooshort"]),
        (Scheme::Basic, &["0123456789abcdef", "name:short"]),
    ] {
        for secret in secrets {
            let error = verifying_key(&scheme, &secret.parse().unwrap()).unwrap_err();
            assert!(error.starts_with("expected") && !error.contains(secret), "{error}");
        }
    }
    for wrong in ["secret", "whsec_", "whsec_c2hvcnQ="] {
        let error = standard::signing_key(&wrong.parse().unwrap(), "--flag").unwrap_err().to_string();
        assert!(error.contains("--flag") && !error.contains("c2hvcnQ"), "{error}");
    }
    let key = verifying_key(&Scheme::Github, &"s3cret".parse().unwrap()).unwrap();
    assert!(!format!("{key:?}").contains("s3cret"));
}

#[test]
fn stripe_s_header_is_read_item_by_item() {
    let parsed = Stripe::parse("t=1,v0=00, v1=ab ,v1=cd,scheme").unwrap();
    assert_eq!(parsed, Stripe { timestamp: "1", signatures: vec![vec![0xab], vec![0xcd]] });
    for wrong in ["", "t=1", "v1=ab", "t=1,t=2,v1=ab", "t=1,v1=a", "t=1,v1=ag", "t=1,v1=é"] {
        assert!(Stripe::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn templates_are_checked_before_the_first_request() {
    for wrong in ["{{", "{{ env }}", "{% for x in y %}{% endfor %}"] {
        assert!(RequestTemplate::new(wrong).is_err(), "{wrong}");
    }
    let template = RequestTemplate::new("a.{{ header['x-a'] }}.{{ body.b.c }}.{{ text }}").unwrap();
    let mut headers = HeaderMap::new();
    let render = |headers: &HeaderMap, text: &str| template.render(headers, text);
    assert_eq!(render(&headers, r#"{"b":{"c":1}}"#), Err(TemplateError::Missing));
    headers.insert("X-A", HeaderValue::from_static("<1>"));
    assert_eq!(render(&headers, r#"{"b":{"c":1}}"#), Ok(r#"a.<1>.1.{"b":{"c":1}}"#.to_owned()));
    assert_eq!(render(&headers, r#"{"b":{}}"#), Err(TemplateError::Missing));
    assert_eq!(render(&headers, "b"), Err(TemplateError::NotJson));
    let endless = RequestTemplate::new("{% for a in text|list %}x{% endfor %}").unwrap();
    assert_eq!(endless.render(&headers, &"x".repeat(99_999)), Err(TemplateError::Fails));
}
