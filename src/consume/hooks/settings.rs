//! A hook as `--hook` names it.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderName;
use serde::Deserialize;

use crate::auth::signature::{Digest, Encoding, HmacScheme, RequestTemplate, Scheme};
use crate::core::duration::parse_duration_with_unit;
use crate::core::name::{self, is_name};

const EXPECTED: &str = "expected NAME=SCHEME:FILE, such as `github=github:secret`, or in the config file an object with \
    `name` and `verify`";

const SCHEMES: &str =
    "expected the scheme standard, github, stripe, slack, shopify, meta, hmac, bearer, basic or none";

/// How long the same signed body is the same delivery, where a scheme signs no name of it.
const SAME_BODY_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);

/// What `POST /hook/{name}` takes, and what becomes of it.
#[derive(Debug)]
pub struct HookSettings {
    pub name: String,
    pub scheme: Scheme,
    /// Any of them verifies; several while they are rotated.
    pub secret_files: Vec<PathBuf>,
    /// What Meta repeats when it asks whether the hook is ours.
    pub verify_token_file: Option<PathBuf>,
    /// `None` for the type of the scheme.
    pub event_type: Option<RequestTemplate>,
    /// `None` for the name that the scheme gives a delivery.
    pub key: Option<RequestTemplate>,
    /// How long a request with the same body is a repetition at least; zero if it is another one.
    pub same_body_within: Duration,
    /// The media types that are taken besides JSON where browsers could send the request.
    pub allow: Vec<String>,
}

/// A setting that an argument parser may copy.
pub type SharedHookSettings = Arc<HookSettings>;

/// The hooks of an argument, or of a variable with several, separated by spaces.
#[derive(Debug, Clone)]
pub struct HookList(pub Vec<SharedHookSettings>);

impl FromStr for HookList {
    type Err = String;

    fn from_str(text: &str) -> Result<HookList, String> {
        let texts: Vec<&str> = match text.starts_with('{') {
            true => vec![text],
            false => text.split_whitespace().collect(),
        };
        if texts.is_empty() {
            return Err(EXPECTED.to_owned());
        }
        texts.into_iter().map(|text| parse_hook(text).map(Arc::new)).collect::<Result<_, _>>().map(HookList)
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct HookObject {
    name: String,
    verify: String,
    #[serde(default)]
    secret_file: OneOrMore<PathBuf>,
    verify_token_file: Option<PathBuf>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    key: Option<String>,
    same_body_within: Option<String>,
    #[serde(default)]
    allow: OneOrMore<String>,
    header: Option<String>,
    digest: Option<String>,
    encoding: Option<String>,
    prefix: Option<String>,
    signed: Option<String>,
    time_header: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> Default for OneOrMore<T> {
    fn default() -> OneOrMore<T> {
        OneOrMore::More(Vec::new())
    }
}

impl<T> OneOrMore<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMore::One(item) => vec![item],
            OneOrMore::More(items) => items,
        }
    }
}

fn parse_hook(text: &str) -> Result<HookSettings, String> {
    if text.starts_with('{') {
        let object = serde_json::from_str(text).map_err(|error| {
            let error = error.to_string();
            let problem = error.split(" at line").next().unwrap_or_default();
            format!("{EXPECTED}: {problem}")
        })?;
        return HookSettings::of(object);
    }
    let (name, scheme) = text.split_once('=').ok_or(EXPECTED)?;
    let (scheme, file) = match scheme.split_once(':') {
        Some((scheme, file)) => (scheme, Some(PathBuf::from(file))),
        None => (scheme, None),
    };
    HookSettings::of(HookObject {
        name: name.to_owned(),
        verify: scheme.to_owned(),
        secret_file: OneOrMore::More(file.into_iter().collect()),
        ..HookObject::default()
    })
}

