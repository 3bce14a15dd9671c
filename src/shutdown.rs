//! Signals: SIGTERM, SIGINT and SIGHUP for a graceful shutdown, also of process 1; and SIGXFSZ, which is survived.

use std::fmt;
use std::fs;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use rustix::process::Signal as Number;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether a subcommand handles the signals itself.
static LISTENING: AtomicBool = AtomicBool::new(false);

/// A shell reports a process that a signal has ended with this plus the signal's number.
const SIGNAL_STATUS: i32 = 128;

/// A signal that asks the process to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    Terminate,
    Interrupt,
    /// SIGHUP: the terminal was closed.
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
        signal(self.kind()).with_context(|| format!("cannot handle {self}"))
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

/// Makes a write above the file size limit (`ulimit -f`) fail like a write to a full disk, instead of ending the
/// process with SIGXFSZ.
pub fn survive_file_size_limit() -> anyhow::Result<()> {
    let failed = "cannot handle SIGXFSZ";
    let runtime = runtime::Builder::new_current_thread().enable_io().build().context(failed)?;
    let _entered = runtime.enter();
    // The handler outlives its listener and the runtime.
    signal(SignalKind::from_raw(Number::XFSZ.as_raw())).map(drop).context(failed)
}

/// Handlers of the signals that ask the process to stop.
pub struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Shutdown {
    pub fn listen() -> anyhow::Result<Shutdown> {
        let shutdown = Shutdown {
            terminate: StopSignal::Terminate.listen()?,
            interrupt: StopSignal::Interrupt.listen()?,
            hangup: None,
        };
        LISTENING.store(true, Ordering::Relaxed);
        Ok(shutdown)
    }

    /// Also handles SIGHUP, unless the process was started with it ignored, as `nohup` does.
    pub fn listen_with_hangup() -> anyhow::Result<Shutdown> {
        let hangup = if hangup_is_ignored() { None } else { Some(StopSignal::Hangup.listen()?) };
        Ok(Shutdown { hangup, ..Shutdown::listen()? })
    }

    /// Waits for the next signal: the first asks for a graceful shutdown, the second to abort it.
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

/// Whether the process was started with SIGHUP ignored. Linux shows this as a hexadecimal mask.
fn hangup_is_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (SignalKind::hangup().as_raw_value() - 1)) != 0
}

/// Makes the signals end process 1 of a container until a subcommand handles them: process 1 ignores every signal
/// without a handler.
pub fn end_process_1_on_signals() -> anyhow::Result<()> {
    if process::id() != 1 {
        return Ok(());
    }
    let runtime = runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let mut shutdown = {
        let _entered = runtime.enter();
        let shutdown = Shutdown::listen_with_hangup()?;
        LISTENING.store(false, Ordering::Relaxed);
        shutdown
    };
    let wait = move || {
        loop {
            let signal = runtime.block_on(shutdown.requested());
            if !LISTENING.load(Ordering::Relaxed) {
                process::exit(SIGNAL_STATUS + signal.kind().as_raw_value());
            }
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned()).spawn(wait);
    thread.map(drop).context("cannot start the thread that waits for signals")
}
