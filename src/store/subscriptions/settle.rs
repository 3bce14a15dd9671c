//! What became of claimed events: acknowledged, given back, or still worked on.

use std::time::Duration;

use super::super::error::DatabaseError;
use super::super::statements::Statements;
use super::definition::{Definition, Order, Subscription};
use super::token::Token;
use crate::core::timestamp::Timestamp;

/// Which events of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    All,
    Ids(Vec<i64>),
    /// Those up to this id.
    UpTo(i64),
}

/// Why the events were given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// When they are handed out again.
    pub delay: Duration,
    pub reason: Option<String>,
    pub attempt: Attempt,
}

/// What an attempt that did not succeed was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The events were not worked on: it does not count.
    None,
    Failed,
    /// No other can succeed: the events are parked.
    Hopeless,
}

/// Why nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The claim is over for at least one of the events: another worker may have it.
    Stale,
    /// In strict order an event is acknowledged after those before it.
    OutOfOrder,
}

/// An event that a claim still has.
struct Held {
    id: i64,
    attempts: i64,
}

/// What a claim has.
struct Holding {
    /// All events that it still has.
    held: Vec<Held>,
    /// Those of them that are selected.
    chosen: Vec<Held>,
}

/// Acknowledges events: they are never handed out again. What the same claim has acknowledged before is acknowledged.
pub fn acknowledge(
    statements: &mut dyn Statements,
    subscription: &Subscription,
    token: Token,
    selected: &Selected,
) -> Result<Result<(), Refusal>, DatabaseError> {
    let name = subscription.name.as_str();
    let delete_all = "DELETE FROM subscription_events WHERE subscription = ? AND token = ? AND is_leased = 1";
    if *selected == Selected::All {
        return Ok(match is_whole(statements, subscription, token)? {
            true => Ok(statements.execute(delete_all, &[name.into(), token.number.into()])?),
            false => Err(Refusal::Stale),
        });
    }
    let Holding { held, chosen } = match held(statements, subscription, token, selected)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let is_strict = subscription.definition.order == Order::Strict;
    let are_first = chosen.iter().zip(&held).all(|(chosen, held)| chosen.id == held.id);
    if is_strict && !are_first {
        return Ok(Err(Refusal::OutOfOrder));
    }
    if chosen.len() == held.len() {
        statements.execute(delete_all, &[name.into(), token.number.into()])?;
        return Ok(Ok(()));
    }
    let delete = "DELETE FROM subscription_events WHERE subscription = ? AND event_id IN ({ids})";
    statements.execute_for(delete, &[name.into()], &ids_of(&chosen))?;
    Ok(Ok(()))
}

/// Gives events back, to be handed out again; parks those that have failed as often as they may. In strict order, those
/// of the claim that come after them are given back as well.
pub fn reject(
    statements: &mut dyn Statements,
    subscription: &Subscription,
    token: Token,
    selected: &Selected,
    rejection: &Rejection,
    now: Timestamp,
) -> Result<Result<(), Refusal>, DatabaseError> {
    let Holding { held, chosen } = match held(statements, subscription, token, selected)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let Definition { order, max_attempts, .. } = subscription.definition;
    let is_last = |event: &&Held| match rejection.attempt {
        Attempt::None => false,
        Attempt::Failed => event.attempts >= i64::from(max_attempts),
        Attempt::Hopeless => true,
    };
    let (parked, returned): (Vec<&Held>, Vec<&Held>) = chosen.iter().partition(is_last);
    let due_at = now.after(rejection.delay);
    let reason = rejection.reason.as_deref();
    park(statements, subscription, &parked, reason, now)?;
    give_back(
        statements,
        subscription,
        &returned,
        reason,
        due_at,
        i64::from(rejection.attempt == Attempt::None),
    )?;
    let first = chosen.first().map_or(i64::MAX, |event| event.id);
    let is_chosen = |id: i64| chosen.iter().any(|event| event.id == id);
    let behind: Vec<&Held> = match order {
        Order::Strict => held.iter().filter(|event| event.id > first && !is_chosen(event.id)).collect(),
        Order::Parallel => Vec::new(),
    };
    give_back(statements, subscription, &behind, None, now, 1)?;
    Ok(Ok(()))
}

