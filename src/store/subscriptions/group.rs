//! Requests of workers, of which those that wait together are done in one transaction.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::super::backend::Backend;
use super::super::error::{DatabaseError, WriteError};
use super::super::statements::Statements;
use super::claim::{Claim, claim};
use super::definition::{Definition, Start, Subscription, define, remove};
use super::list::{Unpark, unpark};
use super::settle::{Refusal, Rejection, Selected, acknowledge, extend, reject};
use super::token::Token;
use crate::core::timestamp::Timestamp;

/// What a worker or an operator asks of a subscription.
#[derive(Debug, Clone)]
pub enum Request {
    Define {
        definition: Definition,
        start: Start,
    },
    Remove,
    Claim {
        limit: usize,
    },
    Acknowledge {
        token: Token,
        selected: Selected,
    },
    Reject {
        token: Token,
        selected: Selected,
        rejection: Rejection,
    },
    /// With the lease of the subscription where there is none.
    Extend {
        token: Token,
        lease: Option<Duration>,
    },
    /// All parked events where there are no ids.
    Unpark {
        ids: Option<Vec<i64>>,
        action: Unpark,
    },
}

#[derive(Debug)]
pub enum Answer {
    /// Whether the subscription is new.
    Defined {
        is_new: bool,
    },
    /// No event where there is no claim.
    Claimed(Option<Claim>),
    Done,
    Extended {
        until: Timestamp,
    },
    Unparked {
        count: u64,
    },
    NoSubscription,
    Refused(Refusal),
}

/// What waits for the next transaction.
#[derive(Default)]
pub struct Group(Mutex<Vec<Pending>>);

struct Pending {
    name: String,
    request: Request,
    answer: oneshot::Sender<Result<Answer, WriteError>>,
}

impl Group {
    /// Adds a request, and says whether it is the first that waits: its sender has to have the group run.
    pub fn push(
        &self,
        name: String,
        request: Request,
    ) -> (bool, oneshot::Receiver<Result<Answer, WriteError>>) {
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.0.lock();
        waiting.push(Pending { name, request, answer });
        (waiting.len() == 1, answered)
    }

    /// Has no request wait any more.
    pub fn refuse(&self, failure: &WriteError) {
        for pending in std::mem::take(&mut *self.0.lock()) {
            let _ = pending.answer.send(Err(failure.clone()));
        }
    }

    /// Runs all requests that wait. Returns the failure of the store, if any.
    pub fn run(&self, backend: &mut dyn Backend) -> Result<(), WriteError> {
        let waiting = std::mem::take(&mut *self.0.lock());
        let requests: Vec<(&str, &Request)> =
            waiting.iter().map(|pending| (pending.name.as_str(), &pending.request)).collect();
        match run(backend, &requests, Timestamp::now()) {
            Ok(answers) => {
                for (pending, answer) in waiting.into_iter().zip(answers) {
                    let _ = pending.answer.send(Ok(answer));
                }
                Ok(())
            }
            // One bad request must not fail its neighbours.
            Err(WriteError::Refused(_)) => run_one_by_one(backend, waiting),
            Err(failure) => {
                for pending in waiting {
                    let _ = pending.answer.send(Err(failure.clone()));
                }
                Err(failure)
            }
        }
    }
}

fn run_one_by_one(backend: &mut dyn Backend, waiting: Vec<Pending>) -> Result<(), WriteError> {
    let mut result = Ok(());
    for Pending { name, request, answer } in waiting {
        let answered = match &result {
            Ok(()) => {
                run(backend, &[(&name, &request)], Timestamp::now()).map(|mut answers| answers.remove(0))
            }
            Err(failure) => Err(WriteError::clone(failure)),
        };
        if let Err(failure @ (WriteError::Full(_) | WriteError::Unavailable(_))) = &answered {
            result = Err(failure.clone());
        }
        let _ = answer.send(answered);
    }
    result
}

/// Runs requests of subscriptions in one transaction: their answers, in their order.
pub fn run(
    backend: &mut dyn Backend,
    requests: &[(&str, &Request)],
    now: Timestamp,
) -> Result<Vec<Answer>, WriteError> {
    let names: BTreeSet<&str> = requests.iter().map(|(name, _)| *name).collect();
    backend.run(|statements| {
        // In the same order everywhere, against deadlocks; and before anything else is read, which must not be what was
        // so before the locks.
        for name in &names {
            Subscription::lock(statements, name)?;
        }
        requests.iter().map(|(name, request)| answer(statements, name, request, now)).collect()
    })
}

fn answer(
    statements: &mut dyn Statements,
    name: &str,
    request: &Request,
    now: Timestamp,
) -> Result<Answer, DatabaseError> {
    if let Request::Define { definition, start } = request {
        return Ok(Answer::Defined { is_new: define(statements, name, definition, *start, now)? });
    }
    let Some(subscription) = Subscription::lock(statements, name)? else { return Ok(Answer::NoSubscription) };
    let settled = |result: Result<(), Refusal>| result.map_or_else(Answer::Refused, |()| Answer::Done);
    Ok(match request {
        Request::Define { .. } | Request::Remove => {
            remove(statements, name)?;
            Answer::Done
        }
        Request::Claim { limit } => Answer::Claimed(claim(statements, subscription, *limit, now)?),
        Request::Acknowledge { token, selected } => {
            settled(acknowledge(statements, &subscription, *token, selected)?)
        }
        Request::Reject { token, selected, rejection } => {
            settled(reject(statements, &subscription, *token, selected, rejection, now)?)
        }
        Request::Extend { token, lease } => {
            let lease = lease.unwrap_or(subscription.definition.lease);
            let extended = extend(statements, &subscription, *token, lease, now)?;
            extended.map_or_else(Answer::Refused, |until| Answer::Extended { until })
        }
        Request::Unpark { ids, action } => {
            Answer::Unparked { count: unpark(statements, name, ids.as_deref(), *action, now)? }
        }
    })
}
