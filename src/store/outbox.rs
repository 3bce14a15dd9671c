//! The outbox: what is to be told to which channel, kept beside the events and written with them.
//!
//! A delivery is due at `due_at`: a pending one is to be tried then, one that is being sent was lost by its
//! process by then, and a settled one has none. Claims are made under the lock of one row, so that of several
//! processes only one sends a message, and all of them together keep to a channel's rate.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::backend::{
    AlertOutcome, Claim, Claimed, Delivery, DeliveryState, Message, NewDelivery, Resent, Settlement,
};
use super::statements::{Statements, Value, event_of};
use crate::core::timestamp::Timestamp;

/// How many deliveries a digest has at most, and how many bytes their events.
const DIGEST_LIMIT: i64 = 1000;
const DIGEST_LIMIT_BYTES: i64 = 1 << 20;

/// Over what time messages are counted.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// The longest pause that a channel can ask for.
const PAUSE_LIMIT: Duration = Duration::from_secs(3600);

/// How many rows a statement has at most. There are as many statements to prepare as there are powers of two up to it.
const ROWS_PER_STATEMENT: usize = 256;

/// Keeps the deliveries of events that are about to be stored, within the same transaction: many with a statement, as all
/// writers wait for the transaction.
///
/// # Errors
/// The database's.
pub fn insert<S: Statements>(
    statements: &mut S,
    deliveries: &[(i64, &NewDelivery)],
    now: Timestamp,
) -> Result<(), S::Error> {
    let mut originals = originals_of(statements, deliveries, now)?;
    let now = now.as_microseconds();
    let rows: Vec<[Value; 8]> = deliveries
        .iter()
        .map(|(event_id, delivery)| {
            let alert = (&*delivery.channel, delivery.digest.as_str());
            let original = originals.get(&alert).copied().filter(|_| !delivery.repeat_after.is_zero());
            if original.is_none() {
                originals.insert(alert, *event_id);
            }
            let state = if original.is_some() { DeliveryState::Repeated } else { DeliveryState::Pending };
            let (due_at, settled_at) = if original.is_some() { (None, Some(now)) } else { (Some(now), None) };
            [
                (*event_id).into(),
                alert.0.into(),
                alert.1.into(),
                state.as_str().into(),
                now.into(),
                due_at.into(),
                settled_at.into(),
                original.into(),
            ]
        })
        .collect();
    for chunk in in_powers_of_two(&rows) {
        let places = ", (?, ?, ?, ?, ?, ?, ?, ?)".repeat(chunk.len() - 1);
        let insert = format!(
            "INSERT INTO deliveries (event_id, channel, digest, state, created_at, due_at, settled_at, repeats) \
                VALUES (?, ?, ?, ?, ?, ?, ?, ?){places}"
        );
        statements.execute(&insert, &chunk.concat())?;
    }
    Ok(())
}

/// The events whose deliveries new ones would only repeat, by channel and digest.
fn originals_of<'a, S: Statements>(
    statements: &mut S,
    deliveries: &[(i64, &'a NewDelivery)],
    now: Timestamp,
) -> Result<HashMap<(&'a str, &'a str), i64>, S::Error> {
    let mut wanted: BTreeMap<(&str, Duration), BTreeSet<&str>> = BTreeMap::new();
    for (_, delivery) in deliveries.iter().filter(|(_, delivery)| !delivery.repeat_after.is_zero()) {
        wanted.entry((&delivery.channel, delivery.repeat_after)).or_default().insert(&delivery.digest);
    }
    let mut originals = HashMap::new();
    for ((channel, repeat_after), digests) in wanted {
        let since = now.before(repeat_after).as_microseconds();
        let digests: Vec<&str> = digests.into_iter().collect();
        for chunk in in_powers_of_two(&digests) {
            let places = ", ?".repeat(chunk.len() - 1);
            let select = format!(
                "SELECT digest, max(event_id) FROM deliveries WHERE channel = ? AND created_at > ? \
                    AND state IN ('pending', 'sending', 'sent') AND digest IN (?{places}) GROUP BY digest"
            );
            let mut values = vec![channel.into(), since.into()];
            values.extend(chunk.iter().map(|digest| Value::from(*digest)));
            for [digest, original] in statements.query::<2>(&select, &values)? {
                let digest = digest.into_text();
                if let Some(known) = chunk.iter().find(|known| **known == digest) {
                    originals.insert((channel, *known), original.number());
                }
            }
        }
    }
    Ok(originals)
}

/// Parts of a list, each as long as a power of two, and no longer than a statement may be.
fn in_powers_of_two<T>(mut rest: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let power = rest.len().min(ROWS_PER_STATEMENT).checked_ilog2()?;
        let (part, later) = rest.split_at(1 << power);
        rest = later;
        Some(part)
    })
}

