//! Connections that track whether a request on them was answered, and how long the server keeps them open when idle.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep_until};
use tower_service::Service;

use super::proxy::Proxies;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How long before its server this side gives an idle connection up: a request may take that long to arrive. At most
/// half of the server's timeout.
const CLOSING_MARGIN: Duration = Duration::from_secs(1);

/// The size of one read.
const READ_BYTES: usize = 8 << 10;

/// What has happened on an HTTP/1.1 connection. Clones share it.
#[derive(Clone, Default)]
pub struct Activity(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// A request was written, and no byte was read since.
    unanswered: bool,
    responses_begun: u64,
    /// When an idle connection counts as closed.
    idle_until: Option<Instant>,
    reader: Option<Waker>,
}

impl Activity {
    /// Whether the last request got no byte of a response on a connection that had answered before: the server may have
    /// closed it while the request was in transit.
    pub fn was_closed_between_requests(&self) -> bool {
        let state = self.0.lock();
        state.unanswered && state.responses_begun > 0
    }

    /// Notes how long the server keeps the idle connection. Called once a response has been read.
    pub fn obey_keep_alive(&self, headers: &HeaderMap) {
        let Some(time) = keep_alive_time(headers) else { return };
        let mut state = self.0.lock();
        if !state.unanswered {
            state.idle_until = Some(Instant::now() + time - CLOSING_MARGIN.min(time / 2));
            if let Some(reader) = state.reader.take() {
                reader.wake();
            }
        }
    }
}

/// `Keep-Alive: timeout=5, max=100` (RFC 2068, section 19.7.1.1): how long the server keeps an idle connection.
fn keep_alive_time(headers: &HeaderMap) -> Option<Duration> {
    let parameters = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let timeout = parameters.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse::<u32>().ok())?
    });
    timeout.map(u64::from).map(Duration::from_secs)
}

/// Wraps the connections of another connector.
#[derive(Clone)]
pub struct TrackingConnector<C> {
    pub connector: C,
    pub proxies: Proxies,
}

impl<C> Service<Uri> for TrackingConnector<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
{
    type Response = TrackedConnection<C::Response>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let is_forwarded = self.proxies.forward(&uri);
        let connecting = self.connector.call(uri);
        Box::pin(async move {
            let (stream, activity) = (connecting.await?, Activity::default());
            Ok(TrackedConnection { stream, activity, is_forwarded, idle_timer: None })
        })
    }
}

/// A connection that records its [`Activity`].
pub struct TrackedConnection<S> {
    stream: S,
    activity: Activity,
    /// Whether the peer is a proxy that forwards requests.
    is_forwarded: bool,
    /// Runs until the deadline beside it.
    idle_timer: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> TrackedConnection<S> {
    /// Ready when the connection has been idle for too long.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let until = {
            let mut state = self.activity.0.lock();
            state.reader = Some(context.waker().clone());
            state.idle_until
        };
        let Some(until) = until else {
            self.idle_timer = None;
            return Poll::Pending;
        };
        if self.idle_timer.as_ref().is_none_or(|(at, _)| *at != until) {
            self.idle_timer = Some((until, Box::pin(sleep_until(until.into()))));
        }
        self.idle_timer.as_mut().map_or(Poll::Pending, |(_, sleep)| sleep.as_mut().poll(context))
    }

    fn begin_request(&self) {
        let mut state = self.activity.0.lock();
        state.unanswered = true;
        state.idle_until = None;
    }
}

impl<S: Read + Unpin> Read for TrackedConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_idle(context).is_ready() {
            // End of file: to hyper, the server has closed the connection.
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; READ_BYTES];
        let length = cursor.remaining().min(READ_BYTES);
        let mut buffer = ReadBuf::new(&mut bytes[..length]);
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer.unfilled()))?;
        if !buffer.filled().is_empty() {
            let mut state = self.activity.0.lock();
            state.responses_begun += u64::from(state.unanswered);
            state.unanswered = false;
        }
        cursor.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: Write + Unpin> Write for TrackedConnection<S> {
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

impl<S: Connection> Connection for TrackedConnection<S> {
    fn connected(&self) -> Connected {
        let connected = self.stream.connected().proxy(self.is_forwarded);
        // Requests share an HTTP/2 connection, which itself reports those that the server did not process.
        if connected.is_negotiated_h2() { connected } else { connected.extra(self.activity.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_timeout_is_a_parameter_in_seconds() {
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
