//! Sends JSON events on a precise schedule, receives them, and stores them durably.
//!
//! ```text
//! consume:    bytes → TLS → routes (limits, access) → Event::parse → Store::append → COMMIT → 201
//! propagate:  file  → schedule → sender (token, retry) → response → report
//! tail:       store, or a `consume` elsewhere → query → printer
//! alerts:     rules → outbox in the store → dispatcher → mail, Slack, Discord, webhooks
//! ```
//!
//! Dependencies point down this list, never up: `main`, the subcommands (`consume`, `propagate`, `init_db`, `tail`,
//! `alert_test`, `manual`), `login`, `alert`, `auth`, `store`, `client`, `exposition`, `systemd`, `tls`, `shutdown`,
//! `logging`, `core`. The subcommands do not know each other. SQL stands in `store` alone, the command line's library in `main`, `cli`,
//! `config` and `manual` alone.

pub mod alert;
pub mod alert_test;
pub mod auth;
pub mod cli;
pub mod client;
pub mod config;
pub mod consume;
pub mod core;
pub mod exposition;
pub mod init_db;
pub mod logging;
pub mod login;
pub mod manual;
pub mod propagate;
pub mod shutdown;
pub mod store;
pub mod systemd;
pub mod tail;
pub mod tls;
