//! Claims of a subscription: in a store, or at a `consume` elsewhere.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::client::{self, is_transient};
use crate::core::event::StoredEvent;
use crate::core::text::excerpt;
use crate::core::timestamp::Timestamp;
use crate::error::hinted;
use crate::store::subscriptions::{
    Answer, Attempt, Definition, Order, Refusal, Rejection, Request as StoreRequest, Selected, Start,
    Subscription, Token,
};
use crate::store::{AppendError, ReadError, Store, StoreLimits, StoreOptions, Writer};
use crate::tail::remote::{EventJson, ServiceConnection};
use crate::tail::settings::{Settings, SourceSettings};

/// What a new subscription has that the command line does not name: as over HTTP.
const LEASE: Duration = Duration::from_secs(30);
const MAX_ATTEMPTS: u32 = 10;
const EXPIRES: Duration = Duration::from_secs(30 * 86_400);

/// How often a store is looked at for new events.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The memory of what waits for the writer: our own few requests.
const LIMITS: StoreLimits = StoreLimits { queue_events: 1, queue_bytes: 1 << 20 };

pub struct Claims {
    name: String,
    source: Source,
}

enum Source {
    Store { store: Store, writer: Writer },
    Service(Box<ServiceConnection>),
}

/// Events that were claimed.
pub struct Claimed {
    token: String,
    pub lease: Duration,
    pub events: Vec<ClaimedEvent>,
}

pub struct ClaimedEvent {
    pub event: StoredEvent,
    pub attempts: i64,
}

/// Why a request has failed.
pub enum ClaimError {
    /// It may succeed later.
    Passing(String),
    Lasting(anyhow::Error),
}

impl fmt::Display for ClaimError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClaimError::Passing(reason) => formatter.write_str(reason),
            ClaimError::Lasting(error) => write!(formatter, "{error:#}"),
        }
    }
}

impl From<AppendError> for ClaimError {
    fn from(error: AppendError) -> ClaimError {
        ClaimError::Passing(error.to_string())
    }
}

impl From<ReadError> for ClaimError {
    fn from(error: ReadError) -> ClaimError {
        ClaimError::Passing(error.to_string())
    }
}

impl fmt::Display for Claims {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Store { .. } => formatter.write_str("the store"),
            Source::Service(service) => formatter.write_str(&service.base),
        }
    }
}

impl Claims {
    /// Opens the store or the service, and makes the subscription where there is none: with the filters of the settings.
    ///
    /// # Errors
    /// There is no such store or service, or it has no subscriptions.
    pub async fn open(settings: &Settings, name: &str) -> anyhow::Result<Claims> {
        let source = match &settings.source {
            SourceSettings::Store(location) => {
                let location = location.clone();
                let opened =
                    spawn_blocking(move || Store::open_existing(&location, LIMITS, StoreOptions::default()));
                let (store, writer) = opened.await.context("opening the store has panicked")??;
                Source::Store { store, writer }
            }
            SourceSettings::Service(service) => {
                Source::Service(Box::new(ServiceConnection::open(service).await?))
            }
        };
        let claims = Claims { name: name.to_owned(), source };
        claims.make(settings).await.map_err(|error| match error {
            ClaimError::Passing(reason) => hinted(
                format!("cannot use the subscription `{name}` of `{}`: {reason}", settings.source),
                "check that it runs and can be reached",
            ),
            ClaimError::Lasting(error) => error,
        })?;
        Ok(claims)
    }

    pub async fn close(self) {
        if let Source::Store { writer, .. } = self.source {
            writer.close().await;
        }
    }

