//! The body of a response: in memory, whole or piece by piece, or a stream of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::stream::{EventStream, StreamWatch};

/// The body of a response.
pub enum Content {
    /// All of it; empty once it is taken.
    Whole(Bytes),
    /// All of it, given piece by piece to see how fast it is read. In a box, so that other responses have no room for it.
    Pieces(Box<Pieces>),
    /// Events as they are stored. In a box, so that other responses have no room for it.
    Events(Box<EventStream>),
}

/// What is left of a body.
pub struct Pieces {
    left: Bytes,
    piece_bytes: usize,
    watch: Box<dyn StreamWatch>,
}

impl Pieces {
    fn next(&mut self) -> Option<Bytes> {
        self.watch.progressed();
        let length = self.left.len().min(self.piece_bytes);
        (length > 0).then(|| self.left.split_to(length))
    }
}

impl Content {
    /// A body that is given in pieces of a size, while someone looks after its deadlines.
    pub fn pieces(left: Bytes, piece_bytes: usize, watch: impl StreamWatch + 'static) -> Content {
        Content::Pieces(Box::new(Pieces { left, piece_bytes, watch: Box::new(watch) }))
    }

    /// What is in memory of it.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Content::Whole(bytes) => bytes,
            Content::Pieces(pieces) => pieces.left,
            Content::Events(_) => Bytes::new(),
        }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = match &mut *self {
            Content::Whole(bytes) if bytes.is_empty() => None,
            Content::Whole(bytes) => Some(std::mem::take(bytes)),
            Content::Pieces(pieces) => pieces.next(),
            Content::Events(stream) => std::task::ready!(stream.poll_chunk(cx)),
        };
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Pieces(pieces) => pieces.left.is_empty(),
            Content::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Pieces(pieces) => SizeHint::with_exact(pieces.left.len() as u64),
            Content::Events(_) => SizeHint::default(),
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Content {
        Content::Whole(bytes)
    }
}

impl From<String> for Content {
    fn from(text: String) -> Content {
        Content::Whole(text.into())
    }
}

impl From<&'static str> for Content {
    fn from(text: &'static str) -> Content {
        Content::Whole(text.into())
    }
}
