//! Requests in the log: each at the level `debug`, those that the service fails at as warnings.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tracing::field::display;
use tracing::{Level, debug, enabled, warn};

use super::client::Client;
use super::metrics::Target;
use crate::core::trace::TraceParent;

/// How long failures of a kind are only counted once one of them was logged.
const RESTRAINT_TIME: Duration = Duration::from_secs(1);

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request that was answered.
pub struct Answered {
    /// What it asked for.
    pub target: Target,
    /// Who asked.
    pub client: Client,
    /// What it was answered.
    pub status: StatusCode,
    /// From its head to its answer.
    pub took: Duration,
    /// Where it said that it comes from.
    pub origin: Option<HeaderValue>,
    /// What the service failed at, where it did.
    pub reason: Option<String>,
}

/// What is kept in mind of requests to log them.
#[derive(Default)]
pub struct RequestLog {
    /// By what fails and how, of which there are a fixed few.
    failures: Mutex<HashMap<(Target, StatusCode), Restraint>>,
}

/// How a flood of failures is kept from being one of lines.
struct Restraint {
    silent_until: Instant,
    held_back: u64,
}

impl RequestLog {
    /// Logs a request, if its level is logged; what the service fails at is a warning.
    pub fn answered(&self, answered: Answered) {
        let Answered { target, client, status, took, origin, reason } = answered;
        let failure =
            if status.is_server_error() { self.take_note((target, status), Instant::now()) } else { None };
        if failure.is_none() && !enabled!(Level::DEBUG) {
            return;
        }
        let Target { method, route } = target;
        let (status, duration_ms, client) = (status.as_u16(), took.as_micros() as f64 / 1e3, display(client));
        let trace = trace_of(origin.as_ref());
        let (trace_id, parent_id) = (trace.map(TraceParent::trace_id), trace.map(TraceParent::parent_id));
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        match failure {
            Some(held_back) => warn!(
                method,
                route,
                status,
                duration_ms,
                client,
                trace_id,
                parent_id,
                held_back = (held_back > 0).then_some(held_back),
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

    /// How many failures like this one were held back since one was logged; none where this one is, too.
    fn take_note(&self, failure: (Target, StatusCode), now: Instant) -> Option<u64> {
        let mut failures = self.lock();
        let restraint =
            failures.entry(failure).or_insert_with(|| Restraint { silent_until: now, held_back: 0 });
        if now < restraint.silent_until {
            restraint.held_back += 1;
            return None;
        }
        restraint.silent_until = now + RESTRAINT_TIME;
        Some(std::mem::take(&mut restraint.held_back))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Target, StatusCode), Restraint>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RequestLog {
    /// Tells of those that were held back at last.
    fn drop(&mut self) {
        for ((target, status), restraint) in self.lock().drain() {
            let Restraint { held_back, .. } = restraint;
            if held_back > 0 {
                let (method, route, status) = (target.method, target.route, status.as_u16());
                warn!(method, route, status, held_back, "answered {status} more often than was logged");
            }
        }
    }
}

/// Where a request says that it comes from; none where it says so twice.
pub fn origin_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.clone())
}

/// The trace that a request belongs to; what is not valid is passed over.
pub fn trace_of(origin: Option<&HeaderValue>) -> Option<TraceParent> {
    TraceParent::parse(origin?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;

    #[test]
    fn of_a_flood_of_failures_one_a_second_is_logged_with_the_count_of_the_others() {
        let (log, begun) = (RequestLog::default(), Instant::now());
        let [event, token] = ["/event", "/token"].map(|path| Target::of(&Method::POST, path));
        let note = |target, status, milliseconds| {
            log.take_note((target, status), begun + Duration::from_millis(milliseconds))
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
        log.lock().clear();
    }
}
