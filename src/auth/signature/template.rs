//! Texts made of a request: `github.{{ header['x-github-event'] }}`.

use std::collections::BTreeMap;
use std::fmt;

use hyper::header::HeaderMap;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};
use thiserror::Error;

/// How many instructions a template may take: none delays a request.
const FUEL: u64 = 50_000;

const NAME: &str = "template";

/// A template over `header`, a map of the request's headers with names in lower case, `text`, the body as it came, and
/// `body`, the same read as JSON.
pub struct RequestTemplate {
    environment: Environment<'static>,
    reads_json: bool,
}

/// Why a template gives no text for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TemplateError {
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body is not JSON")]
    NotJson,
    #[error("a header or a member of the body is missing")]
    Missing,
    #[error("the template fails")]
    Fails,
}

impl RequestTemplate {
    /// # Errors
    /// What is wrong with the template.
    pub fn new(source: &str) -> Result<RequestTemplate, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        let added = environment.add_template_owned(NAME, source.to_owned());
        added.map_err(|error| {
            format!("a template is wrong: {}", error.detail().unwrap_or("it cannot be read"))
        })?;
        let names = environment.get_template(NAME).expect("it was added").undeclared_variables(false);
        if let Some(unknown) = names.iter().find(|name| !["header", "text", "body"].contains(&name.as_str()))
        {
            return Err(format!("a template knows `header`, `body` and `text`, but not `{unknown}`"));
        }
        Ok(RequestTemplate { reads_json: names.contains("body"), environment })
    }

    /// # Errors
    /// The request has not what the template needs.
    pub fn render(&self, headers: &HeaderMap, text: &str) -> Result<String, TemplateError> {
        let headers: BTreeMap<&str, String> = headers
            .keys()
            .map(|name| {
                let values =
                    headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
                (name.as_str(), values.collect::<Vec<_>>().join(", "))
            })
            .collect();
        let body = match self.reads_json {
            true => serde_json::from_str(text).map_err(|_| TemplateError::NotJson)?,
            false => Value::UNDEFINED,
        };
        let context = minijinja::context! { header => headers, text => text, body => body };
        let template = self.environment.get_template(NAME).expect("it was added");
        template.render(context).map_err(|error| match error.kind() {
            ErrorKind::UndefinedError => TemplateError::Missing,
            _ => TemplateError::Fails,
        })
    }
}

impl fmt::Debug for RequestTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a template")
    }
}
