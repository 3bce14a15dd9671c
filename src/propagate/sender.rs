//! From an event to its fate: requests, and retries of what may pass.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::fmt::rfc2822;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::report::{Attempt, Fate, Report};
use super::source::Outgoing;
use crate::cli::{Endpoint, PropagateOptions};
use crate::core::backoff::Backoff;

/// Waits between retries, unless the receiver asks for longer ones.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(10) };

/// The longest wait that a receiver can ask for with `Retry-After`.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(3600);

/// How much of a response's body is read, in bytes; the connection of a longer one is given up.
const RESPONSE_LIMIT_BYTES: usize = 256 << 10;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

type RequestBody = http_body_util::Either<Full<Bytes>, Empty<Bytes>>;

/// Delivers events to one endpoint.
pub struct Sender {
    client: Client<HttpConnector, RequestBody>,
    endpoint: Uri,
    headers: HeaderMap,
    timeout: Duration,
    retries: u32,
    reports: mpsc::Sender<Report>,
    hurry: watch::Receiver<bool>,
}

/// A response, or what came instead.
struct Answer {
    status: Result<StatusCode, String>,
    retry_after: Option<Duration>,
}

impl Sender {
    /// A sender that reports every attempt, and gives up what it has when told to hurry.
    pub fn new(
        options: &PropagateOptions,
        reports: mpsc::Sender<Report>,
        hurry: watch::Receiver<bool>,
    ) -> Sender {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(options.max_in_flight)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Sender {
            client,
            endpoint: options.endpoint.0.clone(),
            headers: headers_of(options),
            timeout: options.timeout,
            retries: options.retries,
            reports,
            hurry,
        }
    }

    /// Sends an event that is due now until it is delivered, rejected, or given up.
    pub async fn deliver(&self, event: Arc<Outgoing>, scheduled: Instant) {
        let mut hurry = self.hurry.clone();
        let key = Uuid::now_v7().to_string();
        let jitter = scheduled.elapsed();
        for retry in 0.. {
            let sent = Instant::now();
            let answer = tokio::select! {
                answer = self.post(&event, &key) => answer,
                () = told(&mut hurry) => return self.report(Report::GivenUp(event)).await,
            };
            let fate = self.fate_of(&answer.status, retry);
            let retry_after = answer.retry_after.unwrap_or_default();
            let attempt = Attempt {
                event: Arc::clone(&event),
                jitter,
                latency: sent.elapsed(),
                latency_from_schedule: scheduled.elapsed(),
                status: answer.status.map(|status| status.as_u16()),
                retry,
                fate,
            };
            self.report(Report::Attempt(attempt)).await;
            if fate.is_some() {
                return;
            }
            let wait = retry_after + BACKOFF.wait(retry + 1, &mut fastrand::Rng::new());
            tokio::select! {
                () = sleep(wait) => {}
                () = told(&mut hurry) => return self.report(Report::GivenUp(event)).await,
            }
        }
    }

    /// Asks an endpoint for its health until it answers 2xx.
    ///
    /// # Errors
    /// What the last try came to.
    pub async fn probe(&self, health: &Endpoint) -> Result<(), String> {
        let mut problem = String::new();
        for retry in 0..=self.retries {
            let mut request = Request::new(RequestBody::Right(Empty::new()));
            *request.uri_mut() = health.0.clone();
            request.headers_mut().extend(self.headers.clone());
            request.headers_mut().remove(CONTENT_TYPE);
            problem = match self.exchange(request).await.status {
                Ok(status) if status.is_success() => return Ok(()),
                Ok(status) => format!("status {status}"),
                Err(error) => error,
            };
            if retry < self.retries {
                sleep(BACKOFF.wait(retry + 1, &mut fastrand::Rng::new())).await;
            }
        }
        Err(problem)
    }

    async fn post(&self, event: &Outgoing, key: &str) -> Answer {
        let body = Bytes::copy_from_slice(event.body.as_bytes());
        let mut request = Request::new(RequestBody::Left(Full::new(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key).expect("a UUID is visible ASCII"));
        self.exchange(request).await
    }

    async fn exchange(&self, request: Request<RequestBody>) -> Answer {
        let answer = timeout(self.timeout, self.exchange_without_limit(request)).await;
        let failed = |error: String| Answer { status: Err(error), retry_after: None };
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => failed(format!("{error:#}")),
            Err(_) => failed(format!("no response within {}", humantime::format_duration(self.timeout))),
        }
    }

    async fn exchange_without_limit(&self, request: Request<RequestBody>) -> anyhow::Result<Answer> {
        let response = self.client.request(request).await?;
        let (head, body) = response.into_parts();
        read_to_end(body).await?;
        Ok(Answer { status: Ok(head.status), retry_after: retry_after_of(&head.headers) })
    }

    /// What a response decides; nothing where the event is to be sent again.
    fn fate_of(&self, status: &Result<StatusCode, String>, retry: u32) -> Option<Fate> {
        match status {
            Ok(status) if status.is_success() => Some(Fate::Delivered),
            Ok(status) if !is_transient(*status) => Some(Fate::Rejected),
            _ if retry < self.retries => None,
            _ => Some(Fate::Undelivered),
        }
    }

    async fn report(&self, report: Report) {
        // The receiver is gone only where standard output is closed, and then the run ends.
        let _ = self.reports.send(report).await;
    }
}

async fn told(hurry: &mut watch::Receiver<bool>) {
    // The run that could tell outlives its deliveries.
    let _ = hurry.wait_for(|hurry| *hurry).await;
}

fn headers_of(options: &PropagateOptions) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let user_agent = concat!("eventctl/", env!("CARGO_PKG_VERSION"));
    headers.insert(USER_AGENT, HeaderValue::from_static(user_agent));
    for header in &options.header {
        headers.remove(&header.name);
    }
    for header in &options.header {
        headers.append(header.name.clone(), header.value.clone());
    }
    headers
}

fn is_transient(status: StatusCode) -> bool {
    let transient =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    transient || status.is_server_error()
}

/// Reads a body so that its connection can be used again, unless it is too long.
async fn read_to_end(mut body: impl Body<Data = Bytes, Error = hyper::Error> + Unpin) -> anyhow::Result<()> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
        if length > RESPONSE_LIMIT_BYTES {
            break;
        }
    }
    Ok(())
}

/// RFC 9110, section 10.2.3: a number of seconds, or a date.
fn retry_after_of(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = rfc2822::parse(value).ok()?;
            let left = date.timestamp().duration_since(jiff::Timestamp::now());
            Duration::try_from(left).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_AFTER_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_after(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        retry_after_of(&headers)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("99999999999"), Some(RETRY_AFTER_LIMIT));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
        let soon = soon.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let wait = retry_after(&soon).unwrap();
        assert!((Duration::from_secs(50)..=Duration::from_secs(60)).contains(&wait), "{wait:?}");
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn only_what_may_pass_is_transient() {
        for status in [408, 425, 429, 500, 502, 503, 504, 507] {
            assert!(is_transient(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [302, 400, 401, 404, 409, 413, 415, 422] {
            assert!(!is_transient(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
