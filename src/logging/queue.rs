//! Lines that wait to be written, and the thread that writes them.
//!
//! A full pipe, a terminal that is stopped or a reader that is gone must not hold up the service: whoever logs leaves
//! a line and goes on. `tracing-appender` does the same, but bounds lines and not bytes, writes to standard output
//! when it cannot end, and does not tell in the log what was lost.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tracing::Level;

use super::OWN;
use super::line::Style;

/// The most bytes of lines that wait. Further ones are lost, and counted.
const ROOM_BYTES: usize = 1 << 20;

/// How long to wait for room where standard error must not be waited for.
const FULL_PAUSE: Duration = Duration::from_millis(10);

type Around = Box<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

static AROUND: OnceLock<Around> = OnceLock::new();

/// Lets something that is drawn on the terminal make room for lines: they are written inside of `around`.
pub fn write_within(around: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) {
    // Nothing but one progress bar is ever drawn.
    let _ = AROUND.set(Box::new(around));
}

/// Lines on their way to standard error.
pub struct LineQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Lines that found no room since the last that did.
    lost: u64,
    writing: bool,
}

impl LineQueue {
    /// A queue, and the thread that empties it for as long as the process lives.
    ///
    /// # Errors
    /// There is no thread to be had, or no file descriptor.
    pub fn start(style: Style) -> anyhow::Result<Arc<LineQueue>> {
        // A handle of its own: a thread that waits in a write must not hold the lock of the standard one.
        let stderr = io::stderr().as_fd().try_clone_to_owned().context("cannot log to standard error")?;
        let queue = Arc::new(LineQueue { state: Mutex::default(), changed: Condvar::new() });
        let emptied = Arc::clone(&queue);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || emptied.empty(&mut File::from(stderr), style))
            .context("cannot start a thread to log")?;
        Ok(queue)
    }

    /// Leaves a line to be written; counts it where there is no room.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.lines.len() + line.len() > ROOM_BYTES {
            state.lost += 1;
            return;
        }
        let waited_for = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        drop(state);
        if waited_for {
            self.changed.notify_all();
        }
    }

    /// Waits until all lines are written, or for so long.
    pub fn flush(&self, limit: Duration) {
        let unwritten = |state: &mut State| state.writing || !state.lines.is_empty();
        let flushed = self.changed.wait_timeout_while(self.lock(), limit, unwritten);
        drop(flushed.unwrap_or_else(PoisonError::into_inner));
    }

    fn empty(&self, output: &mut impl Write, style: Style) {
        let mut lines = Vec::new();
        loop {
            let lost = self.take(&mut lines);
            if lost > 0 {
                let lost = format!("{lost} log lines were lost: they were not read in time");
                lines.extend(style.line(Level::WARN, OWN, &lost));
            }
            let mut write = || write_all(output, &lines);
            match AROUND.get() {
                Some(around) => around(&mut write),
                None => write(),
            }
        }
    }

    /// Waits for lines, and takes all that there are; how many were lost behind them.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        lines.clear();
        let mut state = self.lock();
        state.writing = false;
        self.changed.notify_all();
        let nothing = |state: &mut State| state.lines.is_empty();
        state = self.changed.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(lines, &mut state.lines);
        state.writing = true;
        std::mem::take(&mut state.lost)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what can be written: where a reader is gone, there is nobody to tell.
fn write_all(output: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return,
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares the pipe may have set it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
            Err(_) => return,
        }
    }
}
