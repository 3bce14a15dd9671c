//! The share of the memory for responses that one connection may have, so that a client which reads none of its responses
//! leaves room for others. Over HTTP/1.1 a connection has one response at a time; over HTTP/2 it has many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::http::Extensions;

use super::problem::Problem;
use crate::store::{Reservation, Store};

/// The share of the connection that a request came on.
pub type Shared = Arc<ResponseShare>;

/// What the responses of a connection take.
pub struct ResponseShare {
    limit_bytes: usize,
    used: AtomicUsize,
}

/// Bytes of a share; given back when dropped.
struct Held {
    share: Arc<ResponseShare>,
    bytes: usize,
}

impl ResponseShare {
    /// At most this much, unless one response alone is larger.
    pub fn new(limit_bytes: usize) -> ResponseShare {
        ResponseShare { limit_bytes, used: AtomicUsize::new(0) }
    }

    /// The share that goes with a request; none where its connection has one response at a time.
    pub fn of(extensions: &Extensions) -> Option<Shared> {
        extensions.get::<Shared>().cloned()
    }

    fn take(share: &Shared, bytes: usize) -> Result<Held, Problem> {
        let before = share.used.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { share: Arc::clone(share), bytes };
        if before > 0 && before.saturating_add(bytes) > share.limit_bytes {
            let detail = "too many responses wait to be read on this connection";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
        }
        Ok(held)
    }
}

/// Room in memory for a body, until it is written.
///
/// # Errors
/// 503 where there is none for all, or where the responses of the connection that are not read yet leave none.
pub fn reserve(store: &Store, share: Option<&Shared>, body: Vec<u8>) -> Result<Bytes, Problem> {
    let held = share.map(|share| ResponseShare::take(share, body.len())).transpose()?;
    let reservation = store.reserve_response(body.len()).ok_or_else(Problem::overloaded)?;
    Ok(Bytes::from_owner(Reserved { body, _reservation: reservation, _held: held }))
}

/// A body that gives back its room in memory once it is written.
struct Reserved {
    body: Vec<u8>,
    _reservation: Reservation,
    _held: Option<Held>,
}

impl AsRef<[u8]> for Reserved {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.share.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
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
