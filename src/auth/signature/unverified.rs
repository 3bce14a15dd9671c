//! Why a request is not verified, and the check of its time.

use std::time::Duration;

use thiserror::Error;

use super::template::TemplateError;
use crate::core::timestamp::Timestamp;

/// How far the time of a signature may be from ours, either way.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// Why a request is not verified. Its text is for the sender.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unverified {
    #[error("expected one header `{0}`")]
    NoHeader(String),
    #[error("cannot read the header `{0}`")]
    MalformedHeader(String),
    #[error("the time of the signature is more than five minutes from this machine's")]
    OutOfTime,
    #[error("the signed text cannot be made from the request: {0}")]
    NoText(TemplateError),
    #[error("no signature is valid: another secret, or the request was changed on its way")]
    WrongSignature,
    #[error("the credentials are not valid")]
    WrongCredentials,
}

/// # Errors
/// The time, in Unix seconds, is not a number, or too far from now.
pub fn check_time(seconds: &str, now: Timestamp) -> Result<(), Unverified> {
    let is_number = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
    let signed: Option<i64> = is_number.then(|| seconds.parse().ok()).flatten();
    let distance =
        signed.and_then(|seconds| now.as_microseconds().checked_sub(seconds.checked_mul(1_000_000)?));
    let is_recent =
        distance.is_some_and(|distance| u128::from(distance.unsigned_abs()) <= TOLERANCE.as_micros());
    if is_recent { Ok(()) } else { Err(Unverified::OutOfTime) }
}
