//! `GET /`: the live page, a single file inside the program.
//!
//! It contains no data and so needs no authentication; it fetches what it shows as any client does.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY};
use sha2::{Digest, Sha256};

use crate::consume::answer::{Answer, response_of};

const PAGE: &str = include_str!("page.html");

static POLICY: LazyLock<HeaderValue> = LazyLock::new(policy);

/// The page, with headers that forbid everything that it does not need.
pub fn answer() -> Answer {
    let mut response = response_of(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Another version of the program has another page.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// The page's Content Security Policy (CSP Level 3): its own script and style, by their hashes, and connections to this
/// server. Strings never become markup or code (`require-trusted-types-for`).
fn policy() -> HeaderValue {
    let script = hash_of_element("script type=\"module\"", "script");
    let style = hash_of_element("style", "style");
    let policy = format!(
        "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; \
        base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
        trusted-types 'none'"
    );
    HeaderValue::try_from(policy).expect("a policy is ASCII")
}

/// The hash of the content of an element, which the page has once.
fn hash_of_element(start: &str, end: &str) -> String {
    let (start, end) = (format!("<{start}>"), format!("</{end}>"));
    let content = PAGE.split_once(&start).and_then(|(_, rest)| rest.split_once(&end));
    let (content, _) = content.expect("the page has a script and a style");
    format!("sha256-{}", STANDARD.encode(Sha256::digest(content)))
}
