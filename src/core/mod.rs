//! What an event, a schedule, a retry and a measurement are: plain data and arithmetic.
//!
//! Nothing here knows SQL, HTTP, the command line or an async runtime.

pub mod backoff;
pub mod coding;
pub mod event;
pub mod glob;
pub mod hint;
pub mod metrics;
pub mod negotiation;
pub mod network;
pub mod origin;
pub mod outgoing;
pub mod query;
pub mod schedule;
pub mod secret;
pub mod text;
pub mod timestamp;
pub mod trace;
pub mod wall_clock;
