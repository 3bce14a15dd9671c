//! Access tokens (RFC 7519): which are taken, and all the ways to forge one.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Sha256, Sha384, Sha512};
use tempfile::{TempDir, tempdir};

use crate::util::http::event;
use crate::util::sse::EventStream;
use crate::util::{Consume, write_secret};

use super::access::assert_invalid_token;
use super::stored;
use super::tokens::{USERNAME, lets_in, log_in, start_guarded, start_guarded_in};

const KEY: &str = "a key of thirty-two bytes or more";
const OTHER_KEY: &str = "another key that is as long as it";

/// A server that signs with [`KEY`].
fn start_with_key() -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "key", KEY);
    let server = start_guarded_in(directory.path(), &["--signing-key-file", "key"]);
    (directory, server)
}

/// What a token says, before it is signed.
#[derive(Clone)]
struct Draft {
    header: Value,
    claims: Value,
}

impl Draft {
    /// What a token of the server says.
    fn of(token: &str) -> Draft {
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, _signature] = parts[..] else { panic!("expected three parts: {token}") };
        let read = |part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        Draft { header: read(header), claims: read(claims) }
    }

    /// The same with another member of the header.
    fn header(&self, name: &str, value: impl Into<Value>) -> Draft {
        let mut draft = self.clone();
        draft.header[name] = value.into();
        draft
    }

    /// The same with another claim.
    fn claim(&self, name: &str, value: impl Into<Value>) -> Draft {
        let mut draft = self.clone();
        draft.claims[name] = value.into();
        draft
    }

    fn without(&self, name: &str) -> Draft {
        let mut draft = self.clone();
        let removed =
            [&mut draft.header, &mut draft.claims].map(|part| part.as_object_mut().unwrap().remove(name));
        assert!(removed.iter().any(Option::is_some), "there is no {name}");
        draft
    }

    fn signed(&self) -> String {
        signed(KEY.as_bytes(), &self.header.to_string(), &self.claims.to_string())
    }
}

/// A token of these texts as HS256 signs it.
fn signed(key: &[u8], header: &str, claims: &str) -> String {
    signed_by::<Hmac<Sha256>>(key, header, claims)
}

fn signed_by<M: Mac + KeyInit>(key: &[u8], header: &str, claims: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mac = <M as KeyInit>::new_from_slice(key).unwrap().chain_update(&text);
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

/// Asserts that tokens are refused, to read and to write; each has a name.
fn assert_refused(tokens: impl IntoIterator<Item = (String, String)>) {
    let (directory, server) = start_with_key();
    let mut refused = 0;
    for (name, token) in tokens {
        let authorization = format!("Bearer {token}");
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        let read = server.connect().request("GET", "/event", &headers, b"");
        assert_eq!(read.status, 401, "{name}: {token}: {read:?}");
        assert_invalid_token(&read);
        let written = server.connect().request("POST", "/event", &headers, event("a", &name).as_bytes());
        assert_invalid_token(&written);
        refused += 1;
    }
    assert!(refused > 0, "nothing was tried");
    assert_eq!(stored(&directory), []);
    // The server has not lost its senses: what is right is still let in.
    let draft = Draft::of(&log_in(&server).access);
    assert!(lets_in(&server, &draft.claim("jti", "forged as all the others").signed()));
}

/// What a server that signs with [`KEY`] says in its tokens, with times to come; and one of its tokens.
fn issued() -> (Draft, String) {
    let (_directory, server) = start_with_key();
    let token = log_in(&server).access;
    (Draft::of(&token), token)
}

fn named<'a>(tokens: impl IntoIterator<Item = (&'a str, String)>) -> Vec<(String, String)> {
    tokens.into_iter().map(|(name, token)| (name.to_owned(), token)).collect()
}

#[test]
fn a_token_says_what_it_should_and_no_more() {
    let (draft, _) = issued();
    let members = |part: &Value| part.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(members(&draft.header), ["alg", "kid", "typ"]);
    assert_eq!((&draft.header["alg"], &draft.header["typ"]), (&json!("HS256"), &json!("at+jwt")));
    assert_eq!(members(&draft.claims), ["aud", "exp", "iat", "iss", "jti", "scope", "sub"]);
    assert_eq!(draft.claims["sub"], USERNAME);
    let [issued_at, expires_at] = ["iat", "exp"].map(|claim| draft.claims[claim].as_i64().unwrap());
    assert_eq!(expires_at - issued_at, 900);
    assert!((now() - 60..=now()).contains(&issued_at), "{issued_at}");
}

