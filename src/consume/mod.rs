//! `eventctl consume`: accepts connections, and drains them when it is asked to stop.

mod access;
mod admission;
mod client;
mod coding;
mod connection;
mod content;
mod cross_origin;
mod health_alert;
mod http1;
mod http2;
mod listen;
mod listing;
mod metrics;
mod openapi;
mod page;
mod problem;
mod requests;
mod retention;
mod routes;
mod share;
mod stream;
mod tls;
mod token;
mod upload;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::metrics::gauge::Gauge;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use self::admission::{Admission, Place};
use self::client::{Client, TrustedProxies};
use self::connection::{Connection, ConnectionLimits};
use self::cross_origin::CrossOrigin;
use self::listen::{Listeners, Socket};
use self::metrics::Metrics;
use self::requests::RequestLog;
use self::retention::Retention;
use self::routes::Routes;
use self::stream::{Hub, heartbeat_within};
use self::tls::Tls;
use crate::alert::{Alerts, Dispatcher};
use crate::auth::Access;
use crate::cli::ConsumeOptions;
use crate::core::hint::Hint;
use crate::core::network::ListenAddress;
use crate::core::origin::HostName;
use crate::exposition;
use crate::shutdown::Shutdown;
use crate::store::{Store, StoreLimits, StoreOptions};
use crate::systemd::Supervisor;

/// How long to wait before accepting again when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// File descriptors that are not connections: store, listener, runtime, standard streams.
const OTHER_FILES: u64 = 64;

/// How long one read of the store may take.
const READ_TIME: Duration = Duration::from_secs(10);

/// The part of the memory for responses that one connection may have.
const CONNECTION_SHARE: usize = 8;

/// The part of the drain's time that is kept for closing the store.
const CLOSING_SHARE: u32 = 4;

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// The store cannot be opened, the address cannot be bound, or the store was not closed in time.
pub fn run(options: ConsumeOptions) -> anyhow::Result<()> {
    raise_file_limit(options.max_connections)?;
    // On the writer's thread alone rests every commit: it gets a core of its own where there are two.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.saturating_sub(1).max(1))
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(serve(options));
    runtime.shutdown_background();
    served
}

