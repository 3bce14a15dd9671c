//! Subscriptions: named positions, from which workers claim events and acknowledge them.
//!
//! - All that is known of a subscription stands in the store, and whoever changes it holds the lock of its row until the
//!   commit. So any number of processes serve the same one.
//! - A claim leases events to a worker and gives it a token. Once the lease has ended, the events are handed out again,
//!   and then the token is refused: of two workers that have an event, one can acknowledge it.
//! - New events are handed out in the order of their ids, which become visible in that order: none is passed over.
//! - An event that has been handed out `max_attempts` times is parked, with its last reason.
//! - What waits together is done in one transaction, as appends are ([`Group`]).

mod claim;
mod definition;
mod group;
mod list;
mod settle;
mod token;

pub use self::claim::{Claim, ClaimedEvent};
pub use self::definition::{Definition, Order, Start, Subscription, has_expired, remove_expired};
pub use self::group::{Answer, Group, Request, run};
pub use self::list::{ParkedEvent, Progress, Unpark, all_with_progress, may_have_work, parked, progress};
pub use self::settle::{Attempt, Refusal, Rejection, Selected};
pub use self::token::Token;
