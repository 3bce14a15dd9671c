//! The options of the log.

use clap::{ArgAction, Args};
use tracing::level_filters::LevelFilter;

use super::values::parse_switch;
use crate::logging::{LogFormat, LogLevels, LogSettings};

#[derive(Debug, Args)]
pub struct LogOptions {
    /// Format of the log on standard error; auto is text on a terminal, JSON lines
    /// elsewhere
    #[arg(long, value_enum, default_value_t = LogFormat::Auto, value_name = "FORMAT")]
    log_format: LogFormat,

    /// What to log: a level from error to trace, or levels of modules, such as
    /// warn,eventctl::store=debug
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "LEVELS")]
    log_level: LogLevels,

    /// Log every request (-vv: everything). Overrides --log-level
    #[arg(short, long, action = ArgAction::Count, value_parser = parse_verbosity)]
    verbose: u8,
}

impl LogOptions {
    /// Each -v raises the level, and -q lowers it.
    pub(super) fn settings(&self, quiet: bool) -> LogSettings {
        let levels = match (self.verbose, quiet) {
            (0, false) => self.log_level.clone(),
            (0, true) => LogLevels::all(LevelFilter::WARN),
            (1, true) => LogLevels::all(LevelFilter::INFO),
            (1, false) | (2, true) => LogLevels::all(LevelFilter::DEBUG),
            _ => LogLevels::all(LevelFilter::TRACE),
        };
        LogSettings { format: self.log_format, levels }
    }
}

/// The number of -v; yes is 1.
fn parse_verbosity(text: &str) -> Result<u8, String> {
    let count = text.parse().ok().or_else(|| parse_switch(text).ok().map(u8::from));
    count.ok_or_else(|| "expected the number of -v, such as 1".to_owned())
}
