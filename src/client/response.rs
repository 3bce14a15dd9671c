//! What responses say: their bodies within limits, transient failures, and `Retry-After`.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{HeaderMap, RETRY_AFTER};
use jiff::fmt::rfc2822;
use tokio::time::timeout;

/// The most of a response's body that is read; the connection of a longer one is closed.
pub const RESPONSE_LIMIT_BYTES: usize = 256 << 10;

/// The most of a body that is kept where only the status matters.
const PREFIX_LIMIT_BYTES: usize = 4 << 10;

/// How long to wait for a body where only the status matters.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// The longest wait that `Retry-After` can ask for.
pub const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(3600);

/// The start of a response's body.
#[derive(Debug, Default)]
pub struct BodyPrefix {
    pub bytes: Vec<u8>,
    pub is_complete: bool,
}

impl BodyPrefix {
    /// Reads a body to its end if that comes soon, and keeps its start.
    pub async fn read(mut body: Incoming) -> BodyPrefix {
        let mut prefix = BodyPrefix::default();
        let reading = async {
            let mut length = 0;
            // Some receivers fail when they cannot finish their response.
            while length <= RESPONSE_LIMIT_BYTES {
                let Some(frame) = body.frame().await else {
                    prefix.is_complete = length == prefix.bytes.len();
                    return;
                };
                let Ok(frame) = frame else { return };
                let data = frame.data_ref().map_or(&[][..], |data| data);
                length += data.len();
                let room = PREFIX_LIMIT_BYTES - prefix.bytes.len();
                prefix.bytes.extend_from_slice(&data[..room.min(data.len())]);
            }
        };
        let _ = timeout(LINGER_TIME, reading).await;
        prefix
    }
}

/// Reads a whole body, so that its connection can be reused. Of a body above the limit it reads somewhat more than the
/// limit.
pub async fn read_to_end(
    mut body: impl Body<Data = Bytes, Error = hyper::Error> + Unpin,
    limit_bytes: usize,
) -> anyhow::Result<Bytes> {
    let mut content: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        content.extend_from_slice(frame?.data_ref().map_or(&[], |data| data));
        if content.len() > limit_bytes {
            break;
        }
    }
    Ok(content.into())
}

/// Whether a retry may succeed: 408, 425, 429 and 5xx.
pub fn is_transient(status: StatusCode) -> bool {
    let transient =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    transient || status.is_server_error()
}

/// How long `Retry-After` asks to wait, at most an hour: a date or a number of seconds (RFC 9110, section 10.2.3), to
/// which some receivers add a fraction.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        true => Duration::try_from_secs_f64(value.parse().ok()?).unwrap_or(RETRY_AFTER_LIMIT),
        false => {
            let date = rfc2822::parse(value).ok()?;
            let left = date.timestamp().duration_since(jiff::Timestamp::now());
            Duration::try_from(left).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_AFTER_LIMIT))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn wait_for(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        retry_after(&headers)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(wait_for("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait_for("99999999999"), Some(RETRY_AFTER_LIMIT));
        assert_eq!(wait_for(&"9".repeat(400)), Some(RETRY_AFTER_LIMIT));
        assert_eq!(wait_for(" 1.5 "), Some(Duration::from_millis(1500)));
        assert_eq!(wait_for("0.25"), Some(Duration::from_millis(250)));
        for wrong in ["-1", "1e3", "inf", "NaN", "1.2.3", ".", ""] {
            assert_eq!(wait_for(wrong), None, "{wrong}");
        }
        assert_eq!(wait_for("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
        let soon = soon.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let wait = wait_for(&soon).unwrap();
        assert!((Duration::from_secs(50)..=Duration::from_secs(60)).contains(&wait), "{wait:?}");
        assert_eq!(wait_for("soon"), None);
    }

    #[test]
    fn timeouts_rate_limits_and_server_errors_are_transient() {
        for status in [408, 425, 429, 500, 502, 503, 504, 507] {
            assert!(is_transient(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [302, 400, 401, 404, 409, 413, 415, 422] {
            assert!(!is_transient(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