#[test]
fn whoever_has_the_key_can_sign() {
    let (_directory, server) = start_with_key();
    let draft = Draft::of(&log_in(&server).access);
    for accepted in [
        draft.clone(),
        draft.claim("jti", "another"),
        draft.claim("scope", "read"),
        draft.claim("nbf", now()),
        draft.claim("exp", now() + 60),
        draft.claim("unknown", "ignored (RFC 7519, section 4)"),
        // The clocks of two servers are a little apart.
        draft.claim("iat", now() + 15).claim("nbf", now() + 15),
    ] {
        assert!(lets_in(&server, &accepted.signed()), "{}", accepted.claims);
    }
}

#[test]
fn a_token_does_not_choose_its_algorithm() {
    let (draft, token) = issued();
    let signature = token.rsplit_once('.').unwrap().1;
    let mut forged = Vec::new();
    for algorithm in [
        "none", "None", "NONE", "nOnE", "", "HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA", "hs256",
        "HS256 ", "HS", "A256GCM",
    ] {
        let header = draft.header("alg", algorithm).header.to_string();
        let claims = draft.claims.to_string();
        let by_sha256 = signed(KEY.as_bytes(), &header, &claims);
        let unsigned = by_sha256.rsplit_once('.').unwrap().0;
        for (way, token) in [
            ("signed", by_sha256.clone()),
            ("unsigned", format!("{unsigned}.")),
            ("without a signature", unsigned.to_owned()),
            ("with the signature of another", format!("{unsigned}.{signature}")),
            ("by SHA-384", signed_by::<Hmac<Sha384>>(KEY.as_bytes(), &header, &claims)),
            ("by SHA-512", signed_by::<Hmac<Sha512>>(KEY.as_bytes(), &header, &claims)),
            ("with 256 bytes", format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode([1; 256]))),
            ("with zeros", format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode([0; 32]))),
        ] {
            forged.push((format!("{algorithm} {way}"), token));
        }
    }
    for value in [json!(null), json!(["HS256"]), json!({"HS256": 1}), json!(256), json!(true)] {
        forged.push((format!("alg {value}"), draft.header("alg", value).signed()));
    }
    forged.push(("no alg".to_owned(), draft.without("alg").signed()));
    let honest = (draft.header.to_string(), draft.claims.to_string());
    forged.push(("SHA-512".to_owned(), signed_by::<Hmac<Sha512>>(KEY.as_bytes(), &honest.0, &honest.1)));
    assert_refused(forged);
}

#[test]
fn a_signature_is_that_of_the_key_and_of_all_that_is_signed() {
    let (draft, token) = issued();
    let (text, signature) = token.rsplit_once('.').unwrap();
    let header = text.split_once('.').unwrap().0;
    let (header_text, claims_text) = (draft.header.to_string(), draft.claims.to_string());
    let other = draft.claim("jti", "other").signed();
    let (other_text, other_signature) = other.rsplit_once('.').unwrap();
    let other_claims = other_text.split_once('.').unwrap().1;
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let with = |bytes: &[u8]| format!("{text}.{}", URL_SAFE_NO_PAD.encode(bytes));
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        with(&bytes)
    };
    let mut forged = named([
        ("no signature", format!("{text}.")),
        ("the signature of another", format!("{text}.{other_signature}")),
        ("the claims of another", format!("{header}.{other_claims}.{signature}")),
        ("a signature cut to 31 bytes", with(&bytes[..31])),
        ("a signature cut to 16 bytes", with(&bytes[..16])),
        ("a signature cut to a byte", with(&bytes[..1])),
        ("a signature with a byte more", with(&[bytes.as_slice(), &[0]].concat())),
        ("a signature twice", with(&[bytes.as_slice(), &bytes].concat())),
        ("zeros", with(&[0; 32])),
        ("the first byte of a signature changed", flipped(0)),
        ("the last byte of a signature changed", flipped(31)),
        ("a hash instead of a signature", with(&<Sha256 as sha2::Digest>::digest(text))),
        ("the key", KEY.to_owned()),
        ("the key encoded", URL_SAFE_NO_PAD.encode(KEY)),
        ("the key as its own signature", with(KEY.as_bytes())),
    ]);
    let kid = draft.header["kid"].as_str().unwrap();
    for key in
        ["", "\0", OTHER_KEY, &KEY[1..], "eventctl", "eventctl consume", USERNAME, "secret", kid, "kid"]
    {
        forged.push((format!("signed with `{key}`"), signed(key.as_bytes(), &header_text, &claims_text)));
    }
    forged.push(("signed with the newline of the key's file".to_owned(), {
        signed(format!("{KEY}\n").as_bytes(), &header_text, &claims_text)
    }));
    assert_refused(forged);
}

