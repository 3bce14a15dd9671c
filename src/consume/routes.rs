//! From a request to its response.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
    TRANSFER_ENCODING, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode, Version};
use serde_json::json;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::client::Client;
use super::content::Content;
use super::cross_origin::CrossOrigin;
use super::metrics::{EventOutcome, Metrics, Target};
use super::problem::Problem;
use super::requests::{Answered, RequestLog, origin_of};
use super::share::ResponseShare;
use super::stream::{self, Hub};
use super::{coding, health_alert, listing, openapi, page, token, upload};
use crate::alert::Alerts;
use crate::auth::{Access, Issuer};
use crate::core::coding::Coding;
use crate::core::event::Event;
use crate::core::query::parse_position;
use crate::core::timestamp::Timestamp;
use crate::exposition;
use crate::store::backend::{Append, Outcome};
use crate::store::{AppendError, Reservation, Store};

/// Fetch standard, section 3.7.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The most headers of a request: hyper's own limit over HTTP/1.1.
const MAXIMUM_HEADERS: usize = 100;

/// A response whose body is in memory, or a stream of events.
pub type Answer = Response<Content>;

/// What became of events, if the store has said it in time.
type Appended = Result<Result<Outcome, AppendError>, Elapsed>;

/// What answering a request takes.
pub struct Routes {
    /// Where events go and come from.
    pub store: Store,
    /// Who may come in; everyone where there is none.
    pub access: Option<Access>,
    /// What pages of other origins may do.
    pub cross_origin: CrossOrigin,
    /// Who is told of what.
    pub alerts: Arc<Alerts>,
    /// What all streams share.
    pub hub: Arc<Hub>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is logged of requests.
    pub log: RequestLog,
    /// Whether the metrics are told here, and not at an address of their own.
    pub exposes_metrics: bool,
    /// The largest body, in bytes.
    pub body_limit_bytes: usize,
    /// How long a client may take to send a body.
    pub body_timeout: Duration,
    /// How long a request may wait for the store.
    pub store_timeout: Duration,
}

