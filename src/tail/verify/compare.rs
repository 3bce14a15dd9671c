//! Compares what a journal has sent with what a receiver has stored.
//!
//! A receiver that knows keys is asked for each. In another, events with equal type and payload cannot be distinguished, and
//! are compared by number: of `a` that were acknowledged and `u` without an answer, at least `a` and at most `a + u` must
//! be stored.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::core::journal::Outcome;

/// Stands for type and payload.
pub type Content = [u8; 32];

pub fn content_of(event_type: &str, event_payload: &str) -> Content {
    // U+0000 separates them: no type contains it.
    Sha256::new().chain_update(event_type).chain_update([0]).chain_update(event_payload).finalize().into()
}

/// An event of the journal.
#[derive(Debug, Clone)]
pub struct Sent {
    pub number: u64,
    pub key: String,
    /// `None` for one that no receiver may store: it is no event.
    pub content: Option<Content>,
    pub outcome: Option<Outcome>,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Acknowledged, and stored once.
    Stored,
    /// Acknowledged, and not stored.
    Missing,
    /// Acknowledged, and its key has another content.
    Changed,
    /// Stored more often than it was sent.
    Twice,
    /// Refused, and not stored.
    Refused,
    /// Refused, and stored nevertheless.
    RefusedButStored,
    /// Never answered, and stored.
    UnansweredStored,
    /// Never answered, and not stored.
    UnansweredNotStored,
}

impl State {
    pub const ALL: [State; 8] = [
        State::Stored,
        State::Missing,
        State::Changed,
        State::Twice,
        State::Refused,
        State::RefusedButStored,
        State::UnansweredStored,
        State::UnansweredNotStored,
    ];

    /// Whether the receiver has broken its promise.
    pub fn is_fault(self) -> bool {
        matches!(self, State::Missing | State::Changed | State::Twice | State::RefusedButStored)
    }
}

/// How often each content of the journal is stored.
#[derive(Debug, Default)]
pub struct Counts(HashMap<Content, u64>);

impl Counts {
    /// Counts what these events have, and nothing else.
    pub fn of(sent: &[Sent]) -> Counts {
        Counts(sent.iter().filter_map(|sent| Some((sent.content?, 0))).collect())
    }

    pub fn add(&mut self, content: &Content) {
        if let Some(count) = self.0.get_mut(content) {
            *count += 1;
        }
    }
}

/// The state of each event by what the receiver has under its key. `later` has the contents of what was sent while the
/// receiver was read.
pub fn states_by_key(
    sent: &[Sent],
    by_key: &[Option<Content>],
    counts: &Counts,
    later: &[Content],
) -> Vec<State> {
    let state = |(sent, stored): (&Sent, &Option<Content>)| {
        let is_same = stored.is_some() && *stored == sent.content;
        match (sent.outcome, stored) {
            (Some(Outcome::Delivered), _) if is_same => State::Stored,
            (Some(Outcome::Delivered), Some(_)) => State::Changed,
            (Some(Outcome::Delivered), None) => State::Missing,
            (Some(Outcome::Rejected), _) if is_same => State::RefusedButStored,
            (Some(Outcome::Rejected), _) => State::Refused,
            (None, _) if is_same => State::UnansweredStored,
            (None, _) => State::UnansweredNotStored,
        }
    };
    let mut states: Vec<State> = sent.iter().zip(by_key).map(state).collect();
    let mut beyond = counts.0.clone();
    let is_stored =
        |state: &State| matches!(state, State::Stored | State::UnansweredStored | State::RefusedButStored);
    let stored = sent.iter().zip(&states).filter(|(_, state)| is_stored(state));
    for content in stored.filter_map(|(sent, _)| sent.content).chain(later.iter().copied()) {
        beyond.entry(content).and_modify(|count| *count = count.saturating_sub(1));
    }
    for (sent, state) in sent.iter().zip(&mut states).filter(|(_, state)| is_stored(state)) {
        let count = sent.content.and_then(|content| beyond.get_mut(&content)).filter(|count| **count > 0);
        if let Some(count) = count {
            *count -= 1;
            *state = State::Twice;
        }
    }
    states
}