/// Claims the next message of a channel.
///
/// # Errors
/// The database's.
pub fn claim<S: Statements>(statements: &mut S, claim: &Claim) -> Result<Claimed, S::Error> {
    let channel: Value = (&*claim.channel).into();
    let now = claim.now.as_microseconds();
    statements.begin()?;
    // Most often nothing is due: no lock is needed to see that.
    let select = "SELECT min(due_at) FROM deliveries WHERE channel = ?";
    let earliest = statements.query::<1>(select, std::slice::from_ref(&channel))?;
    let earliest = earliest.first().and_then(|[due_at]| due_at.number_or_null());
    // What is read behind the lock must not be what was seen before it.
    statements.commit()?;
    if earliest.is_none_or(|due_at| due_at > now) {
        return Ok(Claimed::Nothing { until: earliest.map(Timestamp::from_microseconds) });
    }
    statements.begin()?;
    lock(statements)?;
    let closure = closure(statements, claim)?;
    let paused_until = match closure {
        Closure::Until(reopening) => Some(reopening),
        Closure::Open | Closure::Over => opening(statements, claim, claim.rate, RATE_WINDOW)?,
    };
    let claimed = match (paused_until, claim.pace) {
        (Some(until), _) => {
            let hold = "UPDATE deliveries SET held = 1 WHERE channel = ? AND due_at <= ? AND held = 0";
            statements.execute(hold, &[channel, now.into()])?;
            Claimed::Nothing { until: Some(until) }
        }
        (None, Some(pace)) => match opening(statements, claim, pace.messages, pace.window)? {
            Some(until) => Claimed::Nothing { until: Some(until) },
            None => claim_message(statements, claim, &closure)?,
        },
        (None, None) => claim_message(statements, claim, &closure)?,
    };
    statements.commit()?;
    Ok(claimed)
}

/// Whether a channel has asked for a pause.
enum Closure {
    /// It has not.
    Open,
    /// Nothing may be sent before this instant.
    Until(Timestamp),
    /// The pause is over, and the next message has to show whether the channel takes any.
    Over,
}

fn closure<S: Statements>(statements: &mut S, claim: &Claim) -> Result<Closure, S::Error> {
    let select = "SELECT closed_until FROM alert_channels WHERE channel = ?";
    let rows = statements.query::<1>(select, &[(&*claim.channel).into()])?;
    let reopening = rows.first().and_then(|[reopening]| reopening.number_or_null());
    Ok(match reopening.map(Timestamp::from_microseconds) {
        None => Closure::Open,
        // A pause is never longer than that: where it seems to be, the clock was set back.
        Some(reopening) if reopening > claim.now && reopening <= claim.now.after(PAUSE_LIMIT) => {
            Closure::Until(reopening)
        }
        Some(_) => Closure::Over,
    })
}

/// Notes until when a channel wants nothing, under the lock.
fn set_closure<S: Statements>(
    statements: &mut S,
    channel: &str,
    reopening: Option<Timestamp>,
) -> Result<(), S::Error> {
    let select = "SELECT channel FROM alert_channels WHERE channel = ?";
    let is_known = !statements.query::<1>(select, &[channel.into()])?.is_empty();
    let statement = match is_known {
        true => "UPDATE alert_channels SET closed_until = ? WHERE channel = ?",
        false => "INSERT INTO alert_channels (closed_until, channel) VALUES (?, ?)",
    };
    statements.execute(statement, &[reopening.map(Timestamp::as_microseconds).into(), channel.into()])
}

/// Waits until no other process holds the lock, and holds it until the commit.
///
/// # Errors
/// The database's.
pub fn lock<S: Statements>(statements: &mut S) -> Result<(), S::Error> {
    let lock = format!("SELECT id FROM outbox_lock{}", S::FOR_UPDATE);
    statements.query::<1>(&lock, &[]).map(drop)
}

