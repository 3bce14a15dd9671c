//! `tail --stats`: counts by type, with bars, and a line of how they came over time.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::core::text::{padded, printable, width_of};
use crate::core::timestamp::Timestamp;
use crate::store::statistics::Statistics;

/// The width of the longest bar, in characters.
const BAR_WIDTH: i64 = 30;

/// The maximum width of the column of types, in characters.
const TYPE_WIDTH: usize = 32;

/// Eighths of a character, from empty to full, for horizontal bars and for vertical ones.
const LYING: [&str; 9] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"];
const STANDING: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub fn print_text(output: &mut impl Write, statistics: &Statistics) -> io::Result<()> {
    let Some((first, last)) = ends_of(statistics) else { return writeln!(output, "no events") };
    let total = total_of(statistics);
    let types = statistics.types.len();
    writeln!(output, "{total} events of {types} types from {first} to {last}{}", rate_of(statistics))?;
    let name = |text: &str| printable(text).chars().take(TYPE_WIDTH).collect::<String>();
    let width = statistics.types.iter().map(|kind| width_of(&name(&kind.event_type))).max().unwrap_or(0);
    let most = statistics.types.iter().map(|kind| kind.count).max().unwrap_or(1);
    let digits = most.to_string().len();
    for kind in &statistics.types {
        let percent = kind.count as f64 * 100.0 / total as f64;
        let (name, bar) = (name(&kind.event_type), bar_of(kind.count, most));
        writeln!(output, "{} {:>digits$} {percent:>5.1} % {bar}", padded(&name, width), kind.count)?;
    }
    let length = humantime::format_duration(std::time::Duration::from_millis(
        u64::try_from(statistics.part_microseconds / 1000).unwrap_or_default().max(1),
    ));
    writeln!(output, "{} (each {length})", line_of(&statistics.counts))
}

pub fn to_json(statistics: &Statistics) -> Value {
    let (first, last) = ends_of(statistics).unzip();
    json!({
        "events": total_of(statistics),
        "first": first,
        "last": last,
        "per_second": per_second(statistics),
        "types": statistics.types,
        "over_time": {
            "started_at": statistics.started_at,
            "part_seconds": statistics.part_microseconds as f64 / 1e6,
            "counts": statistics.counts,
        },
    })
}

fn total_of(statistics: &Statistics) -> i64 {
    statistics.types.iter().map(|kind| kind.count).sum()
}

fn ends_of(statistics: &Statistics) -> Option<(Timestamp, Timestamp)> {
    let first = statistics.types.iter().map(|kind| kind.first).min()?;
    let last = statistics.types.iter().map(|kind| kind.last).max()?;
    Some((first, last))
}

/// Events a second between the first and the last; `None` if they have the same time.
fn per_second(statistics: &Statistics) -> Option<f64> {
    let (first, last) = ends_of(statistics)?;
    let seconds = last.since(first).as_secs_f64();
    (seconds > 0.0).then(|| (total_of(statistics) - 1) as f64 / seconds)
}

fn rate_of(statistics: &Statistics) -> String {
    per_second(statistics).map_or_else(String::new, |rate| format!(", {rate:.3} a second"))
}

fn bar_of(count: i64, most: i64) -> String {
    let eighths = (count * BAR_WIDTH * 8 / most.max(1)).max(1);
    let (whole, rest) = (eighths / 8, eighths % 8);
    "█".repeat(whole as usize) + LYING[rest as usize]
}

/// One character for each interval, as high as its count.
fn line_of(counts: &[i64]) -> String {
    let most = counts.iter().copied().max().unwrap_or_default().max(1);
    // A count above zero is visible.
    let height = |count: &i64| (count * 8 + most - 1) / most;
    counts.iter().map(|count| STANDING[height(count) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_lines_are_in_proportion() {
        assert_eq!(bar_of(80, 80), "█".repeat(30));
        assert_eq!(bar_of(40, 80), "█".repeat(15));
        assert_eq!(bar_of(1, 1_000_000), "▏");
        assert_eq!(line_of(&[0, 1, 50, 100]), " ▁▄█");
    }
}
