//! Names that people give, and that stand in paths: of hooks and subscriptions.

const LIMIT: usize = 64;

pub const EXPECTED: &str = "expected a name of 1 to 64 letters, digits, `-`, `_` and `.`";

/// Whether a text is such a name.
pub fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=LIMIT).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('.')
}