impl HookSettings {
    fn of(object: HookObject) -> Result<HookSettings, String> {
        let name = object.name;
        if !is_name(&name) {
            return Err(format!("{}, for /hook/NAME", name::EXPECTED));
        }
        let hmac = HmacSettings {
            header: object.header,
            digest: object.digest,
            encoding: object.encoding,
            prefix: object.prefix,
            signed: object.signed,
            time_header: object.time_header,
        };
        let scheme = scheme_of(&object.verify, hmac)?;
        let secret_files = object.secret_file.into_vec();
        match (&scheme, secret_files.is_empty()) {
            (Scheme::Unverified, false) => return Err("expected no secret for the scheme none".to_owned()),
            (Scheme::Unverified, true) | (_, false) => {}
            (_, true) => {
                return Err(format!("expected the file of its secret: {name}={}:FILE", object.verify));
            }
        }
        if object.verify_token_file.is_some() && !matches!(scheme, Scheme::Meta) {
            return Err("expected `verify-token-file` with the scheme meta alone".to_owned());
        }
        let same_body_within = match object.same_body_within {
            Some(text) if text.trim() == "0" => Duration::ZERO,
            Some(text) => parse_duration_with_unit(&text)?,
            None => default_window(&scheme),
        };
        let template = |text: Option<String>| text.as_deref().map(RequestTemplate::new).transpose();
        Ok(HookSettings {
            event_type: template(object.event_type)?,
            key: template(object.key)?,
            allow: object.allow.into_vec(),
            verify_token_file: object.verify_token_file,
            name,
            scheme,
            secret_files,
            same_body_within,
        })
    }
}

/// Where a name of the delivery is signed, a repetition has it.
fn default_window(scheme: &Scheme) -> Duration {
    match scheme {
        Scheme::Github | Scheme::Slack | Scheme::Shopify | Scheme::Meta | Scheme::Hmac(_) => SAME_BODY_WITHIN,
        Scheme::Standard | Scheme::Stripe | Scheme::Bearer | Scheme::Basic | Scheme::Unverified => {
            Duration::ZERO
        }
    }
}

struct HmacSettings {
    header: Option<String>,
    digest: Option<String>,
    encoding: Option<String>,
    prefix: Option<String>,
    signed: Option<String>,
    time_header: Option<String>,
}

impl HmacSettings {
    fn is_empty(&self) -> bool {
        let HmacSettings { header, digest, encoding, prefix, signed, time_header } = self;
        [header, digest, encoding, prefix, signed, time_header].iter().all(|setting| setting.is_none())
    }

    fn into_scheme(self) -> Result<HmacScheme, String> {
        let header = self.header.ok_or("expected the `header` that holds the HMAC")?;
        Ok(HmacScheme {
            header: header_name(header)?,
            digest: self.digest.map_or(Ok(Digest::Sha256), |text| text.parse())?,
            encoding: self.encoding.map_or(Ok(Encoding::Hex), |text| text.parse())?,
            prefix: self.prefix.unwrap_or_default(),
            signed: self.signed.as_deref().map(RequestTemplate::new).transpose()?,
            time_header: self.time_header.map(header_name).transpose()?,
        })
    }
}

fn header_name(text: String) -> Result<String, String> {
    let name: Result<HeaderName, _> = text.parse();
    name.map(|name| name.as_str().to_owned()).map_err(|_| "expected the name of a header".to_owned())
}

fn scheme_of(text: &str, hmac: HmacSettings) -> Result<Scheme, String> {
    if text == "hmac" {
        return Ok(Scheme::Hmac(Box::new(hmac.into_scheme()?)));
    }
    if !hmac.is_empty() {
        return Err(
            "expected `header`, `digest`, `encoding`, `prefix`, `signed` and `time-header` with the \
                    scheme hmac alone"
                .to_owned(),
        );
    }
    Ok(match text {
        "standard" => Scheme::Standard,
        "github" => Scheme::Github,
        "stripe" => Scheme::Stripe,
        "slack" => Scheme::Slack,
        "shopify" => Scheme::Shopify,
        "meta" => Scheme::Meta,
        "bearer" => Scheme::Bearer,
        "basic" => Scheme::Basic,
        "none" => Scheme::Unverified,
        _ => return Err(SCHEMES.to_owned()),
    })
}