/// When the channel may have its next message, if it has had as many as it may within a time.
fn opening<S: Statements>(
    statements: &mut S,
    claim: &Claim,
    limit: usize,
    window: Duration,
) -> Result<Option<Timestamp>, S::Error> {
    let select = "SELECT message_id, max(attempted_at) FROM deliveries WHERE channel = ? AND attempted_at > ? \
        GROUP BY message_id ORDER BY 2";
    let since = claim.now.before(window).as_microseconds();
    let messages = statements.query::<2>(select, &[(&*claim.channel).into(), since.into()])?;
    let beyond = messages.len().checked_sub(limit);
    let leaves_last = beyond.and_then(|beyond| messages.get(beyond));
    Ok(leaves_last.map(|[_, at]| Timestamp::from_microseconds(at.number()).after(window)))
}

fn claim_message<S: Statements>(
    statements: &mut S,
    claim: &Claim,
    closure: &Closure,
) -> Result<Claimed, S::Error> {
    let (held, range) = match due(statements, claim, true)? {
        Some(range) => (true, range),
        None => match due(statements, claim, false)? {
            Some(range) => (false, range),
            None => return Ok(Claimed::Nothing { until: None }),
        },
    };
    let channel: Value = (&*claim.channel).into();
    let (claimant, now): (Value, Value) =
        (claim.claimant.as_str().into(), claim.now.as_microseconds().into());
    let update = "UPDATE deliveries SET state = 'sending', attempts = attempts + 1, attempted_at = ?, due_at = ?, \
        claimed_by = ?, message_id = ? WHERE channel = ? AND due_at <= ? AND held = ? AND event_id BETWEEN ? AND ?";
    let lease = claim.now.after(claim.lease).as_microseconds();
    let values = [
        now.clone(),
        lease.into(),
        claimant.clone(),
        range.first.into(),
        channel.clone(),
        now.clone(),
        i64::from(held).into(),
        range.first.into(),
        range.last.into(),
    ];
    statements.execute(update, &values)?;
    let select = "SELECT deliveries.event_id, deliveries.attempts, deliveries.created_at, events.id, \
        events.received_at, events.event_type, events.event_payload FROM deliveries \
        LEFT JOIN events ON events.id = deliveries.event_id \
        WHERE deliveries.channel = ? AND deliveries.attempted_at = ? AND deliveries.claimed_by = ? \
            AND deliveries.state = 'sending' ORDER BY deliveries.event_id";
    let rows = statements.query::<7>(select, &[channel, now, claimant])?;
    let is_probe = matches!(closure, Closure::Over);
    if is_probe {
        // Until it is settled, or its process is lost, no other is sent.
        set_closure(statements, &claim.channel, Some(claim.now.after(claim.lease)))?;
    }
    let mut message = Message {
        id: range.first,
        channel: claim.channel.clone(),
        claimant: claim.claimant.clone(),
        claimed_at: claim.now,
        event_ids: Vec::with_capacity(rows.len()),
        created_at: Vec::with_capacity(rows.len()),
        events: Vec::with_capacity(rows.len()),
        attempts: 0,
        is_probe,
    };
    for [event_id, attempts, created_at, id, received_at, event_type, event_payload] in rows {
        message.event_ids.push(event_id.number());
        message.created_at.push(Timestamp::from_microseconds(created_at.number()));
        message.attempts = message.attempts.max(u32::try_from(attempts.number()).unwrap_or(u32::MAX));
        // An event that is gone has left its delivery behind.
        if id != Value::Null {
            message.events.push(event_of([id, received_at, event_type, event_payload]));
        }
    }
    Ok(Claimed::Message(message))
}

/// Ids of events, both ends included.
struct IdRange {
    first: i64,
    last: i64,
}

