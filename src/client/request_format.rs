//! How a request to a webhook is made: its method, headers and body, by templates in Jinja's language.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::Context;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, context};

use crate::core::text::excerpt;
use crate::error::hinted;
use crate::secret::Secret;

/// How many instructions a template may take, so that none delays a message.
const FUEL: u64 = 500_000;

/// The most characters of an error in a template.
const REASON_LIMIT: usize = 300;

const BODY: &str = "body";

/// Under which templates know the secrets.
const SECRET: &str = "secret";

const METHODS: [Method; 3] = [Method::POST, Method::PUT, Method::PATCH];

/// What a setting says of requests. `Debug` shows nothing of it: a header may hold a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestSettings {
    pub method: Method,
    /// Names and templates.
    pub headers: Vec<(HeaderName, String)>,
    /// `None` for the body that is sent without a template.
    pub body: Option<String>,
    /// What templates know as `secret.NAME`.
    pub secret_files: BTreeMap<String, PathBuf>,
}

impl Default for RequestSettings {
    fn default() -> RequestSettings {
        RequestSettings {
            method: Method::POST,
            headers: Vec::new(),
            body: None,
            secret_files: BTreeMap::new(),
        }
    }
}

impl RequestSettings {
    /// # Errors
    /// The method or the name of a header is none. Errors repeat no value.
    pub fn new(
        method: Option<&str>,
        headers: BTreeMap<String, String>,
        body: Option<String>,
        secret_files: BTreeMap<String, PathBuf>,
    ) -> Result<RequestSettings, String> {
        let method = match method {
            None => Method::POST,
            Some(text) => {
                let known = METHODS.into_iter().find(|method| method.as_str() == text);
                known.ok_or("expected the method POST, PUT or PATCH")?
            }
        };
        let header = |(name, value): (String, String)| match name.parse() {
            Ok(name) => Ok((name, value)),
            Err(_) => Err(format!("expected the name of a header, not `{}`", excerpt(&name, 40))),
        };
        let headers = headers.into_iter().map(header).collect::<Result<_, _>>()?;
        Ok(RequestSettings { method, headers, body, secret_files })
    }
}

impl fmt::Debug for RequestSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("request settings")
    }
}

/// The same, ready to be used.
pub struct RequestFormat {
    environment: Environment<'static>,
    method: Method,
    headers: Vec<HeaderName>,
    has_body: bool,
    is_json: bool,
    secrets: BTreeMap<String, Secret>,
}

/// A request without its URL.
pub struct Rendered {
    pub method: Method,
    pub headers: HeaderMap,
    /// `None` where no template makes it.
    pub body: Option<String>,
}

impl RequestFormat {
    /// # Errors
    /// A template cannot be parsed, or a secret cannot be read.
    pub fn load(settings: &RequestSettings) -> anyhow::Result<RequestFormat> {
        let content_type = settings.headers.iter().find(|(name, _)| *name == CONTENT_TYPE);
        let is_json = content_type.is_none_or(|(_, value)| value.contains("json"));
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(move |name| match name {
            BODY if is_json => AutoEscape::Json,
            _ => AutoEscape::None,
        });
        let headers = settings.headers.iter().map(|(name, source)| (name.as_str(), source));
        let body = settings.body.iter().map(|source| (BODY, source));
        for (name, source) in headers.chain(body) {
            environment
                .add_template_owned(template_of(name), source.clone())
                .map_err(|error| wrong_template(name, &error))?;
        }
        let secret = |(name, path): (&String, &PathBuf)| Ok((name.clone(), Secret::read(path)?));
        Ok(RequestFormat {
            environment,
            method: settings.method.clone(),
            headers: settings.headers.iter().map(|(name, _)| name.clone()).collect(),
            has_body: settings.body.is_some(),
            is_json,
            secrets: settings.secret_files.iter().map(secret).collect::<anyhow::Result<_>>()?,
        })
    }

    /// A name that a template has, and that is not among those that it is given, if there is any.
    pub fn unknown_name(&self, known: &[&str]) -> Option<String> {
        let names =
            self.environment.templates().flat_map(|(_, template)| template.undeclared_variables(false));
        let is_known = |name: &String| name == SECRET || known.contains(&name.as_str());
        names.into_iter().find(|name| !is_known(name))
    }

