//! What a client sends to `POST /event`: its headers and its body.

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{StatusCode, Version};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::core::event::Event;
use crate::core::text::{excerpt, without_byte_order_mark};
use crate::store::backend::IdempotencyKey;
use crate::store::{Reservation, Store};

/// The longest idempotency key, in bytes.
const KEY_LIMIT_BYTES: usize = 255;

/// How events are written in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object or an array of objects.
    Json,
    /// An object a line.
    Ndjson,
}

impl Format {
    /// The format that the headers announce.
    ///
    /// # Errors
    /// 415 for all others, and for none, which any web page can send.
    pub fn of(headers: &HeaderMap) -> Result<Format, Problem> {
        let Some(content_type) = headers.get(CONTENT_TYPE) else {
            let detail = "there is no Content-Type header: send `Content-Type: application/json`, or \
                `application/x-ndjson` for lines";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        };
        let content_type = content_type.to_str().unwrap_or_default();
        let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
        let format = match parts.next().as_deref() {
            Some("application/json") => Some(Format::Json),
            Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => Some(Format::Ndjson),
            _ => None,
        };
        let in_utf8 = parts.all(|part| match part.split_once('=') {
            // `utf8` is not a registered name, and common; US-ASCII is a part of UTF-8.
            Some(("charset", charset)) => ["utf-8", "utf8", "us-ascii"].contains(&charset.trim_matches('"')),
            _ => true,
        });
        format.filter(|_| in_utf8).ok_or_else(|| {
            let got = excerpt(content_type, 64);
            let detail = format!(
                "expected Content-Type application/json or application/x-ndjson in UTF-8, got `{got}`"
            );
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
        })
    }

    /// The events of a body, and whether they came as a list.
    ///
    /// # Errors
    /// 400 with all that is wrong with them.
    pub fn parse(self, body: &[u8]) -> Result<(Vec<Event>, bool), Problem> {
        let text = without_byte_order_mark(body);
        let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
        match (self, first) {
            (Format::Ndjson, _) => Ok((Event::parse_lines(body)?, true)),
            (Format::Json, Some(b'[')) => Ok((Event::parse_array(body)?, true)),
            (Format::Json, _) => Ok((vec![Event::parse(body)?], false)),
        }
    }
}

/// The value of the `Idempotency-Key` header, if there is one.
///
/// # Errors
/// 400 for a value that is empty, too long, given twice or not printable ASCII.
pub fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    let printable = key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if key.is_empty() || !printable || key.len() > KEY_LIMIT_BYTES || values.next().is_some() {
        let detail =
            format!("expected one Idempotency-Key of 1 to {KEY_LIMIT_BYTES} printable ASCII characters");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    Ok(Some(key.to_owned()))
}

/// A key together with what the request says.
pub fn idempotency_key(key: String, body: &[u8]) -> IdempotencyKey {
    IdempotencyKey { key, body_digest: Sha256::digest(body).into() }
}

/// A key together with what a request says that may have been stored under it.
pub struct Keys {
    /// What the request is stored under.
    pub key: IdempotencyKey,
    /// One line of NDJSON has the bytes of a single event, and another answer. Under this key the same bytes are found that
    /// came as that event, or as a line when lines and events were not told apart: they are answered as that event was.
    pub as_one_event: Option<IdempotencyKey>,
}

impl Keys {
    /// The digest of a body tells by itself how it is answered, unless it is one line of NDJSON.
    pub fn of(key: String, body: &[u8], is_line: bool) -> Keys {
        let as_event = idempotency_key(key, body);
        if !is_line {
            return Keys { key: as_event, as_one_event: None };
        }
        let digest = Sha256::new().chain_update(b"application/x-ndjson\n").chain_update(body).finalize();
        let key = IdempotencyKey { key: as_event.key.clone(), body_digest: digest.into() };
        Keys { key, as_one_event: Some(as_event) }
    }
}

/// A body, unless all of it has been read.
pub fn unread_of(body: Incoming) -> Option<Incoming> {
    Some(body).filter(|body| !body.is_end_stream())
}

/// Reads a body within its limit, setting aside the memory that it takes, and takes it out of `unread`.
///
/// Memory is set aside for what has arrived: what is only announced would let a few clients take it all.
///
/// # Errors
/// 413 above the limit, 503 without room in memory, 400 where the body breaks off.
pub async fn read(
    unread: &mut Option<Incoming>,
    version: Version,
    store: &Store,
    limit_bytes: usize,
) -> Result<(Bytes, Reservation), Problem> {
    let too_large = || Problem::body_too_large(limit_bytes);
    let cut_off = || Problem::new(StatusCode::BAD_REQUEST, "the body is cut off or malformed: not stored");
    let Some(body) = unread else { return Err(Problem::overloaded()) };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit_bytes {
        return Err(too_large());
    }
    let mut reservation = store.reserve();
    // Most bodies come in one piece. Those that do not are copied, for a piece of a few bytes can hold on to
    // a whole buffer.
    let mut first = Bytes::new();
    let mut joined: Vec<u8> = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame.map_err(|_| cut_off())?.into_data() else { continue };
        length += chunk.len();
        if length > limit_bytes {
            return Err(too_large());
        }
        if !reservation.grow(chunk.len()) {
            return Err(Problem::overloaded());
        }
        if first.is_empty() {
            first = chunk;
            continue;
        }
        if joined.is_empty() {
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&chunk);
    }
    // hyper takes a stream that is reset with NO_ERROR for one that has ended.
    if version >= Version::HTTP_2 && !body.is_end_stream() {
        return Err(cut_off());
    }
    *unread = None;
    let body = if joined.is_empty() { first } else { joined.into() };
    Ok((body, reservation))
}
