//! What happened to the events, as it happens and in the end.
//!
//! A thread of its own prints, so that a slow terminal or pipe does not hold up the schedule.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::warn;

use super::metrics::Metrics;
use super::source::Outgoing;
use crate::cli::{PropagateOptions, ReportFormat};
use crate::core::hint::Hint;
use crate::core::metrics::{Summary, Window};
use crate::core::timestamp::Timestamp;
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
    /// How many sends of the event came before this one.
    pub retry: u32,
    /// What became of the event; none if it is sent again.
    pub fate: Option<Fate>,
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
    /// Starts the thread; it ends when all senders of reports are gone, or standard output is.
    ///
    /// # Errors
    /// The dead-letter file cannot be written.
    pub fn start(
        options: &PropagateOptions,
        metrics: Metrics,
    ) -> anyhow::Result<(mpsc::Sender<Report>, Reporter)> {
        let dead_letters = options.dead_letter.as_deref().map(open_dead_letters).transpose()?;
        let (tx, rx) = mpsc::channel(REPORTS_AHEAD);
        let printer = Printer {
            format: options.output,
            quiet: options.quiet,
            output: BufWriter::new(io::stdout()),
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
        Ok((tx, Reporter { thread }))
    }

    /// Waits for the last report to be printed, then prints the summary.
    ///
    /// # Errors
    /// Standard output or the dead-letter file cannot be written.
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

fn open_dead_letters(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write dead letters to `{}`", path.display()))
        .hint("name a file that you may write to with --dead-letter")
}

/// A bar on the terminal, where there is one and the end of the run is known.
fn progress_of(options: &PropagateOptions) -> Option<Progress> {
    if !io::stderr().is_terminal() {
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

struct Printer {
    format: ReportFormat,
    quiet: bool,
    output: BufWriter<io::Stdout>,
    dead_letters: Option<File>,
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
            for report in batch.drain(..) {
                self.take(report)?;
            }
            self.flush()?;
        }
        if let Some(progress) = &self.progress {
            progress.bar.finish_and_clear();
        }
        Ok(self.summary)
    }

    fn take(&mut self, report: Report) -> io::Result<()> {
        match report {
            Report::Attempt(attempt) => self.take_attempt(&attempt),
            Report::GivenUp(event) => {
                self.summary.undelivered += 1;
                self.metrics.settled(Fate::Undelivered);
                self.bury(&event)
            }
            Report::Invalid(problem) => {
                self.summary.rejected += 1;
                self.metrics.settled(Fate::Rejected);
                warn!("not an event: {problem} of standard input");
                Ok(())
            }
        }
    }

    fn take_attempt(&mut self, attempt: &Attempt) -> io::Result<()> {
        self.responses += 1;
        self.metrics.record(attempt);
        self.window.record(attempt.fate == Some(Fate::Delivered));
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
        if !self.quiet {
            let line = match self.format {
                ReportFormat::Text => self.text_line(attempt),
                ReportFormat::Json => self.json_line(attempt),
            };
            writeln!(self.output, "{line}")?;
        }
        let Some(fate) = attempt.fate else { return Ok(()) };
        self.summary.latency_from_schedule.record(attempt.latency_from_schedule);
        match fate {
            Fate::Delivered => self.summary.delivered += 1,
            Fate::Rejected => self.summary.rejected += 1,
            Fate::Undelivered => self.summary.undelivered += 1,
        }
        if fate == Fate::Delivered { Ok(()) } else { self.bury(&attempt.event) }
    }

    fn text_line(&self, attempt: &Attempt) -> String {
        let status = attempt.status.as_ref().map_or("---".to_owned(), u16::to_string);
        let mut line = format!(
            "{} {:<16} {:>9.1} ms | jitter={:>5.1} ms | status={status} | fail={:>5.1}% | win={}/{} | total={}",
            Timestamp::now(),
            attempt.event.event_type,
            milliseconds(attempt.latency),
            milliseconds(attempt.jitter),
            self.window.failure_percent(),
            self.window.good(),
            self.window.size(),
            self.responses,
        );
        if attempt.retry > 0 {
            line += &format!(" | retry={}", attempt.retry);
        }
        if let Err(error) = &attempt.status {
            line += &format!(" | error={error}");
        }
        line
    }

    fn json_line(&self, attempt: &Attempt) -> String {
        let outcome = match attempt.fate {
            Some(Fate::Delivered) => "delivered",
            Some(Fate::Rejected) => "rejected",
            Some(Fate::Undelivered) => "undelivered",
            None => "retrying",
        };
        json!({
            "time": Timestamp::now(),
            "event_type": attempt.event.event_type,
            "latency_ms": milliseconds(attempt.latency),
            "jitter_ms": milliseconds(attempt.jitter),
            "status": attempt.status.as_ref().ok(),
            "error": attempt.status.as_ref().err(),
            "outcome": outcome,
            "retry": attempt.retry,
            "fail_percent": self.window.failure_percent(),
            "window": {"good": self.window.good(), "size": self.window.size()},
            "total": self.responses,
        })
        .to_string()
    }

    /// Keeps an event that was not delivered.
    fn bury(&mut self, event: &Outgoing) -> io::Result<()> {
        let Some(file) = &mut self.dead_letters else { return Ok(()) };
        file.write_all(format!("{}\n", event.in_one_line()).as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(progress) = &self.progress else { return self.output.flush() };
        let done = self.summary.delivered + self.summary.rejected + self.summary.undelivered;
        let elapsed = u64::try_from(progress.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        progress.bar.set_position(if progress.counts_events { done } else { elapsed });
        progress.bar.suspend(|| self.output.flush())
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

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
