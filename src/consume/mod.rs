//! `eventctl consume`: an HTTP server that stores events.
//!
//! ```text
//! server   sockets → TLS → HTTP/1.1 or HTTP/2 → requests
//! routes   requests → checks → one file for each route → responses
//! ```

mod access;
mod answer;
mod body;
mod client_address;
mod coding;
mod cross_origin;
mod forward;
mod hooks;
mod metrics;
mod problem;
mod query_string;
mod request_body;
mod request_checks;
mod requests;
mod response_share;
mod retention;
mod route;
mod routes;
mod server;
mod settings;
mod tasks;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use self::cross_origin::CrossOrigin;
use self::forward::Forward;
pub use self::forward::{ForwardList, ForwardsSettings};
pub use self::hooks::HookList;
use self::hooks::Hooks;
use self::metrics::Metrics;
pub use self::query_string::parse_page_query;
use self::requests::RequestLog;
pub use self::retention::Retention;
use self::retention::expire_subscriptions;
use self::routes::{AppState, Hub, heartbeat_within};
use self::server::{Listeners, Phase, Server, Tls};
pub use self::settings::{
    AccessSettings, CrossOriginSettings, Limits, ListenSettings, Settings, StoreSettings, Timeouts,
    TlsSettings,
};
use self::tasks::Tasks;
use crate::alert::{Alerts, Dispatcher};
use crate::auth::Authenticator;
use crate::core::duration::in_units;
use crate::core::network::ListenAddress;
use crate::core::origin::HostName;
use crate::error::Hint;
use crate::exposition;
use crate::shutdown::Shutdown;
use crate::store::{Store, StoreLimits, StoreOptions, Writer};
use crate::systemd::Supervisor;

/// File descriptors that are not connections: store, listeners, runtime, standard streams.
const OTHER_FILES: u64 = 64;

/// The timeout of one read of the store.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// One part in this many of the drain timeout is reserved for closing the store.
const CLOSING_SHARE: u32 = 4;

/// Serves until SIGTERM or SIGINT, then drains.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    raise_file_limit(settings.limits.max_connections)?;
    // Every commit depends on the writer's thread: it gets a core of its own where there are two.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.saturating_sub(1).max(1))
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(serve(settings));
    runtime.shutdown_background();
    served
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut shutdown = Shutdown::listen()?;
    let Some(mut service) = Service::start(settings, &mut shutdown).await? else { return Ok(()) };
    service.run(&mut shutdown).await?;
    service.drain(&mut shutdown).await
}

/// The running service: what is drained and closed in the end.
struct Service {
    server: Server,
    /// Metrics, event streams, retention, reload of certificates and secrets.
    tasks: Tasks,
    dispatcher: Dispatcher,
    /// Whether tasks are to begin nothing new.
    stopping: watch::Sender<bool>,
    writer: Writer,
    supervisor: Supervisor,
    timeouts: Timeouts,
}

