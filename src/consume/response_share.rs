//! Limits the memory that unread responses of one connection take, so that a client that reads none of them leaves memory
//! for others. Over HTTP/1.1 a connection has one response at a time; over HTTP/2 it has many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::http::Extensions;

use super::answer::{Answer, json_response};
use super::body::held;
use super::problem::Problem;
use crate::store::Store;

/// Travels in the extensions of a request.
pub type Shared = Arc<ResponseShare>;

pub struct ResponseShare {
    limit_bytes: usize,
    used: AtomicUsize,
}

/// Bytes of a share; given back when dropped.
struct Taken {
    share: Shared,
    bytes: usize,
}

impl ResponseShare {
    /// At most this much, unless a single response is larger.
    pub fn new(limit_bytes: usize) -> ResponseShare {
        ResponseShare { limit_bytes, used: AtomicUsize::new(0) }
    }

    /// None where the connection has one response at a time.
    pub fn of(extensions: &Extensions) -> Option<Shared> {
        extensions.get::<Shared>().cloned()
    }

    fn take(share: &Shared, bytes: usize) -> Result<Taken, Problem> {
        let before = share.used.fetch_add(bytes, Ordering::Relaxed);
        let taken = Taken { share: Arc::clone(share), bytes };
        if before > 0 && before.saturating_add(bytes) > share.limit_bytes {
            return Err(Problem::unavailable("too many responses wait to be read on this connection"));
        }
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.share.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reserves memory for a response body until it is written.
///
/// # Errors
/// 503 where the memory for all responses is taken, or the share of the connection.
pub fn reserve(store: &Store, share: Option<&Shared>, body: Vec<u8>) -> Result<Bytes, Problem> {
    let taken = share.map(|share| ResponseShare::take(share, body.len())).transpose()?;
    let reservation = store.reserve_response(body.len()).ok_or_else(Problem::overloaded)?;
    Ok(held(body, (reservation, taken)))
}

/// A 200 whose memory is reserved, for a request with these extensions.
///
/// # Errors
/// As [`reserve`].
pub fn reserved_json(store: &Store, extensions: &Extensions, body: Vec<u8>) -> Result<Answer, Problem> {
    let share = ResponseShare::of(extensions);
    Ok(json_response(StatusCode::OK, reserve(store, share.as_ref(), body)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_above_the_share_is_taken_alone() {
        let share = Arc::new(ResponseShare::new(10));
        let large = ResponseShare::take(&share, 11);
        assert!(large.is_ok());
        assert!(ResponseShare::take(&share, 1).is_err());
        drop(large);
        let small = [6, 4].map(|bytes| ResponseShare::take(&share, bytes));
        assert!(small.iter().all(Result::is_ok));
        assert!(ResponseShare::take(&share, 1).is_err());
    }
}
