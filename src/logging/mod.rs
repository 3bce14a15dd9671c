//! The log on standard error: text on a terminal, JSON elsewhere.
//!
//! Only this program's own events are logged. Those of its dependencies may contain anything that clients send.
//! `tracing-subscriber`'s own formatter does not escape control characters.

mod line;
mod queue;

use std::env;
use std::io::{self, IsTerminal};
use std::panic;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber, enabled, error};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};

pub use self::line::{LogFormat, allows_color};
use self::line::{OWN, Style};
use self::queue::LineQueue;
pub use self::queue::write_within;

/// How long the program waits for its last lines to be written.
const FLUSH_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct LogSettings {
    pub format: LogFormat,
    pub levels: LogLevels,
}

/// The lowest level to log, for the whole program and for single modules.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLevels(Targets);

impl LogLevels {
    pub fn all(level: LevelFilter) -> LogLevels {
        LogLevels(Targets::new().with_target(OWN, level))
    }
}

/// Parses the directives of `RUST_LOG`: `debug`, `eventctl::store=debug`, or several with commas between.
///
/// The default is `info`. Modules of other crates are ignored.
impl FromStr for LogLevels {
    type Err = String;

    fn from_str(text: &str) -> Result<LogLevels, String> {
        const EXPECTED: &str = "expected a level, off, error, warn, info, debug or trace, \
            or levels of modules such as `warn,eventctl::store=debug`";
        let is_own = |target: &str| target == OWN || target.starts_with("eventctl::");
        let mut default = LevelFilter::INFO;
        let mut modules = Vec::new();
        for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            let level_of = |name: &str| name.parse().ok().filter(|_| !name.is_empty()).ok_or(EXPECTED);
            match directive.split_once('=') {
                Some((target, level)) => modules.push((target.trim(), level_of(level.trim())?)),
                None if is_own(directive) => modules.push((directive, LevelFilter::TRACE)),
                None => default = level_of(directive)?,
            }
        }
        let own = modules.into_iter().filter(|(target, _)| is_own(target));
        Ok(LogLevels(Targets::new().with_target(OWN, default).with_targets(own)))
    }
}

/// The log of the program. Dropping it writes the last lines.
#[must_use]
pub struct Log(Arc<LineQueue>);

/// Call once in a process.
pub fn start(settings: &LogSettings) -> anyhow::Result<Log> {
    let style = Style::new(settings.format, io::stderr().is_terminal());
    let queue = LineQueue::start(style)?;
    let lines = LineLayer { style, queue: Arc::clone(&queue) };
    let subscriber = tracing_subscriber::registry().with(settings.levels.0.clone()).with(lines);
    tracing::subscriber::set_global_default(subscriber)?;
    let print_panic = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        // Rust's own hook prints the backtrace, if one is wanted.
        if enabled!(Level::ERROR) && env::var_os("RUST_BACKTRACE").is_none() {
            error!("{panic}");
        } else {
            print_panic(panic);
        }
    }));
    Ok(Log(queue))
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush(FLUSH_TIME);
    }
}

struct LineLayer {
    style: Style,
    queue: Arc<LineQueue>,
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.queue.push(&self.style.line_of(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(text: &str) -> LogLevels {
        text.parse().unwrap()
    }

    #[test]
    fn levels_are_of_the_program_or_of_modules() {
        let store = |text: &str, level| levels(text).0.would_enable("eventctl::store::writer", &level);
        let consume = |text: &str, level| levels(text).0.would_enable("eventctl::consume", &level);
        for text in ["", " ", ",", "info", "INFO", "3", "sqlx=trace", "h2=trace,eventctl::tail=off"] {
            assert!(consume(text, Level::INFO) && !consume(text, Level::DEBUG), "{text}");
        }
        assert!(
            store("eventctl::store=debug", Level::DEBUG) && !consume("eventctl::store=debug", Level::DEBUG)
        );
        assert!(store("warn, eventctl::store=trace", Level::TRACE));
        assert!(!consume("warn, eventctl::store=trace", Level::INFO));
        assert!(
            consume("off,eventctl::consume", Level::TRACE) && !store("off,eventctl::consume", Level::ERROR)
        );
        assert!(!consume("off", Level::ERROR));
    }

    #[test]
    fn dependencies_are_never_logged() {
        for text in ["trace", "h2=trace", "hyper", "eventctl=trace,h2=trace", "trace,eventctlx=trace"] {
            let Ok(levels) = text.parse::<LogLevels>() else { continue };
            for target in ["h2", "h2::proto", "hyper_util::client", "mysql", "rustls", ""] {
                assert!(!levels.0.would_enable(target, &Level::ERROR), "{text} {target}");
            }
        }
    }

    #[test]
    fn a_directive_without_level_or_module_is_refused() {
        for wrong in
            ["verbose", "hyper", "info;debug", "eventctl=loud", "eventctl=", "eventctl::store=-1", "6"]
        {
            let message = wrong.parse::<LogLevels>().unwrap_err();
            assert!(message.starts_with("expected a level"), "{wrong}: {message}");
        }
    }
}
