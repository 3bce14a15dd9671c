//! The bounds of a connection, and what HTTP/1.1 and HTTP/2 each do to enforce them.

use std::time::Duration;

/// How long a client may pause in reading a stream while the service drains.
pub const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// How long a closing connection is still read, so that a client that still writes sees the response.
pub const LINGER_TIME: Duration = Duration::from_secs(2);

/// How much of a closing connection is still read.
pub const LINGER_BYTES: usize = 16 << 20;

#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    pub header_limit_bytes: usize,
    /// For a TLS handshake, and for the headers of a request.
    pub header_timeout: Duration,
    /// For the client to read a response.
    pub response_timeout: Duration,
    /// Without a request, or without progress in reading a response.
    pub idle_timeout: Duration,
    /// The memory for its unread responses, unless a single one is larger.
    pub response_share_bytes: usize,
}

impl ConnectionLimits {
    /// The longest time between two checks of a connection's progress.
    pub fn shortest_timeout(&self) -> Duration {
        self.header_timeout.min(self.response_timeout).min(self.idle_timeout)
    }
}

/// The progress of a connection, measured by its deadlines.
pub trait Deadlines {
    /// The time until the next check; none where a deadline has passed and the connection must be closed.
    fn next_check(&self, limits: &ConnectionLimits) -> Option<Duration>;

    /// From now on the connection finishes its requests and takes no others.
    fn draining(&self);

    /// Waits until the connection costs the server too much. It then drains, and is cut if it goes on.
    fn overused(&self) -> impl Future<Output = ()> + Send;
}
