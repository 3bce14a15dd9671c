//! Delivers one event: sends it, and retries transient failures.

use std::env;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::attempt::{Attempt, Fate, Report};
use super::dispatch::Dispatch;
use super::reason::reason_of;
use super::settings::{EventFormat, Settings};
use crate::auth::login::Authorization;
use crate::auth::signature::standard::{self, SigningKey};
use crate::auth::token_source::FetchError;
use crate::client::{self, Endpoint, HttpClient, is_transient, retry_after};
use crate::core::backoff::Backoff;
use crate::core::timestamp::Timestamp;
use crate::core::trace::{TraceParent, is_trace_state};

/// Waits between retries, besides the receiver's Retry-After.
pub const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// Waits between health probes: short, so that sending begins soon after the receiver has started.
const HEALTH_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

pub struct Sender {
    http: HttpClient,
    authorization: Authorization,
    endpoint: Uri,
    headers: HeaderMap,
    format: EventFormat,
    signing_key: Option<SigningKey>,
    /// The trace that the environment names: every attempt is a span of it.
    trace: Option<TraceParent>,
    retries: u32,
    reports: mpsc::Sender<Report>,
    aborted: watch::Receiver<bool>,
}

/// A response, or the error in its place.
struct Reply {
    status: Result<StatusCode, String>,
    /// What a response that is not 2xx gives as its reason.
    reason: Option<String>,
    retry_after: Option<Duration>,
    /// The request was aborted: the event is not sent again.
    is_aborted: bool,
    /// The generation of the request's token, if tokens are fetched.
    token_generation: u64,
}

impl Reply {
    fn aborted() -> Reply {
        let status = Err("aborted before there was a response".to_owned());
        Reply { status, reason: None, retry_after: None, is_aborted: true, token_generation: 0 }
    }
}

impl Sender {
    /// A sender that reports every attempt, and abandons its events once `aborted` is true.
    pub fn new(
        settings: &Settings,
        http: HttpClient,
        authorization: Authorization,
        reports: mpsc::Sender<Report>,
        aborted: watch::Receiver<bool>,
    ) -> Sender {
        let mut headers = headers_of(settings);
        let trace = trace_of_environment(&mut headers);
        Sender {
            http,
            authorization,
            endpoint: settings.endpoint.0.clone(),
            headers,
            format: settings.format,
            signing_key: settings.signing_key.clone(),
            trace,
            retries: settings.retries,
            reports,
            aborted,
        }
    }

    /// Sends an event that is due now until it is delivered, rejected, or abandoned.
    pub async fn deliver(&self, dispatch: Dispatch, scheduled: Instant) {
        let mut aborted = self.aborted.clone();
        let Dispatch { event, key, .. } = &dispatch;
        let body = match self.format {
            EventFormat::Object => Bytes::copy_from_slice(event.body.as_bytes()),
            EventFormat::Cloudevents => event.in_cloud_event(key).into(),
        };
        let jitter = scheduled.elapsed();
        let mut token_renewed = false;
        for retry in 0.. {
            // Each attempt is a span of its own, so that retries can be distinguished.
            let trace = self.trace.map(TraceParent::child);
            let sent = Instant::now();
            let reply = tokio::select! {
                biased;
                reply = self.post(body.clone(), key, trace) => reply,
                () = is_set(&mut aborted) => Reply::aborted(),
            };
            let (latency, latency_from_schedule) = (sent.elapsed(), scheduled.elapsed());
            log(&reply, latency, retry, trace);
            let decision = tokio::select! {
                biased;
                decision = self.decide(&reply, retry, &mut token_renewed) => decision,
                () = is_set(&mut aborted) => Ok(Fate::Undelivered),
            };
            let attempt = Attempt {
                dispatch: dispatch.clone(),
                jitter,
                latency,
                latency_from_schedule,
                status: reply.status.map(|status| status.as_u16()),
                reason: reply.reason,
                retry,
                fate: decision.ok(),
            };
            self.report(Report::Attempt(attempt)).await;
            let Err(wait) = decision else { return };
            tokio::select! {
                () = sleep(wait) => {}
                () = is_set(&mut aborted) => return self.report(Report::Abandoned(dispatch)).await,
            }
        }
    }