#[test]
fn a_token_is_of_its_type_and_of_a_known_key() {
    let (draft, _) = issued();
    let mut forged = Vec::new();
    for typ in ["JWT", "jwt", "application/at+jwt", "AT+JWT", "at+jwt ", "", "dpop+jwt", "logout+jwt"] {
        forged.push((format!("typ {typ}"), draft.header("typ", typ).signed()));
    }
    for kid in ["", "unknown", "0", "../key", "/dev/null", "' OR 1=1 --", "key"] {
        forged.push((format!("kid {kid}"), draft.header("kid", kid).signed()));
    }
    for member in ["typ", "kid"] {
        forged.push((format!("no {member}"), draft.without(member).signed()));
        for value in [json!(null), json!(1), json!([draft.header[member]])] {
            forged.push((format!("{member} {value}"), draft.header(member, value).signed()));
        }
    }
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(OTHER_KEY)});
    for (member, value) in [
        ("jwk", jwk),
        ("jku", json!("http://127.0.0.1/keys")),
        ("x5u", json!("http://127.0.0.1/certificate")),
        ("x5c", json!([])),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A128GCM")),
        ("cty", json!("JWT")),
        ("unknown", json!("")),
    ] {
        let extended = draft.header(member, value);
        let with_other_key =
            signed(OTHER_KEY.as_bytes(), &extended.header.to_string(), &extended.claims.to_string());
        forged.push((format!("{member} of the header"), extended.signed()));
        forged.push((format!("{member} of the header with another key"), with_other_key));
    }
    assert_refused(forged);
}

#[test]
fn every_claim_is_checked() {
    let (draft, _) = issued();
    let mut forged = Vec::new();
    let mut forge = |name: String, draft: Draft| forged.push((name, draft.signed()));
    for iss in ["", "Eventctl", "eventctl ", "other", "https://eventctl"] {
        forge(format!("iss {iss}"), draft.claim("iss", iss));
    }
    for aud in ["", "eventctl", "eventctl consume ", "EVENTCTL CONSUME", "other"] {
        forge(format!("aud {aud}"), draft.claim("aud", aud));
    }
    forge("aud in an array".to_owned(), draft.claim("aud", json!([draft.claims["aud"]])));
    forge("aud among others".to_owned(), draft.claim("aud", json!(["other", draft.claims["aud"]])));
    for claim in ["iss", "aud", "sub", "iat", "exp", "jti"] {
        forge(format!("no {claim}"), draft.without(claim));
        for value in [json!(null), json!([]), json!({}), json!(true), json!(1.5), json!("4102444800")] {
            if value.is_string() && !["iat", "exp"].contains(&claim) {
                continue;
            }
            forge(format!("{claim} {value}"), draft.claim(claim, value));
        }
    }
    for exp in [now(), now() - 1, now() - 3600, 0, -1, i64::MIN, i64::MAX, now() + 24 * 3600] {
        forge(format!("exp {exp}"), draft.claim("exp", exp));
    }
    for exp in [json!(u64::MAX), json!(1e300), json!(4_102_444_800.5), json!(format!("{}", now() + 60))] {
        forge(format!("exp {exp}"), draft.claim("exp", exp));
    }
    for time in [now() + 60, now() + 3600, i64::MAX] {
        forge(format!("iat {time}"), draft.claim("iat", time));
        forge(format!("nbf {time}"), draft.claim("nbf", time));
        forge(format!("iat {time} behind nbf"), draft.claim("iat", time).claim("nbf", now()));
    }
    forge("nbf as text".to_owned(), draft.claim("nbf", "0"));
    assert_refused(forged);
}