async fn serve(mut options: ConsumeOptions) -> anyhow::Result<()> {
    let mut shutdown = Shutdown::listen()?;
    // Where there is nothing to read again, it is ignored: the default would be to die at once.
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let alerts = Arc::new(Alerts::new(options.alerts.clone().into_settings()?)?);
    let tls = Tls::load(&options.tls)?.map(Arc::new);
    let secrets = access::Secrets::read(&mut options.access)?;
    let guarded = secrets.guard() || tls.as_ref().is_some_and(|tls| tls.asks_for_certificates());
    let listeners = Listeners::bind(&options, guarded).await?;
    let limits = StoreLimits { queue_events: options.queue_events, queue_bytes: options.queue_bytes.0 };
    let retention = Retention::of(&options);
    let store_options = StoreOptions {
        read_time: Some(READ_TIME),
        patience: options.store_timeout,
        weak_durability: options.allow_weak_durability,
        deletes: retention.deletes(),
    };
    // The runtime's own threads must not wait for a database server.
    let location = options.db.clone();
    let shown_store = location.to_string();
    let opening = tokio::task::spawn_blocking(move || Store::open(&location, limits, store_options));
    let opened = tokio::select! {
        opened = opening => opened,
        // Nothing has been accepted yet.
        _ = shutdown.requested() => return Ok(()),
    };
    let (store, mut writer) = opened.context("opening the store has panicked")??;
    let access = secrets.into_access(&store).await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    if access.is_some() && tls.is_none() && listeners.are_exposed() {
        warn!(
            "passwords and tokens cross the network unencrypted, unless a proxy before this server encrypts"
        );
    }
    let dispatcher = Dispatcher::start(&alerts, &store);
    let metrics = Arc::new(Metrics::new(&store, alerts.metrics()));
    let scraped = match &options.metrics {
        Some(address) => Some(exposition::listen(address).await?),
        None => None,
    };
    let mut scraping = pin!(serve_metrics(scraped, Arc::clone(&metrics), store.clone()));
    let swept = store.clone();
    let mut sweeping = pin!(retention.run(&swept));
    let cross_origin = cross_origin(&options, guarded || listeners.are_exposed(), tls.is_some());
    let routes = routes(&options, store, access, cross_origin, alerts, metrics);
    let mut following = pin!(Arc::clone(&routes.hub).run(routes.store.clone()));
    let places = listeners.places(scheme);
    let mut server = Server::new(&options, listeners, routes, tls.clone());
    for place in &places {
        // No browser speaks to a socket of the file system.
        let page = if place.starts_with(scheme) { " (in a browser: the live page)" } else { "" };
        info!(store = %shown_store, "listening on {place}{page}");
    }
    retention.announce();
    let mut supervisor = Supervisor::from_environment();
    supervisor.ready(&format!("listening on {}", places.join(", ")));
    {
        let mut accepting = pin!(server.accept());
        loop {
            tokio::select! {
                () = accepting.as_mut() => unreachable!("accepting never ends by itself"),
                _ = shutdown.requested() => break,
                _ = hangup.recv() => reload(tls.as_deref()),
                () = scraping.as_mut() => unreachable!("metrics are served for ever"),
                () = following.as_mut() => unreachable!("new events are read for ever"),
                () = sweeping.as_mut() => unreachable!("events grow old for ever"),
                () = supervisor.watch() => {}
                () = writer.died() => anyhow::bail!("the store's writer thread has stopped"),
            }
        }
    }
    supervisor.stopping();
    info!("stopping: the requests at hand are finished first");
    let deadline = Instant::now() + options.drain_timeout;
    let connections = server.drain();
    let connections_deadline = deadline - options.drain_timeout / CLOSING_SHARE;
    let draining = async {
        wait_for(connections, connections_deadline).await;
        // A message that is under way when the time is over is sent again by whoever comes next.
        let _ = timeout_at(connections_deadline, dispatcher.stop()).await;
    };
    tokio::select! {
        () = draining => {}
        _ = shutdown.requested() => warn!("stopping at once"),
    }
    timeout_at(deadline, writer.close())
        .await
        .context("the store was not closed in time")
        .hint("give --drain-timeout more time; what was acknowledged is on disk")
}

/// Serves metrics at their own address, where they have one.
async fn serve_metrics(listener: Option<TcpListener>, metrics: Arc<Metrics>, store: Store) {
    let Some(listener) = listener else { return std::future::pending().await };
    let expose = move |format| {
        let (metrics, store) = (Arc::clone(&metrics), store.clone());
        async move { metrics.text(&store, format).await }
    };
    exposition::serve(listener, expose).await;
}

fn reload(tls: Option<&Tls>) {
    match tls.map(Tls::reload) {
        Some(Ok(())) => info!("the certificate was read again"),
        Some(Err(error)) => warn!("the certificate stays as it was: {error:#}"),
        None => {}
    }
}

/// Lets the process open as many files as it has connections, as far as the system allows.
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

/// What pages of other origins may do. Any host is served where a name alone opens nothing, because requests need a
/// token or a certificate, or where the whole network may read and write; unless the settings name hosts.
fn cross_origin(options: &ConsumeOptions, any_host: bool, serves_https: bool) -> CrossOrigin {
    let named = &options.access.allowed_host;
    let own = options.listen.iter().filter_map(|address| match address {
        ListenAddress::Tcp { host, .. } => Some(host),
        ListenAddress::Unix(_) => None,
    });
    let own = own.chain([&options.host]).map(|host| HostName::of(host));
    let hosts = (!any_host || !named.is_empty()).then(|| named.iter().cloned().chain(own).collect());
    CrossOrigin { hosts, allowed: options.access.allow_origin.clone(), serves_https }
}