/// Prolongs the lease of all events that a claim still has, from now on.
pub fn extend(
    statements: &mut dyn Statements,
    subscription: &Subscription,
    token: Token,
    lease: Duration,
    now: Timestamp,
) -> Result<Result<Timestamp, Refusal>, DatabaseError> {
    let until = now.after(lease);
    match held(statements, subscription, token, &Selected::All)? {
        Ok(holding) if !holding.held.is_empty() => {}
        _ => return Ok(Err(Refusal::Stale)),
    }
    let update =
        "UPDATE subscription_events SET due_at = ? WHERE subscription = ? AND token = ? AND is_leased = 1";
    let values = [until.as_microseconds().into(), subscription.name.as_str().into(), token.number.into()];
    statements.execute(update, &values)?;
    Ok(Ok(until))
}

/// Whether the token was given for this subscription.
fn is_of(subscription: &Subscription, token: Token) -> bool {
    token.epoch == subscription.epoch() && token.number <= subscription.token
}

/// Whether none of the events of a claim was handed out again, as far as that is known.
fn is_whole(
    statements: &mut dyn Statements,
    subscription: &Subscription,
    token: Token,
) -> Result<bool, DatabaseError> {
    if !is_of(subscription, token) {
        return Ok(false);
    }
    let claim = "SELECT is_stale FROM subscription_claims WHERE subscription = ? AND token = ?";
    let rows = statements.query::<1>(claim, &[subscription.name.as_str().into(), token.number.into()])?;
    Ok(rows.first().is_some_and(|[is_stale]| is_stale.number() == 0))
}

/// All events that a claim still has, and those of them that are selected.
fn held(
    statements: &mut dyn Statements,
    subscription: &Subscription,
    token: Token,
    selected: &Selected,
) -> Result<Result<Holding, Refusal>, DatabaseError> {
    if !is_of(subscription, token) {
        return Ok(Err(Refusal::Stale));
    }
    let is_whole = is_whole(statements, subscription, token)?;
    let values = [subscription.name.as_str().into(), token.number.into()];
    let select = "SELECT event_id, attempts, is_leased FROM subscription_events \
        WHERE subscription = ? AND token = ? ORDER BY event_id";
    let rows = statements.query::<3>(select, &values)?;
    let held: Vec<Held> = rows
        .iter()
        .filter(|[_, _, is_leased]| is_leased.number() != 0)
        .map(|[id, attempts, _]| Held { id: id.number(), attempts: attempts.number() })
        .collect();
    let is_selected = |id: i64| match selected {
        Selected::All => true,
        Selected::Ids(ids) => ids.contains(&id),
        Selected::UpTo(last) => id <= *last,
    };
    // What the claim has no longer it has acknowledged, unless others were given it since.
    let is_known = match selected {
        Selected::Ids(ids) => ids.iter().all(|id| {
            let is_held = held.iter().any(|event| event.id == *id);
            let was_given_back = rows.iter().any(|[event, ..]| event.number() == *id);
            is_held || is_whole && !was_given_back && *id <= subscription.position
        }),
        Selected::All | Selected::UpTo(_) => is_whole,
    };
    if !is_known {
        return Ok(Err(Refusal::Stale));
    }
    let chosen = held.iter().filter(|event| is_selected(event.id));
    let chosen = chosen.map(|event| Held { id: event.id, attempts: event.attempts }).collect();
    Ok(Ok(Holding { held, chosen }))
}

fn park(
    statements: &mut dyn Statements,
    subscription: &Subscription,
    events: &[&Held],
    reason: Option<&str>,
    now: Timestamp,
) -> Result<(), DatabaseError> {
    let update = "UPDATE subscription_events SET is_leased = 0, due_at = NULL, parked_at = ?, reason = ? \
        WHERE subscription = ? AND event_id IN ({ids})";
    let values = [now.as_microseconds().into(), reason.into(), subscription.name.as_str().into()];
    statements.execute_for(update, &values, &ids_of(events.iter().copied()))
}

/// Has events handed out again, with so many attempts less.
fn give_back(
    statements: &mut dyn Statements,
    subscription: &Subscription,
    events: &[&Held],
    reason: Option<&str>,
    due_at: Timestamp,
    fewer_attempts: i64,
) -> Result<(), DatabaseError> {
    let update = "UPDATE subscription_events SET is_leased = 0, due_at = ?, attempts = attempts - ?, \
        reason = coalesce(?, reason) WHERE subscription = ? AND event_id IN ({ids})";
    let values = [
        due_at.as_microseconds().into(),
        fewer_attempts.into(),
        reason.into(),
        subscription.name.as_str().into(),
    ];
    statements.execute_for(update, &values, &ids_of(events.iter().copied()))
}

fn ids_of<'a>(events: impl IntoIterator<Item = &'a Held>) -> Vec<i64> {
    events.into_iter().map(|event| event.id).collect()
}
