//! What the responses of a `consume` say.

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, LINK};
use serde::Deserialize;

use crate::core::event::StoredEvent;
use crate::core::text::{excerpt, printable};
use crate::core::timestamp::Timestamp;
use crate::error::hinted;

/// The longest part of a server's text that a message repeats, in characters.
const EXCERPT_LIMIT: usize = 128;

/// An event in a response.
#[derive(Deserialize)]
pub struct EventJson {
    pub id: i64,
    received_at: String,
    event_type: String,
    event_payload: String,
}

impl TryFrom<EventJson> for StoredEvent {
    type Error = anyhow::Error;

    fn try_from(event: EventJson) -> anyhow::Result<StoredEvent> {
        let EventJson { id, received_at, event_type, event_payload } = event;
        let received_at: Timestamp =
            received_at.parse().map_err(|_| anyhow::anyhow!("the response has a time that is none"))?;
        Ok(StoredEvent { id, received_at, event_type, event_payload })
    }
}

/// Makes sure that a response is what was asked for.
pub fn check(status: StatusCode, headers: &HeaderMap, media_type: &str, body: &[u8]) -> anyhow::Result<()> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let got = content_type.split(';').next().unwrap_or_default().trim();
    match status {
        StatusCode::OK if got.eq_ignore_ascii_case(media_type) => Ok(()),
        StatusCode::OK => {
            let got = printable(&excerpt(got, EXCERPT_LIMIT));
            Err(unexpected_response(&format!("it is `{got}`, not `{media_type}`")))
        }
        StatusCode::UNAUTHORIZED => Err(hinted(
            format!("the service requires a token: status {status}"),
            "give --username and --password-file, or --token-file",
        )),
        StatusCode::NOT_FOUND => Err(hinted(
            format!("there are no events at this URL: status {status}"),
            "is this an eventctl consume? give its URL, such as https://host:8000",
        )),
        _ => {
            let detail = detail_of(body).map_or_else(String::new, |detail| format!(": {detail}"));
            Err(hinted(format!("status {status}{detail}"), "see what eventctl consume says there"))
        }
    }
}

/// What a problem (RFC 9457) says.
fn detail_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    let problem: Problem = serde_json::from_slice(body).ok()?;
    Some(printable(&excerpt(&problem.detail, EXCERPT_LIMIT)))
}

pub fn unexpected_response(problem: &str) -> anyhow::Error {
    hinted(
        format!("the response makes no sense: {problem}"),
        "is this an eventctl consume? give its URL, such as https://host:8000",
    )
}

/// Whether the response links to a page there (RFC 8288).
pub fn links_to(headers: &HeaderMap, relation: &str) -> bool {
    let relation = format!("rel=\"{relation}\"");
    headers.get_all(LINK).iter().any(|link| link.to_str().is_ok_and(|link| link.contains(&relation)))
}
