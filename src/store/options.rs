//! How a store is opened.

use std::time::Duration;

/// What bounds the memory of an open store.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    /// Events that wait for their commit.
    pub queue_events: usize,
    /// Bytes of requests that are being read or wait for their commit; and, apart from them, of
    /// responses that are being written.
    pub queue_bytes: usize,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct StoreOptions {
    /// How long one read may take, if there is a limit.
    pub read_time: Option<Duration>,
    /// Whether reads go to the server of several that takes writes, where there is one: its replicas may be behind.
    pub reads_primary: bool,
    /// How long to wait at the start for a server that cannot be reached.
    pub patience: Duration,
    /// Whether a server may acknowledge what is not yet on its disk.
    pub weak_durability: bool,
    /// Whether events may become visible in another order than their ids.
    pub unordered_ids: bool,
    /// On how many replicas a server must have an event before it acknowledges it.
    pub replicas: u32,
    /// Whether events are going to be deleted, which takes additional permissions on a server.
    pub deletes: bool,
}
