//! Why claims fail.

use std::fmt;

use crate::error::hinted;
use crate::store::{AppendError, ReadError};

/// Why a request has failed.
pub enum ClaimError {
    /// It may succeed later.
    Passing(String),
    Lasting(anyhow::Error),
}

impl ClaimError {
    /// The subscription was there, and is not any more.
    pub fn has_ended(name: &str) -> ClaimError {
        let problem = format!("the subscription `{name}` has ended");
        ClaimError::Lasting(hinted(problem, "start this command again to begin a new one"))
    }
}

impl fmt::Display for ClaimError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClaimError::Passing(reason) => formatter.write_str(reason),
            ClaimError::Lasting(error) => write!(formatter, "{error:#}"),
        }
    }
}

impl From<AppendError> for ClaimError {
    fn from(error: AppendError) -> ClaimError {
        ClaimError::Passing(error.to_string())
    }
}

impl From<ReadError> for ClaimError {
    fn from(error: ReadError) -> ClaimError {
        ClaimError::Passing(error.to_string())
    }
}
