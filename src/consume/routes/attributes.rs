//! CloudEvents in binary mode: attributes in headers, data in the body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use percent_encoding::percent_decode;

use crate::consume::problem::Problem;
use crate::core::event::ParseError;
use crate::core::event::cloud_event::CloudEvent;

const PREFIX: &str = "ce-";

/// The attributes of one CloudEvent, by name, and the type of its data.
pub struct Attributes {
    values: Vec<(String, String)>,
    content_type: Option<String>,
}

impl Attributes {
    /// None without any.
    ///
    /// # Errors
    /// 400 for a repeated one, and for one that is not UTF-8 once it is decoded.
    ///
    /// Source: CloudEvents HTTP protocol binding 1.0.2, section 3.1.3.
    pub fn of(headers: &HeaderMap) -> Result<Option<Attributes>, Problem> {
        if !headers.contains_key("ce-specversion") {
            return Ok(None);
        }
        let mut values = Vec::new();
        for name in headers.keys() {
            let Some(attribute) = name.as_str().strip_prefix(PREFIX).filter(|name| !name.is_empty()) else {
                continue;
            };
            let mut given = headers.get_all(name).iter();
            let (Some(value), None) = (given.next(), given.next()) else {
                return Err(Problem::bad_request(format!("expected one header `{name}`")));
            };
            let value = percent_decode(value.as_bytes()).decode_utf8();
            let value =
                value.map_err(|_| Problem::bad_request(format!("the header `{name}` is not UTF-8")))?;
            values.push((attribute.to_owned(), value.into_owned()));
        }
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Some(Attributes { values, content_type }))
    }

    /// # Errors
    /// What is wrong with the attributes or the data.
    pub fn with_data(&self, data: &[u8]) -> Result<CloudEvent, ParseError> {
        CloudEvent::assemble(&self.values, self.content_type.as_deref(), data, |bytes| STANDARD.encode(bytes))
    }
}
