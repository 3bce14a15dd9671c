//! A channel as an object of the config file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

const EXPECTED: &str =
    "expected a channel of `to`, and `preset`, `name`, `method`, `headers`, `body`, `secret-files`";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ChannelObject {
    pub to: String,
    pub preset: Option<String>,
    pub name: Option<String>,
    pub method: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    pub body: Option<String>,
    #[serde(default)]
    pub secret_files: BTreeMap<String, PathBuf>,
}

impl FromStr for ChannelObject {
    type Err = String;

    /// The library's message could contain a URL, which is a secret.
    fn from_str(text: &str) -> Result<ChannelObject, String> {
        serde_json::from_str(text).map_err(|_| EXPECTED.to_owned())
    }
}