/// The events of the next message: one, or those that are held back for a digest.
fn due<S: Statements>(statements: &mut S, claim: &Claim, held: bool) -> Result<Option<IdRange>, S::Error> {
    let select = format!(
        "SELECT deliveries.event_id, octet_length(events.event_payload) FROM deliveries \
            LEFT JOIN events ON events.id = deliveries.event_id \
            WHERE deliveries.channel = ? AND deliveries.due_at <= ? AND deliveries.held = ? \
            ORDER BY deliveries.event_id LIMIT {}",
        if held { DIGEST_LIMIT } else { 1 }
    );
    let now = claim.now.as_microseconds();
    let rows =
        statements.query::<2>(&select, &[(&*claim.channel).into(), now.into(), i64::from(held).into()])?;
    let Some([first, _]) = rows.first() else { return Ok(None) };
    let mut bytes = 0;
    let fits = |[_, length]: &&[Value; 2]| {
        bytes += length.number();
        bytes <= DIGEST_LIMIT_BYTES
    };
    // A single event is sent however long it is.
    let last = rows.iter().take_while(fits).last().map_or(first, |[last, _]| last);
    Ok(Some(IdRange { first: first.number(), last: last.number() }))
}

/// Notes what became of a message, unless another process has taken it over.
///
/// # Errors
/// The database's.
pub fn settle<S: Statements>(
    statements: &mut S,
    message: &Message,
    settlement: &Settlement,
    now: Timestamp,
) -> Result<(), S::Error> {
    let dead = |created_before| Settled {
        state: DeliveryState::Dead,
        due_at: None,
        settled_at: Some(now),
        created_before,
        holds: false,
    };
    statements.begin()?;
    if message.is_probe || settlement.closes() {
        lock(statements)?;
    }
    if message.is_probe {
        set_closure(statements, &message.channel, None)?;
    }
    match settlement {
        Settlement::Sent => {
            let sent = Settled { state: DeliveryState::Sent, ..dead(None) };
            settle_part(statements, message, &sent, None)?;
        }
        Settlement::Dead { reason } => settle_part(statements, message, &dead(None), Some(reason))?,
        Settlement::Retry { at, reason, give_up_before, closes } => {
            if *closes {
                set_closure(statements, &message.channel, Some(*at))?;
            }
            settle_part(statements, message, &dead(Some(*give_up_before)), Some(reason))?;
            let pending = Settled {
                state: DeliveryState::Pending,
                due_at: Some(*at),
                settled_at: None,
                created_before: None,
                // What waited for the channel is told in one message.
                holds: *closes,
            };
            settle_part(statements, message, &pending, Some(reason))?;
        }
    }
    statements.commit()
}

/// What becomes of those deliveries of a message that are still being sent.
struct Settled {
    state: DeliveryState,
    due_at: Option<Timestamp>,
    settled_at: Option<Timestamp>,
    /// Only of those that are older than this.
    created_before: Option<Timestamp>,
    /// Whether they are from now on held back for a digest.
    holds: bool,
}

fn settle_part<S: Statements>(
    statements: &mut S,
    message: &Message,
    settled: &Settled,
    reason: Option<&String>,
) -> Result<(), S::Error> {
    let held = if settled.holds { "1" } else { "held" };
    let update = format!(
        "UPDATE deliveries SET state = ?, due_at = ?, settled_at = ?, last_error = ?, held = {held} \
            WHERE channel = ? AND attempted_at = ? AND claimed_by = ? AND state = 'sending' AND created_at < ?"
    );
    statements.execute(
        &update,
        &[
            settled.state.as_str().into(),
            settled.due_at.map(Timestamp::as_microseconds).into(),
            settled.settled_at.map(Timestamp::as_microseconds).into(),
            reason.map(String::as_str).into(),
            (&*message.channel).into(),
            message.claimed_at.as_microseconds().into(),
            message.claimant.as_str().into(),
            settled.created_before.map_or(i64::MAX, Timestamp::as_microseconds).into(),
        ],
    )
}

/// The deliveries of the newest events, in the order of their ids.
///
/// # Errors
/// The database's.
pub fn newest<S: Statements>(statements: &mut S, limit: usize) -> Result<Vec<Delivery>, S::Error> {
    let select = format!(
        "SELECT deliveries.event_id, deliveries.channel, events.event_type, deliveries.state, \
            deliveries.attempts, deliveries.created_at, deliveries.due_at, deliveries.settled_at, \
            deliveries.repeats, deliveries.last_error FROM deliveries \
            LEFT JOIN events ON events.id = deliveries.event_id \
            ORDER BY deliveries.event_id DESC, deliveries.channel DESC LIMIT {limit}"
    );
    let instant = |value: &Value| value.number_or_null().map(Timestamp::from_microseconds);
    let delivery = |row: [Value; 10]| {
        let [event_id, channel, event_type, state, attempts, created_at, due_at, settled_at, repeats, error] =
            row;
        Delivery {
            event_id: event_id.number(),
            channel: channel.into_text(),
            event_type: event_type.into_text_or_null(),
            state: DeliveryState::of(&state.into_text()),
            attempts: attempts.number(),
            created_at: Timestamp::from_microseconds(created_at.number()),
            due_at: instant(&due_at),
            settled_at: instant(&settled_at),
            repeats: repeats.number_or_null(),
            last_error: error.into_text_or_null(),
        }
    };
    let mut deliveries: Vec<Delivery> =
        statements.query::<10>(&select, &[])?.into_iter().map(delivery).collect();
    deliveries.reverse();
    Ok(deliveries)
}

