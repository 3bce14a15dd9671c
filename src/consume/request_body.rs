//! Reading the body of a request.

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::{StatusCode, Version};

use super::problem::Problem;
use crate::store::{Reservation, Store};

/// The body of a request, which may be read once.
pub struct RequestBody {
    incoming: Incoming,
    version: Version,
    was_read: bool,
}

impl RequestBody {
    pub fn new(incoming: Incoming, version: Version) -> RequestBody {
        RequestBody { incoming, version, was_read: false }
    }

    /// What the client may still send; none where all of the body has been read.
    pub fn unread(self) -> Option<Incoming> {
        Some(self.incoming).filter(|incoming| !self.was_read && !incoming.is_end_stream())
    }

    /// Reads all of the body, and reserves memory for what has arrived. A Content-Length alone reserves nothing:
    /// a few clients could then take all memory without sending a byte.
    ///
    /// # Errors
    /// 413 above the limit, 503 without memory, 400 where the body is cut off.
    pub async fn read(&mut self, store: &Store, limit_bytes: usize) -> Result<(Bytes, Reservation), Problem> {
        let too_large = || Problem::body_too_large(limit_bytes);
        let cut_off =
            || Problem::new(StatusCode::BAD_REQUEST, "the body is cut off or malformed: not stored");
        let announced = usize::try_from(self.incoming.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > limit_bytes {
            return Err(too_large());
        }
        let mut reservation = store.reserve();
        // Most bodies come in one chunk. Others are copied, because a chunk of a few bytes can keep a whole buffer alive.
        let mut first = Bytes::new();
        let mut joined: Vec<u8> = Vec::new();
        let mut length = 0;
        while let Some(frame) = self.incoming.frame().await {
            let Ok(chunk) = frame.map_err(|_| cut_off())?.into_data() else { continue };
            length += chunk.len();
            if length > limit_bytes {
                return Err(too_large());
            }
            if !reservation.grow(chunk.len()) {
                return Err(Problem::overloaded());
            }
            if first.is_empty() {
                first = chunk;
                continue;
            }
            if joined.is_empty() {
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&chunk);
        }
        // hyper takes a stream that is reset with NO_ERROR for one that has ended.
        if self.version >= Version::HTTP_2 && !self.incoming.is_end_stream() {
            return Err(cut_off());
        }
        self.was_read = true;
        Ok((if joined.is_empty() { first } else { joined.into() }, reservation))
    }
}
