//! Logs requests: each at the level `debug`, server errors as warnings.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use tracing::field::display;
use tracing::{Level, debug, enabled, warn};

use super::client_address::ClientAddress;
use super::route::Target;
use crate::core::trace::TraceParent;

/// One warning in this time for failures with the same target and status; others are counted.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request that was answered.
pub struct Answered {
    pub target: Target,
    pub client: ClientAddress,
    pub status: StatusCode,
    /// From its headers to its response.
    pub took: Duration,
    pub traceparent: Option<HeaderValue>,
    /// Why the service failed, where it did.
    pub reason: Option<String>,
}

#[derive(Default)]
pub struct RequestLog {
    /// The keys are a fixed few.
    failures: Mutex<HashMap<(Target, StatusCode), RateLimit>>,
}

struct RateLimit {
    silent_until: Instant,
    suppressed: u64,
}

impl RequestLog {
    pub fn answered(&self, answered: Answered) {
        let Answered { target, client, status, took, traceparent, reason } = answered;
        let is_failure = status.is_server_error();
        let suppressed = is_failure.then(|| self.count((target, status), Instant::now())).flatten();
        if suppressed.is_none() && !enabled!(Level::DEBUG) {
            return;
        }
        let Target { method, route } = target;
        let (status, duration_ms, client) = (status.as_u16(), took.as_micros() as f64 / 1e3, display(client));
        let trace = trace_of(traceparent.as_ref());
        let (trace_id, parent_id) = (trace.map(TraceParent::trace_id), trace.map(TraceParent::parent_id));
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        match suppressed {
            Some(suppressed) => warn!(
                method,
                route,
                status,
                duration_ms,
                client,
                trace_id,
                parent_id,
                held_back = (suppressed > 0).then_some(suppressed),
                "answered {status}{reason}"
            ),
            None => {
                debug!(
                    method,
                    route, status, duration_ms, client, trace_id, parent_id, "answered {status}{reason}"
                );
            }
        }
    }

    /// Returns how many failures like this one were suppressed since the last one that was logged; `None` if this one is
    /// to be suppressed.
    fn count(&self, failure: (Target, StatusCode), now: Instant) -> Option<u64> {
        let mut failures = self.failures.lock();
        let limit = failures.entry(failure).or_insert_with(|| RateLimit { silent_until: now, suppressed: 0 });
        if now < limit.silent_until {
            limit.suppressed += 1;
            return None;
        }
        limit.silent_until = now + LOG_INTERVAL;
        Some(std::mem::take(&mut limit.suppressed))
    }
}

impl Drop for RequestLog {
    /// Logs how many failures were suppressed last.
    fn drop(&mut self) {
        for ((target, status), RateLimit { suppressed, .. }) in self.failures.lock().drain() {
            if suppressed > 0 {
                let (method, route, status) = (target.method, target.route, status.as_u16());
                let held_back = suppressed;
                warn!(method, route, status, held_back, "answered {status} more often than was logged");
            }
        }
    }
}

/// The header `traceparent` (W3C Trace Context); none where it is repeated.
pub fn traceparent_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.clone())
}

/// An invalid value is ignored, as the standard demands.
pub fn trace_of(traceparent: Option<&HeaderValue>) -> Option<TraceParent> {
    TraceParent::parse(traceparent?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;

    #[test]
    fn identical_failures_are_logged_once_a_second_with_the_number_of_suppressed_ones() {
        let (log, begun) = (RequestLog::default(), Instant::now());
        let [event, token] = ["/event", "/token"].map(|path| Target::of(&Method::POST, path));
        let note = |target, status, milliseconds| {
            log.count((target, status), begun + Duration::from_millis(milliseconds))
        };
        let (busy, full) = (StatusCode::SERVICE_UNAVAILABLE, StatusCode::INSUFFICIENT_STORAGE);
        assert_eq!(note(event, busy, 0), Some(0));
        for milliseconds in 1..1000 {
            assert_eq!(note(event, busy, milliseconds), None);
        }
        assert_eq!((note(token, busy, 500), note(event, full, 500)), (Some(0), Some(0)));
        assert_eq!(note(event, busy, 1000), Some(999));
        assert_eq!(note(event, busy, 1001), None);
        assert_eq!(note(event, busy, 10_000), Some(1));
        log.failures.lock().clear();
    }
}
