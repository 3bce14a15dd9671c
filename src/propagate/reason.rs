//! The reason that a receiver gives when it refuses an event.

use std::fmt::Write;

use hyper::Response;
use hyper::body::Bytes;
use serde_json::Value;

use crate::core::text::excerpt;

/// The longest reason that is shown, in characters.
const REASON_LIMIT: usize = 300;

/// How much of a body that is not JSON is read, in bytes.
const BODY_LIMIT_BYTES: usize = 4096;

/// The shortest header value that is redacted as a secret: redacting shorter ones would hide words.
const SECRET_MINIMUM_BYTES: usize = 4;

/// Parts of the names of JSON members that hold secrets, in lower case and without dashes.
const SECRET_NAMES: [&str; 7] =
    ["token", "password", "secret", "authorization", "cookie", "credential", "apikey"];

const NOT_SHOWN: &str = "[not shown]";

/// The reason in the body of a response that is not 2xx, as one short line. Secrets of the sender that the receiver
/// repeats are redacted. None if the body is empty.
pub fn reason_of(response: &Response<Bytes>, secrets: &[String]) -> Option<String> {
    if response.status().is_success() {
        return None;
    }
    let body = response.body();
    let start = &body[..body.len().min(BODY_LIMIT_BYTES)];
    let json = serde_json::from_slice(body).ok().map(|mut value| {
        redact_secrets(&mut value);
        description_of(&value).unwrap_or_else(|| value.to_string())
    });
    let text = json.unwrap_or_else(|| String::from_utf8_lossy(start).into_owned());
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for secret in secrets.iter().filter(|secret| secret.len() >= SECRET_MINIMUM_BYTES) {
        text = text.replace(secret, NOT_SHOWN);
    }
    (!text.is_empty()).then(|| excerpt(&text, REASON_LIMIT))
}

/// `detail`, or else `title`, and each of `errors` with its pointer, of a problem description (RFC 9457).
fn description_of(body: &Value) -> Option<String> {
    let text_of = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut text = match body.get("detail") {
        None => text_of(body, "title")?,
        Some(detail) => detail.as_str()?.to_owned(),
    };
    for error in body.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let Some(detail) = text_of(error, "detail") else { continue };
        let pointer = text_of(error, "pointer").map_or_else(String::new, |pointer| format!("{pointer}: "));
        write!(text, "; {pointer}{detail}").expect("memory takes all text");
    }
    Some(text)
}

/// Redacts members whose names say that they hold secrets.
fn redact_secrets(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact_secrets),
        Value::Object(members) => {
            for (name, value) in members {
                let name = name.to_ascii_lowercase().replace(['-', '_'], "");
                let is_secret = SECRET_NAMES.iter().any(|secret| name.contains(secret));
                match value {
                    Value::String(text) if is_secret => NOT_SHOWN.clone_into(text),
                    value => redact_secrets(value),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(body: &str) -> Option<String> {
        let response = Response::builder().status(400).body(Bytes::copy_from_slice(body.as_bytes())).unwrap();
        reason_of(&response, &["s3cr\u{e9}t".to_owned(), "abc".to_owned()])
    }

    #[test]
    fn a_reason_is_what_the_receiver_says() {
        for (body, expected) in [
            (
                r#"{"title":"Bad Request","status":400,"detail":"the body does not fit"}"#,
                "the body does not fit",
            ),
            (
                r#"{"detail":"no","errors":[{"pointer":"/a","detail":"not a string"},{"detail":"b"},{}]}"#,
                "no; /a: not a string; b",
            ),
            (r#"{"title":"Not Found"}"#, "Not Found"),
            (r#"{"detail":[{"msg":"Field required"}]}"#, r#"{"detail":[{"msg":"Field required"}]}"#),
            ("[1]", "[1]"),
            (
                r#"{"a":[{"X-Api-Key":"k","access_token":"t","n":1}]}"#,
                r#"{"a":[{"X-Api-Key":"[not shown]","access_token":"[not shown]","n":1}]}"#,
            ),
            ("<html>\n <b>no</b>\r\n</html>", "<html> <b>no</b> </html>"),
            ("\u{1b}[2J\u{202e}", "\\u{1b}[2J\\u{202e}"),
            ("the token s3cr\u{e9}t of abc", "the token [not shown] of abc"),
        ] {
            assert_eq!(reason(body).as_deref(), Some(expected), "{body}");
        }
        assert_eq!(reason(" \n"), None);
        assert_eq!(reason(&"x".repeat(100_000)).unwrap().chars().count(), REASON_LIMIT + 1);
    }
}
