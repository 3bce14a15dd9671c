//! The program as its users meet it: processes, sockets and files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod util;

mod alerts;
mod consume;
mod dependencies;
mod durability;
mod examples;
mod init_db;
mod layout;
mod logs;
mod manual;
mod metrics;
mod openapi;
mod propagate;
mod readme;
#[cfg(all(feature = "postgres", feature = "mysql"))]
mod scaling;
mod settings;
mod signals;
mod stores;
mod tail;
