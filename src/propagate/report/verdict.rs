//! Whether a run has failed by its conditions, and the report of it for build servers.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;

use crate::core::measurement::Summary;
use crate::core::verdict::Condition;
use crate::error::Hint;

/// A condition, and what was measured, if it holds.
pub struct Judged<'a> {
    pub condition: &'a Condition,
    pub reason: Option<String>,
}

pub fn judge<'a>(conditions: &'a [Condition], summary: &Summary) -> Vec<Judged<'a>> {
    let judged = |condition: &'a Condition| Judged { condition, reason: condition.reason(summary) };
    conditions.iter().map(judged).collect()
}

/// Writes a test case for each condition, in JUnit's format.
///
/// # Errors
/// The file cannot be written.
pub fn write_junit(path: &Path, judged: &[Judged<'_>]) -> anyhow::Result<()> {
    let failures = judged.iter().filter(|judged| judged.reason.is_some()).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuite name=\"eventctl propagate\" tests=\"{}\" failures=\"{failures}\">\n",
        judged.len()
    );
    for Judged { condition, reason } in judged {
        let name = escaped(&format!("not {condition}"));
        text += &match reason {
            None => format!("  <testcase classname=\"eventctl.propagate\" name=\"{name}\"/>\n"),
            Some(reason) => format!(
                "  <testcase classname=\"eventctl.propagate\" name=\"{name}\">\n    \
                 <failure message=\"{}\"/>\n  </testcase>\n",
                escaped(&format!("{condition}: it is {reason}"))
            ),
        };
    }
    text += "</testsuite>\n";
    let written: io::Result<()> = fs::write(path, text);
    written
        .with_context(|| format!("cannot write the verdict to `{}`", path.display()))
        .hint("name a file that you may write to with --junit")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
