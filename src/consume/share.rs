//! The share of the memory for responses that one connection may have, so that a client which reads none of its responses
//! leaves room for others. Over HTTP/1.1 a connection has one response at a time; over HTTP/2 it has many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::StatusCode;
use hyper::http::Extensions;

use super::problem::Problem;

/// What the responses of a connection take.
pub struct ResponseShare {
    limit_bytes: usize,
    used: AtomicUsize,
}

/// Bytes of a share; given back when dropped.
pub struct Held {
    share: Arc<ResponseShare>,
    bytes: usize,
}

impl ResponseShare {
    /// At most this much, unless one response alone is larger.
    pub fn new(limit_bytes: usize) -> ResponseShare {
        ResponseShare { limit_bytes, used: AtomicUsize::new(0) }
    }

    /// Takes room for a response from the share that goes with a request; nothing where none does.
    ///
    /// # Errors
    /// 503 where the responses of the connection that are not read yet leave no room.
    pub fn take(extensions: &Extensions, bytes: usize) -> Result<Option<Held>, Problem> {
        let Some(share) = extensions.get::<Arc<ResponseShare>>() else { return Ok(None) };
        let before = share.used.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { share: Arc::clone(share), bytes };
        if before > 0 && before.saturating_add(bytes) > share.limit_bytes {
            let detail = "too many responses wait to be read on this connection";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
        }
        Ok(Some(held))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.share.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