impl Service {
    /// None where the process was asked to stop meanwhile.
    async fn start(settings: Settings, shutdown: &mut Shutdown) -> anyhow::Result<Option<Service>> {
        // By default a SIGHUP would end the process.
        let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let alerts = Arc::new(Alerts::new(settings.alerts)?);
        let hooks = Arc::new(Hooks::load(settings.hooks)?);
        let forwards = Forward::load(settings.forwards)?;
        let tls = settings.tls.map(Tls::load).transpose()?.map(Arc::new);
        let secrets = access::Secrets::new(settings.access)?;
        let requires_authentication =
            secrets.guard() || tls.as_ref().is_some_and(|tls| tls.requires_client_certificates());
        let listeners = Listeners::bind(&settings.listen, requires_authentication).await?;
        let Settings { limits, timeouts, retention, .. } = settings;
        // Opening a database server's store blocks.
        let opening = open_store(&settings.store, limits, timeouts, retention);
        let opened = tokio::select! {
            opened = tokio::task::spawn_blocking(opening) => opened,
            _ = shutdown.requested() => return Ok(None),
        };
        let (store, writer) = opened.context("opening the store has panicked")??;
        let access = secrets.into_access(&store).await?.map(Arc::new);
        if access.is_some() && tls.is_none() && listeners.are_exposed() {
            warn!(
                "passwords and tokens cross the network unencrypted, unless a proxy before this server encrypts"
            );
        }
        let dispatcher = Dispatcher::start(&alerts, &store);
        let metrics = Arc::new(Metrics::new(&store, alerts.metrics()));
        let hub = Arc::new(Hub::new(
            limits.queue_bytes,
            metrics.event_streams.clone(),
            heartbeat_within(timeouts.idle),
        ));
        let mut tasks = Tasks::default();
        let stopping = watch::Sender::new(false);
        if let Some(address) = &settings.metrics {
            let listener = exposition::listen(address).await?;
            tasks.spawn("metrics", serve_metrics(listener, Arc::clone(&metrics), store.clone()));
        }
        tasks.spawn("event streams", Arc::clone(&hub).run(store.clone()));
        for forward in forwards {
            tasks.spawn("forward", forward.run(store.clone(), stopping.subscribe()));
        }
        tasks.spawn("retention", retention.run(store.clone()));
        tasks.spawn("expiry of subscriptions", expire_subscriptions(store.clone()));
        tasks.spawn("reload of secrets", reload_on(hangup, tls.clone(), Arc::clone(&hooks), access.clone()));
        let any_host = requires_authentication || listeners.are_exposed();
        let state = AppState {
            access,
            cross_origin: cross_origin(settings.cross_origin, &settings.listen, any_host, tls.is_some()),
            hooks,
            alerts,
            hub,
            metrics,
            log: RequestLog::default(),
            exposes_metrics: settings.metrics.is_none(),
            body_limit_bytes: limits.body_bytes,
            body_timeout: timeouts.body,
            store_timeout: timeouts.store,
            store,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let urls = listeners.urls(scheme);
        let server =
            Server::new(settings.listen.trusted_proxies, limits, timeouts, listeners, Arc::new(state), tls);
        for url in &urls {
            // Browsers do not use Unix sockets.
            let page = if url.starts_with(scheme) { " (in a browser: the live page)" } else { "" };
            info!(store = %settings.store.location, "listening on {url}{page}");
        }
        retention.announce();
        let supervisor = Supervisor::from_environment();
        supervisor.ready(&format!("listening on {}", urls.join(", ")));
        Ok(Some(Service { server, tasks, dispatcher, stopping, writer, supervisor, timeouts }))
    }

    /// Serves until the process is asked to stop, and on for the lame-duck time, which a second signal ends.
    async fn run(&mut self, shutdown: &mut Shutdown) -> anyhow::Result<()> {
        let Service { server, tasks, writer, supervisor, timeouts, .. } = self;
        let phase = server.phase.clone();
        let mut accepting = pin!(server.accept());
        let mut lame_duck = pin!(sleep(timeouts.lame_duck));
        loop {
            tokio::select! {
                never = accepting.as_mut() => match never {},
                _ = shutdown.requested() => {
                    let is_over = *phase.borrow() == Phase::LameDuck || timeouts.lame_duck.is_zero();
                    if is_over {
                        return Ok(());
                    }
                    info!("about to stop: serving for another {}, not ready any more", in_units(timeouts.lame_duck));
                    phase.send_replace(Phase::LameDuck);
                    lame_duck.as_mut().reset(Instant::now() + timeouts.lame_duck);
                }
                () = lame_duck.as_mut(), if *phase.borrow() == Phase::LameDuck => return Ok(()),
                error = tasks.failed() => return Err(error),
                () = supervisor.watch() => {}
                () = writer.died() => anyhow::bail!("the store's writer thread has stopped"),
            }
        }
    }

    /// Finishes the requests in flight and the deliveries of alerts, then closes the store.
    async fn drain(self, shutdown: &mut Shutdown) -> anyhow::Result<()> {
        self.supervisor.stopping();
        self.stopping.send_replace(true);
        info!("stopping: requests in flight are finished first");
        let deadline = Instant::now() + self.timeouts.drain;
        let draining = async {
            let deadline = deadline - self.timeouts.drain / CLOSING_SHARE;
            self.server.drain(deadline).await;
            // The next process repeats a delivery that is not finished in time.
            let _ = timeout_at(deadline, self.dispatcher.stop()).await;
        };
        tokio::select! {
            () = draining => {}
            _ = shutdown.requested() => warn!("stopping at once"),
        }
        // Until here the metrics are served, too.
        drop(self.tasks);
        timeout_at(deadline, self.writer.close())
            .await
            .context("the store was not closed in time")
            .hint("give --drain-timeout more time; what was acknowledged is on disk")
    }
}

fn open_store(
    settings: &StoreSettings,
    limits: Limits,
    timeouts: Timeouts,
    retention: Retention,
) -> impl FnOnce() -> anyhow::Result<(Store, Writer)> + use<> {
    let (location, replica) = (settings.location.clone(), settings.replica.clone());
    let limits = StoreLimits { queue_events: settings.queue_events, queue_bytes: limits.queue_bytes };
    let options = StoreOptions {
        read_time: Some(READ_TIMEOUT),
        patience: timeouts.store,
        weak_durability: settings.allow_weak_durability,
        unordered_ids: settings.allow_unordered_ids,
        replicas: settings.replicas,
        deletes: retention.deletes(),
        ..StoreOptions::default()
    };
    move || {
        let (store, writer) = Store::open(&location, limits, options)?;
        let store = match &replica {
            Some(replica) => store.with_replica(replica, options)?,
            None => store,
        };
        Ok((store, writer))
    }
}

async fn serve_metrics(listener: TcpListener, metrics: Arc<Metrics>, store: Store) -> Infallible {
    let expose = move |format| {
        let (metrics, store) = (Arc::clone(&metrics), store.clone());
        async move { metrics.text(&store, format).await }
    };
    exposition::serve(listener, expose).await
}

/// Reads the certificates, the secrets of the hooks and the clients again on each SIGHUP.
async fn reload_on(
    mut hangup: Signal,
    tls: Option<Arc<Tls>>,
    hooks: Arc<Hooks>,
    access: Option<Arc<Authenticator>>,
) -> Infallible {
    loop {
        if hangup.recv().await.is_none() {
            return std::future::pending().await;
        }
        if let Some(tls) = tls.clone() {
            reload("the certificate", move || tls.reload()).await;
        }
        if !hooks.is_empty() {
            let hooks = Arc::clone(&hooks);
            reload("the secret of each hook", move || hooks.reload()).await;
        }
        if let Some(access) = access.clone().filter(|access| access.has_client_file()) {
            reload("the file of clients", move || access.reload()).await;
        }
    }
}

async fn reload(what: &str, read: impl FnOnce() -> anyhow::Result<()> + Send + 'static) {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(())) => info!("{what} was read again"),
        Ok(Err(error)) => warn!("{what} stays as it was: {error:#}"),
        Err(error) => warn!("{what} stays as it was: {error}"),
    }
}