    /// Probes the health endpoint until it answers 2xx, or the time limit has passed.
    ///
    /// # Errors
    /// Why the last probe failed.
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
        let reply = self.exchange(request).await;
        match (reply.status, reply.reason) {
            (Ok(status), _) if status.is_success() => Ok(()),
            (Ok(status), Some(reason)) => Err(format!("status {status}: {reason}")),
            (Ok(status), None) => Err(format!("status {status}")),
            (Err(error), _) => Err(error),
        }
    }

    async fn post(&self, body: Bytes, idempotency_key: &str, trace: Option<TraceParent>) -> Reply {
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        let key_value = HeaderValue::from_str(idempotency_key).expect("a key is printable ASCII");
        headers.insert(IDEMPOTENCY_KEY, key_value);
        if let Some(key) = &self.signing_key {
            standard::sign(headers, Some(key), idempotency_key, Timestamp::now(), &body);
        }
        insert_trace(headers, trace);
        let (authorization, token_generation) = self.authorization.current();
        headers.extend(authorization.map(|authorization| (AUTHORIZATION, authorization)));
        Reply { token_generation, ..self.exchange(request).await }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Reply {
        let secrets = secrets_of(request.headers());
        let result = self.http.exchange(request).await;
        let response = result.as_ref().ok();
        let reason = response.and_then(|response| reason_of(response, &secrets));
        let retry_after = response.and_then(|response| retry_after(response.headers()));
        let status = result.map(|response| response.status()).map_err(|error| format!("{error:#}"));
        Reply { status, reason, retry_after, is_aborted: false, token_generation: 0 }
    }

    /// The event's fate after a reply; or how long to wait before the next attempt.
    ///
    /// A token can be revoked before it expires: the first 401 is retried with a new token.
    async fn decide(&self, reply: &Reply, retry: u32, token_renewed: &mut bool) -> Result<Fate, Duration> {
        match (&reply.status, &self.authorization) {
            (Ok(status), _) if status.is_success() => return Ok(Fate::Delivered),
            (Ok(StatusCode::UNAUTHORIZED), Authorization::Fetched(tokens)) if !*token_renewed => {
                match tokens.replace(reply.token_generation).await {
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
        if reply.is_aborted || retry >= self.retries {
            return Ok(Fate::Undelivered);
        }
        let backoff = BACKOFF.wait(retry + 1, &mut fastrand::Rng::new());
        Err(reply.retry_after.unwrap_or_default() + backoff)
    }

    async fn report(&self, report: Report) {
        // The receiver is gone only where standard output is closed, and then the run ends.
        let _ = self.reports.send(report).await;
    }
}

async fn is_set(aborted: &mut watch::Receiver<bool>) {
    // No error: the run that holds the other end outlives its deliveries.
    let _ = aborted.wait_for(|aborted| *aborted).await;
}

fn headers_of(settings: &Settings) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(settings.format.content_type()));
    headers.insert(USER_AGENT, HeaderValue::from_static(client::USER_AGENT));
    for header in &settings.headers {
        headers.remove(&header.name);
    }
    for header in &settings.headers {
        headers.append(header.name.clone(), header.value.clone());
    }
    headers
}

/// The trace in the environment variables TRACEPARENT and TRACESTATE (OpenTelemetry's convention); the trace state is added
/// to the headers. A `--header` takes precedence.
fn trace_of_environment(headers: &mut HeaderMap) -> Option<TraceParent> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let text = variable("TRACEPARENT").filter(|_| !headers.contains_key(TRACEPARENT))?;
    let Some(trace) = text.to_str().and_then(TraceParent::parse) else {
        warn!("ignoring TRACEPARENT: it is not valid");
        return None;
    };
    if let Some(state) = variable("TRACESTATE").filter(|_| !headers.contains_key(TRACESTATE)) {
        match state.to_str().filter(|state| is_trace_state(state)).map(HeaderValue::from_str) {
            Some(Ok(state)) => drop(headers.insert(TRACESTATE, state)),
            _ => warn!("ignoring TRACESTATE: it is not valid"),
        }
    }
    Some(trace)
}

/// Secrets of the request that its response may repeat: tokens, passwords, and the values of `--header`.
fn secrets_of(headers: &HeaderMap) -> Vec<String> {
    let sensitive = headers.values().filter(|value| value.is_sensitive());
    let values = sensitive.filter_map(|value| value.to_str().ok());
    // Without the scheme: of `Bearer TOKEN`, the token.
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

fn log(reply: &Reply, latency: Duration, retry: u32, trace: Option<TraceParent>) {
    debug!(
        status = reply.status.as_ref().ok().map(StatusCode::as_u16),
        error = reply.status.as_ref().err(),
        reason = reply.reason,
        duration_ms = latency.as_micros() as f64 / 1e3,
        retry,
        trace_id = trace.map(TraceParent::trace_id),
        span_id = trace.map(TraceParent::parent_id),
        "sent"
    );
}
