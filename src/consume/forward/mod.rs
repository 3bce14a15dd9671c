//! Forwards: pushes events to other services (`--forward`), each by a subscription of its own.
//!
//! An event is sent under a key that is derived from its id and time, and acknowledged once the receiver has answered
//! 2xx. Where a process dies in between, it is sent again under the same key: a receiver that is an eventctl stores it
//! once.

mod settings;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use minijinja::{Value, context};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep};
use tracing::{info, warn};

use self::settings::{ForwardFormat, ForwardSettings};
pub use self::settings::{ForwardList, ForwardsSettings};
use crate::auth::signature::standard::{self, SigningKey, signing_key};
use crate::client::{self, DeliveryError, RequestFormat, WebhookSender, problem_of_target};
use crate::core::backoff::Backoff;
use crate::core::event::{StoredEvent, cloud_event};
use crate::core::timestamp::Timestamp;
use crate::error::hinted;
use crate::secret::Secret;
use crate::store::subscriptions::{
    Answer, Attempt, Claim, Definition, Rejection, Request as StoreRequest, Selected, Start, Token,
    may_have_work,
};
use crate::store::{AppendError, Store};
use crate::tls::{Trust, client_config, read_ca_certificates};

/// How long the events of a claim are leased: what a process that dies holds up the others.
const LEASE: Duration = Duration::from_secs(5);
const PROLONG_AFTER: Duration = Duration::from_millis(1500);

/// How many events a claim has.
const LIMIT: usize = 100;

/// How often the store is read for new events.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Waits after a failure.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(60));

/// Pushes the events of one subscription.
pub struct Forward {
    settings: Arc<ForwardSettings>,
    sender: WebhookSender,
    signing_key: Option<SigningKey>,
    authorization: Option<HeaderValue>,
    format: RequestFormat,
}

/// How far a claim was worked off.
enum Progress {
    Done,
    /// The receiver does not take events now.
    Wait {
        reason: String,
        at_least: Duration,
    },
}

impl Forward {
    /// # Errors
    /// A URL is out of reach, a secret cannot be used, or two forwards have one name.
    pub fn load(settings: ForwardsSettings) -> anyhow::Result<Vec<Forward>> {
        let ForwardsSettings { list, reach, ca_file } = settings;
        let ca_certificates = ca_file.as_deref().map(read_ca_certificates).transpose()?.unwrap_or_default();
        let mut forwards: Vec<Forward> = Vec::new();
        for settings in list.0 {
            let name = &settings.name;
            if forwards.iter().any(|forward| forward.settings.name == *name) {
                let problem = format!("two forwards have the name `{name}`");
                return Err(hinted(problem, "give each URL once, or a `name` in the config file"));
            }
            if let Some(problem) = problem_of_target(&settings.url, reach) {
                let problem = format!("cannot forward to `{name}`: {problem}");
                return Err(hinted(problem, "allow it with --alert-allow-private"));
            }
            let tls = client_config(Trust::PublicCasAnd(&ca_certificates), None)?;
            let secret = settings.secret_file.as_deref().map(Secret::read).transpose()?;
            forwards.push(Forward {
                sender: WebhookSender::new(tls, reach, 1),
                signing_key: secret.map(|secret| signing_key(&secret, "secret-file")).transpose()?,
                authorization: settings.token_file.as_deref().map(bearer).transpose()?,
                format: load_format(&settings)?,
                settings,
            });
        }
        Ok(forwards)
    }

    /// Runs until the service stops; then it claims nothing more.
    pub async fn run(self, store: Store, mut stopping: watch::Receiver<bool>) -> Infallible {
        let mut failures = 0;
        let mut is_defined = false;
        loop {
            if *stopping.borrow_and_update() {
                return std::future::pending().await;
            }
            let worked = match is_defined {
                true => self.work(&store, &stopping).await,
                false => self.define(&store).await.map(|()| {
                    is_defined = true;
                    None
                }),
            };
            let (reason, at_least) = match worked {
                // The store itself logs that it does not answer.
                Err(_) => (None, Duration::ZERO),
                Ok(Some(Progress::Wait { reason, at_least })) => (Some(reason), at_least),
                Ok(Some(Progress::Done)) => {
                    if failures > 0 {
                        info!(forward = self.settings.name, "the receiver takes events again");
                    }
                    failures = 0;
                    continue;
                }
                Ok(None) => {
                    self.wait(&store).await;
                    continue;
                }
            };
            failures += 1;
            if let Some(reason) = reason.filter(|_| failures == 1) {
                warn!(forward = self.settings.name, "waiting for the receiver: {reason}");
            }
            sleep(BACKOFF.wait(failures, &mut fastrand::Rng::new()).max(at_least)).await;
        }
    }

    async fn define(&self, store: &Store) -> Result<(), AppendError> {
        let definition = Definition {
            event_type: self.settings.event_type.clone(),
            order: self.settings.order,
            skips_parked: self.settings.skips_parked,
            lease: LEASE,
            // What the receiver refuses is parked at once, and all else sent until it takes it.
            max_attempts: u32::MAX,
            ..Definition::default()
        };
        let request = StoreRequest::Define { definition, start: Start::Beginning };
        store.subscription(self.settings.name.clone(), request).await.map(drop)
    }

    /// Waits until there may be events.
    async fn wait(&self, store: &Store) {
        loop {
            sleep(LOOK_INTERVAL).await;
            let (name, now) = (self.settings.name.clone(), Timestamp::now());
            let look =
                store.read(move |reader| reader.run(|statements| may_have_work(statements, &name, now)));
            if look.await.unwrap_or(true) {
                return;
            }
        }
    }