#[test]
fn a_member_that_is_given_twice_is_refused() {
    let (draft, _) = issued();
    let (header, claims) = (draft.header.to_string(), draft.claims.to_string());
    let mut forged = Vec::new();
    for (name, value) in [("alg", "\"none\""), ("alg", "\"HS256\""), ("typ", "\"JWT\""), ("kid", "\"x\"")] {
        let member = format!("\"{name}\":{value}");
        for doubled in
            [header.replacen('{', &format!("{{{member},"), 1), header.replace('}', &format!(",{member}}}"))]
        {
            forged.push((format!("header {doubled}"), signed(KEY.as_bytes(), &doubled, &claims)));
        }
    }
    for name in ["exp", "iat", "iss", "aud", "sub", "jti"] {
        let member = format!("\"{name}\":{}", draft.claims[name]);
        for doubled in
            [claims.replacen('{', &format!("{{{member},"), 1), claims.replace('}', &format!(",{member}}}"))]
        {
            forged.push((format!("claims {doubled}"), signed(KEY.as_bytes(), &header, &doubled)));
        }
    }
    assert_refused(forged);
}

#[test]
fn a_token_has_one_spelling() {
    let (draft, _) = issued();
    // One whose signature has all that is spelt in more than one way.
    let token = (0..)
        .map(|number| draft.claim("jti", number.to_string()).signed())
        .find(|token| token.rsplit_once('.').is_some_and(|(_, signature)| signature.contains(['-', '_'])));
    let token = token.unwrap();
    let (text, signature) = token.rsplit_once('.').unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, _] = parts[..] else { panic!("expected three parts") };
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (most, last) = signature.split_at(signature.len() - 1);
    let last = ALPHABET.find(last).unwrap();
    let loose = (1..4).map(|bits| {
        (format!("bits {bits} that do not count"), {
            format!("{text}.{most}{}", &ALPHABET[last + bits..=last + bits])
        })
    });
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let standard = |part: &str| STANDARD_NO_PAD.encode(URL_SAFE_NO_PAD.decode(part).unwrap());
    let spaced = format!("{} {}", &signature[..20], &signature[20..]);
    let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let forged = named([
        ("padding", format!("{text}.{}", URL_SAFE.encode(&bytes))),
        ("the other alphabet", format!("{text}.{}", standard(signature))),
        ("the other alphabet, padded", format!("{text}.{}", STANDARD.encode(&bytes))),
        ("padded claims", format!("{header}.{claims}=.{signature}")),
        ("hexadecimal", format!("{text}.{hexadecimal}")),
        ("a space inside", format!("{text}.{spaced}")),
        ("a space in front of a part", format!("{header}. {claims}.{signature}")),
        ("a tab", format!("{text}.\t{signature}")),
        ("quotes", format!("\"{token}\"")),
        ("a comma behind", format!("{token},")),
        ("a name in front", format!("token={token}")),
        ("percent encoding", token.replace('.', "%2E")),
        ("letters that look alike", token.replacen('e', "\u{435}", 1)),
    ]);
    assert_refused(forged.into_iter().chain(loose));
}

