//! What several targets demand.

use eventctl::testing::is_unsafe;

/// The longest message about a text of any length, in bytes.
const MESSAGE_LIMIT_BYTES: usize = 1000;

/// A message repeats little of what it is about, in one line, and nothing that a terminal obeys.
pub fn assert_presentable(message: &str) {
    assert!(message.len() <= MESSAGE_LIMIT_BYTES, "{} bytes: {message:.200}", message.len());
    assert!(!message.contains(is_unsafe), "{message:?}");
}