    /// What a receiver must not be shown to repeat.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.values().map(Secret::expose)
    }

    /// The values are only asked for where there are templates.
    ///
    /// # Errors
    /// A template fails, or what it gives is no JSON although the receiver is to be sent JSON.
    pub fn render(&self, values: impl FnOnce() -> Value) -> anyhow::Result<Rendered> {
        if self.headers.is_empty() && !self.has_body {
            return Ok(Rendered { method: self.method.clone(), headers: HeaderMap::new(), body: None });
        }
        let secrets = self.secrets.iter().map(|(name, secret)| (name.clone(), secret.expose().to_owned()));
        let values = context! { secret => secrets.collect::<BTreeMap<_, _>>(), ..values() };
        let text_of = |name: &str| {
            let template = self.environment.get_template(&template_of(name)).expect("it was added");
            template.render(&values).map_err(|error| wrong_template(name, &error))
        };
        let mut headers = HeaderMap::new();
        for name in &self.headers {
            let text = text_of(name.as_str())?.replace(char::is_control, " ");
            let mut value = HeaderValue::from_bytes(text.trim().as_bytes())
                .with_context(|| format!("the template of `{name}` gives what no header can hold"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let body = if self.has_body { Some(text_of(BODY)?) } else { None };
        if let Some(body) = body.as_ref().filter(|_| self.is_json) {
            let parsed: Result<serde::de::IgnoredAny, _> = serde_json::from_str(body);
            if let Err(error) = parsed {
                // The library's message names the kind of error and its place.
                let problem = format!("the template of the body gives no JSON: {error}");
                return Err(hinted(problem, "values are written with their quotes: {\"text\": {{ text }}}"));
            }
        }
        Ok(Rendered { method: self.method.clone(), headers, body })
    }
}

/// By its name the environment knows what is to be escaped.
fn template_of(name: &str) -> String {
    if name == BODY { BODY.to_owned() } else { format!("header {name}") }
}

fn wrong_template(name: &str, error: &minijinja::Error) -> anyhow::Error {
    let line =
        error.line().filter(|line| *line > 1).map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail = match error.kind() {
        ErrorKind::OutOfFuel => "it takes too long".to_owned(),
        _ => excerpt(error.detail().unwrap_or("a value is missing or cannot be used"), REASON_LIMIT),
    };
    hinted(
        format!("the template of `{name}` is wrong{line}: {detail}"),
        "write it in Jinja's language: {{ event.type }}, {% for event in events %}",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(body: &str, headers: &[(&str, &str)]) -> anyhow::Result<RequestFormat> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings =
            RequestSettings::new(Some("PUT"), headers.collect(), Some(body.to_owned()), BTreeMap::new());
        RequestFormat::load(&settings.unwrap())
    }

    #[test]
    fn values_are_escaped_for_json() {
        let hostile = "\"}, \"x\": \"\u{1b}\n</script>\\";
        let format = format(r#"{"text": {{ text }}, "n": {{ n }}, "both": {{ "a " ~ text }}}"#, &[]).unwrap();
        let rendered = format.render(|| context! { text => hostile, n => 7 }).unwrap();
        assert_eq!(rendered.method, Method::PUT);
        let body: serde_json::Value = serde_json::from_str(&rendered.body.unwrap()).unwrap();
        assert_eq!(body, serde_json::json!({"text": hostile, "n": 7, "both": format!("a {hostile}")}));
    }

    #[test]
    fn other_bodies_and_headers_are_not_escaped_and_hold_no_line_break() {
        let headers = [("Content-Type", "text/plain"), ("Title", "é {{ text }}")];
        let format = format("a {{ text }}", &headers).unwrap();
        let rendered = format.render(|| context! { text => "\"x\"\r\nInjected: y" }).unwrap();
        assert_eq!(rendered.body.as_deref(), Some("a \"x\"\r\nInjected: y"));
        assert_eq!(rendered.headers["title"].as_bytes(), "é \"x\"  Injected: y".as_bytes());
    }

    #[test]
    fn wrong_templates_are_named() {
        let error = |body: &str, headers: &[(&str, &str)]| {
            let format = format(body, headers);
            let rendered = format.and_then(|format| format.render(|| context! { text => "x" }));
            format!("{:#}", rendered.err().unwrap())
        };
        assert!(error("{{ text", &[]).starts_with("the template of `body` is wrong"));
        assert!(error("{{ txt }}", &[]).starts_with("the template of `body` is wrong"));
        assert!(error("\"{{ text }}\"", &[]).contains("gives no JSON"));
        assert!(error("{}", &[("X-A", "{{ txt }}")]).contains("`x-a`"));
        assert!(
            error("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", &[])
                .contains("too long")
        );
        assert!(RequestSettings::new(Some("GET"), BTreeMap::new(), None, BTreeMap::new()).is_err());
        let headers = BTreeMap::from([("a b".to_owned(), String::new())]);
        assert!(RequestSettings::new(None, headers, None, BTreeMap::new()).is_err());
    }
}
