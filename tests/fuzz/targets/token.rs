//! Tokens: none is taken but those that were issued; and what asks for them.

#![no_main]

use std::sync::LazyLock;

use eventctl::testing::{Grant, GrantRequest, Scopes, SigningKey, SigningKeys, Timestamp};
use libfuzzer_sys::fuzz_target;

static KEYS: LazyLock<SigningKeys> = LazyLock::new(|| SigningKeys {
    current: SigningKey::new(&[1; 32]).expect("32 bytes are enough"),
    previous: SigningKey::new(&[2; 40]),
});

/// 2026-01-15 12:00 UTC.
const NOW: i64 = 1_768_478_400_000_000;

fuzz_target!(|parts: (&str, &str, &str, u16)| {
    let (username, password, text, position) = parts;
    assert_only_issued_tokens_are_taken(username, text, position.into());
    assert_forms_are_read_back(username, password);
    let _ = GrantRequest::parse(text.as_bytes(), Some(password));
    let _ = GrantRequest::parse(b"grant_type=client_credentials", Some(text));
});

fn assert_only_issued_tokens_are_taken(subject: &str, text: &str, position: usize) {
    let now = Timestamp::from_microseconds(NOW);
    assert!(KEYS.verify(text, now).is_err(), "{text}");
    let token = KEYS.issue(subject, Scopes::ALL, text.as_bytes(), now);
    // Longer ones are refused for their length: names are bounded where they are set.
    let verified = KEYS.verify(&token, now).map(|token| token.subject);
    assert_eq!(verified.ok().as_deref(), (token.len() <= 2048).then_some(subject), "{token}");
    let position = position % token.len();
    let put = format!("{}{text}{}", &token[..position], &token[position..]);
    assert!(put == token || KEYS.verify(&put, now).is_err(), "{put}");
    let mut changed = token.clone().into_bytes();
    changed[position] ^= 1 + (text.len() % 127) as u8;
    if let Ok(changed) = str::from_utf8(&changed) {
        assert!(KEYS.verify(changed, now).is_err(), "{changed}");
    }
}

fn assert_forms_are_read_back(username: &str, password: &str) {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "password");
    form.append_pair("username", username).append_pair("password", password);
    match GrantRequest::parse(form.finish().as_bytes(), None).map(|request| request.grant) {
        Ok(Grant::Password(credentials)) => {
            assert_eq!((credentials.username.as_str(), credentials.password.expose()), (username, password));
        }
        Ok(grant) => panic!("{grant:?}"),
        Err(error) => assert!(username.is_empty() || password.is_empty(), "{error:?}"),
    }
}
