//! What happened to the events, as it happens and in the end.
//!
//! A thread of its own prints, so that a slow terminal or pipe does not hold up the schedule.

mod dead_letters;
mod lines;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use self::dead_letters::DeadLetters;
use self::lines::{Layout, json_line, milliseconds, terminal_width};
use super::metrics::Metrics;
use super::source::Outgoing;
use crate::cli::{PropagateOptions, ReportFormat};
use crate::core::metrics::{Summary, Window};
use crate::core::text::{allows_color, printable_json};
use crate::logging::write_within;

/// Reports that wait to be printed; beyond them, sending waits.
const REPORTS_AHEAD: usize = 1024;

/// Something that happened to an event.
pub enum Report {
    /// It was sent.
    Attempt(Attempt),
    /// It is not going to be sent again.
    GivenUp(Arc<Outgoing>),
    /// It was no event.
    Invalid(String),
}

/// One send of an event.
pub struct Attempt {
    /// The event.
    pub event: Arc<Outgoing>,
    /// From the scheduled time to the first send.
    pub jitter: Duration,
    /// From this send to its response.
    pub latency: Duration,
    /// From the scheduled time to this response.
    pub latency_from_schedule: Duration,
    /// The response's status, or what came instead of a response.
    pub status: Result<u16, String>,
    /// What a response that is not 2xx says of itself.
    pub reason: Option<String>,
    /// How many sends of the event came before this one.
    pub retry: u32,
    /// What became of the event; none if it is sent again.
    pub fate: Option<Fate>,
}

impl Attempt {
    /// Why the event was not accepted, where that is known.
    fn why(&self) -> Option<&str> {
        self.reason.as_deref().or(self.status.as_ref().err().map(String::as_str))
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was answered 2xx.
    Delivered,
    /// It was refused for good.
    Rejected,
    /// It was not answered, or not for good, as often as it was sent.
    Undelivered,
}

/// The thread that prints.
pub struct Reporter {
    thread: JoinHandle<io::Result<Summary>>,
}

impl Reporter {
    /// Starts the thread; it ends when all senders of reports are gone.
    ///
    /// When standard output takes no more, the `oneshot` says so; dead letters are kept all the same.
    ///
    /// # Errors
    /// The dead-letter file cannot be written.
    pub fn start(
        options: &PropagateOptions,
        metrics: Metrics,
    ) -> anyhow::Result<(mpsc::Sender<Report>, Reporter, oneshot::Receiver<()>)> {
        let dead_letters = options.dead_letter.as_deref().map(DeadLetters::open).transpose()?;
        let (tx, rx) = mpsc::channel(REPORTS_AHEAD);
        let (tell_lost, lost) = oneshot::channel();
        let on_terminal = io::stdout().is_terminal();
        let printer = Printer {
            format: options.output,
            quiet: options.quiet,
            layout: Layout { width: on_terminal.then(terminal_width), color: on_terminal && allows_color() },
            output: Output { stdout: BufWriter::new(io::stdout()), error: None, tell_lost: Some(tell_lost) },
            dead_letters,
            progress: progress_of(options),
            window: Window::default(),
            responses: 0,
            summary: Summary::default(),
            metrics,
        };
        let thread = thread::Builder::new()
            .name("report".to_owned())
            .spawn(|| printer.run(rx))
            .context("cannot start a thread to report")?;
        Ok((tx, Reporter { thread }, lost))
    }

    /// Waits for the last report to be printed, then prints the summary.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub async fn finish(self, missed_ticks: u64, format: ReportFormat) -> io::Result<Summary> {
        let finishing = tokio::task::spawn_blocking(move || self.finish_blocking(missed_ticks, format));
        finishing.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn finish_blocking(self, missed_ticks: u64, format: ReportFormat) -> io::Result<Summary> {
        let summary = self.thread.join().map_err(|_| io::Error::other("the report's thread has stopped"))?;
        let summary = Summary { missed_ticks, ..summary? };
        let mut output = io::stdout();
        match format {
            ReportFormat::Text => write_summary(&mut output, &summary)?,
            ReportFormat::Json => writeln!(output, "{}", json!({ "summary": summary }))?,
        }
        output.flush()?;
        Ok(summary)
    }
}

/// A bar on the terminal, where there is one and the end of the run is known.
fn progress_of(options: &PropagateOptions) -> Option<Progress> {
    if options.quiet || !io::stderr().is_terminal() {
        return None;
    }
    let (length, template) = match (options.count, options.duration) {
        (Some(count), _) => (count, "{wide_bar} {pos}/{len} events, {eta} left"),
        (None, Some(duration)) => {
            (u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), "{wide_bar} {percent}%, {eta} left")
        }
        (None, None) => return None,
    };
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(template).expect("the template is well formed"));
    let drawn = bar.clone();
    write_within(move |write| drawn.suspend(write));
    Some(Progress { bar, counts_events: options.count.is_some(), started: Instant::now() })
}

struct Progress {
    bar: ProgressBar,
    counts_events: bool,
    started: Instant,
}

