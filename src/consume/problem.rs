//! Errors as clients see them: `application/problem+json` (RFC 9457).

use hyper::StatusCode;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use serde::Serialize;

use super::routes::{Answer, json_response};
use crate::core::event::{MemberError, ParseError};
use crate::store::AppendError;
use crate::store::backend::StoreError;

/// How long a client waits before it tries again, in seconds.
const RETRY_AFTER_SECONDS: u64 = 1;

/// A refusal: its status, what is wrong, and the headers that go with it.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<MemberError>,
    header: Option<Box<(HeaderName, HeaderValue)>>,
    /// What is for the log alone.
    cause: Option<String>,
}

impl Problem {
    /// A problem with a sentence of detail, which never shows internals.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        let problem =
            Problem { status, detail: detail.into(), errors: Vec::new(), header: None, cause: None };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return problem.with_header(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        problem
    }

    /// 405, with the methods that there are.
    pub fn method_not_allowed(allowed: &'static str) -> Problem {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("expected one of {allowed}"));
        problem.with_header(ALLOW, HeaderValue::from_static(allowed))
    }

    /// The same, where to try again does not help until the settings change.
    pub fn lasting(self) -> Problem {
        Problem { header: self.header.filter(|header| header.0 != RETRY_AFTER), ..self }
    }

    /// The same, with a header.
    pub fn with_header(self, name: HeaderName, value: HeaderValue) -> Problem {
        Problem { header: Some(Box::new((name, value))), ..self }
    }

    /// What the service failed at, for its log; none where the request was at fault.
    pub fn reason(&self) -> Option<String> {
        let failed = self.status.is_server_error();
        failed.then(|| match &self.cause {
            Some(cause) => format!("{}: {cause}", self.detail),
            None => self.detail.clone(),
        })
    }

    /// The response that tells it.
    pub fn into_response(self) -> Answer {
        let body = ProblemBody {
            kind: "about:blank",
            title: self.status.canonical_reason(),
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        let mut body = serde_json::to_vec(&body).expect("strings and numbers always serialize");
        body.push(b'\n');
        let mut response = json_response(self.status, body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = self.header.map(|header| *header) {
            headers.insert(name, value);
        }
        response
    }
}

/// RFC 9457, section 3.1.
#[derive(Serialize)]
struct ProblemBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: Option<&'static str>,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[MemberError]>::is_empty")]
    errors: &'a [MemberError],
}

impl From<ParseError> for Problem {
    fn from(error: ParseError) -> Problem {
        match error {
            ParseError::Encoding { offset } => {
                Problem::new(StatusCode::BAD_REQUEST, format!("the body is not UTF-8 at byte {offset}"))
            }
            ParseError::Syntax(message) => {
                Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {message}"))
            }
            ParseError::SeveralValues { line, column } => {
                let detail = format!(
                    "the body holds more than one JSON value: the second begins at line {line} column {column}; \
                    send one array, or newline-delimited JSON with `Content-Type: application/x-ndjson`"
                );
                Problem::new(StatusCode::BAD_REQUEST, detail)
            }
            ParseError::Line { number, message } => Problem::new(
                StatusCode::BAD_REQUEST,
                format!("line {number} of the body is not JSON: {message}"),
            ),
            ParseError::Shape { errors, total } => {
                let detail = match total - errors.len() {
                    0 => "the body does not fit".to_owned(),
                    unlisted => format!("the body does not fit; {unlisted} more errors are not listed"),
                };
                Problem { errors, ..Problem::new(StatusCode::BAD_REQUEST, detail) }
            }
        }
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Problem {
        match error {
            AppendError::Overloaded => Problem::overloaded(),
            AppendError::Store(error) => error.into(),
        }
    }
}

/// The operator reads the reason in the log; a client is told what it means for it.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match error {
            StoreError::Full(cause) => {
                let problem =
                    Problem::new(StatusCode::INSUFFICIENT_STORAGE, "the store has no space left: not stored")
                        .with_header(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
                Problem { cause: Some(cause), ..problem }
            }
            // Its reason may repeat what the request holds, which is not for the log either.
            StoreError::Refused(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the store refuses this request")
            }
            StoreError::Unavailable(cause) => {
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer");
                Problem { cause: Some(cause), ..problem }
            }
        }
    }
}

impl Problem {
    /// 413: a body, or what it stands for, is above the limit.
    pub fn body_too_large(limit_bytes: usize) -> Problem {
        let detail = format!("the body is larger than {limit_bytes} bytes: not stored");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// 503: memory or the queue is full.
    pub fn overloaded() -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many events wait for the store: not stored")
    }
}
