//! One connection: TLS handshake, hyper's HTTP/1.1 or HTTP/2 with deadlines of our own, drain.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::deadlines::{ConnectionLimits, Deadlines, LINGER_TIME};
use super::http1::{Progress, Transport};
use super::http2::{
    CONNECTION_WINDOW_BYTES, MAXIMUM_FORCED_RESETS, MAXIMUM_QUEUED_RESETS, MAXIMUM_STREAMS, OwnedTasks,
    SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES, Streams, without_content,
};
use super::proxies::TrustedProxies;
use crate::consume::answer::Answer;
use crate::consume::client_address::ClientAddress;
use crate::consume::problem::Problem;
use crate::consume::request_body::RequestBody;
use crate::consume::requests::{Answered, traceparent_of};
use crate::consume::response_share::ResponseShare;
use crate::consume::route::Target;
use crate::consume::routes::{self, AppState};

/// What the service does, in the order in which it does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Serves on, and has clients look for another server.
    LameDuck,
    /// Finishes what has begun.
    Draining,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    ByItself,
    TooSlow,
}

pub struct Connection {
    pub peer: ClientAddress,
    /// The proxies whose headers name the client, if the peer is one of them.
    pub proxies: Option<Arc<TrustedProxies>>,
    /// Whether its requests are answered by the routes, or with 503.
    pub is_served: bool,
    pub state: Arc<AppState>,
    pub limits: ConnectionLimits,
    pub phase: watch::Receiver<Phase>,
}

impl Connection {
    /// Returns when the connection has ended, was too slow, or has drained.
    pub async fn serve<S>(self, stream: S, tls: Option<TlsAcceptor>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match tls {
            None => self.serve_http1(stream).await,
            // Boxed, so that connections without TLS do not pay for it.
            Some(acceptor) => Box::pin(self.serve_tls(stream, acceptor)).await,
        }
    }

    async fn serve_tls<S>(self, stream: S, acceptor: TlsAcceptor)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut phase = self.phase.clone();
        let handshake = timeout(self.limits.header_timeout, acceptor.accept(stream));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            _ = phase.wait_for(|phase| *phase == Phase::Draining) => return,
        };
        // TLS itself sends an alert where a handshake fails.
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
                // The rest of a body is discarded when the connection closes.
                let (mut answer, _unread) = self.answer(request).await;
                if *self.phase.borrow() == Phase::LameDuck {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(Progress::answered(progress, answer))
            }
        });
        let mut connection = http1::Builder::new()
            .header_read_timeout(None)
            .half_close(true)
            .max_buf_size(self.limits.header_limit_bytes)
            .max_header_size(self.limits.header_limit_bytes)
            .serve_connection(transport, service);
        if self.drive(Pin::new(&mut connection), progress.as_ref(), Phase::Draining).await == End::ByItself {
            // hyper does not shut down a connection whose client asked for an upgrade.
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
            let connection = Arc::clone(&connection);
            let open_request = Streams::begin(&streams);
            let tasks = tasks.clone();
            if matches!(*request.method(), Method::GET | Method::HEAD) {
                request.extensions_mut().insert(Arc::clone(&share));
            }
            async move {
                let is_head = request.method() == Method::HEAD;
                let (answer, unread) = connection.answer(request).await;
                if let Some(body) = unread {
                    tasks.discard(body);
                }
                let answer = if is_head { without_content(answer) } else { answer };
                Ok::<_, Infallible>(open_request.answered(answer))
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
        // GOAWAY names the requests that are answered: unlike over HTTP/1.1, the client knows which it has to repeat.
        connection.drive(pin!(http), streams.as_ref(), Phase::LameDuck).await;
        tasks.abort();
    }

    /// Returns the response, and the request body where some of it is unread.
    async fn answer(&self, request: Request<Incoming>) -> (Answer, Option<Incoming>) {
        if self.is_served {
            let is_stopping = *self.phase.borrow() != Phase::Serving;
            let client = self.client_of(request.headers());
            routes::answer(&self.state, request, client, is_stopping).await
        } else {
            let answer = self.refuse(&request);
            let version = request.version();
            (answer, RequestBody::new(request.into_body(), version).unread())
        }
    }

    fn client_of(&self, headers: &HeaderMap) -> ClientAddress {
        let proxies = self.proxies.as_ref();
        proxies.map_or(self.peer, |proxies| proxies.client_of(self.peer, headers))
    }

    fn refuse(&self, request: &Request<Incoming>) -> Answer {
        let problem = Problem::unavailable("too many connections: not stored");
        let reason = problem.reason();
        let mut answer = problem.into_response();
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        self.state.log.answered(Answered {
            target: Target::of(request.method(), request.uri().path()),
            client: self.client_of(request.headers()),
            status: answer.status(),
            took: Duration::ZERO,
            traceparent: traceparent_of(request.headers()),
            reason,
        });
        answer
    }

    /// From a phase on the connection finishes its requests and ends.
    async fn drive(
        &self,
        mut connection: Pin<&mut impl GracefulConnection>,
        deadlines: &impl Deadlines,
        ends_from: Phase,
    ) -> End {
        let mut timer = pin!(sleep(self.limits.shortest_timeout()));
        let mut phase = self.phase.clone();
        let mut is_ending = false;
        loop {
            tokio::select! {
                biased;
                // An error of a connection is its client's affair, and there is nobody to report it to.
                _ = connection.as_mut() => return End::ByItself,
                // A flood of requests leaves none of tokio's budget for what is polled behind it.
                () = unconstrained(timer.as_mut()) => match deadlines.next_check(&self.limits) {
                    Some(time) if self.is_served => timer.as_mut().reset(Instant::now() + time),
                    // A refused connection must not keep the next one from its 503.
                    _ => return End::TooSlow,
                },
                () = deadlines.overused() => {
                    if is_ending {
                        return End::TooSlow;
                    }
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                Ok(()) = unconstrained(phase.changed()) => {
                    let phase = *phase.borrow_and_update();
                    if phase == Phase::Draining {
                        deadlines.draining();
                        // The deadline may be earlier now.
                        timer.as_mut().reset(Instant::now());
                    }
                    if phase >= ends_from {
                        is_ending = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }
}
