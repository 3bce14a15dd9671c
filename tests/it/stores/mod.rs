//! What every store does alike, whichever database it is.

mod backups;
mod claims;
mod conflicts;
mod connecting;
pub mod database;
mod deletion;
mod events;
mod hooks;
mod journals;
mod keys;
mod listing;
mod lost;
mod maintenance;
mod moving;
mod outbox;
#[cfg(feature = "postgres")]
mod pooler;
mod preparing;
pub mod reading;
mod replication;
mod retention;
mod silent;
#[cfg(feature = "postgres")]
mod standby;
mod streaming;
mod subscriptions;
mod tailing;
mod tokens;

use eventctl::testing::Glob;

#[test]
fn a_pattern_matches_as_sqlite_has_it() {
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    let patterns = [
        "", "*", "?", "a", "a*", "*a", "*a*", "a?c", "**", "*?*", "[a-c]", "[!a-c]", "[]]", "[!]]", "[a-]",
        "[-a]", "*[a-c]*b", "a[b]c", "é*", "?é", "[à-ü]", "[c-a]", "*ab*ab", "a]", "[^]-]", "[a-c-e]",
        "[--a]", "[a--]", "[]-a]", "[^]-a]", "[^^]",
    ];
    let texts = [
        "", "a", "b", "c", "ab", "abc", "ac", "aab", "abab", "aabaab", "é", "aé", "ü", "]", "-", "^", "!",
        "d", "a]", "ba", "cab", "A", "e", "[",
    ];
    for pattern in patterns {
        let glob: Glob = pattern.parse().unwrap();
        let in_sqlite = pattern.replace("[!", "[^");
        for text in texts {
            let select = "SELECT ?1 GLOB ?2";
            let expected: bool =
                connection.query_row(select, [text, in_sqlite.as_str()], |row| row.get(0)).unwrap();
            assert_eq!(glob.matches(text), expected, "`{text}` and `{pattern}`");
        }
    }
}