    async fn make(&self, settings: &Settings) -> Result<(), ClaimError> {
        let is_new = match &self.source {
            Source::Store { store, .. } => {
                let name = self.name.clone();
                let read =
                    store.read(move |reader| reader.run(|statements| Subscription::read(statements, &name)));
                if read.await?.is_some() {
                    return Ok(());
                }
                let definition = Definition {
                    event_type: settings.event_type.clone(),
                    order: Order::Parallel,
                    skips_parked: false,
                    retains: true,
                    lease: LEASE,
                    max_attempts: MAX_ATTEMPTS,
                    expires: EXPIRES,
                };
                let start = match (settings.after, &settings.since) {
                    (Some(id), _) => Start::Id(id + 1),
                    (None, Some(since)) => Start::Time(since.timestamp),
                    (None, None) => Start::Beginning,
                };
                let request = StoreRequest::Define { definition, start };
                matches!(self.ask(store, request).await?, Answer::Defined { is_new: true })
            }
            Source::Service(service) => {
                let (status, _) = self.send(service, Method::GET, "", None).await?;
                if status == StatusCode::OK {
                    return Ok(());
                }
                let from = match (settings.after, &settings.since) {
                    (Some(id), _) => json!(id + 1),
                    (None, Some(since)) => json!(since.timestamp.to_string()),
                    (None, None) => json!("beginning"),
                };
                let event_type = settings.event_type.as_ref().map_or("*", |glob| glob.as_str());
                let body = json!({"from": from, "type": event_type});
                self.post(service, Method::PUT, "", &body).await?;
                true
            }
        };
        if is_new {
            info!("the subscription `{}` is new", self.name);
        }
        Ok(())
    }

    /// Claims up to so many events; none once it has waited for them.
    pub async fn claim(&self, limit: usize, wait: Duration) -> Result<Option<Claimed>, ClaimError> {
        match &self.source {
            Source::Store { store, .. } => self.claim_from_store(store, limit, wait).await,
            Source::Service(service) => {
                let body = json!({"limit": limit, "wait": wait.as_secs_f64()});
                let answer = self.post(service, Method::POST, "/claim", &body).await?;
                let claim: ClaimJson =
                    serde_json::from_value(answer).map_err(|error| unexpected(&error.to_string()))?;
                claim.into_claimed()
            }
        }
    }

    async fn claim_from_store(
        &self,
        store: &Store,
        limit: usize,
        wait: Duration,
    ) -> Result<Option<Claimed>, ClaimError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let now = Timestamp::now();
            let name = self.name.clone();
            let may_have_work = store.read(move |reader| {
                reader.run(|statements| crate::store::subscriptions::may_have_work(statements, &name, now))
            });
            if may_have_work.await?
                && let Answer::Claimed(Some(claim)) = self.ask(store, StoreRequest::Claim { limit }).await?
            {
                let events = claim.events.into_iter();
                let events =
                    events.map(|claimed| ClaimedEvent { event: claimed.event, attempts: claimed.attempts });
                let lease = lease_until(claim.until);
                return Ok(Some(Claimed { token: claim.token.to_string(), lease, events: events.collect() }));
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    pub async fn acknowledge(&self, claimed: &Claimed) -> Result<(), ClaimError> {
        let ids = claimed.ids();
        self.settle(claimed, "/ack", json!({"ids": ids}), |token| StoreRequest::Acknowledge {
            token,
            selected: Selected::Ids(claimed.ids()),
        })
        .await
    }

    /// Gives the events back.
    pub async fn reject(
        &self,
        claimed: &Claimed,
        reason: Option<String>,
        delay: Duration,
        attempt: Attempt,
    ) -> Result<(), ClaimError> {
        let body = json!({"ids": claimed.ids(), "reason": reason, "delay": delay.as_secs_f64(), "release": attempt == Attempt::None});
        self.settle(claimed, "/nack", body, |token| StoreRequest::Reject {
            token,
            selected: Selected::Ids(claimed.ids()),
            rejection: Rejection { delay, reason: reason.clone(), attempt },
        })
        .await
    }

    pub async fn extend(&self, claimed: &Claimed) -> Result<(), ClaimError> {
        self.settle(claimed, "/extend", json!({}), |token| StoreRequest::Extend { token, lease: None }).await
    }

    /// Says what becomes of claimed events. Where the claim is over, another worker has them: nothing is left to say.
    async fn settle(
        &self,
        claimed: &Claimed,
        path: &str,
        mut body: Value,
        request: impl FnOnce(Token) -> StoreRequest,
    ) -> Result<(), ClaimError> {
        let is_over = match &self.source {
            Source::Store { store, .. } => {
                let Ok(token) = claimed.token.parse() else { return Ok(()) };
                matches!(self.ask(store, request(token)).await?, Answer::Refused(Refusal::Stale))
            }
            Source::Service(service) => {
                body["token"] = claimed.token.clone().into();
                let (status, answer) = self.send(service, Method::POST, path, Some(&body)).await?;
                if status != StatusCode::CONFLICT {
                    self.expect_success(status, &answer)?;
                }
                status == StatusCode::CONFLICT
            }
        };
        if is_over {
            warn!(
                event = claimed.ids()[0],
                "the lease has ended, and another worker may have had the event as well"
            );
        }
        Ok(())
    }

    async fn ask(&self, store: &Store, request: StoreRequest) -> Result<Answer, ClaimError> {
        match store.subscription(self.name.clone(), request).await? {
            Answer::NoSubscription => Err(ClaimError::Lasting(self.has_ended())),
            answer => Ok(answer),
        }
    }

    fn has_ended(&self) -> anyhow::Error {
        hinted(
            format!("the subscription `{}` has ended", self.name),
            "start this command again to begin a new one",
        )
    }

    async fn post(
        &self,
        service: &ServiceConnection,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, ClaimError> {
        let (status, answer) = self.send(service, method, path, Some(body)).await?;
        self.expect_success(status, &answer)?;
        serde_json::from_slice(&answer).map_err(|error| unexpected(&error.to_string()))
    }

    fn expect_success(&self, status: StatusCode, answer: &[u8]) -> Result<(), ClaimError> {
        #[derive(Deserialize)]
        struct Problem {
            detail: String,
        }
        if status.is_success() {
            return Ok(());
        }
        let detail =
            serde_json::from_slice(answer).map_or_else(|_| String::new(), |Problem { detail }| detail);
        let reason = format!("status {}: {}", status.as_u16(), excerpt(&detail, 200));
        if is_transient(status) {
            return Err(ClaimError::Passing(reason));
        }
        if status == StatusCode::NOT_FOUND {
            return Err(ClaimError::Lasting(self.has_ended()));
        }
        let problem = format!("cannot use the subscription `{}` of `{self}`: {reason}", self.name);
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "give --username and --password-file, or --token-file"
            }
            _ => "check the name, and that the service there has subscriptions",
        };
        Err(ClaimError::Lasting(hinted(problem, hint)))
    }

