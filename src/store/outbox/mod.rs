//! The outbox: alerts for channels, stored with their events and in the same transaction, until they are sent.
//!
//! A delivery is one event for one channel. It is due at `due_at`: a pending one is tried then, the lease of one that is
//! being sent runs out then, and a settled one (sent, dead letter, repetition) has none. Claims are made under the lock of
//! one row, so that only one of several processes sends a message, and all of them together keep to a channel's rate.

mod claim;
mod insert;
mod list;
mod message;
mod pause;
mod settle;

pub use self::claim::claim;
pub use self::insert::insert;
pub use self::list::{alert_outcome, newest_deliveries, open_deliveries};
pub use self::message::{
    AlertOutcome, Claim, Claimed, Delivery, DeliveryState, Message, Pace, Resent, Settlement,
};
pub use self::pause::lock;
pub use self::settle::{resend, settle};
