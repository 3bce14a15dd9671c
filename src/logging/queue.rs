//! A queue of log lines, and the thread that writes them.
//!
//! A full pipe, a stopped terminal or a reader that has gone must not block the service: logging only enqueues a line.
//! `tracing-appender` does the same, but bounds lines instead of bytes, writes to standard output when it cannot
//! finish, and does not log how many lines were lost.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use parking_lot::{Condvar, Mutex};
use tracing::Level;

use super::line::{OWN, Style};

/// The most bytes in the queue. Additional lines are lost, and counted.
const LIMIT_BYTES: usize = 1 << 20;

/// How long to wait between writes to a full standard error that is in non-blocking mode.
const FULL_PAUSE: Duration = Duration::from_millis(10);

type Around = Box<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

static AROUND: OnceLock<Around> = OnceLock::new();

/// Writes lines inside of `around`, which can clear and redraw a progress bar.
pub fn write_within(around: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) {
    // There is only one progress bar.
    let _ = AROUND.set(Box::new(around));
}

pub struct LineQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Lines lost since the last one that fit.
    lost: u64,
    writing: bool,
}

impl LineQueue {
    /// Also starts the thread that writes the lines, which lives as long as the process.
    pub fn start(style: Style) -> anyhow::Result<Arc<LineQueue>> {
        // A handle of its own: a blocked write must not hold the lock of `io::stderr()`.
        let stderr = io::stderr().as_fd().try_clone_to_owned().context("cannot log to standard error")?;
        let queue = Arc::new(LineQueue { state: Mutex::default(), changed: Condvar::new() });
        let written = Arc::clone(&queue);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || written.write_lines(&mut File::from(stderr), style))
            .context("cannot start a thread to log")?;
        Ok(queue)
    }

    /// Never blocks: a line that does not fit is counted as lost.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.lines.len() + line.len() > LIMIT_BYTES {
            state.lost += 1;
            return;
        }
        let was_empty = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        drop(state);
        if was_empty {
            self.changed.notify_all();
        }
    }

    /// Waits until all lines are written, at most for `time_limit`.
    pub fn flush(&self, time_limit: Duration) {
        let unwritten = |state: &mut State| state.writing || !state.lines.is_empty();
        self.changed.wait_while_for(&mut self.state.lock(), unwritten, time_limit);
    }

    fn write_lines(&self, output: &mut impl Write, style: Style) {
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

    /// Waits for lines and takes them all. Returns how many were lost after them.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        lines.clear();
        let mut state = self.state.lock();
        state.writing = false;
        self.changed.notify_all();
        let nothing = |state: &mut State| state.lines.is_empty();
        self.changed.wait_while(&mut state, nothing);
        std::mem::swap(lines, &mut state.lines);
        state.writing = true;
        std::mem::take(&mut state.lost)
    }
}

/// Stops at an error: there is no other place to report it.
fn write_all(output: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return,
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares the pipe may have made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
            Err(_) => return,
        }
    }
}
