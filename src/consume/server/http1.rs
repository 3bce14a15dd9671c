//! The deadlines of an HTTP/1.1 connection.
//!
//! hyper has no deadline for a silent connection, an unread response or a closing connection. Here each connection has one
//! timer that checks its last progress. The timer is reset only when it fires, so that a request costs no timer.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::deadlines::{ConnectionLimits, DRAIN_GRACE, Deadlines, LINGER_BYTES, LINGER_TIME};
use crate::consume::answer::Answer;
use crate::consume::body::{BodyWatch, Content};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The headers of a request are being received, or those of the first are awaited.
    Headers,
    /// A route answers the request; it has deadlines of its own.
    Answering,
    /// The response is being sent, or was sent.
    Idle,
    /// Events are sent for as long as the client reads them.
    Streaming,
    /// The last response was sent, and the rest of the request is discarded.
    Lingering,
}

/// The last progress of a connection. Only the connection's task uses it, so that no memory ordering is needed.
pub struct Progress {
    opened: Instant,
    phase: AtomicU8,
    /// Microseconds from the opening to the last progress.
    at: AtomicU64,
    /// Microseconds from the opening to the last response.
    answered_at: AtomicU64,
    /// Whether the client may still be sending when the connection closes. An idle connection that drains closes at once.
    lingers: AtomicBool,
    draining: AtomicBool,
    /// Whether the last response is an event stream, which its client can resume elsewhere.
    streams: AtomicBool,
}

impl Progress {
    pub fn new() -> Progress {
        Progress {
            opened: Instant::now(),
            phase: AtomicU8::new(Phase::Headers as u8),
            at: AtomicU64::new(0),
            answered_at: AtomicU64::new(0),
            lingers: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            streams: AtomicBool::new(false),
        }
    }

    fn is_in(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    /// Changes the phase without noting the time.
    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn enter(&self, phase: Phase) {
        self.set(phase);
        self.note();
    }

    fn note(&self) {
        self.at.store(self.elapsed(), Ordering::Relaxed);
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Writing response bytes counts as progress, but does not extend the header timeout.
    fn wrote(&self) {
        if !self.is_in(Phase::Headers) {
            self.note();
        }
    }

    /// The headers of a request have been received.
    pub fn begin(&self) {
        self.set(Phase::Answering);
    }

    /// Follows the response until it is sent.
    pub fn answered(progress: &Arc<Progress>, mut answer: Answer) -> Answer {
        progress.streams.store(matches!(answer.body(), Content::Events(_)), Ordering::Relaxed);
        match answer.body_mut() {
            Content::Whole(_) | Content::Pieces(_) => progress.idle(),
            Content::Events(stream) => {
                progress.enter(Phase::Streaming);
                stream.watch_by(Streaming(Arc::clone(progress)));
            }
        }
        answer
    }

    fn idle(&self) {
        self.enter(Phase::Idle);
        self.answered_at.store(self.at.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Notes the end of an event stream. The transport notes what is written of it.
struct Streaming(Arc<Progress>);

impl BodyWatch for Streaming {}

impl Drop for Streaming {
    fn drop(&mut self) {
        if self.0.is_in(Phase::Streaming) {
            self.0.idle();
        }
    }
}

impl Deadlines for Progress {
    fn next_check(&self, limits: &ConnectionLimits) -> Option<Duration> {
        let since =
            |at: &AtomicU64, limit: Duration| Duration::from_micros(at.load(Ordering::Relaxed)) + limit;
        let deadline = match self.phase.load(Ordering::Relaxed) {
            // Routes have deadlines of their own, and so has lingering.
            phase if phase == Phase::Answering as u8 || phase == Phase::Lingering as u8 => {
                return Some(limits.shortest_timeout());
            }
            phase if phase == Phase::Headers as u8 => since(&self.at, limits.header_timeout),
            // Heartbeats ensure that a client that reads makes progress.
            phase if phase == Phase::Streaming as u8 => since(&self.at, limits.idle_timeout),
            // A client that reads its response makes progress, but not for ever.
            _ => {
                let longest = limits.response_timeout.max(limits.idle_timeout);
                since(&self.at, limits.idle_timeout).min(since(&self.answered_at, longest))
            }
        };
        let ends_early = self.draining.load(Ordering::Relaxed) && self.streams.load(Ordering::Relaxed);
        let deadline = if ends_early { deadline.min(since(&self.at, DRAIN_GRACE)) } else { deadline };
        let left = deadline.checked_sub(self.opened.elapsed())?;
        // The next phase may have a shorter timeout than this one.
        Some(left.min(limits.shortest_timeout()).max(Duration::from_millis(1)))
    }

    fn draining(&self) {
        self.lingers.store(!self.is_in(Phase::Idle), Ordering::Relaxed);
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Never: there is one request at a time.
    async fn overused(&self) {
        std::future::pending().await
    }
}

/// A socket that notes its progress, and reads on for a while before it closes.
pub struct Transport<S> {
    io: TokioIo<S>,
    progress: Arc<Progress>,
    lingered: usize,
    /// Set once the connection is closing.
    linger_timer: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport<S> {
    pub fn new(stream: S, progress: Arc<Progress>) -> Transport<S> {
        Transport { io: TokioIo::new(stream), progress, lingered: 0, linger_timer: None }
    }

    /// Closes the socket once the client has seen everything that was sent.
    pub async fn shut_down(mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self).poll_shutdown(cx)).await
    }

    fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(self.io.inner_mut())
    }

    /// Discards what the client still sends, until it has seen the end of the response: closing a socket with unread bytes
    /// resets it, and a reset can overtake the response.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger_timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; 8192];
        while self.lingered < LINGER_BYTES {
            let mut read = ReadBuf::new(&mut scratch);
            ready!(self.stream().poll_read(cx, &mut read))?;
            match read.filled().len() {
                0 => break,
                length => self.lingered += length,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> Read for Transport<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        if self.progress.is_in(Phase::Idle) {
            self.progress.enter(Phase::Headers);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Write for Transport<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        self.progress.wrote();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices));
        self.progress.wrote();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.progress.is_in(Phase::Lingering) {
            ready!(self.stream().poll_shutdown(cx))?;
            if !self.progress.lingers.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            self.progress.enter(Phase::Lingering);
            self.linger_timer = Some(Box::pin(sleep(LINGER_TIME)));
        }
        self.poll_linger(cx)
    }
}
