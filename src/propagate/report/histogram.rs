//! The distributions of a run in HdrHistogram's log format, for its tools to plot and to merge.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::core::measurement::Summary;
use crate::error::Hint;

/// Values are in nanoseconds; the largest of each interval is shown in milliseconds.
const SHOWN_DIVISOR: f64 = 1e6;

/// Writes an interval for each distribution, tagged with its name: values in nanoseconds.
///
/// # Errors
/// The file cannot be written.
pub fn write_histogram(path: &Path, summary: &Summary, begun_at: SystemTime) -> anyhow::Result<()> {
    let write = || -> anyhow::Result<()> {
        let mut output = BufWriter::new(File::create(path)?);
        let mut serializer = V2DeflateSerializer::new();
        let lasted = begun_at.elapsed().unwrap_or_default();
        let start = begun_at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut builder = IntervalLogWriterBuilder::new();
        builder.add_comment(concat!("eventctl ", env!("CARGO_PKG_VERSION"), " propagate, in nanoseconds"));
        builder.with_start_time(begun_at).with_max_value_divisor(SHOWN_DIVISOR);
        let mut log = builder.begin_log_with(&mut output, &mut serializer)?;
        for (name, distribution) in [
            ("jitter", &summary.jitter),
            ("latency", &summary.latency),
            ("schedule", &summary.latency_from_schedule),
        ] {
            let tag = Tag::new(name).context("a tag holds no comma or space")?;
            log.write_histogram(distribution.histogram(), start, lasted, Some(tag))
                .map_err(|error| anyhow!("{error:?}"))?;
        }
        Ok(output.flush()?)
    };
    write()
        .with_context(|| format!("cannot write histograms to `{}`", path.display()))
        .hint("name a file that you may write to with --histogram")
}