/// How many deliveries are open, by channel.
///
/// # Errors
/// The database's.
pub fn open<S: Statements>(statements: &mut S) -> Result<Vec<(String, i64)>, S::Error> {
    let select = "SELECT channel, count(*) FROM deliveries WHERE due_at IS NOT NULL GROUP BY channel";
    let rows = statements.query::<2>(select, &[])?;
    Ok(rows.into_iter().map(|[channel, count]| (channel.into_text(), count.number())).collect())
}

/// What became of the alerts of an event.
///
/// # Errors
/// The database's.
pub fn alert_outcome<S: Statements>(statements: &mut S, event_id: i64) -> Result<AlertOutcome, S::Error> {
    let select = "SELECT deliveries.state, coalesce(original.state, deliveries.state) FROM deliveries \
        LEFT JOIN deliveries original \
        ON original.event_id = deliveries.repeats AND original.channel = deliveries.channel \
        WHERE deliveries.event_id = ?";
    let rows = statements.query::<2>(select, &[event_id.into()])?;
    let states = rows.into_iter().map(|row| row.map(|state| DeliveryState::of(&state.into_text())));
    let states: Vec<[DeliveryState; 2]> = states.collect();
    let any = |wanted: DeliveryState| states.iter().any(|[_, told]| *told == wanted);
    // Of an original that is deleted nothing is known.
    let is_open =
        [DeliveryState::Pending, DeliveryState::Sending, DeliveryState::Repeated].into_iter().any(any);
    let is_repetition = |[own, _]: &[DeliveryState; 2]| *own == DeliveryState::Repeated;
    Ok(match states.as_slice() {
        _ if is_open => AlertOutcome::Open,
        _ if any(DeliveryState::Dead) => AlertOutcome::GivenUp,
        [_, ..] if states.iter().all(is_repetition) => AlertOutcome::AlreadySent,
        _ => AlertOutcome::Sent,
    })
}

/// Makes the alerts of an event, or all, that were given up be sent again, as if they were new.
///
/// # Errors
/// The database's.
pub fn resend<S: Statements>(
    statements: &mut S,
    event_id: Option<i64>,
    now: Timestamp,
) -> Result<Resent, S::Error> {
    let (first, last) = event_id.map_or((0, i64::MAX), |id| (id, id));
    statements.begin()?;
    lock(statements)?;
    let select = "SELECT deliveries.event_id, deliveries.channel, events.id FROM deliveries \
        LEFT JOIN events ON events.id = deliveries.event_id \
        WHERE deliveries.state = 'dead' AND deliveries.event_id BETWEEN ? AND ? \
        ORDER BY deliveries.event_id, deliveries.channel";
    let dead = statements.query::<3>(select, &[first.into(), last.into()])?;
    let update = "UPDATE deliveries SET state = 'pending', due_at = ?, settled_at = NULL, created_at = ?, \
        attempts = 0, held = 0 WHERE state = 'dead' AND event_id BETWEEN ? AND ? \
        AND event_id IN (SELECT id FROM events WHERE id BETWEEN ? AND ?)";
    let now = now.as_microseconds();
    let range: [Value; 2] = [first.into(), last.into()];
    let values = [&[now.into(), now.into()], &range[..], &range[..]].concat();
    statements.execute(update, &values)?;
    statements.commit()?;
    let mut resent = Resent::default();
    for [event_id, channel, event] in dead {
        let list = if event == Value::Null { &mut resent.without_event } else { &mut resent.pending };
        list.push((event_id.number(), channel.into_text()));
    }
    Ok(resent)
}