/// Standard output, until it fails.
struct Output {
    stdout: BufWriter<io::Stdout>,
    error: Option<io::Error>,
    tell_lost: Option<oneshot::Sender<()>>,
}

impl Output {
    fn write(&mut self, write: impl FnOnce(&mut BufWriter<io::Stdout>) -> io::Result<()>) {
        if self.error.is_some() {
            return;
        }
        if let Err(error) = write(&mut self.stdout) {
            self.error = Some(error);
            // The run that listens may have ended by itself.
            self.tell_lost.take().map(|tell_lost| tell_lost.send(()));
        }
    }
}

struct Printer {
    format: ReportFormat,
    quiet: bool,
    layout: Layout,
    output: Output,
    dead_letters: Option<DeadLetters>,
    progress: Option<Progress>,
    window: Window,
    responses: u64,
    summary: Summary,
    metrics: Metrics,
}

impl Printer {
    fn run(mut self, mut reports: mpsc::Receiver<Report>) -> io::Result<Summary> {
        let mut batch = Vec::with_capacity(REPORTS_AHEAD);
        while reports.blocking_recv_many(&mut batch, REPORTS_AHEAD) > 0 {
            self.layout = self.layout.refreshed();
            for report in batch.drain(..) {
                self.take(report);
            }
            self.flush();
        }
        if let Some(progress) = &self.progress {
            progress.bar.finish_and_clear();
        }
        self.output.error.map_or(Ok(self.summary), Err)
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Attempt(attempt) => self.take_attempt(&attempt),
            Report::GivenUp(event) => {
                self.summary.undelivered += 1;
                self.metrics.settled(Fate::Undelivered);
                self.keep(&event);
            }
            Report::Invalid(problem) => {
                self.summary.rejected += 1;
                self.metrics.settled(Fate::Rejected);
                warn!("not an event: {problem} of standard input");
            }
        }
    }

    fn take_attempt(&mut self, attempt: &Attempt) {
        self.responses += 1;
        self.metrics.record(attempt);
        self.window.record(attempt.fate == Some(Fate::Delivered));
        self.measure(attempt);
        if !self.quiet {
            let line = match self.format {
                ReportFormat::Text => self.layout.line(attempt, &self.window, self.responses),
                ReportFormat::Json => json_line(attempt, &self.window, self.responses),
            };
            self.output.write(|stdout| writeln!(stdout, "{line}"));
        }
        if matches!(attempt.fate, Some(Fate::Rejected | Fate::Undelivered)) {
            self.keep(&attempt.event);
        }
    }

    fn measure(&mut self, attempt: &Attempt) {
        let summary = &mut self.summary;
        if attempt.retry == 0 {
            summary.sent += 1;
            summary.jitter.record(attempt.jitter);
        } else {
            summary.retries += 1;
        }
        if attempt.status.is_ok() {
            summary.latency.record(attempt.latency);
        }
        let Some(fate) = attempt.fate else { return };
        if attempt.status.is_ok() {
            summary.latency_from_schedule.record(attempt.latency_from_schedule);
        }
        match fate {
            Fate::Delivered => summary.delivered += 1,
            Fate::Rejected => summary.rejected += 1,
            Fate::Undelivered => summary.undelivered += 1,
        }
    }

    /// Keeps an event that was not delivered: on standard error where its file takes it no more.
    fn keep(&mut self, event: &Outgoing) {
        let Some(file) = &mut self.dead_letters else { return };
        let Err(error) = file.keep(event) else { return };
        warn!("cannot write dead letters to `{}`, and prints them here: {error}", file.path().display());
        let line = printable_json(&event.in_one_line()) + "\n";
        // Where nobody reads that either, the exit status says that something is missing.
        let print = || drop(io::stderr().write_all(line.as_bytes()));
        match &self.progress {
            Some(progress) => progress.bar.suspend(print),
            None => print(),
        }
    }

    fn flush(&mut self) {
        let Some(progress) = &self.progress else { return self.output.write(Write::flush) };
        let done = self.summary.delivered + self.summary.rejected + self.summary.undelivered;
        let elapsed = u64::try_from(progress.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        progress.bar.set_position(if progress.counts_events { done } else { elapsed });
        progress.bar.suspend(|| self.output.write(Write::flush));
    }
}

fn write_summary(output: &mut impl Write, summary: &Summary) -> io::Result<()> {
    writeln!(
        output,
        "sent={} | delivered={} | rejected={} | undelivered={} | missed ticks={} | retries={}",
        summary.sent,
        summary.delivered,
        summary.rejected,
        summary.undelivered,
        summary.missed_ticks,
        summary.retries
    )?;
    writeln!(output, "{:<24}{:>12}{:>12}{:>12}{:>12}", "milliseconds", "p50", "p90", "p99", "max")?;
    for (name, distribution) in [
        ("jitter", &summary.jitter),
        ("latency", &summary.latency),
        ("latency from schedule", &summary.latency_from_schedule),
    ] {
        let [p50, p90, p99, max] = distribution.quartet().map(milliseconds);
        writeln!(output, "{name:<24}{p50:>12.3}{p90:>12.3}{p99:>12.3}{max:>12.3}")?;
    }
    Ok(())
}