fn routes(
    options: &ConsumeOptions,
    store: Store,
    access: Option<Access>,
    cross_origin: CrossOrigin,
    alerts: Arc<Alerts>,
    metrics: Arc<Metrics>,
) -> Routes {
    let heartbeat = heartbeat_within(options.idle_timeout);
    let hub = Hub::new(options.queue_bytes.0, metrics.event_streams.clone(), heartbeat);
    Routes {
        store,
        access,
        cross_origin,
        alerts,
        hub: Arc::new(hub),
        metrics,
        log: RequestLog::default(),
        exposes_metrics: options.metrics.is_none(),
        body_limit_bytes: options.body_limit.0,
        body_timeout: options.body_timeout,
        store_timeout: options.store_timeout,
    }
}

/// The listener and its connections.
struct Server {
    listeners: Listeners,
    proxies: Arc<TrustedProxies>,
    routes: Arc<Routes>,
    tls: Option<Arc<Tls>>,
    limits: ConnectionLimits,
    admission: Admission,
    connections: JoinSet<()>,
    drain: watch::Sender<bool>,
}

impl Server {
    fn new(options: &ConsumeOptions, listeners: Listeners, routes: Routes, tls: Option<Arc<Tls>>) -> Server {
        let limits = ConnectionLimits {
            header_limit_bytes: options.header_limit.0,
            header_timeout: options.header_timeout,
            response_timeout: options.response_timeout,
            idle_timeout: options.idle_timeout,
            response_share_bytes: options.queue_bytes.0 / CONNECTION_SHARE,
        };
        Server {
            listeners,
            proxies: Arc::new(TrustedProxies(options.trusted_proxy.clone())),
            routes: Arc::new(routes),
            tls,
            limits,
            admission: Admission::new(options.max_connections, options.max_connections_per_address),
            connections: JoinSet::new(),
            drain: watch::Sender::new(false),
        }
    }

    /// Accepts connections for ever. Beyond all limits they wait in the system's queue.
    async fn accept(&mut self) {
        loop {
            let accepted = self.listeners.accept().await;
            while self.connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, peer)) => {
                    let is_proxy = self.proxies.include(peer);
                    // A proxy has the connections of all its clients.
                    let address = peer.address().filter(|_| !is_proxy);
                    if let Some(place) = self.admission.admit(address).await {
                        self.spawn(stream, peer, is_proxy, place);
                    }
                }
                // The connection is gone already, or there are no more file descriptors.
                Err(error) => {
                    warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn spawn(&mut self, socket: Socket, peer: Client, is_proxy: bool, place: Place) {
        let connection = Connection {
            peer,
            proxies: is_proxy.then(|| Arc::clone(&self.proxies)),
            admitted: place.is_admitted(),
            routes: Arc::clone(&self.routes),
            limits: self.limits,
            drain: self.drain.subscribe(),
        };
        let tls = self.tls.as_ref().map(|tls| tls.acceptor());
        let open = Open::count(self.routes.metrics.connections.clone());
        self.connections.spawn(async move {
            // Given back although a request may panic.
            let _held = (place, open);
            match socket {
                Socket::Tcp(stream) => connection.serve(stream, tls).await,
                Socket::Unix(stream) => connection.serve(stream, tls).await,
            }
        });
    }

    /// Stops accepting, and asks the connections to end with the requests they have.
    fn drain(self) -> JoinSet<()> {
        self.drain.send_replace(true);
        self.routes.hub.end();
        self.connections
    }
}

/// A connection that is counted, for as long as it is open.
struct Open(Gauge);

impl Open {
    fn count(gauge: Gauge) -> Open {
        gauge.inc();
        Open(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Waits for connections to end; those that are open at the deadline are cut.
async fn wait_for(mut connections: JoinSet<()>, deadline: Instant) {
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout_at(deadline, all).await.is_err() {
        let connections = connections.len();
        warn!(connections, "{connections} connections were cut: they did not end in time");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_whose_task_panics_is_no_longer_counted() {
        let gauge = Gauge::default();
        let ended = std::panic::catch_unwind(|| {
            let _open = Open::count(gauge.clone());
            assert_eq!(gauge.get(), 0, "this task panics");
        });
        assert!(ended.is_err());
        assert_eq!(gauge.get(), 0);
    }
}