/// The same where the receiver knows no keys.
pub fn states_by_count(sent: &[Sent], counts: &Counts, later: &[Content]) -> Vec<State> {
    let mut left = counts.0.clone();
    let mut states: Vec<State> = vec![State::UnansweredNotStored; sent.len()];
    // Those that must be stored take what there is first, then those that may be.
    for wanted in [Some(Outcome::Delivered), None] {
        for (position, sent) in sent.iter().enumerate().filter(|(_, sent)| sent.outcome == wanted) {
            let count = sent.content.and_then(|content| left.get_mut(&content)).filter(|count| **count > 0);
            let is_stored = count.map(|count| *count -= 1).is_some();
            states[position] = match (wanted, is_stored) {
                (Some(_), true) => State::Stored,
                (Some(_), false) => State::Missing,
                (None, true) => State::UnansweredStored,
                (None, false) => State::UnansweredNotStored,
            };
        }
    }
    for content in later {
        if let Some(count) = left.get_mut(content) {
            *count = count.saturating_sub(1);
        }
    }
    // What is stored beyond that was refused, or is stored twice.
    for (position, sent) in sent.iter().enumerate() {
        let count = sent.content.and_then(|content| left.get_mut(&content)).filter(|count| **count > 0);
        let is_beyond = count.map(|count| *count -= 1).is_some();
        match (sent.outcome, is_beyond) {
            (Some(Outcome::Rejected), true) => states[position] = State::RefusedButStored,
            (Some(Outcome::Rejected), false) => states[position] = State::Refused,
            (_, true) => states[position] = State::Twice,
            (_, false) => {}
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERED: Option<Outcome> = Some(Outcome::Delivered);
    const REFUSED: Option<Outcome> = Some(Outcome::Rejected);

    fn check(sent: &[(&str, Option<Outcome>)], stored: &[&str], later: &[&str], expected: &[State]) {
        let content = |text: &&str| content_of("a", text);
        let sent: Vec<Sent> = sent
            .iter()
            .zip(1..)
            .map(|((text, outcome), number)| {
                let content = (!text.is_empty()).then(|| content(text));
                Sent { number, key: number.to_string(), content, outcome: *outcome }
            })
            .collect();
        let mut counts = Counts::of(&sent);
        stored.iter().for_each(|text| counts.add(&content(text)));
        let later: Vec<Content> = later.iter().map(content).collect();
        assert_eq!(states_by_count(&sent, &counts, &later), expected, "{sent:?} {stored:?}");
    }

    #[test]
    fn keys_distinguish_equal_events() {
        use State::{
            Changed, Missing, Refused, RefusedButStored, Stored, Twice, UnansweredNotStored, UnansweredStored,
        };
        let (x, y) = (content_of("a", "x"), content_of("a", "y"));
        let check = |events: &[(Content, Option<Outcome>, Option<Content>)],
                     stored: &[Content],
                     expected: &[State]| {
            let sent: Vec<Sent> = events
                .iter()
                .map(|(content, outcome, _)| Sent {
                    number: 1,
                    key: String::new(),
                    content: Some(*content),
                    outcome: *outcome,
                })
                .collect();
            let by_key: Vec<Option<Content>> = events.iter().map(|(_, _, by_key)| *by_key).collect();
            let mut counts = Counts::of(&sent);
            stored.iter().for_each(|content| counts.add(content));
            assert_eq!(states_by_key(&sent, &by_key, &counts, &[]), expected);
        };
        check(&[(x, ANSWERED, Some(x)), (x, ANSWERED, None)], &[x], &[Stored, Missing]);
        check(&[(x, ANSWERED, Some(x)), (x, ANSWERED, None)], &[x, x], &[Twice, Missing]);
        check(&[(x, ANSWERED, Some(y)), (y, ANSWERED, Some(y))], &[y], &[Changed, Stored]);
        check(&[(x, REFUSED, Some(y)), (y, REFUSED, Some(y))], &[y], &[Refused, RefusedButStored]);
        check(&[(x, None, Some(x)), (x, None, None)], &[x], &[UnansweredStored, UnansweredNotStored]);
    }

    #[test]
    fn every_fault_is_found_and_nothing_else() {
        use State::{
            Missing, Refused, RefusedButStored, Stored, Twice, UnansweredNotStored, UnansweredStored,
        };
        check(&[("x", ANSWERED), ("y", ANSWERED)], &["y", "x", "other"], &[], &[Stored, Stored]);
        check(&[("x", ANSWERED), ("y", ANSWERED)], &["y"], &[], &[Missing, Stored]);
        check(&[("x", ANSWERED)], &["x", "x"], &[], &[Twice]);
        check(&[("x", ANSWERED), ("x", ANSWERED)], &["x", "x"], &[], &[Stored, Stored]);
        check(&[("x", ANSWERED), ("x", ANSWERED)], &["x"], &[], &[Stored, Missing]);
        check(&[("x", None), ("y", None)], &["y"], &[], &[UnansweredNotStored, UnansweredStored]);
        check(&[("x", None), ("x", ANSWERED)], &["x"], &[], &[UnansweredNotStored, Stored]);
        check(&[("x", None), ("x", ANSWERED)], &["x", "x"], &[], &[UnansweredStored, Stored]);
        check(&[("x", None)], &["x", "x"], &[], &[Twice]);
        check(&[("x", REFUSED), ("", REFUSED)], &[], &[], &[Refused, Refused]);
        check(&[("x", REFUSED)], &["x"], &[], &[RefusedButStored]);
        check(&[("x", ANSWERED)], &["x", "x"], &["x"], &[Stored]);
    }
}
