//! Connections that know whether a request on them has been answered, and for how long a server keeps them.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::time::{Sleep, sleep_until};
use tower_service::Service;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How long before its server a connection is given up, where that leaves half of its time: a request may take so long
/// to arrive.
const CLOSING_MARGIN: Duration = Duration::from_secs(1);

/// How much is read at once, in bytes.
const READ_BYTES: usize = 8 << 10;

/// What happens on an HTTP/1.1 connection. A clone shares it.
#[derive(Clone, Default)]
pub struct Activity(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// A request was written, and no byte was read since.
    unanswered: bool,
    /// How many responses have begun.
    responses: u64,
    /// When the connection counts as closed unless there is a request on it.
    idle_until: Option<Instant>,
    /// Waits for something to read.
    reader: Option<Waker>,
}

impl Activity {
    /// Whether the last request had no byte of an answer on a connection that had answered before: the server may have
    /// closed it while the request was on its way.
    pub fn was_closed_between_requests(&self) -> bool {
        let state = self.lock();
        state.unanswered && state.responses > 0
    }

    /// Takes notice of how long the server keeps the connection, once a response has been read.
    pub fn obey_keep_alive(&self, headers: &HeaderMap) {
        let Some(time) = keep_alive_time(headers) else { return };
        let mut state = self.lock();
        if !state.unanswered {
            state.idle_until = Some(Instant::now() + time - CLOSING_MARGIN.min(time / 2));
            if let Some(reader) = state.reader.take() {
                reader.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `Keep-Alive: timeout=5, max=100` (RFC 2068, section 19.7.1.1): for how long an idle connection is kept.
fn keep_alive_time(headers: &HeaderMap) -> Option<Duration> {
    let parameters = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let timeout = parameters.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse::<u32>().ok())?
    });
    timeout.map(u64::from).map(Duration::from_secs)
}

/// Makes the connections of another connector watched ones.
#[derive(Clone)]
pub struct WatchedConnector<C>(pub C);

impl<C> Service<Uri> for WatchedConnector<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
{
    type Response = Watched<C::Response>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async {
            Ok(Watched { stream: connecting.await?, activity: Activity::default(), idle: None })
        })
    }
}

/// A connection of which an [`Activity`] tells.
pub struct Watched<S> {
    stream: S,
    activity: Activity,
    /// Ends when the connection has been idle for long enough.
    idle: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> Watched<S> {
    /// Whether the time is over for which an idle connection is kept.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let until = {
            let mut state = self.activity.lock();
            state.reader = Some(context.waker().clone());
            state.idle_until
        };
        let Some(until) = until else {
            self.idle = None;
            return Poll::Pending;
        };
        if self.idle.as_ref().is_none_or(|(at, _)| *at != until) {
            self.idle = Some((until, Box::pin(sleep_until(until.into()))));
        }
        self.idle.as_mut().map_or(Poll::Pending, |(_, sleep)| sleep.as_mut().poll(context))
    }

    /// A request is on its way.
    fn begin_request(&self) {
        let mut state = self.activity.lock();
        state.unanswered = true;
        state.idle_until = None;
    }
}

impl<S: Read + Unpin> Read for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_idle(context).is_ready() {
            // To the connection that looks as if the server had closed it.
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; READ_BYTES];
        let length = cursor.remaining().min(READ_BYTES);
        let mut buffer = ReadBuf::new(&mut bytes[..length]);
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer.unfilled()))?;
        if !buffer.filled().is_empty() {
            let mut state = self.activity.lock();
            state.responses += u64::from(state.unanswered);
            state.unanswered = false;
        }
        cursor.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: Write + Unpin> Write for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.begin_request();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.begin_request();
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }
}

impl<S: Connection> Connection for Watched<S> {
    fn connected(&self) -> Connected {
        let connected = self.stream.connected();
        // Requests share a connection of HTTP/2, and it says itself which of them it has not begun with.
        if connected.is_negotiated_h2() { connected } else { connected.extra(self.activity.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_idle_connection_is_a_parameter_in_seconds() {
        for (value, seconds) in [
            ("timeout=5", Some(5)),
            ("timeout=5, max=1000", Some(5)),
            ("max=100,Timeout = 7", Some(7)),
            ("max=100", None),
            ("timeout=soon", None),
            ("300", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(KEEP_ALIVE, value.parse().unwrap());
            assert_eq!(keep_alive_time(&headers), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
