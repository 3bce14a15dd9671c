//! From an event to its fate: requests, and retries of what may pass.

use std::env;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::reason::reason_of;
use super::report::{Attempt, Fate, Report};
use super::source::Outgoing;
use crate::auth::client::FetchError;
use crate::cli::{Endpoint, PropagateOptions};
use crate::client::{self, HttpClient, is_transient, retry_after};
use crate::core::backoff::Backoff;
use crate::core::trace::{TraceParent, is_trace_state};
use crate::login::Authorization;

/// Waits between retries, unless the receiver asks for longer ones.
pub const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(10) };

/// Waits between looks at the health of a receiver: one that starts is not kept waiting for long.
const HEALTH_BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(2) };

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Delivers events to one endpoint.
pub struct Sender {
    http: HttpClient,
    authorization: Authorization,
    endpoint: Uri,
    headers: HeaderMap,
    /// What the environment says of the trace that the sends belong to.
    trace: Option<TraceParent>,
    retries: u32,
    reports: mpsc::Sender<Report>,
    hurry: watch::Receiver<bool>,
}

/// A response, or what came instead.
struct Answer {
    status: Result<StatusCode, String>,
    /// What a response that is not 2xx says of itself.
    reason: Option<String>,
    retry_after: Option<Duration>,
    /// Nobody waits for it any longer.
    is_given_up: bool,
    /// The token that the request had, if tokens are fetched.
    token_generation: u64,
}

impl Answer {
    /// That of a receiver that is not waited for any longer.
    fn given_up() -> Answer {
        let status = Err("given up before there was a response".to_owned());
        Answer { status, reason: None, retry_after: None, is_given_up: true, token_generation: 0 }
    }
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
        let mut headers = headers_of(options);
        let trace = trace_of_environment(&mut headers);
        Sender {
            http,
            authorization,
            endpoint: options.endpoint.0.clone(),
            headers,
            trace,
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
            // A step of its own for each send, so that a retry can be told from what it repeats.
            let trace = self.trace.map(TraceParent::child);
            let sent = Instant::now();
            let answer = tokio::select! {
                biased;
                answer = self.post(&event, &key, trace) => answer,
                () = told(&mut hurry) => Answer::given_up(),
            };
            let (latency, latency_from_schedule) = (sent.elapsed(), scheduled.elapsed());
            log(&answer, latency, retry, trace);
            let verdict = tokio::select! {
                biased;
                verdict = self.judge(&answer, retry, &mut token_renewed) => verdict,
                () = told(&mut hurry) => Ok(Fate::Undelivered),
            };
            let attempt = Attempt {
                event: Arc::clone(&event),
                jitter,
                latency,
                latency_from_schedule,
                status: answer.status.map(|status| status.as_u16()),
                reason: answer.reason,
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

    /// Asks an endpoint for its health until it answers 2xx, for so long.
    ///
    /// # Errors
    /// What the last try came to.
    pub async fn probe(&self, health: &Endpoint, time_limit: Duration) -> Result<(), String> {
        let mut problem = None;
        let probing = async {
            for failures in 1.. {
                let Err(failure) = self.probe_once(health).await else { return };
                if problem.replace(failure).is_none() {
                    info!("waiting for {health}: {}", problem.as_deref().unwrap_or_default());
                }
                sleep(HEALTH_BACKOFF.wait(failures, &mut fastrand::Rng::new())).await;
            }
        };
        let healthy = timeout(time_limit, probing).await;
        healthy.map_err(|_| problem.unwrap_or_else(|| "no response".to_owned()))
    }

    async fn probe_once(&self, health: &Endpoint) -> Result<(), String> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = health.0.clone();
        request.headers_mut().extend(self.headers.clone());
        request.headers_mut().remove(CONTENT_TYPE);
        insert_trace(request.headers_mut(), self.trace.map(TraceParent::child));
        let answer = self.exchange(request).await;
        match (answer.status, answer.reason) {
            (Ok(status), _) if status.is_success() => Ok(()),
            (Ok(status), Some(reason)) => Err(format!("status {status}: {reason}")),
            (Ok(status), None) => Err(format!("status {status}")),
            (Err(error), _) => Err(error),
        }
    }

    async fn post(&self, event: &Outgoing, key: &str, trace: Option<TraceParent>) -> Answer {
        let body = Bytes::copy_from_slice(event.body.as_bytes());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key).expect("a UUID is visible ASCII"));
        insert_trace(headers, trace);
        let (authorization, token_generation) = self.authorization.current();
        headers.extend(authorization.map(|authorization| (AUTHORIZATION, authorization)));
        Answer { token_generation, ..self.exchange(request).await }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Answer {
        let secrets = secrets_of(request.headers());
        let response = self.http.exchange(request).await;
        let answered = response.as_ref().ok();
        let reason = answered.and_then(|response| reason_of(response, &secrets));
        let retry_after = answered.and_then(|response| retry_after(response.headers()));
        let status = response.map(|response| response.status()).map_err(|error| format!("{error:#}"));
        Answer { status, reason, retry_after, is_given_up: false, token_generation: 0 }
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
        if answer.is_given_up || retry >= self.retries {
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

/// The trace that the environment names, as OpenTelemetry has it for programs that are started by others; its state
/// joins the headers. A header that was asked for goes before it.
fn trace_of_environment(headers: &mut HeaderMap) -> Option<TraceParent> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let text = variable("TRACEPARENT").filter(|_| !headers.contains_key(TRACEPARENT))?;
    let Some(trace) = text.to_str().and_then(TraceParent::parse) else {
        warn!("TRACEPARENT is not sent on: it is not valid");
        return None;
    };
    if let Some(state) = variable("TRACESTATE").filter(|_| !headers.contains_key(TRACESTATE)) {
        match state.to_str().filter(|state| is_trace_state(state)).map(HeaderValue::from_str) {
            Some(Ok(state)) => drop(headers.insert(TRACESTATE, state)),
            _ => warn!("TRACESTATE is not sent on: it is not valid"),
        }
    }
    Some(trace)
}

/// What a receiver may repeat and nobody else is to see: tokens, passwords, and the headers that the settings give.
fn secrets_of(headers: &HeaderMap) -> Vec<String> {
    let sensitive = headers.values().filter(|value| value.is_sensitive());
    let values = sensitive.filter_map(|value| value.to_str().ok());
    // Behind the scheme is what counts: `Bearer TOKEN`.
    values
        .map(|value| value.split_once(' ').map_or(value, |(_, credentials)| credentials).to_owned())
        .collect()
}

fn insert_trace(headers: &mut HeaderMap, trace: Option<TraceParent>) {
    if let Some(trace) = trace {
        let value = HeaderValue::from_str(&trace.to_string()).expect("digits and dashes fit into a header");
        headers.insert(TRACEPARENT, value);
    }
}

fn log(answer: &Answer, latency: Duration, retry: u32, trace: Option<TraceParent>) {
    debug!(
        status = answer.status.as_ref().ok().map(StatusCode::as_u16),
        error = answer.status.as_ref().err(),
        reason = answer.reason,
        duration_ms = latency.as_micros() as f64 / 1e3,
        retry,
        trace_id = trace.map(TraceParent::trace_id),
        span_id = trace.map(TraceParent::parent_id),
        "sent"
    );
}
