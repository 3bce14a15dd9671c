//! Claims of a subscription: in a store, or at a `consume` elsewhere.

mod claimed;
mod error;
mod service;
mod store;

use std::fmt;
use std::time::Duration;

use serde_json::json;
use tracing::{info, warn};

use self::claimed::Settled;
pub use self::claimed::{Claimed, ClaimedEvent};
pub use self::error::ClaimError;
use self::service::ServiceClaims;
use self::store::StoreClaims;
use crate::error::hinted;
use crate::store::subscriptions::{Attempt, Rejection, Request, Selected};
use crate::tail::settings::{Settings, SourceSettings};

pub enum Claims {
    Store(StoreClaims),
    Service(Box<ServiceClaims>),
}

impl fmt::Display for Claims {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Claims::Store(_) => formatter.write_str("the store"),
            Claims::Service(service) => service.fmt(formatter),
        }
    }
}

impl Claims {
    /// Opens the store or the service, and makes the subscription where there is none: with the filters of the settings.
    ///
    /// # Errors
    /// There is no such store or service, or it has no subscriptions.
    pub async fn open(settings: &Settings, name: &str) -> anyhow::Result<Claims> {
        let claims = match &settings.source {
            SourceSettings::Store(location) => Claims::Store(StoreClaims::open(location, name).await?),
            SourceSettings::Service(service) => {
                Claims::Service(Box::new(ServiceClaims::open(service, name).await?))
            }
        };
        let made = match &claims {
            Claims::Store(store) => store.make(settings).await,
            Claims::Service(service) => service.make(settings).await,
        };
        let is_new = made.map_err(|error| match error {
            ClaimError::Passing(reason) => hinted(
                format!("cannot use the subscription `{name}` of `{}`: {reason}", settings.source),
                "check that it runs and can be reached",
            ),
            ClaimError::Lasting(error) => error,
        })?;
        if is_new {
            info!("the subscription `{name}` is new");
        }
        Ok(claims)
    }

    pub async fn close(self) {
        if let Claims::Store(store) = self {
            store.close().await;
        }
    }

    /// Claims up to so many events; none once it has waited for them.
    pub async fn claim(&self, limit: usize, wait: Duration) -> Result<Option<Claimed>, ClaimError> {
        match self {
            Claims::Store(store) => store.claim(limit, wait).await,
            Claims::Service(service) => service.claim(limit, wait).await,
        }
    }

    pub async fn acknowledge(&self, claimed: &Claimed) -> Result<(), ClaimError> {
        let settled = match self {
            Claims::Store(store) => {
                let selected = Selected::Ids(claimed.ids());
                store.settle(claimed, |token| Request::Acknowledge { token, selected }).await
            }
            Claims::Service(service) => service.settle(claimed, "/ack", json!({"ids": claimed.ids()})).await,
        };
        warn_if_over(claimed, &settled?);
        Ok(())
    }

    /// Gives the events back.
    pub async fn reject(
        &self,
        claimed: &Claimed,
        reason: Option<String>,
        delay: Duration,
        attempt: Attempt,
    ) -> Result<(), ClaimError> {
        let settled = match self {
            Claims::Store(store) => {
                let selected = Selected::Ids(claimed.ids());
                let rejection = Rejection { delay, reason, attempt };
                store.settle(claimed, |token| Request::Reject { token, selected, rejection }).await
            }
            Claims::Service(service) => {
                let (delay, release) = (delay.as_secs_f64(), attempt == Attempt::None);
                let body =
                    json!({"ids": claimed.ids(), "reason": reason, "delay": delay, "release": release});
                service.settle(claimed, "/nack", body).await
            }
        };
        warn_if_over(claimed, &settled?);
        Ok(())
    }

    pub async fn extend(&self, claimed: &Claimed) -> Result<(), ClaimError> {
        let settled = match self {
            Claims::Store(store) => {
                store.settle(claimed, |token| Request::Extend { token, lease: None }).await
            }
            Claims::Service(service) => service.settle(claimed, "/extend", json!({})).await,
        };
        settled.map(drop)
    }
}

/// Where the claim is over, another worker has the events: nothing is left to say.
fn warn_if_over(claimed: &Claimed, settled: &Settled) {
    if *settled == Settled::Over {
        let ids: Vec<String> = claimed.ids().iter().map(i64::to_string).collect();
        warn!(
            event = ids.join(","),
            "the lease has ended, and another worker may have had the event as well"
        );
    }
}
