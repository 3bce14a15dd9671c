//! Content codings: decodes request bodies, and compresses responses where the client accepts it.

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;

use super::answer::{Answer, add_vary};
use super::body::Content;
use super::problem::Problem;
use super::response_share::{Shared, reserve};
use crate::core::coding::{Coding, DecodeError};
use crate::core::negotiation::{weight_of, weights};
use crate::core::text::excerpt;
use crate::store::{Reservation, Store};

/// At most this many bodies are coded at once, each on its own thread. It bounds the memory for their windows.
static WORKERS: Semaphore = Semaphore::const_new(2);

/// Smaller responses are not compressed: it is not worth the time of either side.
const SMALLEST_BYTES: usize = 1 << 10;

/// The coding of a request body; none where it is not compressed.
///
/// # Errors
/// 415 for all but one gzip or zstd, with the supported codings (RFC 9110, section 12.5.3).
pub fn of_request(headers: &HeaderMap) -> Result<Option<Coding>, Problem> {
    let Some(name) = sole_coding(headers)? else { return Ok(None) };
    let coding = Coding::of(name);
    coding.map(Some).ok_or_else(|| {
        let name = excerpt(name, 64);
        unsupported(format!("expected Content-Encoding gzip or zstd, got `{name}`"), "gzip, zstd")
    })
}

/// # Errors
/// 415 where the body is compressed.
pub fn check_uncompressed(headers: &HeaderMap) -> Result<(), Problem> {
    match sole_coding(headers)? {
        None => Ok(()),
        Some(_) => Err(unsupported("expected a body that is not compressed".to_owned(), "identity")),
    }
}

fn sole_coding(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let names = values.flat_map(|value| value.to_str().unwrap_or("?").split(',')).map(str::trim);
    let mut names = names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"));
    match (names.next(), names.next()) {
        (name, None) => Ok(name),
        (_, Some(_)) => Err(unsupported("expected one Content-Encoding".to_owned(), "gzip, zstd")),
    }
}

fn unsupported(detail: String, accepted: &'static str) -> Problem {
    Problem::unsupported_media_type(detail).with_header(ACCEPT_ENCODING, HeaderValue::from_static(accepted))
}

/// Decompresses a request body. The limit holds for its decompressed size; the reservation grows with it.
///
/// # Errors
/// 413 above the limit, 503 without memory, 400 where it is malformed.
pub async fn decode(
    coding: Coding,
    body: Bytes,
    mut reservation: Reservation,
    limit_bytes: usize,
) -> Result<(Bytes, Reservation), Problem> {
    let decoded = on_worker(move || {
        let decoded = coding.decode(&body, limit_bytes, |bytes| reservation.grow(bytes));
        decoded.map(|decoded| (Bytes::from(decoded), reservation))
    });
    decoded.await?.map_err(|error| match error {
        DecodeError::TooLarge => Problem::body_too_large(limit_bytes),
        DecodeError::NoRoom => Problem::overloaded(),
        DecodeError::Malformed => Problem::bad_request(match coding {
            Coding::Gzip => "the body is not gzip, or is cut off: not stored",
            Coding::Zstd => "the body is not zstd, is cut off, or needs a window above 8 MiB: not stored",
        }),
    })
}

/// Runs CPU-bound work on a thread of its own. It runs to its end even if the request is cancelled.
async fn on_worker<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let permit: SemaphorePermit<'static> = WORKERS.acquire().await.expect("the semaphore is never closed");
    let worked = spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    worked.await.map_err(|_| Problem::unavailable("the service is stopping"))
}

/// The coding that the client prefers; none where it prefers `identity`.
pub fn accepted(headers: &HeaderMap) -> Option<Coding> {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let weights: Vec<(&str, f32)> = weights(values).collect();
    let others = weight_of(&weights, "*").unwrap_or(0.0);
    let identity = weight_of(&weights, "identity").unwrap_or(0.0);
    let weight = |coding: Coding| weight_of(&weights, coding.name()).unwrap_or(others);
    let (gzip, zstd) = (weight(Coding::Gzip), weight(Coding::Zstd));
    let best = if gzip > zstd { (gzip, Coding::Gzip) } else { (zstd, Coding::Zstd) };
    (best.0 > 0.0 && best.0 >= identity).then_some(best.1)
}

/// Compresses a response where the client accepts it and it is not small. Only 200 is compressed, and no stream.
pub async fn compressed(
    mut answer: Answer,
    accepted: Option<Coding>,
    store: &Store,
    share: Option<Shared>,
) -> Answer {
    if answer.status() != StatusCode::OK || !matches!(answer.body(), Content::Whole(_)) {
        return answer;
    }
    add_vary(&mut answer, "Accept-Encoding");
    let (mut head, content) = answer.into_parts();
    let content = content.into_bytes();
    let Some(coding) = accepted.filter(|_| content.len() >= SMALLEST_BYTES) else {
        return Answer::from_parts(head, content.into());
    };
    // The original keeps its reservation until it is compressed.
    let original = content.clone();
    let encoded = on_worker(move || coding.encode(&original)).await;
    let encoded = match encoded {
        Ok(Ok(encoded)) => reserve(store, share.as_ref(), encoded).ok(),
        _ => None,
    };
    let content = match encoded {
        Some(encoded) => {
            head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
            encoded
        }
        None => content,
    };
    Answer::from_parts(head, content.into())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_coding_that_is_liked_best_is_taken() {
        let (gzip, zstd) = (Some(Coding::Gzip), Some(Coding::Zstd));
        for (values, coding) in [
            (&[][..], None),
            (&[""], None),
            (&["gzip"], gzip),
            (&["gzip, deflate, br, zstd"], zstd),
            (&["gzip", "zstd"], zstd),
            (&["gzip;q=1.0, zstd;q=0.9"], gzip),
            (&["gzip;q=0, *"], zstd),
            (&["*"], zstd),
            (&["*;q=0"], None),
            (&["zstd;q=0, gzip;q=0.1"], gzip),
            (&["identity, gzip;q=0.5"], None),
            (&["identity;q=0.5, gzip;q=0.5"], gzip),
            (&["br, deflate"], None),
            (&["gzip;q=none"], None),
        ] {
            assert_eq!(accepted(&headers(ACCEPT_ENCODING, values)), coding, "{values:?}");
        }
    }

    #[test]
    fn a_request_has_one_coding_at_most() {
        for (values, coding) in [
            (&[][..], Ok(None)),
            (&["identity"], Ok(None)),
            (&[""], Ok(None)),
            (&["gzip"], Ok(Some(Coding::Gzip))),
            (&["X-Gzip, identity"], Ok(Some(Coding::Gzip))),
            (&["ZSTD"], Ok(Some(Coding::Zstd))),
            (&["gzip, zstd"], Err(415)),
            (&["gzip", "gzip"], Err(415)),
            (&["br"], Err(415)),
            (&["identity, deflate"], Err(415)),
        ] {
            let found = of_request(&headers(CONTENT_ENCODING, values));
            let found = found.map_err(|problem| problem.into_response().status().as_u16());
            assert_eq!(found, coding, "{values:?}");
        }
    }
}
