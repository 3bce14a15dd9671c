//! Alerts: which events are sent to which channels, and how.
//!
//! ```text
//! rules:       event stored, with a delivery for each channel → outbox
//! dispatcher:  outbox → claim → templates → channel → settle
//! ```

mod alerts;
mod channel;
mod delivery;
mod dispatch;
mod mail;
mod presets;
mod render;
mod rule;
mod webhook;

pub use self::alerts::{AlertSettings, Alerts};
pub use self::channel::{Channel, Channels, kind_of};
pub use self::delivery::DeliveryMetrics;
pub use self::dispatch::Dispatcher;
pub use self::mail::{Hello, MailEncryption, MailSettings};
pub use self::rule::Rule;
