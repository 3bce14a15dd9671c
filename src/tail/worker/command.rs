//! The command that works on events.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::claims::ClaimedEvent;

/// `EX_TEMPFAIL` of sysexits.h: another try may succeed.
const TEMPORARY_FAILURE: i32 = 75;

/// What became of events.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// To be tried again; the attempt does not count.
    Again,
    Failed(String),
    /// The command was not run.
    NotRun,
}

/// Runs a command of the shell with one event, its payload on standard input and the rest in the environment; or with
/// several as NDJSON. It is in a process group of its own: what a terminal sends to stop us does not stop it.
pub async fn run_command(command: &str, events: &[ClaimedEvent], as_lines: bool) -> Outcome {
    let mut process = Command::new("sh");
    process.args(["-c", command]).stdin(Stdio::piped()).process_group(0);
    let input = match events {
        [one] if !as_lines => {
            process
                .env("EVENT_ID", one.event.id.to_string())
                .env("EVENT_TYPE", &one.event.event_type)
                .env("EVENT_RECEIVED_AT", one.event.received_at.to_string())
                .env("EVENT_ATTEMPT", one.attempts.to_string());
            one.event.event_payload.clone().into_bytes()
        }
        several => {
            let mut lines = Vec::new();
            for claimed in several {
                claimed.event.write_json(&mut lines);
                lines.push(b'\n');
            }
            lines
        }
    };
    let mut child = match process.spawn() {
        Ok(child) => child,
        Err(error) => return Outcome::Failed(format!("cannot run it: {error}")),
    };
    let stdin = child.stdin.take();
    let feeding = async {
        if let Some(mut stdin) = stdin {
            // A command need not read what it gets.
            let _ = stdin.write_all(&input).await;
        }
    };
    let (status, ()) = tokio::join!(child.wait(), feeding);
    match status.map(|status| (status.code(), status)) {
        Ok((Some(0), _)) => Outcome::Done,
        Ok((Some(TEMPORARY_FAILURE), _)) => Outcome::Again,
        Ok((_, status)) => Outcome::Failed(status.to_string()),
        Err(error) => Outcome::Failed(format!("cannot wait for it: {error}")),
    }
}