/// Raises the limit of open files to the number of connections, as far as the system allows.
fn raise_file_limit(connections: usize) -> anyhow::Result<()> {
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let raised = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum })
        .context("cannot raise the limit of open files")?;
    if raised < wanted {
        warn!(
            "the system allows {raised} open files: fewer connections than --max-connections {connections}"
        );
    }
    Ok(())
}

/// What pages of other origins may do. Any host is served if `any_host` is set, because a rebound name opens nothing where
/// requests are authenticated or the whole network has access anyway; unless the settings name hosts.
fn cross_origin(
    settings: CrossOriginSettings,
    listen: &ListenSettings,
    any_host: bool,
    serves_https: bool,
) -> CrossOrigin {
    let CrossOriginSettings { allowed_hosts, allowed_origins } = settings;
    let own = listen.addresses.iter().filter_map(|address| match address {
        ListenAddress::Tcp { host, .. } => Some(host),
        ListenAddress::Unix(_) => None,
    });
    let own = own.chain([&listen.host]).map(|host| HostName::of(host));
    let restricts_hosts = !any_host || !allowed_hosts.is_empty();
    let hosts = restricts_hosts.then(|| allowed_hosts.into_iter().chain(own).collect());
    CrossOrigin { hosts, allowed: allowed_origins, serves_https }
}