#[test]
fn a_token_has_three_parts() {
    let (draft, token) = issued();
    let (text, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = text.split_once('.').unwrap();
    let dotted = format!("{header}.{claims}.");
    let resigned = |text: &str| {
        let mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap().chain_update(text);
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    };
    let claims_text = draft.claims.to_string();
    assert_refused(named([
        ("no part", String::new()),
        ("dots", "..".to_owned()),
        ("many dots", ".".repeat(200)),
        ("one part", header.to_owned()),
        ("two parts", format!("{header}.{claims}")),
        ("two signed parts", resigned(header)),
        ("four parts", format!("{token}.{signature}")),
        ("four signed parts", resigned(&token)),
        ("an empty signed part", resigned(&dotted)),
        ("an empty header", resigned(&format!(".{claims}"))),
        ("empty claims", resigned(&format!("{header}."))),
        ("five parts", format!("{header}.{claims}.{signature}.{claims}.{signature}")),
        ("five parts as of JWE", format!("{header}..{signature}.{claims}.{signature}")),
        ("a dot in front", format!(".{token}")),
        ("a dot behind", format!("{token}.")),
        ("twice", format!("{token}.{token}")),
        ("an array as header", signed(KEY.as_bytes(), "[\"HS256\",\"at+jwt\"]", &claims_text)),
        ("no JSON as header", signed(KEY.as_bytes(), "HS256", &claims_text)),
        ("two values as header", signed(KEY.as_bytes(), &format!("{}{{}}", draft.header), &claims_text)),
        ("null as claims", signed(KEY.as_bytes(), &draft.header.to_string(), "null")),
        ("a string as claims", signed(KEY.as_bytes(), &draft.header.to_string(), "\"ada\"")),
        ("claims that are cut off", signed(KEY.as_bytes(), &draft.header.to_string(), &claims_text[..40])),
    ]));
}

#[test]
fn large_and_deep_tokens_are_refused_without_harm() {
    let (draft, token) = issued();
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let header = draft.header.to_string();
    let bomb = header.replacen('{', &format!("{{\"x\":{},", deep(600)), 1);
    let claims = draft.claims.to_string();
    let subject = claims.replace("\"sub\":\"ada\"", &format!("\"sub\":{}", deep(400)));
    assert_ne!(subject, claims);
    assert_refused(named([
        ("a deep header", signed(KEY.as_bytes(), &bomb, "{}")),
        ("a deep subject", signed(KEY.as_bytes(), &header, &subject)),
        ("a header of nothing but depth", signed(KEY.as_bytes(), &"[".repeat(700), "{}")),
        ("a long claim", draft.claim("jti", "x".repeat(2000)).signed()),
        ("20 KB of letters", "x".repeat(20_000)),
        ("20 KB behind a token", token.clone() + &"x".repeat(20_000)),
        ("20 KB of dots", token + &".".repeat(20_000)),
    ]));
}

#[test]
fn tokens_of_the_previous_key_are_good_for_as_long_as_it_is_known() {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "key", KEY);
    write_secret(directory.path(), "new-key", OTHER_KEY);
    let mut server = start_guarded_in(directory.path(), &["--signing-key-file", "key"]);
    let earlier = log_in(&server).access;
    assert!(server.process.terminate().success());
    let rotated = ["--signing-key-file", "new-key", "--previous-signing-key-file", "key"];
    let mut server = start_guarded_in(directory.path(), &rotated);
    let later = log_in(&server).access;
    assert!(lets_in(&server, &earlier) && lets_in(&server, &later));
    let [old, new] = [&earlier, &later].map(|token| Draft::of(token));
    assert_ne!(old.header["kid"], new.header["kid"]);
    // The one key does not sign in the name of the other.
    let mixed = signed(KEY.as_bytes(), &new.header.to_string(), &new.claims.to_string());
    assert!(!lets_in(&server, &mixed));
    let mixed = signed(OTHER_KEY.as_bytes(), &old.header.to_string(), &old.claims.to_string());
    assert!(!lets_in(&server, &mixed));
    assert!(server.process.terminate().success());
    let server = start_guarded_in(directory.path(), &["--signing-key-file", "new-key"]);
    assert!(!lets_in(&server, &earlier));
    assert!(lets_in(&server, &later));
}

#[test]
fn tokens_outlive_the_process() {
    let directory = tempdir().unwrap();
    let mut server = start_guarded_in(directory.path(), &[]);
    let token = log_in(&server).access;
    server.process.kill();
    let server = start_guarded_in(directory.path(), &[]);
    assert!(lets_in(&server, &token));
}

#[test]
fn servers_on_stores_of_their_own_do_not_take_the_tokens_of_each_other() {
    let servers = [start_guarded(&[]), start_guarded(&[])];
    let [first, second] = servers.each_ref().map(|(_, server)| log_in(server).access);
    let [(_, one), (_, other)] = &servers;
    assert!(lets_in(one, &first) && lets_in(other, &second));
    assert!(!lets_in(one, &second) && !lets_in(other, &first));
}

#[test]
fn the_key_of_the_settings_goes_before_that_of_the_store() {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "key", KEY);
    let mut server = start_guarded_in(directory.path(), &[]);
    let of_store = log_in(&server).access;
    assert!(server.process.terminate().success());
    let server = start_guarded_in(directory.path(), &["--signing-key-file", "key"]);
    assert!(!lets_in(&server, &of_store));
    let draft = Draft::of(&log_in(&server).access);
    assert!(lets_in(&server, &draft.signed()));
}

#[test]
fn a_stream_ends_when_its_token_does() {
    let (_directory, server) = start_with_key();
    let draft = Draft::of(&log_in(&server).access);
    let token = draft.claim("exp", now() + 3).signed();
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str())];
    let mut stream = EventStream::open(server.connect(), "", &headers);
    assert_eq!(stream.try_event().unwrap(), None);
    assert!(now() >= draft.claims["iat"].as_i64().unwrap() + 2, "the stream ended too early");
    assert_invalid_token(&server.connect().request("GET", "/event/stream", &headers, b""));
}

#[test]
fn no_stream_opens_without_a_token() {
    let (_directory, server) = start_with_key();
    assert_eq!(server.connect().get("/event/stream").status, 401);
}
