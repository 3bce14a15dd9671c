//! Errors as clients see them: `application/problem+json` (RFC 9457).

use hyper::StatusCode;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Serialize;

use super::answer::{Answer, json_response};
use crate::auth::scope::Scope;
use crate::core::event::{MemberError, ParseError};
use crate::store::error::Cause;
use crate::store::{AppendError, ReadError, WriteError};

const RETRY_AFTER_SECONDS: u64 = 1;

/// A refusal: its status, what is wrong, and an additional header.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<MemberError>,
    header: Option<Box<(HeaderName, HeaderValue)>>,
    /// For the log alone.
    cause: Option<String>,
}

impl Problem {
    /// The detail must not show internals. 503 comes with `Retry-After`.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        let problem =
            Problem { status, detail: detail.into(), errors: Vec::new(), header: None, cause: None };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return problem.with_header(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        problem
    }

    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn unavailable(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub fn unsupported_media_type(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
    }

    /// The token permits nothing of what needs one of these scopes (RFC 6750, section 3.1).
    pub fn insufficient_scope(needed: &[Scope]) -> Problem {
        let names: Vec<&str> = needed.iter().map(|scope| scope.name()).collect();
        let detail = format!("this token does not have the scope {}", names.join(" or "));
        let challenge =
            format!("Bearer realm=\"eventctl\", error=\"insufficient_scope\", scope=\"{}\"", names.join(" "));
        let challenge = HeaderValue::try_from(challenge).expect("names of scopes are ASCII");
        Problem::new(StatusCode::FORBIDDEN, detail).with_header(WWW_AUTHENTICATE, challenge)
    }

    /// The client may do this, but not with these event types.
    pub fn type_not_permitted(what: &str) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, format!("{what} that this client may not use"))
    }

    pub fn no_route() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path")
    }

    pub fn method_not_allowed(allowed: &'static str) -> Problem {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("expected one of {allowed}"));
        problem.with_header(ALLOW, HeaderValue::from_static(allowed))
    }

    pub fn body_too_large(limit_bytes: usize) -> Problem {
        let detail = format!("the body is larger than {limit_bytes} bytes: not stored");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// Memory or the queue is full.
    pub fn overloaded() -> Problem {
        Problem::unavailable("too many events wait for the store: not stored")
    }

    fn no_answer(cause: &Cause) -> Problem {
        Problem { cause: Some(format!("{cause:#}")), ..Problem::unavailable("the store does not answer") }
    }

    /// Removes `Retry-After`, where a retry cannot succeed until the settings change.
    pub fn lasting(self) -> Problem {
        Problem { header: self.header.filter(|header| header.0 != RETRY_AFTER), ..self }
    }

    pub fn with_header(self, name: HeaderName, value: HeaderValue) -> Problem {
        Problem { header: Some(Box::new((name, value))), ..self }
    }

    /// The reason of a server error, for the log.
    pub fn reason(&self) -> Option<String> {
        let failed = self.status.is_server_error();
        failed.then(|| match &self.cause {
            Some(cause) => format!("{}: {cause}", self.detail),
            None => self.detail.clone(),
        })
    }

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
        Problem::bad_request(match error {
            ParseError::Encoding { offset } => format!("the body is not UTF-8 at byte {offset}"),
            ParseError::Syntax(message) => format!("the body is not JSON: {message}"),
            ParseError::SeveralValues { line, column } => format!(
                "the body holds more than one JSON value: the second begins at line {line} column {column}; \
                send one array, or newline-delimited JSON with `Content-Type: application/x-ndjson`"
            ),
            ParseError::Line { number, message } => {
                format!("line {number} of the body is not JSON: {message}")
            }
            ParseError::Shape { errors, total } => {
                let detail = match total - errors.len() {
                    0 => "the body does not fit".to_owned(),
                    unlisted => format!("the body does not fit; {unlisted} more errors are not listed"),
                };
                return Problem { errors, ..Problem::bad_request(detail) };
            }
        })
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

/// The reason is for the operator's log; the client learns what it means for its request.
impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Problem {
        match error {
            WriteError::Full(cause) => {
                let problem =
                    Problem::new(StatusCode::INSUFFICIENT_STORAGE, "the store has no space left: not stored")
                        .with_header(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
                Problem { cause: Some(format!("{cause:#}")), ..problem }
            }
            // Its reason may repeat what the request holds, which must not be logged either.
            WriteError::Refused(_) => Problem::unavailable("the store refuses this request"),
            WriteError::Unavailable(cause) => Problem::no_answer(&cause),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        match error {
            ReadError::TooSlow => Problem::unavailable(error.to_string()),
            ReadError::Unavailable(cause) => Problem::no_answer(&cause),
        }
    }
}
