//! SIGTERM and SIGINT, for subcommands that finish what they began.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask the process to stop.
pub struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

impl Shutdown {
    /// Takes both signals over from their default, which is to die at once.
    ///
    /// # Errors
    /// The system refuses to.
    pub fn listen() -> anyhow::Result<Shutdown> {
        let terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        Ok(Shutdown { terminate, interrupt })
    }

    /// Waits for the next of them: the first asks to finish, a second to hurry.
    pub async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
