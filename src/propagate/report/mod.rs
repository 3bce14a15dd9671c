//! Prints a line for every response, and the summary.
//!
//! A thread prints, so that a slow terminal or pipe does not delay the schedule.

mod histogram;
mod lines;
mod verdict;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

pub use self::histogram::write_histogram;
use self::lines::{Layout, json_line, milliseconds, terminal_width};
pub use self::verdict::{judge, write_junit};
use super::attempt::{Attempt, Fate, Report};
use super::dispatch::Dispatch;
use super::journal::OutcomeLog;
use super::line_file::LineFile;
use super::metrics::Metrics;
use super::settings::{ReportFormat, Settings};
use crate::core::journal::Outcome;
use crate::core::measurement::{Summary, Window};
use crate::core::text::printable_json;
use crate::error::Hint;
use crate::logging::{allows_color, write_within};

/// The most reports that wait to be printed; beyond that, sending waits.
const REPORTS_AHEAD: usize = 1024;

pub struct Reporter {
    thread: JoinHandle<io::Result<Summary>>,
    output_closed: oneshot::Receiver<()>,
}

impl Reporter {
    /// Starts the thread, which ends when every sender of reports is dropped.
    pub fn start(
        settings: &Settings,
        metrics: Metrics,
        outcomes: Option<OutcomeLog>,
    ) -> anyhow::Result<(Reporter, mpsc::Sender<Report>)> {
        let dead_letters = settings.dead_letter.as_deref().map(open_dead_letters).transpose()?;
        let (tx, rx) = mpsc::channel(REPORTS_AHEAD);
        let (tell_closed, output_closed) = oneshot::channel();
        let on_terminal = io::stdout().is_terminal();
        let printer = Printer {
            format: settings.output,
            quiet: settings.quiet,
            layout: Layout { width: on_terminal.then(terminal_width), color: on_terminal && allows_color() },
            output: Output {
                stdout: BufWriter::new(io::stdout()),
                error: None,
                tell_closed: Some(tell_closed),
            },
            dead_letters,
            outcomes,
            progress: progress_of(settings),
            window: Window::default(),
            responses: 0,
            summary: Summary::default(),
            metrics,
        };
        let thread = thread::Builder::new()
            .name("report".to_owned())
            .spawn(|| printer.run(rx))
            .context("cannot start a thread to report")?;
        Ok((Reporter { thread, output_closed }, tx))
    }

    /// Returns when standard output cannot be written any more; call it once. Dead letters are still written.
    pub async fn output_closed(&mut self) {
        // An error means that the thread has stopped, and so has its output.
        let _ = (&mut self.output_closed).await;
    }