    async fn send(
        &self,
        service: &ServiceConnection,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), ClaimError> {
        let url = format!("{}/subscription/{}{path}", service.base, self.name);
        let mut request = Request::new(Full::from(body.map(Value::to_string).unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() =
            url.parse().with_context(|| format!("cannot ask `{url}`")).map_err(ClaimError::Lasting)?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(client::USER_AGENT));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let response = service.exchange(request).await;
        let response = response.map_err(|error| ClaimError::Passing(format!("{error:#}")))?;
        let status = response.status();
        Ok((status, response.into_body()))
    }
}

impl Claimed {
    fn ids(&self) -> Vec<i64> {
        self.events.iter().map(|claimed| claimed.event.id).collect()
    }
}

fn lease_until(until: Timestamp) -> Duration {
    let left = until.as_microseconds() - Timestamp::now().as_microseconds();
    Duration::from_micros(u64::try_from(left).unwrap_or_default())
}

fn unexpected(problem: &str) -> ClaimError {
    ClaimError::Passing(format!("an unexpected response: {problem}"))
}

#[derive(Deserialize)]
struct ClaimJson {
    token: Option<String>,
    until: Option<String>,
    events: Vec<ClaimedJson>,
}

#[derive(Deserialize)]
struct ClaimedJson {
    attempts: i64,
    #[serde(flatten)]
    event: EventJson,
}

impl ClaimJson {
    fn into_claimed(self) -> Result<Option<Claimed>, ClaimError> {
        let (Some(token), Some(until)) = (self.token, self.until) else { return Ok(None) };
        let until: Timestamp = until.parse().map_err(|error: String| unexpected(&error))?;
        let event = |claimed: ClaimedJson| -> Result<ClaimedEvent, ClaimError> {
            let event =
                StoredEvent::try_from(claimed.event).map_err(|error| unexpected(&format!("{error:#}")))?;
            Ok(ClaimedEvent { event, attempts: claimed.attempts })
        };
        let events = self.events.into_iter().map(event).collect::<Result<_, _>>()?;
        Ok(Some(Claimed { token, lease: lease_until(until), events }))
    }
}
