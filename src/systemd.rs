//! What a service tells systemd, where it runs under it, and what it gets from it: `sd_notify(3)`, `sd_listen_fds(3)`.

use std::env;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

use crate::core::hint::Hint;

/// A socket that systemd listens on until the service does.
pub enum Socket {
    /// `ListenStream=` with an address.
    Tcp(TcpListener),
    /// `ListenStream=` with a path.
    Unix(UnixListener),
}

/// The sockets that systemd has opened for this process.
///
/// # Errors
/// One is none that can be listened on.
pub fn sockets() -> anyhow::Result<Vec<Socket>> {
    // The package takes a missing one for ours; `sd_listen_fds` does not.
    if env::var("LISTEN_PID").map_or(true, |process| process.is_empty()) {
        return Ok(Vec::new());
    }
    let mut passed = ListenFd::from_env();
    let count = passed.len();
    let take = |index| {
        let socket = match passed.take_tcp_listener(index) {
            Ok(listener) => listener.map(Socket::Tcp),
            Err(_) => passed.take_unix_listener(index)?.map(Socket::Unix),
        };
        match &socket {
            Some(Socket::Tcp(listener)) => listener.set_nonblocking(true)?,
            Some(Socket::Unix(listener)) => listener.set_nonblocking(true)?,
            None => {}
        }
        Ok(socket)
    };
    let sockets: io::Result<Vec<Option<Socket>>> = (0..count).map(take).collect();
    let sockets = sockets
        .context("cannot listen on a socket that systemd has opened")
        .hint("give the socket unit ListenStream= and Accept=no, and nothing else to pass on")?;
    Ok(sockets.into_iter().flatten().collect())
}

/// The line to systemd; without one, all that is said is said to nobody.
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// When to say next that the service lives, where systemd asks for it.
    watchdog: Option<Interval>,
}

impl Supervisor {
    /// The supervisor that the environment names, if any.
    pub fn from_environment() -> Supervisor {
        let socket = env::var("NOTIFY_SOCKET").ok().and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                warn!("cannot notify systemd: {error}");
                None
            }
        });
        let watchdog = socket.as_ref().and_then(|_| watchdog_time()).map(|time| {
            // Twice as often as it must be.
            let mut interval = interval((time / 2).max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Supervisor { socket, watchdog }
    }

    /// The service takes requests; `status` is shown by `systemctl status`.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// The service is about to stop.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// Says that the service lives, as often as systemd wants to hear it, for as long as it is polled.
    pub async fn watch(&mut self) {
        let Some(watchdog) = &mut self.watchdog else { return std::future::pending().await };
        watchdog.tick().await;
        self.say("WATCHDOG=1");
    }

    fn say(&self, text: &str) {
        // Whoever does not listen any more has its own way to see how we are.
        let _ = self.socket.as_ref().map(|socket| socket.send(text.as_bytes()));
    }
}

fn connect(name: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    if let Some(name) = name.strip_prefix('@') {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        socket.connect_addr(&address)?;
        return Ok(socket);
    }
    socket.connect(name)?;
    Ok(socket)
}

/// How long systemd waits for a sign of life of this process.
fn watchdog_time() -> Option<Duration> {
    let microseconds: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let process = env::var("WATCHDOG_PID").ok();
    let ours = process.is_none_or(|process| process == std::process::id().to_string());
    ours.then(|| Duration::from_micros(microseconds))
}