impl Routes {
    /// Answers a request of a client; `draining` says whether the service is about to stop. With it comes what was not
    /// read of the request's body.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        client: Client,
        draining: bool,
    ) -> (Answer, Option<Incoming>) {
        let begun = Instant::now();
        let (head, body) = request.into_parts();
        let target = Target::of(&head.method, head.uri.path());
        let trace = origin_of(&head.headers);
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        let (accepted, share) = match reads {
            true => (coding::accepted(&head.headers), ResponseShare::of(&head.extensions)),
            false => (None, None),
        };
        let mut unread = Some(body);
        let mut origin = None;
        let answer = self.checked(head, &mut origin, &mut unread, client, draining).await;
        let mut reason = None;
        let mut answer = answer.unwrap_or_else(|problem| {
            reason = problem.reason();
            problem.into_response()
        });
        if reads {
            answer = coding::compressed(answer, accepted, &self.store, share).await;
        }
        self.cross_origin.mark(&mut answer, origin);
        let unread = unread.and_then(upload::unread_of);
        if unread.is_some() {
            // What is left of the body must not be taken for the next request.
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let (status, took) = (answer.status(), begun.elapsed());
        self.metrics.answered(target, status, took);
        self.log.answered(Answered { target, client, status, took, origin: trace, reason });
        (answer, unread)
    }

    /// Leaves the origin of a page in `origin` where it is allowed by name.
    async fn checked(
        &self,
        head: Parts,
        origin: &mut Option<HeaderValue>,
        unread: &mut Option<Incoming>,
        client: Client,
        draining: bool,
    ) -> Result<Answer, Problem> {
        check_count(&head)?;
        check_host(&head)?;
        // Probes ask whatever address they find the service at, and learn nothing that others must not.
        if !is_probe(head.uri.path()) {
            self.cross_origin.check_host(&head)?;
        }
        check_coding(&head)?;
        *origin = self.cross_origin.check_origin(&head)?;
        match self.cross_origin.preflight(&head, origin.as_ref()) {
            Some(answer) => Ok(answer),
            None => self.route(head, unread, client, draining).await,
        }
    }

    /// Reading a body to its end takes it out of `unread`.
    async fn route(
        &self,
        head: Parts,
        unread: &mut Option<Incoming>,
        client: Client,
        draining: bool,
    ) -> Result<Answer, Problem> {
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        let path = head.uri.path();
        if path == "/" {
            return if reads { Ok(page::answer()) } else { Err(Problem::method_not_allowed("GET, HEAD")) };
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        // These alone ask for no token either.
        match (path, self.access.as_ref().and_then(Access::issuer)) {
            ("/token", Some(issuer)) if head.method == Method::POST => {
                return self.give_tokens(issuer, &head, unread, client).await;
            }
            ("/token", Some(_)) => return Err(Problem::method_not_allowed("POST")),
            ("/health", _) if reads => return Ok(health()),
            ("/ready", _) if reads => return self.ready(draining).await,
            ("/openapi.json", _) if reads => return Ok(openapi::answer()),
            ("/health" | "/ready" | "/openapi.json", _) => {
                return Err(Problem::method_not_allowed("GET, HEAD"));
            }
            _ => {}
        }
        let valid_until = match &self.access {
            Some(access) => access.check(&head.headers)?,
            None => None,
        };
        match path {
            "/event" if head.method == Method::POST => self.store_events(head, unread).await,
            "/event" if reads => self.in_time(listing::list_events(&self.store, &head)).await,
            "/event" => Err(Problem::method_not_allowed("GET, HEAD, POST")),
            "/event/stream" if reads => {
                let valid_until = valid_until.map(from_now);
                self.in_time(stream::open(&self.hub, &self.store, &head, valid_until)).await
            }
            "/event/stream" => Err(Problem::method_not_allowed("GET, HEAD")),
            "/metrics" if self.exposes_metrics && reads => Ok(self.expose(&head.headers).await),
            "/metrics" if self.exposes_metrics => Err(Problem::method_not_allowed("GET, HEAD")),
            "/api/v1/health-alert" if head.method == Method::POST => {
                self.take_health_alert(head, unread).await
            }
            "/api/v1/health-alert" => Err(Problem::method_not_allowed("POST")),
            _ => match path.strip_prefix("/event/").map(parse_position) {
                Some(Some(id)) if reads => self.in_time(listing::show_event(&self.store, &head, id)).await,
                Some(Some(_)) => Err(Problem::method_not_allowed("GET, HEAD")),
                _ => Err(Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path")),
            },
        }
    }

    async fn in_time(
        &self,
        reading: impl Future<Output = Result<Answer, Problem>>,
    ) -> Result<Answer, Problem> {
        timeout(self.store_timeout, reading).await.unwrap_or_else(|_| {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the store did not answer in time"))
        })
    }

    async fn give_tokens(
        &self,
        issuer: &Issuer,
        head: &Parts,
        unread: &mut Option<Incoming>,
        client: Client,
    ) -> Result<Answer, Problem> {
        token::check_form(&head.headers)?;
        let (form, _reservation) = self.read(unread, head.version, None, token::FORM_LIMIT_BYTES).await?;
        timeout(self.store_timeout, token::answer(issuer, &head.headers, &form, client)).await.unwrap_or_else(
            |_| Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the login was not checked in time")),
        )
    }

    async fn read(
        &self,
        unread: &mut Option<Incoming>,
        version: Version,
        coding: Option<Coding>,
        limit_bytes: usize,
    ) -> Result<(Bytes, Reservation), Problem> {
        let reading = upload::read(unread, version, &self.store, limit_bytes);
        let (body, reservation) = timeout(self.body_timeout, reading).await.unwrap_or_else(|_| {
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time: not stored"))
        })?;
        match coding {
            None => Ok((body, reservation)),
            Some(coding) => coding::decode(coding, body, reservation, limit_bytes).await,
        }
    }

    async fn store_events(&self, head: Parts, unread: &mut Option<Incoming>) -> Result<Answer, Problem> {
        let format = upload::Format::of(&head.headers)?;
        let coding = coding::of_request(&head.headers)?;
        let key = upload::key_of(&head.headers)?;
        // The head is a view of the buffer that hyper reads into, which can be used again without it.
        let (version, place) = (head.version, place_of(&head));
        drop(head);
        let (body, reservation) = self.read(unread, version, coding, self.body_limit_bytes).await?;
        let (events, list) = format.parse(&body)?;
        let is_line = format == upload::Format::Ndjson && events.len() == 1;
        let key = key.map(|key| upload::Keys::of(key, &body, is_line));
        drop(body);
        let (count, deliveries) = (events.len(), self.alerts.deliveries_of(&events));
        let (key, other) = key.map_or((None, None), |keys| (Some(keys.key), keys.as_one_event));
        let other = other.map(|key| Append {
            events: events.clone(),
            key: Some(key),
            deliveries: deliveries.clone(),
        });
        let mut appended = self.try_append(Append { events, key, deliveries }, reservation).await;
        let mut list = list;
        if let (Ok(Ok(Outcome::KeyReused)), Some(other)) = (&appended, other) {
            appended = self.try_append(other, self.store.reserve()).await;
            list = false;
        }
        let first_id = self.settle(appended, count)?;
        Ok(if list { stored_list(count) } else { stored_one(place, first_id) })
    }

    async fn take_health_alert(&self, head: Parts, unread: &mut Option<Incoming>) -> Result<Answer, Problem> {
        health_alert::check_format(&head.headers)?;
        let coding = coding::of_request(&head.headers)?;
        let (key, place) = (upload::key_of(&head.headers)?, place_of(&head));
        let (body, reservation) = self.read(unread, head.version, coding, self.body_limit_bytes).await?;
        let event = Event::parse_health_alert(&body)?;
        let key = key.map(|key| upload::idempotency_key(key, &body));
        drop(body);
        let events = vec![event];
        let deliveries = self.alerts.deliveries_of(&events);
        if deliveries.is_empty() {
            return Err(health_alert::no_channel());
        }
        let id = self.append(Append { events, key, deliveries }, reservation).await?;
        Ok(health_alert::answer(&self.store, place, id).await)
    }

    async fn append(&self, append: Append, reservation: Reservation) -> Result<i64, Problem> {
        let count = append.events.len();
        let appended = self.try_append(append, reservation).await;
        self.settle(appended, count)
    }

    /// Stores events, and rings for whoever is to be told of them.
    async fn try_append(&self, append: Append, reservation: Reservation) -> Appended {
        let is_alert = !append.deliveries.is_empty();
        let appended = timeout(self.store_timeout, self.store.append(append, reservation)).await;
        if is_alert {
            self.alerts.ring();
        }
        appended
    }

    /// Counts events by what became of them; the id of the first.
    fn settle(&self, appended: Appended, count: usize) -> Result<i64, Problem> {
        let (counted, answer) = match appended {
            Ok(Ok(Outcome::Stored { first_id, repeated: false })) => {
                self.hub.ring();
                (EventOutcome::Stored, Ok(first_id))
            }
            Ok(Ok(Outcome::Stored { first_id, repeated: true })) => (EventOutcome::Repeated, Ok(first_id)),
            Ok(Ok(Outcome::KeyReused)) => {
                let detail = "the Idempotency-Key was used with another body: not stored";
                (EventOutcome::KeyReused, Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)))
            }
            Ok(Err(error)) => (EventOutcome::Failed, Err(error.into())),
            Err(_) => {
                let detail =
                    "the store did not answer in time: repeat the request with the same Idempotency-Key";
                (EventOutcome::Failed, Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail)))
            }
        };
        self.metrics.settled(counted, count);
        answer
    }

    async fn expose(&self, headers: &HeaderMap) -> Answer {
        let format = exposition::Format::accepted(headers);
        let text = self.metrics.text(&self.store, format).await;
        let mut response = uncached(response_of(StatusCode::OK, format.content_type(), text));
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
        response
    }

    async fn ready(&self, draining: bool) -> Result<Answer, Problem> {
        let unready = |detail: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        if draining {
            return Err(unready("the service is stopping".to_owned()));
        }
        match self.store.ready(self.store_timeout).await {
            Ok(()) => Ok(uncached(json_response(StatusCode::OK, r#"{"status":"OK"}"#))),
            Err(reason) => Err(unready(reason.to_string())),
        }
    }
}

/// A response with a body of JSON.
pub fn json_response(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    response_of(status, "application/json", body.into())
}

/// A response of a type, which browsers neither guess otherwise nor give to pages of other sites.
pub fn response_of(status: StatusCode, content_type: &'static str, content: impl Into<Content>) -> Answer {
    let mut response = Response::new(content.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Whether a path is asked by load balancers and the like.
fn is_probe(path: &str) -> bool {
    matches!(path.strip_suffix('/').unwrap_or(path), "/health" | "/ready")
}

/// Over HTTP/2 there may be no more headers than hyper takes over HTTP/1.1, which answers 431 by itself.
fn check_count(head: &Parts) -> Result<(), Problem> {
    if head.headers.len() <= MAXIMUM_HEADERS {
        return Ok(());
    }
    let detail = format!("expected at most {MAXIMUM_HEADERS} headers, got {}", head.headers.len());
    Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail))
}

/// RFC 9112, section 3.2: a request without exactly one valid `Host` is answered 400; hyper does not insist.
/// HTTP/2 has it in the URI (RFC 9113, section 8.3.1).
fn check_host(head: &Parts) -> Result<(), Problem> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let valid = match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_host(host),
        (Some(_), Some(_)) => false,
        (None, _) if head.version >= Version::HTTP_2 => head.uri.authority().is_some(),
        (None, _) => head.version < Version::HTTP_11,
    };
    if valid {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::BAD_REQUEST,
        "expected exactly one Host header, with a host and at most a port",
    ))
}