    /// Sends the events of a claim; none without any.
    async fn work(
        &self,
        store: &Store,
        stopping: &watch::Receiver<bool>,
    ) -> Result<Option<Progress>, AppendError> {
        let answer = self.ask(store, StoreRequest::Claim { limit: LIMIT }).await?;
        let Answer::Claimed(Some(Claim { token, events, .. })) = answer else { return Ok(None) };
        let mut prolong = interval(PROLONG_AFTER);
        prolong.tick().await;
        let mut sent: Vec<i64> = Vec::new();
        let mut progress = Progress::Done;
        for claimed in &events {
            if *stopping.borrow() {
                break;
            }
            let sending = self.send(&claimed.event);
            tokio::pin!(sending);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut sending => break outcome,
                    _ = prolong.tick() => drop(self.ask(store, StoreRequest::Extend { token, lease: None }).await?),
                }
            };
            match outcome {
                Ok(()) => sent.push(claimed.event.id),
                Err(DeliveryError::Permanent(reason)) => {
                    self.acknowledge(store, token, std::mem::take(&mut sent)).await?;
                    warn!(
                        forward = self.settings.name,
                        event = claimed.event.id,
                        "refused, and parked: {reason}"
                    );
                    self.give_back(store, token, Some(claimed.event.id), Some(reason), Attempt::Hopeless)
                        .await?;
                    break;
                }
                Err(DeliveryError::Transient { reason, retry_after, .. }) => {
                    progress = Progress::Wait { reason, at_least: retry_after };
                    break;
                }
                // A token or a path that is wrong is no fault of the event.
                Err(DeliveryError::Misdirected(reason)) => {
                    progress = Progress::Wait { reason, at_least: Duration::ZERO };
                    break;
                }
            }
        }
        self.acknowledge(store, token, sent).await?;
        self.give_back(store, token, None, None, Attempt::None).await?;
        Ok(Some(progress))
    }

    async fn acknowledge(&self, store: &Store, token: Token, ids: Vec<i64>) -> Result<(), AppendError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.ask(store, StoreRequest::Acknowledge { token, selected: Selected::Ids(ids) }).await.map(drop)
    }

    /// Has one event, or all that the claim still has, handed out again, or parked.
    async fn give_back(
        &self,
        store: &Store,
        token: Token,
        id: Option<i64>,
        reason: Option<String>,
        attempt: Attempt,
    ) -> Result<(), AppendError> {
        let selected = id.map_or(Selected::All, |id| Selected::Ids(vec![id]));
        let rejection = Rejection { delay: Duration::ZERO, reason, attempt };
        self.ask(store, StoreRequest::Reject { token, selected, rejection }).await.map(drop)
    }

    async fn ask(&self, store: &Store, request: StoreRequest) -> Result<Answer, AppendError> {
        store.subscription(self.settings.name.clone(), request).await
    }

    async fn send(&self, event: &StoredEvent) -> Result<(), DeliveryError> {
        let begun = Instant::now();
        let key = format!("event-{}-{:x}", event.id, event.received_at.as_microseconds());
        let rendered = self.format.render(|| context_of(event, &key));
        let rendered = rendered.map_err(|error| DeliveryError::Permanent(format!("{error:#}")))?;
        let (content_type, body) = match self.settings.format {
            _ if rendered.body.is_some() => ("application/json", rendered.body.unwrap_or_default()),
            ForwardFormat::Event => ("application/json", event.to_submission()),
            ForwardFormat::CloudEvents => ("application/cloudevents+json", cloud_event::wrapped(event)),
        };
        let body = Bytes::from(body);
        let mut request = Request::new(Full::from(body.clone()));
        *request.method_mut() = rendered.method;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(USER_AGENT, HeaderValue::from_static(client::USER_AGENT));
        headers.insert("idempotency-key", key.parse().expect("digits and dashes fit into a header"));
        headers.extend(self.authorization.clone().map(|authorization| (AUTHORIZATION, authorization)));
        headers.extend(rendered.headers);
        if let Some(signing_key) = &self.signing_key {
            standard::sign(headers, Some(signing_key), &key, Timestamp::now(), &body);
        }
        let url = &self.settings.url;
        let sent = self.sender.send(request, url, url, self.format.secrets()).await;
        if let Some(rate) = self.settings.rate {
            sleep((Duration::from_secs(1) / rate).saturating_sub(begun.elapsed())).await;
        }
        sent
    }
}

/// # Errors
/// A template or a secret cannot be used.
fn load_format(settings: &ForwardSettings) -> anyhow::Result<RequestFormat> {
    let cannot = || format!("cannot forward to `{}`", settings.name);
    let format = RequestFormat::load(&settings.request).with_context(cannot)?;
    match format.unknown_name(&["event", "json", "key"]) {
        None => Ok(format),
        Some(name) => Err(hinted(
            format!("{}: a template has the unknown name `{name}`", cannot()),
            "templates know event, json, key and secret",
        )),
    }
}

/// What templates know of an event: `json` is its payload read as JSON, if it is JSON.
fn context_of(event: &StoredEvent, key: &str) -> Value {
    let json: Value = serde_json::from_str(&event.event_payload).unwrap_or(Value::UNDEFINED);
    context! {
        key => key,
        json => json,
        event => context! {
            id => event.id,
            type => event.event_type.as_str(),
            payload => event.event_payload.as_str(),
            received_at => event.received_at.to_string(),
        },
    }
}

fn bearer(path: &Path) -> anyhow::Result<HeaderValue> {
    let token = Secret::read(path)?;
    let mut value: HeaderValue = format!("Bearer {}", token.expose()).parse().map_err(|_| {
        hinted(
            format!("the token of `{}` cannot be in a header", path.display()),
            "write visible ASCII alone",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}
