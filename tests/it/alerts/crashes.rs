//! Processes that are killed while alerts go out, and processes that share an outbox.
