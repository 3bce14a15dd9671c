//! `eventctl consume`: accepts connections, and drains them when it is asked to stop.

mod connection;
mod listing;
mod problem;
mod routes;
mod upload;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use self::connection::ConnectionLimits;
use self::routes::Routes;
use crate::cli::ConsumeOptions;
use crate::core::hint::{Hint, hinted};
use crate::shutdown::Shutdown;
use crate::store::{Store, StoreLimits};

/// How long to wait before accepting again when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections beyond the limit that are open at once, to be told 503.
const REFUSED_CONNECTIONS: usize = 64;

/// File descriptors that are not connections: store, listener, runtime, standard streams.
const OTHER_FILES: u64 = 64;

/// How long one read of the store may take.
const READ_TIME: Duration = Duration::from_secs(10);

/// The part of the drain's time that is kept for closing the store.
const CLOSING_SHARE: u32 = 4;

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// The store cannot be opened, the address cannot be bound, or the store was not closed in time.
pub fn run(options: &ConsumeOptions) -> anyhow::Result<()> {
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

async fn serve(options: &ConsumeOptions) -> anyhow::Result<()> {
    let mut shutdown = Shutdown::listen()?;
    let listener = bind(options).await?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let limits = StoreLimits {
        queue_events: options.queue_events,
        queue_bytes: options.queue_bytes.0,
        read_time: READ_TIME,
    };
    let (store, mut writer) = Store::open(&options.db, limits)?;
    let mut server = Server::new(options, listener, store);
    eprintln!("listening on http://{address}");
    tokio::select! {
        () = server.accept() => unreachable!("accepting never ends by itself"),
        () = shutdown.requested() => {}
        () = writer.died() => anyhow::bail!("the store's writer thread has stopped"),
    }
    let deadline = Instant::now() + options.drain_timeout;
    let connections = server.drain();
    let connections_deadline = deadline - options.drain_timeout / CLOSING_SHARE;
    tokio::select! {
        () = wait_for(connections, connections_deadline) => {}
        () = shutdown.requested() => eprintln!("stopping at once"),
    }
    timeout_at(deadline, writer.close())
        .await
        .context("the store was not closed in time")
        .hint("give --drain-timeout more time; what was acknowledged is on disk")
}

async fn bind(options: &ConsumeOptions) -> anyhow::Result<TcpListener> {
    let (host, port) = (options.host.as_str(), options.port);
    let cannot = || format!("cannot listen on {host}:{port}");
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .with_context(cannot)
        .hint("give --host an address of this machine, such as 127.0.0.1")?
        .collect();
    let exposed = addresses.iter().find(|address| !address.ip().is_loopback());
    if let Some(address) = exposed
        && !options.insecure_allow_anonymous
    {
        let problem =
            format!("cannot listen on {address}: anyone who reaches it could read and write events");
        return Err(hinted(problem, "listen on 127.0.0.1, or allow it with --insecure-allow-anonymous"));
    }
    TcpListener::bind(addresses.as_slice()).await.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "stop what listens there, or choose another --port (0 picks a free one)"
            }
            io::ErrorKind::PermissionDenied => "choose a --port of 1024 or above",
            _ => "give --host an address of this machine, such as 127.0.0.1",
        };
        hinted(format!("{}: {error}", cannot()), hint)
    })
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
        eprintln!(
            "the system allows {raised} open files: fewer connections than --max-connections {connections}"
        );
    }
    Ok(())
}

/// The listener and its connections.
struct Server {
    listener: TcpListener,
    routes: Arc<Routes>,
    limits: ConnectionLimits,
    admitted: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    connections: JoinSet<()>,
    drain: watch::Sender<bool>,
}

impl Server {
    fn new(options: &ConsumeOptions, listener: TcpListener, store: Store) -> Server {
        let routes = Routes {
            store,
            body_limit_bytes: options.body_limit.0,
            body_timeout: options.body_timeout,
            store_timeout: options.store_timeout,
        };
        let limits = ConnectionLimits {
            header_limit_bytes: options.header_limit.0,
            header_timeout: options.header_timeout,
            idle_timeout: options.idle_timeout,
        };
        Server {
            listener,
            routes: Arc::new(routes),
            limits,
            admitted: Arc::new(Semaphore::new(options.max_connections)),
            refused: Arc::new(Semaphore::new(REFUSED_CONNECTIONS)),
            connections: JoinSet::new(),
            drain: watch::Sender::new(false),
        }
    }

    /// Accepts connections for ever. Beyond all limits they wait in the system's queue.
    async fn accept(&mut self) {
        loop {
            let accepted = self.listener.accept().await;
            while self.connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    let (permit, admitted) = self.admit().await;
                    self.spawn(stream, permit, admitted);
                }
                // The connection is gone already, or there are no more file descriptors.
                Err(error) => {
                    eprintln!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A place for a connection: among those that are served, or else among those that are refused.
    async fn admit(&self) -> (OwnedSemaphorePermit, bool) {
        if let Ok(permit) = Arc::clone(&self.admitted).try_acquire_owned() {
            return (permit, true);
        }
        let refused = Arc::clone(&self.refused).acquire_owned();
        (refused.await.expect("the semaphore is never closed"), false)
    }

    fn spawn(&mut self, stream: TcpStream, permit: OwnedSemaphorePermit, admitted: bool) {
        // Without it a response could wait for the client's acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let routes = Arc::clone(&self.routes);
        let (limits, drain) = (self.limits, self.drain.subscribe());
        self.connections.spawn(async move {
            connection::serve(stream, routes, limits, admitted, drain).await;
            drop(permit);
        });
    }

    /// Stops accepting, and asks the connections to end with the requests they have.
    fn drain(self) -> JoinSet<()> {
        self.drain.send_replace(true);
        self.connections
    }
}

/// Waits for connections to end; those that are open at the deadline are cut.
async fn wait_for(mut connections: JoinSet<()>, deadline: Instant) {
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout_at(deadline, all).await.is_err() {
        eprintln!("{} connections were cut: they did not end in time", connections.len());
    }
}
