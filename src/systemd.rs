//! What a service tells systemd, where it runs under it: `sd_notify(3)`.

use std::env;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

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
