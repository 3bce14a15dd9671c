//! The line for a response: for people, or as JSON.

use std::io;
use std::time::Duration;

use rustix::termios::tcgetwinsize;
use serde_json::json;

use super::super::attempt::{Attempt, Fate};
use crate::core::measurement::Window;
use crate::core::text::{padded, width_of};
use crate::core::timestamp::Timestamp;

/// The columns of the event type; longer ones move the rest.
const TYPE_WIDTH: usize = 16;

/// The indent of wrapped lines.
const INDENT: &str = "  ";

#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The columns of the terminal; none where the output is not a terminal, and lines are not wrapped.
    pub width: Option<usize>,
    /// Whether responses that are not 2xx are coloured.
    pub color: bool,
}

impl Layout {
    /// The same layout at the terminal's current size.
    pub fn refreshed(self) -> Layout {
        let width = self.width.map(|_| terminal_width());
        Layout { width, ..self }
    }

    /// The line of the `total`-th response.
    pub fn line(self, attempt: &Attempt, window: &Window, total: u64) -> String {
        let status = attempt.status.as_ref().map_or("---".to_owned(), u16::to_string);
        let head = format!(
            "{} {} {:>9.1} ms",
            Timestamp::now(),
            padded(&attempt.dispatch.event.event_type, TYPE_WIDTH),
            milliseconds(attempt.latency),
        );
        let mut parts = vec![
            format!("jitter={:>5.1} ms", milliseconds(attempt.jitter)),
            format!("status={status}"),
            format!("fail={:>5.1}%", window.failure_percent()),
            format!("win={}/{}", window.good(), window.size()),
            format!("total={total}"),
        ];
        if attempt.retry > 0 {
            parts.push(format!("retry={}", attempt.retry));
        }
        if attempt.fate != Some(Fate::Delivered) {
            parts.push(match attempt.failure() {
                Some(reason) => format!("{}: {reason}", outcome_of(attempt)),
                None => outcome_of(attempt).to_owned(),
            });
        }
        let text = self.wrapped(&head, &parts);
        match attempt.fate {
            Some(Fate::Rejected | Fate::Undelivered) if self.color => format!("\x1b[31m{text}\x1b[0m"),
            None if self.color => format!("\x1b[33m{text}\x1b[0m"),
            _ => text,
        }
    }

    /// One line if it fits; else the head, and below it the parts, as many to a line as fit.
    fn wrapped(self, head: &str, parts: &[String]) -> String {
        let whole = format!("{head} | {}", parts.join(" | "));
        let Some(width) = self.width.filter(|width| *width < width_of(&whole)) else { return whole };
        let mut lines = vec![head.to_owned()];
        let mut line = INDENT.to_owned();
        for part in parts {
            let separator = if line == INDENT { "" } else { " | " };
            let joined = format!("{line}{separator}{part}");
            if width_of(&joined) <= width || line == INDENT {
                line = joined;
            } else {
                lines.push(line);
                line = format!("{INDENT}{part}");
            }
        }
        lines.push(line);
        lines.iter().flat_map(|line| broken(line, width)).collect::<Vec<_>>().join("\n")
    }
}

/// The line in pieces of at most `width` columns.
fn broken(line: &str, width: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for character in line.chars() {
        let piece = pieces.last().map_or(0, |piece| width_of(piece));
        if piece > INDENT.len() && piece + width_of(character.encode_utf8(&mut [0; 4])) > width {
            pieces.push(INDENT.to_owned());
        }
        pieces.last_mut().expect("there is always one").push(character);
    }
    pieces
}

/// The columns of the terminal on standard output.
pub fn terminal_width() -> usize {
    let columns = tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_col);
    // Some terminals do not report their size: assume the usual one.
    if columns == 0 { 80 } else { usize::from(columns) }
}

fn outcome_of(attempt: &Attempt) -> &'static str {
    match attempt.fate {
        Some(Fate::Delivered) => "delivered",
        Some(Fate::Rejected) => "rejected",
        Some(Fate::Undelivered) => "undelivered",
        None => "retrying",
    }
}

pub fn json_line(attempt: &Attempt, window: &Window, total: u64) -> String {
    json!({
        "time": Timestamp::now(),
        "event_type": attempt.dispatch.event.event_type,
        "latency_ms": milliseconds(attempt.latency),
        "jitter_ms": milliseconds(attempt.jitter),
        "status": attempt.status.as_ref().ok(),
        "error": attempt.status.as_ref().err(),
        "reason": attempt.reason,
        "outcome": outcome_of(attempt),
        "retry": attempt.retry,
        "fail_percent": window.failure_percent(),
        "window": {"good": window.good(), "size": window.size()},
        "total": total,
    })
    .to_string()
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|part| (*part).to_owned()).collect()
    }

    #[test]
    fn a_line_is_wrapped_where_it_does_not_fit_and_only_there() {
        let wrapped = |width, of: &[&str]| Layout { width, color: false }.wrapped("head", &parts(of));
        assert_eq!(wrapped(None, &["a", "b"]), "head | a | b");
        assert_eq!(wrapped(Some(12), &["a", "b"]), "head | a | b");
        assert_eq!(wrapped(Some(11), &["a", "b"]), "head\n  a | b");
        assert_eq!(wrapped(Some(7), &["a", "b", "c"]), "head\n  a | b\n  c");
        assert_eq!(wrapped(Some(8), &["a", "a long one"]), "head\n  a\n  a long\n   one");
        assert_eq!(wrapped(Some(6), &["消息消息"]), "head\n  消息\n  消息");
    }
}
