//! `POST /event`: stores one event, an array of events or lines of events.

use hyper::http::request::Parts;
use sha2::{Digest, Sha256};

use crate::consume::answer::Answer;
use crate::consume::problem::Problem;
use crate::consume::request_body::RequestBody;
use crate::consume::routes::ingest::{
    Format, Upload, append, append_each, check_types, digested, settle, stored, stored_list,
};
use crate::consume::routes::state::AppState;
use crate::core::event::Event;
use crate::core::event::cloud_event::CloudEvent;
use crate::core::text::without_byte_order_mark;
use crate::core::type_filter::PermittedTypes;
use crate::store::backend::{Append, IdempotencyKey, Outcome};

/// # Errors
/// Nothing is stored, or, for 504, it is unknown whether the events are.
pub async fn store(
    state: &AppState,
    head: Parts,
    body: &mut RequestBody,
    permitted: &PermittedTypes,
) -> Result<Answer, Problem> {
    let upload = Upload::read(state, head, body).await?;
    match (&upload.attributes, upload.format) {
        (Some(attributes), _) => {
            let event = attributes.with_data(&upload.body)?;
            store_cloud_events(state, upload, vec![event], false, permitted).await
        }
        (None, Format::CloudEvent) => {
            let event = CloudEvent::parse(&upload.body)?;
            store_cloud_events(state, upload, vec![event], false, permitted).await
        }
        (None, Format::CloudEventBatch) => {
            let events = CloudEvent::parse_batch(&upload.body)?;
            store_cloud_events(state, upload, events, true, permitted).await
        }
        (None, Format::Json | Format::Ndjson) => store_events(state, upload, permitted).await,
    }
}

async fn store_events(
    state: &AppState,
    upload: Upload,
    permitted: &PermittedTypes,
) -> Result<Answer, Problem> {
    let Upload { format, key, path_depth, body, reservation, .. } = upload;
    let (events, mut is_list) = parse(format, &body)?;
    check_types(&events, permitted)?;
    let is_single_line = format == Format::Ndjson && events.len() == 1;
    let keys = key.map(|key| Keys::of(key, &body, is_single_line));
    drop(body);
    let (count, deliveries) = (events.len(), state.alerts.deliveries_of(&events));
    let (key, other_key) = keys.map_or((None, None), |keys| (Some(keys.key), keys.as_one_event));
    let other = other_key.map(|key| Append {
        events: events.clone(),
        key: Some(key),
        aliases: Vec::new(),
        deliveries: deliveries.clone(),
    });
    let mut appended =
        append(state, Append { events, key, aliases: Vec::new(), deliveries }, reservation).await;
    if let (Ok(Ok(Outcome::KeyReused)), Some(other)) = (&appended, other) {
        appended = append(state, other, state.store.reserve()).await;
        is_list = false;
    }
    let first_id = settle(state, appended, count)?;
    Ok(if is_list { stored_list(count) } else { stored(path_depth, first_id) })
}

/// Each is stored once by its source and id, whatever it came with.
async fn store_cloud_events(
    state: &AppState,
    upload: Upload,
    events: Vec<CloudEvent>,
    is_list: bool,
    permitted: &PermittedTypes,
) -> Result<Answer, Problem> {
    let count = events.len();
    check_types(events.iter().map(|event| &event.event), permitted)?;
    let appends = events.into_iter().map(|CloudEvent { event, source, id }| {
        let key = Some(IdempotencyKey::of_parts(&["cloudevent", &source, &id]));
        let events = vec![event];
        let deliveries = state.alerts.deliveries_of(&events);
        Append { events, key, aliases: Vec::new(), deliveries }
    });
    let appended = append_each(state, appends.collect(), upload.reservation).await;
    let settled = appended.into_iter().map(|appended| settle(state, appended, 1));
    let ids: Vec<i64> = settled.collect::<Result<_, _>>()?;
    Ok(if is_list { stored_list(count) } else { stored(upload.path_depth, ids[0]) })
}

/// The events of a body, and whether they are a list, which has another response than one event.
fn parse(format: Format, body: &[u8]) -> Result<(Vec<Event>, bool), Problem> {
    let text = without_byte_order_mark(body);
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    match (format, first) {
        (Format::Ndjson, _) => Ok((Event::parse_lines(body)?, true)),
        (Format::Json, Some(b'[')) => Ok((Event::parse_array(body)?, true)),
        (_, _) => Ok((vec![Event::parse(body)?], false)),
    }
}

/// The digest of a body implies its response, with one exception: a single line of NDJSON has the bytes of one event, but
/// the response of a list.
struct Keys {
    key: IdempotencyKey,
    /// For a single line: finds the same bytes if they came as one event, or as a line before lines and events were told
    /// apart. They are answered as that event was.
    as_one_event: Option<IdempotencyKey>,
}

impl Keys {
    fn of(key: String, body: &[u8], is_single_line: bool) -> Keys {
        let as_event = digested(key, body);
        if !is_single_line {
            return Keys { key: as_event, as_one_event: None };
        }
        let digest = Sha256::new().chain_update(b"application/x-ndjson\n").chain_update(body).finalize();
        let key = IdempotencyKey { key: as_event.key.clone(), body_digest: digest.into() };
        Keys { key, as_one_event: Some(as_event) }
    }
}