    /// Waits for the last report to be printed, then prints the summary.
    pub async fn finish(self, missed_ticks: u64, format: ReportFormat) -> io::Result<Summary> {
        let finishing = tokio::task::spawn_blocking(move || self.finish_blocking(missed_ticks, format));
        finishing.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn finish_blocking(self, missed_ticks: u64, format: ReportFormat) -> io::Result<Summary> {
        let printed = self.thread.join().map_err(|_| io::Error::other("the report thread has stopped"))?;
        let summary = Summary { missed_ticks, ..printed? };
        let mut output = io::stdout();
        match format {
            ReportFormat::Text => write_summary(&mut output, &summary)?,
            ReportFormat::Json => writeln!(output, "{}", json!({ "summary": summary }))?,
        }
        output.flush()?;
        Ok(summary)
    }
}

/// A progress bar, if standard error is a terminal and the end of the run is known.
fn progress_of(settings: &Settings) -> Option<Progress> {
    if settings.quiet || !io::stderr().is_terminal() {
        return None;
    }
    let (length, template) = match (settings.count, settings.duration) {
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
    Some(Progress { bar, counts_events: settings.count.is_some(), started: Instant::now() })
}

struct Progress {
    bar: ProgressBar,
    counts_events: bool,
    started: Instant,
}

/// Standard output, until a write fails.
struct Output {
    stdout: BufWriter<io::Stdout>,
    error: Option<io::Error>,
    tell_closed: Option<oneshot::Sender<()>>,
}

impl Output {
    fn write(&mut self, write: impl FnOnce(&mut BufWriter<io::Stdout>) -> io::Result<()>) {
        if self.error.is_some() {
            return;
        }
        if let Err(error) = write(&mut self.stdout) {
            self.error = Some(error);
            // Nobody listens any more once the run has ended by itself.
            self.tell_closed.take().map(|tell_closed| tell_closed.send(()));
        }
    }
}

struct Printer {
    format: ReportFormat,
    quiet: bool,
    layout: Layout,
    output: Output,
    dead_letters: Option<LineFile>,
    /// Where the journal learns what became of events.
    outcomes: Option<OutcomeLog>,
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
                self.handle(report);
            }
            self.outcomes.iter_mut().for_each(OutcomeLog::flush);
            self.flush();
        }
        if let Some(progress) = &self.progress {
            progress.bar.finish_and_clear();
        }
        self.output.error.map_or(Ok(self.summary), Err)
    }

    fn handle(&mut self, report: Report) {
        match report {
            Report::Attempt(attempt) => self.handle_attempt(&attempt),
            Report::Abandoned(Dispatch { event, key, .. }) => {
                self.summary.undelivered += 1;
                self.metrics.record_fate(Fate::Undelivered);
                self.write_dead_letter(event.in_envelope(&key, None, None));
            }
            Report::Invalid(problem) => {
                self.summary.rejected += 1;
                self.metrics.record_fate(Fate::Rejected);
                warn!("not an event: {problem} of standard input");
            }
        }
    }

    fn handle_attempt(&mut self, attempt: &Attempt) {
        self.responses += 1;
        self.metrics.record_attempt(attempt);
        self.window.record(attempt.fate == Some(Fate::Delivered));
        self.measure(attempt);
        if !self.quiet {
            let line = match self.format {
                ReportFormat::Text => self.layout.line(attempt, &self.window, self.responses),
                ReportFormat::Json => json_line(attempt, &self.window, self.responses),
            };
            self.output.write(|stdout| writeln!(stdout, "{line}"));
        }
        let status = attempt.status.as_ref().ok().copied();
        if let (Some(outcomes), Some(number)) = (&mut self.outcomes, attempt.dispatch.number) {
            match attempt.fate {
                Some(Fate::Delivered) => outcomes.note(number, Outcome::Delivered, status),
                Some(Fate::Rejected) => outcomes.note(number, Outcome::Rejected, status),
                Some(Fate::Undelivered) | None => {}
            }
        }
        if matches!(attempt.fate, Some(Fate::Rejected | Fate::Undelivered)) {
            let Dispatch { event, key, .. } = &attempt.dispatch;
            self.write_dead_letter(event.in_envelope(key, status, attempt.failure()));
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

    /// Appends the envelope of an event to the dead-letter file, or prints it on standard error if that fails.
    fn write_dead_letter(&mut self, envelope: String) {
        let Some(file) = &mut self.dead_letters else { return };
        let Err(error) = file.append(&format!("{envelope}\n")) else { return };
        warn!("cannot write dead letters to `{}`, and prints them here: {error}", file.path().display());
        let line = printable_json(&envelope) + "\n";
        // If nobody reads standard error either, the exit status still says that something is missing.
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

/// Makes sure that the files that are written in the end can be.
///
/// # Errors
/// One of them cannot.
pub fn check_files(settings: &Settings) -> anyhow::Result<()> {
    for (path, flag) in [(&settings.histogram, "--histogram"), (&settings.junit, "--junit")] {
        let Some(path) = path else { continue };
        let opened = File::options().append(true).create(true).open(path);
        opened
            .with_context(|| format!("cannot write to `{}`", path.display()))
            .hint(format!("name a file that you may write to with {flag}"))?;
    }
    Ok(())
}

/// # Errors
/// The file cannot be written.
fn open_dead_letters(path: &Path) -> anyhow::Result<LineFile> {
    LineFile::open(path)
        .with_context(|| format!("cannot write dead letters to `{}`", path.display()))
        .hint("name a file that you may write to with --dead-letter")
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
        let [p50, p90, p99, max] = distribution.percentiles().map(milliseconds);
        writeln!(output, "{name:<24}{p50:>12.3}{p90:>12.3}{p99:>12.3}{max:>12.3}")?;
    }
    Ok(())
}