/// RFC 9110, section 7.2: a host and a port, either of which may be missing, and nothing else.
fn is_host(value: &HeaderValue) -> bool {
    if value.is_empty() {
        return true;
    }
    let Ok(authority) = Authority::try_from(value.as_bytes()) else { return false };
    let after_host = &authority.as_str()[authority.host().len()..];
    let port = after_host.strip_prefix(':').unwrap_or(after_host);
    !authority.as_str().contains('@') && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// RFC 9112, section 6.1: hyper takes off `chunked`, and leaves what may be inside of it as it is.
fn check_coding(head: &Parts) -> Result<(), Problem> {
    let codings = head.headers.get_all(TRANSFER_ENCODING);
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.iter().all(chunked) && codings.iter().count() <= 1 {
        return Ok(());
    }
    Err(Problem::new(StatusCode::BAD_REQUEST, "no Transfer-Encoding but chunked is understood: not stored"))
}

/// An instant on the wall clock, as timers have it.
fn from_now(at: Timestamp) -> tokio::time::Instant {
    tokio::time::Instant::now() + at.since(Timestamp::now())
}

fn stored_one(place: Place, id: i64) -> Answer {
    located(place, id, json_response(StatusCode::CREATED, r#"{"status":"success"}"#))
}

/// How deep a request's path is, in segments below the root: a proxy may have taken a prefix off it, so that no
/// reference of ours begins at a root.
#[derive(Debug, Clone, Copy)]
pub struct Place(usize);

fn place_of(head: &Parts) -> Place {
    Place(head.uri.path().bytes().filter(|byte| *byte == b'/').count())
}

/// The same, with the event that it is about, relative to the request (RFC 9110, section 10.2.2).
pub fn located(place: Place, id: i64, mut response: Answer) -> Answer {
    let up = "../".repeat(place.0.saturating_sub(1));
    let location = HeaderValue::try_from(format!("{up}event/{id}")).expect("digits fit into a header");
    response.headers_mut().insert(LOCATION, location);
    response
}

fn stored_list(count: usize) -> Answer {
    json_response(StatusCode::CREATED, format!(r#"{{"status":"success","count":{count}}}"#))
}

fn health() -> Answer {
    let timestamp = Timestamp::now().to_health_format();
    let body = json!({"status": "OK", "timestamp": timestamp}).to_string();
    uncached(json_response(StatusCode::OK, body))
}

/// The same, never to be kept by a cache.
pub fn uncached(mut response: Answer) -> Answer {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
