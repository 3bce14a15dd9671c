//! One connection: handshake, hyper's HTTP/1.1 or HTTP/2 inside deadlines of our own, drain.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::client::{Client, TrustedProxies};
use super::http1::{LINGER_TIME, Progress, Transport};
use super::http2::{
    CONNECTION_WINDOW_BYTES, MAXIMUM_FORCED_RESETS, MAXIMUM_QUEUED_RESETS, MAXIMUM_STREAMS, OwnedTasks,
    SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES, Streams, without_content,
};
use super::metrics::Target;
use super::problem::Problem;
use super::requests::{Answered, origin_of};
use super::routes::{Answer, Routes};
use super::share::ResponseShare;
use super::upload::unread_of;

/// How long a client may pause in reading a stream that is to end with the service.
pub const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// What bounds a connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// The largest head of a request, in bytes.
    pub header_limit_bytes: usize,
    /// How long a client may take for a handshake, and to send a head.
    pub header_timeout: Duration,
    /// How long a client may take to read a response.
    pub response_timeout: Duration,
    /// How long a connection may stay without a request, or a response unread.
    pub idle_timeout: Duration,
    /// What its responses may take in memory, unless one alone is larger.
    pub response_share_bytes: usize,
}

impl ConnectionLimits {
    /// The longest that a connection may go without a look at its progress.
    pub fn shortest_timeout(&self) -> Duration {
        self.header_timeout.min(self.response_timeout).min(self.idle_timeout)
    }
}

/// What a connection did last.
pub trait Watched {
    /// Takes note that the connection is to end with the requests that it has.
    fn asked_to_drain(&self);

    /// Waits until the connection wears the server out: it is to end with the requests that it has, and at once where it
    /// goes on.
    fn strained(&self) -> impl Future<Output = ()> + Send;

    /// How long the connection may go on without another look; none where it has been too long.
    fn time_left(&self, limits: &ConnectionLimits) -> Option<Duration>;
}

/// How a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    OfItself,
    TooSlow,
}

/// A connection that was accepted.
pub struct Connection {
    /// Who is at its other end.
    pub peer: Client,
    /// Those whose word is taken for whose requests they pass on, where it is one of them.
    pub proxies: Option<Arc<TrustedProxies>>,
    /// Whether it is answered by the routes, or with 503.
    pub admitted: bool,
    /// What answers its requests.
    pub routes: Arc<Routes>,
    /// What bounds it.
    pub limits: ConnectionLimits,
    /// Whether the service is about to stop.
    pub drain: watch::Receiver<bool>,
}

impl Connection {
    /// Serves the connection until it ends, is too slow, or has drained.
    pub async fn serve<S>(self, stream: S, tls: Option<TlsAcceptor>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match tls {
            None => self.serve_http1(stream).await,
            // In a box, so that connections without TLS have no room for it.
            Some(acceptor) => Box::pin(self.serve_tls(stream, acceptor)).await,
        }
    }

