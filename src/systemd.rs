//! systemd: socket activation (`sd_listen_fds(3)`), readiness and watchdog (`sd_notify(3)`).
//!
//! The `sd-notify` crate (0.5) would do the second, but connects to no abstract socket, and blocks while a socket is
//! full.

use std::env;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

use crate::error::Hint;

/// A listening socket that systemd has opened.
pub enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The sockets that systemd passes to this process.
pub fn sockets() -> anyhow::Result<Vec<Socket>> {
    // Unlike `sd_listen_fds`, the crate accepts sockets without a process id.
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

/// Notifies systemd; without systemd it does nothing.
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// When to send the next watchdog notification, if systemd wants them.
    watchdog: Option<Interval>,
}

impl Supervisor {
    pub fn from_environment() -> Supervisor {
        let socket = env::var("NOTIFY_SOCKET").ok().and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                warn!("cannot notify systemd: {error}");
                None
            }
        });
        let watchdog = socket.as_ref().and_then(|_| watchdog_time()).map(|time| {
            // Twice as often as required.
            let mut interval = interval((time / 2).max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Supervisor { socket, watchdog }
    }

    /// The service accepts requests. `systemctl status` shows the status.
    pub fn ready(&self, status: &str) {
        self.notify(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    pub fn stopping(&self) {
        self.notify("STOPPING=1");
    }

    /// Waits for the time of the next watchdog notification, and sends it. Call it again and again.
    pub async fn watch(&mut self) {
        let Some(watchdog) = &mut self.watchdog else { return std::future::pending().await };
        watchdog.tick().await;
        self.notify("WATCHDOG=1");
    }

    fn notify(&self, text: &str) {
        // If this fails, systemd has gone or is overloaded; a missed watchdog notification shows there.
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

/// The watchdog timeout, if it is for this process.
fn watchdog_time() -> Option<Duration> {
    let microseconds: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let process = env::var("WATCHDOG_PID").ok();
    let ours = process.is_none_or(|process| process == std::process::id().to_string());
    ours.then(|| Duration::from_micros(microseconds))
}
