//! Events, schedules, retries, measurements: plain data and arithmetic, without I/O.
//!
//! Nothing here knows SQL, HTTP, the command line or an async runtime.

pub mod backoff;
pub mod byte_size;
pub mod coding;
pub mod duration;
pub mod event;
pub mod glob;
pub mod journal;
pub mod measurement;
pub mod members;
pub mod name;
pub mod negotiation;
pub mod network;
pub mod origin;
pub mod outgoing;
pub mod query;
pub mod rate;
pub mod schedule;
pub mod text;
pub mod ticks;
pub mod timestamp;
pub mod trace;
pub mod type_filter;
pub mod verdict;
pub mod wall_clock;
