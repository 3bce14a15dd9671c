//! A forward as `--forward` names it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use url::Url;

use crate::client::{Reach, RequestSettings};
use crate::core::glob::Glob;
use crate::core::name::{self, is_name};
use crate::core::text::hex;
use crate::store::subscriptions::Order;

const EXPECTED: &str =
    "expected a URL such as `https://hub.example.com/event`, or in the config file an object with `to`";

/// Where events are sent, and which. `Debug` does not show the URL, which is a secret.
pub struct ForwardSettings {
    /// The name of its subscription.
    pub name: String,
    pub url: Url,
    /// `None` for events of all types.
    pub event_type: Option<Glob>,
    pub order: Order,
    /// Whether it goes on after an event that the receiver refuses, in strict order.
    pub skips_parked: bool,
    pub format: ForwardFormat,
    /// Events a second at most.
    pub rate: Option<u32>,
    /// Signs each request by Standard Webhooks.
    pub secret_file: Option<PathBuf>,
    /// A bearer token for the receiver.
    pub token_file: Option<PathBuf>,
    /// Method, headers and body, where they are not those of the format.
    pub request: RequestSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardFormat {
    /// Type and payload, as `POST /event` takes them.
    Event,
    CloudEvents,
}

/// The forwards of an argument, or of a variable with several, separated by spaces.
#[derive(Debug, Clone)]
pub struct ForwardList(pub Vec<Arc<ForwardSettings>>);

/// What all forwards have in common.
#[derive(Debug)]
pub struct ForwardsSettings {
    pub list: ForwardList,
    pub reach: Reach,
    /// CA certificates to trust besides the public ones.
    pub ca_file: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ForwardObject {
    to: String,
    name: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    order: Option<String>,
    on_parked: Option<String>,
    format: Option<ForwardFormat>,
    rate: Option<String>,
    secret_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    #[serde(default)]
    secret_files: BTreeMap<String, PathBuf>,
}

impl FromStr for ForwardList {
    type Err = String;

    /// Errors do not repeat the URL.
    fn from_str(text: &str) -> Result<ForwardList, String> {
        let objects = match text.starts_with('{') {
            true => {
                let object = serde_json::from_str(text).map_err(|_| {
                    format!(
                        "{EXPECTED}, and of `type`, `order`, `on-parked`, `format`, `rate`, `secret-file`, `token-file`, \
                         `method`, `headers`, `body`, `secret-files` and `name`"
                    )
                })?;
                vec![object]
            }
            false => text.split_whitespace().map(ForwardObject::to).collect(),
        };
        if objects.is_empty() {
            return Err(EXPECTED.to_owned());
        }
        let forwards = objects.into_iter().map(|object| ForwardSettings::of(object).map(Arc::new));
        forwards.collect::<Result<_, _>>().map(ForwardList)
    }
}

impl ForwardObject {
    fn to(url: &str) -> ForwardObject {
        ForwardObject { to: url.to_owned(), ..ForwardObject::default() }
    }
}

impl ForwardSettings {
    fn of(object: ForwardObject) -> Result<ForwardSettings, String> {
        let url: Url = object.to.parse().map_err(|_| EXPECTED.to_owned())?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(EXPECTED.to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("expected a URL without a name and a password: give `token-file`".to_owned());
        }
        let name = match object.name {
            Some(name) if is_name(&name) => name,
            Some(_) => return Err(name::EXPECTED.to_owned()),
            None => name_of(&url),
        };
        let order = match object.order.as_deref() {
            None | Some("strict") => Order::Strict,
            Some("parallel") => Order::Parallel,
            Some(_) => return Err("expected the order strict or parallel".to_owned()),
        };
        let skips_parked = match object.on_parked.as_deref() {
            None | Some("skip") => true,
            Some("stop") => false,
            Some(_) => return Err("expected `on-parked` skip or stop".to_owned()),
        };
        let rate = object.rate.map(|rate| rate.parse().ok().filter(|rate| *rate > 0));
        let rate =
            rate.map(|rate| rate.ok_or("expected a `rate` of 1 event a second or more")).transpose()?;
        Ok(ForwardSettings {
            name,
            url,
            event_type: object.event_type.as_deref().map(str::parse).transpose()?,
            order,
            skips_parked,
            format: object.format.unwrap_or(ForwardFormat::Event),
            rate,
            secret_file: object.secret_file,
            token_file: object.token_file,
            request: RequestSettings::new(
                object.method.as_deref(),
                object.headers,
                object.body,
                object.secret_files,
            )?,
        })
    }
}

/// The host, and a mark of the whole URL: the same URL has the same name, and it shows nothing secret.
fn name_of(url: &Url) -> String {
    let host: String =
        url.host_str().unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(40).collect();
    format!("forward-{host}-{}", hex(&Sha256::digest(url.as_str())[..4]))
}

impl fmt::Debug for ForwardSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_a_url_or_an_object_and_shows_no_secret() {
        let list: ForwardList = "https://hub.example/s3cret http://other/".parse().unwrap();
        assert_eq!(list.0.len(), 2);
        assert!(list.0[0].name.starts_with("forward-hubexample-"), "{list:?}");
        assert!(!format!("{list:?}").contains("s3cret"));
        let object = r#"{"to":"https://h/","type":"a*","order":"parallel","rate":"5","format":"cloudevents","name":"hub"}"#;
        let list: ForwardList = object.parse().unwrap();
        let forward = &list.0[0];
        assert_eq!((forward.name.as_str(), forward.order, forward.rate), ("hub", Order::Parallel, Some(5)));
        for wrong in [
            "",
            "s3cret",
            "ftp://s3cret/",
            "https://a:s3cret@h/",
            r#"{"to":"https://h/","order":"s3cret"}"#,
            r#"{"to":"https://h/","rate":"0"}"#,
            r#"{"to":"https://h/","name":"a b"}"#,
            r#"{"url":"https://s3cret/"}"#,
        ] {
            let error = wrong.parse::<ForwardList>().unwrap_err();
            assert!(error.contains("expected") && !error.contains("s3cret"), "{error}");
        }
    }
}
