//! What templates know of events.

use std::collections::BTreeMap;

use minijinja::{Value, context};
use percent_encoding::percent_decode_str;
use url::Url;

use super::escape::clean;
use super::part::Part;
use crate::core::event::{HEALTH_ALERT, StoredEvent};
use crate::core::text::{excerpt, printable};

/// How many issues, or events of a digest, are listed. The rest is counted.
const LISTED: usize = 50;

/// The most characters of an issue, or of an event in a digest.
const LINE_LIMIT: usize = 300;

pub fn context_of(events: &[StoredEvent], part: Part) -> Value {
    let shown: Vec<Value> = events.iter().take(LISTED).map(|event| shown_of(event, part)).collect();
    context! {
        issues => issues_of(events),
        event => shown.first().cloned(),
        count => events.len(),
        unlisted => events.len().saturating_sub(LISTED),
        events => shown,
    }
}

/// The URL of a channel: the last segment of its path, and its query.
pub fn to_of(url: &Url) -> Value {
    let segment = url.path_segments().and_then(|mut segments| segments.rfind(|segment| !segment.is_empty()));
    let path = percent_decode_str(segment.unwrap_or_default()).decode_utf8_lossy();
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    context! { path => path, query => query }
}

/// An event in a template. `summary` is the payload in one short line.
fn shown_of(event: &StoredEvent, part: Part) -> Value {
    let limit = part.payload_limit();
    Value::from_pairs([
        ("id", Value::from(event.id)),
        ("type", printable(&event.event_type).into()),
        ("payload", clean(&event.event_payload, limit, part).into()),
        ("summary", excerpt(&event.event_payload, LINE_LIMIT.min(limit)).into()),
        ("received_at", event.received_at.to_string().into()),
    ])
}

/// The issues of a health alert; none for other events. Clients can post events of this type with any payload: one that
/// is not a list counts as a single issue.
fn issues_of(events: &[StoredEvent]) -> Vec<String> {
    let [event] = events else { return Vec::new() };
    if event.event_type != HEALTH_ALERT {
        return Vec::new();
    }
    let issues: Vec<String> =
        serde_json::from_str(&event.event_payload).unwrap_or_else(|_| vec![event.event_payload.clone()]);
    let mut shown: Vec<String> = issues.iter().take(LISTED).map(|issue| excerpt(issue, LINE_LIMIT)).collect();
    if let Some(unlisted) = issues.len().checked_sub(LISTED).filter(|unlisted| *unlisted > 0) {
        shown.push(format!("and {unlisted} more"));
    }
    shown
}
