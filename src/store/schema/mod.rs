//! Which versions of a schema a program works with.
//!
//! Every step is additive: it may add tables, indices and columns with defaults, and nothing that a program of the
//! step before trips over. So the processes of one store can be upgraded one after the other.

use std::fmt::Display;

use crate::error::hinted;

/// How many steps beyond those that it knows a program works with.
const NEWER_STEPS: usize = 1;

/// Refuses a store that is more than one step newer than the steps that this program knows.
///
/// # Errors
/// It is newer than that.
pub fn check_not_too_new(store: impl Display, version: usize, known: usize) -> anyhow::Result<()> {
    if version <= known + NEWER_STEPS {
        return Ok(());
    }
    let problem = format!("cannot open `{store}`: its schema is version {version}, newer than {known}");
    Err(hinted(problem, "use the eventctl that prepared it, or a newer one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_newer_is_not_too_new() {
        for version in 0..=4 {
            assert!(check_not_too_new("events.db", version, 3).is_ok(), "{version}");
        }
        let refusal = check_not_too_new("events.db", 5, 3).unwrap_err().to_string();
        assert_eq!(refusal, "cannot open `events.db`: its schema is version 5, newer than 3");
    }
}
