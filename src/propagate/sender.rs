//! From an event to its fate: requests, and retries of what may pass.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use uuid::Uuid;

use super::login::Authorization;
use super::report::{Attempt, Fate, Report};
use super::source::Outgoing;
use crate::auth::client::FetchError;
use crate::cli::{Endpoint, PropagateOptions};
use crate::client::{self, HttpClient, is_transient, retry_after};
use crate::core::backoff::Backoff;

/// Waits between retries, unless the receiver asks for longer ones.
pub const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(10) };

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Delivers events to one endpoint.
pub struct Sender {
    http: HttpClient,
    authorization: Authorization,
    endpoint: Uri,
    headers: HeaderMap,
    retries: u32,
    reports: mpsc::Sender<Report>,
    hurry: watch::Receiver<bool>,
}

/// A response, or what came instead.
struct Answer {
    status: Result<StatusCode, String>,
    retry_after: Option<Duration>,
    /// The token that the request had, if tokens are fetched.
    token_generation: u64,
}

impl Sender {
    /// A sender that reports every attempt, and gives up what it has when told to hurry.
    pub fn new(
        options: &PropagateOptions,
        http: HttpClient,
        authorization: Authorization,
        reports: mpsc::Sender<Report>,
        hurry: watch::Receiver<bool>,
    ) -> Sender {
        Sender {
            http,
            authorization,
            endpoint: options.endpoint.0.clone(),
            headers: headers_of(options),
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
        let mut token_renewed = false;
        for retry in 0.. {
            let sent = Instant::now();
            let answer = tokio::select! {
                answer = self.post(&event, &key) => answer,
                () = told(&mut hurry) => return self.report(Report::GivenUp(event)).await,
            };
            let (latency, latency_from_schedule) = (sent.elapsed(), scheduled.elapsed());
            let verdict = tokio::select! {
                verdict = self.judge(&answer, retry, &mut token_renewed) => verdict,
                () = told(&mut hurry) => return self.report(Report::GivenUp(event)).await,
            };
            let attempt = Attempt {
                event: Arc::clone(&event),
                jitter,
                latency,
                latency_from_schedule,
                status: answer.status.map(|status| status.as_u16()),
                retry,
                fate: verdict.ok(),
            };
            self.report(Report::Attempt(attempt)).await;
            let Err(wait) = verdict else { return };
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
            let mut request = Request::new(Full::default());
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
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key).expect("a UUID is visible ASCII"));
        let (authorization, token_generation) = self.authorization.current();
        headers.extend(authorization.map(|authorization| (AUTHORIZATION, authorization)));
        Answer { token_generation, ..self.exchange(request).await }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.http.exchange(request).await;
        let retry_after = response.as_ref().ok().and_then(|response| retry_after(response.headers()));
        let status = response.map(|response| response.status()).map_err(|error| format!("{error:#}"));
        Answer { status, retry_after, token_generation: 0 }
    }

    /// The fate that a response decides; or how long to wait before the event is sent again.
    ///
    /// A token can be taken back before it runs out: 401 is answered with a new one, once.
    async fn judge(&self, answer: &Answer, retry: u32, token_renewed: &mut bool) -> Result<Fate, Duration> {
        match (&answer.status, &self.authorization) {
            (Ok(status), _) if status.is_success() => return Ok(Fate::Delivered),
            (Ok(StatusCode::UNAUTHORIZED), Authorization::Fetched(keeper)) if !*token_renewed => {
                match keeper.replace(answer.token_generation).await {
                    Ok(()) => {
                        *token_renewed = true;
                        return Err(Duration::ZERO);
                    }
                    Err(FetchError::Refused(_)) => return Ok(Fate::Rejected),
                    Err(FetchError::Transient { .. }) => {}
                }
            }
            (Ok(status), _) if !is_transient(*status) => return Ok(Fate::Rejected),
            _ => {}
        }
        if retry >= self.retries {
            return Ok(Fate::Undelivered);
        }
        let backoff = BACKOFF.wait(retry + 1, &mut fastrand::Rng::new());
        Err(answer.retry_after.unwrap_or_default() + backoff)
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
    headers.insert(USER_AGENT, HeaderValue::from_static(client::USER_AGENT));
    for header in &options.header {
        headers.remove(&header.name);
    }
    for header in &options.header {
        headers.append(header.name.clone(), header.value.clone());
    }
    headers
}
