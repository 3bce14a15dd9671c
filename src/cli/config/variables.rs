//! The names of environment variables.

/// What the variable of a setting begins with that has none of its own.
pub(super) const OWN_PREFIX: &str = "EVENTCTL_";

/// `EVENTCTL_BODY_LIMIT` for `body-limit`.
pub(super) fn default_variable(long: &str) -> String {
    format!("{OWN_PREFIX}{}", long.to_ascii_uppercase().replace('-', "_"))
}
