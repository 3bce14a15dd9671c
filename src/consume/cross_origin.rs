//! Refuses requests of web pages of other origins, unless `--allow-origin` names the origin.
//!
//! A browser lets any page send requests to any server, on this machine too. Three headers that no page can set tell
//! these requests apart: `Sec-Fetch-Site` (Fetch Metadata), `Origin` (RFC 6454), and `Host`, which names the page's own
//! server where that name was made to resolve to this machine (DNS rebinding).

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderMap,
    HeaderName, HeaderValue, ORIGIN,
};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{Method, Response, StatusCode};

use super::answer::{Answer, add_vary};
use super::body::Content;
use super::problem::Problem;
use crate::core::origin::{HostName, Origin};
use crate::core::text::excerpt;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Private Network Access, a draft that Chromium follows: it asks for this in a preflight request.
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// How long a browser may cache a preflight response, in seconds: Chromium's maximum.
const PREFLIGHT_SECONDS: &str = "7200";

/// What pages of an allowed origin may send and read, besides what any page may (the safelists of the Fetch standard).
const METHODS: &str = "GET, HEAD, POST";
const REQUEST_HEADERS: &str =
    "authorization, content-type, content-encoding, idempotency-key, last-event-id, traceparent";
const RESPONSE_HEADERS: &str = "link, location, replica-position, retry-after, www-authenticate";

pub struct CrossOrigin {
    /// The hosts that are served besides loopback names and addresses; none where any host is served.
    pub hosts: Option<Vec<HostName>>,
    pub allowed: Vec<Origin>,
    /// This server serves https, so that its own page cannot have come by http.
    pub serves_https: bool,
}

impl CrossOrigin {
    /// # Errors
    /// 421 where the request is for a host that is not served (RFC 9110, section 15.5.20).
    pub fn check_host(&self, head: &Parts) -> Result<(), Problem> {
        let Some(hosts) = &self.hosts else { return Ok(()) };
        let in_header = head.headers.get_all(HOST).iter().filter_map(|host| host.to_str().ok());
        // Browsers always send a host.
        let mut named = in_header.chain(target_host(head)).filter(|host| !host.is_empty());
        let served = |host: &HostName| host.is_this_machine() || hosts.contains(host);
        match named.find(|host| !served(&HostName::of(host))) {
            None => Ok(()),
            Some(host) => {
                let host = excerpt(host, 64);
                let detail = format!(
                    "the host `{host}` is not served: if it is meant to be, allow it with --allowed-host"
                );
                Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail))
            }
        }
    }

    /// Returns the origin of the page where it is an allowed one.
    ///
    /// # Errors
    /// 403 for a page of another origin that is not allowed.
    pub fn check_origin(&self, head: &Parts) -> Result<Option<HeaderValue>, Problem> {
        let refusal = || {
            let detail = "this request comes from a page of another origin: if it is meant to, allow its origin \
                with --allow-origin";
            Problem::new(StatusCode::FORBIDDEN, detail)
        };
        let (value, site) = match (single(&head.headers, &ORIGIN), single(&head.headers, &SEC_FETCH_SITE)) {
            (Ok(None), Ok(None)) => return Ok(None),
            (Ok(origin), Ok(site)) => (origin, site),
            (Err(Repeated), _) | (_, Err(Repeated)) => return Err(refusal()),
        };
        let origin = value.and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(origin) = &origin
            && self.allowed.contains(origin)
        {
            return Ok(value.cloned());
        }
        let own = match site.map(HeaderValue::as_bytes) {
            // `none`: the user typed the address or opened a bookmark.
            Some(b"same-origin" | b"none") => true,
            Some(_) => is_navigation(head),
            // Browsers omit Sec-Fetch-Site for servers that they do not consider trustworthy: unencrypted, non-loopback.
            None => value.is_none() || origin.is_some_and(|origin| self.is_own(&origin, head)),
        };
        if own { Ok(None) } else { Err(refusal()) }
    }

    fn is_own(&self, origin: &Origin, head: &Parts) -> bool {
        let in_header = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        target_host(head).or(in_header).is_some_and(|host| origin.is_at(host))
            && (origin.is_https() || !self.serves_https)
    }

    /// The response to a preflight request of an allowed origin; none for all other requests.
    pub fn preflight(&self, head: &Parts, origin: Option<&HeaderValue>) -> Option<Answer> {
        origin?;
        if head.method != Method::OPTIONS || !head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = Response::new(Content::from(""));
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_SECONDS));
        if head.headers.contains_key(REQUEST_PRIVATE_NETWORK) {
            headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        Some(response)
    }

    /// Lets the page of an allowed origin read the response.
    pub fn mark(&self, answer: &mut Answer, origin: Option<HeaderValue>) {
        if self.allowed.is_empty() {
            return;
        }
        add_vary(answer, "Origin");
        if let Some(origin) = origin {
            let headers = answer.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
        }
    }
}

/// The host of `:authority`, or of a request line with a whole URL.
fn target_host(head: &Parts) -> Option<&str> {
    head.uri.scheme().and(head.uri.authority()).map(Authority::as_str)
}

/// Whether the user follows a link to here: no other page can read the response.
fn is_navigation(head: &Parts) -> bool {
    let is = |name, expected: &[u8]| matches!(single(&head.headers, &name), Ok(Some(value)) if value.as_bytes() == expected);
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    reads && is(SEC_FETCH_MODE, b"navigate") && is(SEC_FETCH_DEST, b"document")
}

/// The header occurs more than once.
struct Repeated;

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Repeated> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() { Err(Repeated) } else { Ok(value) }
}
