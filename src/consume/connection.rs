//! One connection: hyper's HTTP/1.1 inside deadlines of our own.
//!
//! hyper has no deadline for a silent connection, an unread response or a closing one. Here one timer
//! a connection looks at what the connection did last; it is set anew only when it fires, so that a
//! request costs no timer at all.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::problem::Problem;
use super::routes::{Answer, Routes};

/// How long a closing connection is read on, so that a client that still writes sees its answer.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// The most that a closing connection is read on, in bytes.
const LINGER_BYTES: usize = 16 << 20;

/// What bounds a connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// The largest head of a request, in bytes.
    pub header_limit_bytes: usize,
    /// How long a client may take to send a head.
    pub header_timeout: Duration,
    /// How long a connection may stay without a request, or a response unread.
    pub idle_timeout: Duration,
}

impl ConnectionLimits {
    /// The longest that a connection may go without a look at its progress.
    fn shortest_timeout(&self) -> Duration {
        self.header_timeout.min(self.idle_timeout)
    }
}

/// Serves a connection until it ends, is too slow, or has drained.
///
/// An `admitted` connection is answered by the routes, any other with 503.
pub async fn serve(
    stream: TcpStream,
    routes: Arc<Routes>,
    limits: ConnectionLimits,
    admitted: bool,
    mut drain: watch::Receiver<bool>,
) {
    let progress = Arc::new(Progress::new());
    let transport = Transport { io: TokioIo::new(stream), progress: Arc::clone(&progress), lingered: 0 };
    let draining = drain.clone();
    let service = service_fn(|request| {
        let (routes, progress, draining) = (&routes, &progress, &draining);
        async move {
            progress.set(Phase::Answering);
            let draining = *draining.borrow();
            let answer = if admitted { routes.answer(request, draining).await } else { refuse(&request) };
            progress.answered(answer.headers().contains_key(CONNECTION));
            Ok::<Answer, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(limits.header_limit_bytes)
        .serve_connection(transport, service);
    let mut connection = pin!(connection);
    let mut timer = pin!(tokio::time::sleep(limits.shortest_timeout()));
    let mut asked_to_drain = false;
    loop {
        tokio::select! {
            biased;
            // How a client ends its connection is its own affair: there is nobody to tell.
            _ = connection.as_mut() => return,
            () = timer.as_mut() => match progress.time_left(&limits) {
                Some(left) => timer.as_mut().reset(tokio::time::Instant::now() + left),
                None => return,
            },
            _ = drain.changed(), if !asked_to_drain => {
                asked_to_drain = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

fn refuse(_: &Request<Incoming>) -> Answer {
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many connections: not stored");
    let mut answer = problem.into_response();
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A head is on its way, or the first one is awaited.
    Head,
    /// The routes have the request and deadlines of their own.
    Answering,
    /// Nothing is on its way but, at most, a response.
    Idle,
    /// The response is sent, and the rest of the request is thrown away.
    Lingering,
}

/// What a connection did last, and when.
struct Progress {
    opened: Instant,
    phase: AtomicU8,
    /// Microseconds between the opening and the last progress.
    at: AtomicU64,
    /// Whether the client may still be sending when the connection closes.
    lingers: AtomicBool,
}

// Only the connection's own task reads and writes these, so that no ordering is needed.
impl Progress {
    fn new() -> Progress {
        Progress {
            opened: Instant::now(),
            phase: AtomicU8::new(Phase::Head as u8),
            at: AtomicU64::new(0),
            lingers: AtomicBool::new(false),
        }
    }

    fn is_in(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    /// Changes the phase, where the time that it began does not matter.
    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn enter(&self, phase: Phase) {
        self.set(phase);
        self.note();
    }

    fn note(&self) {
        let at = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.at.store(at, Ordering::Relaxed);
    }

    fn answered(&self, closes: bool) {
        self.lingers.store(closes, Ordering::Relaxed);
        self.enter(Phase::Idle);
    }

    /// How long the connection may go on without progress; none where it has been too long.
    fn time_left(&self, limits: &ConnectionLimits) -> Option<Duration> {
        let limit = match self.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Head as u8 => limits.header_timeout,
            phase if phase == Phase::Lingering as u8 => LINGER_TIME,
            phase if phase == Phase::Answering as u8 => return Some(limits.shortest_timeout()),
            _ => limits.idle_timeout,
        };
        let deadline = Duration::from_micros(self.at.load(Ordering::Relaxed)) + limit;
        let left = deadline.checked_sub(self.opened.elapsed())?;
        // A timer in the phase that follows may have less time than this one.
        Some(left.min(limits.shortest_timeout()).max(Duration::from_millis(1)))
    }
}

/// A stream that notes its progress, and reads on for a while before it closes.
struct Transport {
    io: TokioIo<TcpStream>,
    progress: Arc<Progress>,
    lingered: usize,
}

impl Transport {
    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.io.inner_mut())
    }

    /// Throws away what the client still sends, until it has seen the end of the response.
    ///
    /// Closing a socket with unread bytes resets it, and a reset can overtake the response.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

impl Read for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        if self.progress.is_in(Phase::Idle) {
            self.progress.enter(Phase::Head);
        }
        Poll::Ready(read)
    }
}

impl Write for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        self.progress.note();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices));
        self.progress.note();
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
            let lingers = self.progress.lingers.load(Ordering::Relaxed) || self.progress.is_in(Phase::Head);
            ready!(self.stream().poll_shutdown(cx))?;
            if !lingers {
                return Poll::Ready(Ok(()));
            }
            self.progress.enter(Phase::Lingering);
        }
        self.poll_linger(cx)
    }
}
