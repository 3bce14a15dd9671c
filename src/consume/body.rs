//! Response bodies: bytes in memory, sent whole or in pieces, and streams of events.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use parking_lot::Mutex;

/// The large variants are boxed, so that ordinary responses do not pay for them.
pub enum Content {
    /// Empty once it is taken.
    Whole(Bytes),
    Pieces(Box<Pieces>),
    Events(Box<EventStream>),
}

/// A body that is sent in pieces, so that a watch sees how fast the client reads it.
pub struct Pieces {
    left: Bytes,
    piece_bytes: usize,
    watch: Box<dyn BodyWatch>,
}

/// Enforces the deadlines of a body. It is dropped with the body.
pub trait BodyWatch: Send {
    /// The client has room for the next chunk, which is sent now.
    fn progressed(&self) {}
}

impl Content {
    pub fn pieces(left: Bytes, piece_bytes: usize, watch: impl BodyWatch + 'static) -> Content {
        Content::Pieces(Box::new(Pieces { left, piece_bytes, watch: Box::new(watch) }))
    }

    /// The bytes in memory; none of a stream.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Content::Whole(bytes) => bytes,
            Content::Pieces(pieces) => pieces.left,
            Content::Events(_) => Bytes::new(),
        }
    }
}

impl Pieces {
    fn next(&mut self) -> Option<Bytes> {
        self.watch.progressed();
        let length = self.left.len().min(self.piece_bytes);
        (length > 0).then(|| self.left.split_to(length))
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
            Content::Events(stream) => ready!(stream.poll_chunk(cx)),
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

/// A body whose producer runs in the task of the connection: it goes on only when the client has room for the next chunk.
pub struct EventStream {
    /// None once it has ended.
    producer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    slot: Arc<ChunkSlot>,
    watch: Option<Box<dyn BodyWatch>>,
}

impl EventStream {
    /// The producer sends its chunks through the slot.
    pub fn new(producer: impl Future<Output = ()> + Send + 'static, slot: Arc<ChunkSlot>) -> EventStream {
        EventStream { producer: Some(Box::pin(producer)), slot, watch: None }
    }

    pub fn watch_by(&mut self, watch: impl BodyWatch + 'static) {
        self.watch = Some(Box::new(watch));
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(producer) = &mut self.producer else { return Poll::Ready(None) };
        let ended = producer.as_mut().poll(cx).is_ready();
        if ended {
            self.producer = None;
        }
        match self.slot.take() {
            Some(chunk) => {
                if let Some(watch) = &self.watch {
                    watch.progressed();
                }
                Poll::Ready(Some(chunk))
            }
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// Passes one chunk from the producer of a stream to its body, which polls the producer and then takes the chunk.
#[derive(Default)]
pub struct ChunkSlot(Mutex<Option<Bytes>>);

impl ChunkSlot {
    pub fn put(&self, chunk: Bytes) {
        *self.0.lock() = Some(chunk);
    }

    fn take(&self) -> Option<Bytes> {
        self.0.lock().take()
    }

    /// Waits until the chunk has been taken. Nobody has to wake the producer: what takes a chunk also polls it.
    pub async fn taken(&self) {
        poll_fn(|_| if self.0.lock().is_none() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// Bytes that keep a guard, such as a reservation of memory, until they are written or dropped.
pub fn held(bytes: impl AsRef<[u8]> + Send + 'static, guard: impl Send + 'static) -> Bytes {
    struct Held<B, G> {
        bytes: B,
        _guard: G,
    }
    impl<B: AsRef<[u8]>, G> AsRef<[u8]> for Held<B, G> {
        fn as_ref(&self) -> &[u8] {
            self.bytes.as_ref()
        }
    }
    Bytes::from_owner(Held { bytes, _guard: guard })
}
