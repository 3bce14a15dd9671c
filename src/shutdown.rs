//! SIGTERM, SIGINT and SIGHUP, for subcommands that finish what they began, and for process 1; and a signal that ends none.

use std::fmt;
use std::fs;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use rustix::process::Signal as Number;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether a subcommand waits for the signals itself.
static LISTENING: AtomicBool = AtomicBool::new(false);

/// What a shell adds to the number of a signal to make the exit status of the process that it ended.
const SIGNAL_STATUS: i32 = 128;

/// A signal that asks the process to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM.
    Terminate,
    /// SIGINT, as Ctrl-C sends it.
    Interrupt,
    /// SIGHUP: the terminal is gone.
    Hangup,
}

impl StopSignal {
    fn kind(self) -> SignalKind {
        match self {
            StopSignal::Terminate => SignalKind::terminate(),
            StopSignal::Interrupt => SignalKind::interrupt(),
            StopSignal::Hangup => SignalKind::hangup(),
        }
    }

    fn listen(self) -> anyhow::Result<Signal> {
        signal(self.kind()).with_context(|| format!("cannot listen for {self}"))
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            StopSignal::Terminate => "SIGTERM",
            StopSignal::Interrupt => "SIGINT",
            StopSignal::Hangup => "SIGHUP",
        })
    }
}

/// Lets a write beyond the limit of file sizes (`ulimit -f`) fail as one to a full disk does, instead of ending the
/// process by SIGXFSZ.
///
/// # Errors
/// The system refuses to.
pub fn survive_file_size_limit() -> anyhow::Result<()> {
    let refused = "cannot listen for SIGXFSZ";
    let signals = runtime::Builder::new_current_thread().enable_io().build().context(refused)?;
    let _entered = signals.enter();
    // The handler outlives its listener and the runtime.
    signal(SignalKind::from_raw(Number::XFSZ.as_raw())).map(drop).context(refused)
}

/// The signals that ask the process to stop.
pub struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Shutdown {
    /// Takes SIGTERM and SIGINT over from their default, which is to die at once.
    ///
    /// # Errors
    /// The system refuses to.
    pub fn listen() -> anyhow::Result<Shutdown> {
        let shutdown = Shutdown {
            terminate: StopSignal::Terminate.listen()?,
            interrupt: StopSignal::Interrupt.listen()?,
            hangup: None,
        };
        LISTENING.store(true, Ordering::Relaxed);
        Ok(shutdown)
    }

    /// The same, and SIGHUP, unless whoever started the process has it ignored, as nohup does.
    ///
    /// # Errors
    /// The system refuses to.
    pub fn listen_with_hangup() -> anyhow::Result<Shutdown> {
        let hangup = if hangup_is_ignored() { None } else { Some(StopSignal::Hangup.listen()?) };
        Ok(Shutdown { hangup, ..Shutdown::listen()? })
    }

    /// Waits for the next of them: the first asks to finish, a second to hurry.
    pub async fn requested(&mut self) -> StopSignal {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = hangup => StopSignal::Hangup,
        }
    }
}

/// Whether the process was started with SIGHUP ignored. Linux says so in a mask of hexadecimal digits.
fn hangup_is_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (SignalKind::hangup().as_raw_value() - 1)) != 0
}

/// Lets the signals end process 1 of a container, for which the kernel has no default: it ignores them.
///
/// From the first line on, until a subcommand listens for them itself.
///
/// # Errors
/// The system refuses a thread or a handler.
pub fn end_process_1_on_signals() -> anyhow::Result<()> {
    if process::id() != 1 {
        return Ok(());
    }
    let waiting = runtime::Builder::new_current_thread().enable_io().build();
    let waiting = waiting.context("cannot start the runtime")?;
    let mut shutdown = {
        let _entered = waiting.enter();
        let shutdown = Shutdown::listen_with_hangup()?;
        LISTENING.store(false, Ordering::Relaxed);
        shutdown
    };
    let wait = move || {
        loop {
            let asked = waiting.block_on(shutdown.requested());
            if !LISTENING.load(Ordering::Relaxed) {
                process::exit(SIGNAL_STATUS + asked.kind().as_raw_value());
            }
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned()).spawn(wait);
    thread.map(drop).context("cannot start a thread to wait for signals")
}