    async fn serve_tls<S>(self, stream: S, acceptor: TlsAcceptor)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut drain = self.drain.clone();
        let handshake = timeout(self.limits.header_timeout, acceptor.accept(stream));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            _ = drain.wait_for(|draining| *draining) => return,
        };
        // Who does not finish a handshake is told by TLS itself, if at all.
        let Ok(Ok(stream)) = accepted else { return };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Box::pin(self.serve_http2(stream)).await;
        } else {
            self.serve_http1(stream).await;
        }
    }

    async fn serve_http1(&self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let progress = Arc::new(Progress::new());
        let transport = Transport::new(stream, Arc::clone(&progress));
        let service = service_fn(|request| {
            let progress = &progress;
            async move {
                progress.begin();
                // What is left of a body is thrown away when the connection closes.
                let (answer, _unread) = self.answer(request).await;
                Ok::<_, Infallible>(Progress::answered(progress, answer))
            }
        });
        let mut connection = http1::Builder::new()
            .header_read_timeout(None)
            .half_close(true)
            .max_buf_size(self.limits.header_limit_bytes)
            .max_header_size(self.limits.header_limit_bytes)
            .serve_connection(transport, service);
        if self.drive(Pin::new(&mut connection), progress.as_ref()).await == End::OfItself {
            // hyper has not shut a connection whose client asked for another protocol.
            let parts = connection.into_parts();
            let _ = timeout(LINGER_TIME, parts.io.shut_down()).await;
        }
    }

    async fn serve_http2(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let streams = Arc::new(Streams::new());
        let tasks = OwnedTasks::new(&streams);
        let connection = Arc::new(self);
        let share = Arc::new(ResponseShare::new(connection.limits.response_share_bytes));
        let service = service_fn(|mut request: Request<Incoming>| {
            let (connection, request_of) = (Arc::clone(&connection), Streams::begin(&streams));
            let tasks = tasks.clone();
            if matches!(*request.method(), Method::GET | Method::HEAD) {
                request.extensions_mut().insert(Arc::clone(&share));
            }
            async move {
                let asks_for_head = request.method() == Method::HEAD;
                let (answer, unread) = connection.answer(request).await;
                if let Some(body) = unread {
                    tasks.discard(body);
                }
                let answer = if asks_for_head { without_content(answer) } else { answer };
                Ok::<_, Infallible>(request_of.answered(answer))
            }
        });
        let header_limit_bytes = u32::try_from(connection.limits.header_limit_bytes).unwrap_or(u32::MAX);
        let http = http2::Builder::new(tasks.clone())
            .max_header_list_size(header_limit_bytes)
            .max_concurrent_streams(MAXIMUM_STREAMS)
            .max_pending_accept_reset_streams(MAXIMUM_QUEUED_RESETS)
            .max_local_error_reset_streams(MAXIMUM_FORCED_RESETS)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        connection.drive(pin!(http), streams.as_ref()).await;
        tasks.abort();
    }

    /// The answer, and what was not read of the request's body.
    async fn answer(&self, request: Request<Incoming>) -> (Answer, Option<Incoming>) {
        if self.admitted {
            let draining = *self.drain.borrow();
            let client = self.client_of(request.headers());
            self.routes.answer(request, client, draining).await
        } else {
            (self.refuse(&request), unread_of(request.into_body()))
        }
    }

    fn client_of(&self, headers: &HeaderMap) -> Client {
        let proxies = self.proxies.as_ref();
        proxies.map_or(self.peer, |proxies| proxies.client_of(self.peer, headers))
    }

    fn refuse(&self, request: &Request<Incoming>) -> Answer {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many connections: not stored");
        let reason = problem.reason();
        let mut answer = problem.into_response();
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        self.routes.log.answered(Answered {
            target: Target::of(request.method(), request.uri().path()),
            client: self.client_of(request.headers()),
            status: answer.status(),
            took: Duration::ZERO,
            origin: origin_of(request.headers()),
            reason,
        });
        answer
    }

    async fn drive(&self, mut connection: Pin<&mut impl GracefulConnection>, watched: &impl Watched) -> End {
        let mut timer = pin!(tokio::time::sleep(self.limits.shortest_timeout()));
        let mut drain = self.drain.clone();
        let (mut asked_to_drain, mut ending) = (false, false);
        loop {
            tokio::select! {
                biased;
                // How a client ends its connection is its own affair: there is nobody to tell.
                _ = connection.as_mut() => return End::OfItself,
                // A flood leaves no budget of tokio's for whatever is polled behind it.
                () = unconstrained(timer.as_mut()) => match watched.time_left(&self.limits) {
                    Some(left) if self.admitted => timer.as_mut().reset(tokio::time::Instant::now() + left),
                    // Who is refused is not to stay, and to take the place of the next who could be told.
                    _ => return End::TooSlow,
                },
                () = watched.strained() => {
                    if ending {
                        return End::TooSlow;
                    }
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = unconstrained(drain.changed()), if !asked_to_drain => {
                    (asked_to_drain, ending) = (true, true);
                    watched.asked_to_drain();
                    // Its deadline may be nearer now.
                    timer.as_mut().reset(tokio::time::Instant::now());
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
