//! What the routes share.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::stream::Hub;
use crate::alert::Alerts;
use crate::auth::Authenticator;
use crate::consume::cross_origin::CrossOrigin;
use crate::consume::hooks::Hooks;
use crate::consume::metrics::Metrics;
use crate::consume::problem::Problem;
use crate::consume::requests::RequestLog;
use crate::store::Store;

pub struct AppState {
    pub store: Store,
    /// None where requests need no authentication.
    pub access: Option<Arc<Authenticator>>,
    pub cross_origin: CrossOrigin,
    pub hooks: Arc<Hooks>,
    pub alerts: Arc<Alerts>,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub log: RequestLog,
    /// False where the metrics have an address of their own.
    pub exposes_metrics: bool,
    pub body_limit_bytes: usize,
    /// For a client to send a body.
    pub body_timeout: Duration,
    /// For a request to wait for the store.
    pub store_timeout: Duration,
}

impl AppState {
    /// # Errors
    /// 503 where the store does not answer within its timeout.
    pub async fn in_time<T>(&self, reading: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        let timed_out = |_| Err(Problem::unavailable("the store did not answer in time"));
        timeout(self.store_timeout, reading).await.unwrap_or_else(timed_out)
    }
}
