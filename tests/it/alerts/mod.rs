//! Alerts: which events are sent where and how, and neither too rarely nor too often.

mod addresses;
mod channels;
mod crashes;
mod health_alert;
mod limits;
mod mail;
mod outcomes;
mod presets;
mod rules;
mod safety;
mod shown;
mod templates;

pub mod hooks;

use std::path::Path;

use crate::util::http::{Connection, Response};
use crate::util::{assert_eventctl, wait_until};

/// A delivery as `tail --alerts -o json` shows it.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    pub event_id: i64,
    pub event_type: Option<String>,
    pub channel: String,
    pub state: String,
    pub attempts: i64,
    pub created_at: String,
    pub due_at: Option<String>,
    pub settled_at: Option<String>,
    pub repeats: Option<i64>,
    pub last_error: Option<String>,
}

/// All deliveries of the store in a directory, in the order of their events.
pub fn deliveries(directory: &Path) -> Vec<Delivery> {
    let mut command = assert_eventctl(directory);
    let assert = command.args(["tail", "--alerts", "-n", "all", "-o", "json"]).assert().code(0).stderr("");
    let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until all deliveries are as a test wants them.
pub fn wait_for_deliveries(directory: &Path, wanted: impl Fn(&[Delivery]) -> bool) -> Vec<Delivery> {
    wait_until(|| Some(deliveries(directory)).filter(|deliveries| wanted(deliveries)))
}

/// Posts a health alert with one issue.
pub fn post_alert(connection: &mut Connection, issue: &str) -> Response {
    let body = serde_json::json!({"issues": [issue]}).to_string();
    connection.request(
        "POST",
        "/api/v1/health-alert",
        &[("Content-Type", "application/json")],
        body.as_bytes(),
    )
}
