//! Errors that also say what to do next.

use std::error::Error;
use std::fmt;

/// An error with a line of advice for the person who reads it.
#[derive(Debug)]
pub struct Hinted {
    error: anyhow::Error,
    hint: String,
    is_transient: bool,
}

impl Hinted {
    /// The outermost advice that an error carries, if any.
    pub fn find(error: &anyhow::Error) -> Option<&str> {
        let in_chain = error.chain().find_map(|cause| cause.downcast_ref::<Hinted>());
        in_chain.map(|hinted| hinted.hint.as_str())
    }

    /// Whether the same may succeed a little later, as far as the error says so.
    pub fn is_transient(error: &anyhow::Error) -> bool {
        error.chain().filter_map(|cause| cause.downcast_ref::<Hinted>()).any(|hinted| hinted.is_transient)
    }
}

impl fmt::Display for Hinted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(formatter)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Adds advice to the error of a result.
pub trait Hint<T> {
    /// Adds what to do about the error: one line, lower case, no full stop.
    ///
    /// # Errors
    /// The same error, with the advice.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Hint<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| {
            let hinted = Hinted { error: error.into(), hint: hint.into(), is_transient: false };
            anyhow::Error::new(hinted)
        })
    }
}

/// An error made of a message (what failed and why) and advice.
pub fn hinted(message: impl fmt::Display, hint: impl Into<String>) -> anyhow::Error {
    let error = anyhow::anyhow!("{message}");
    anyhow::Error::new(Hinted { error, hint: hint.into(), is_transient: false })
}

/// The same of what may succeed a little later, without anything being changed.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub fn hinted_transient(message: impl fmt::Display, hint: impl Into<String>) -> anyhow::Error {
    let error = anyhow::anyhow!("{message}");
    anyhow::Error::new(Hinted { error, hint: hint.into(), is_transient: true })
}
