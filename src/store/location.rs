//! Where a store is, as `--db` and `DATABASE_URL` say it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The place of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// An SQLite file.
    Sqlite(PathBuf),
}

/// The schemes of URLs of databases.
const DIALECTS: [&str; 5] = ["sqlite", "postgres", "postgresql", "mysql", "mariadb"];

/// Reads a path or a URL.
///
/// As SQLAlchemy has it, `sqlite:///events.db` is relative, `sqlite:////var/events.db` is absolute, and
/// a `+driver` behind the scheme is ignored.
impl FromStr for StoreLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<StoreLocation, String> {
        const EXPECTED: &str = "expected a path such as `events.db` or `sqlite:///events.db`";
        let Some((scheme, rest)) = text.split_once("://") else {
            // A slash too few makes no path of a URL that may hold a password.
            let scheme = text.split([':', '+']).next().unwrap_or_default();
            if text.contains(':') && DIALECTS.contains(&scheme) {
                return Err(EXPECTED.to_owned());
            }
            return match text {
                "" => Err(EXPECTED.to_owned()),
                ":memory:" => Err(format!("events in memory would be lost; {EXPECTED}")),
                path => Ok(StoreLocation::Sqlite(path.into())),
            };
        };
        // The rest may hold a password: it is not repeated.
        let dialect = scheme.split('+').next().unwrap_or(scheme);
        match dialect {
            "sqlite" => match rest.strip_prefix('/') {
                Some(path) if !path.is_empty() && path != ":memory:" => {
                    Ok(StoreLocation::Sqlite(path.into()))
                }
                _ => Err(EXPECTED.to_owned()),
            },
            "postgres" | "postgresql" | "mysql" | "mariadb" => {
                Err(format!("{dialect} stores are not supported by this version; {EXPECTED}"))
            }
            _ => Err(format!("unknown kind of store; {EXPECTED}")),
        }
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreLocation::Sqlite(path) => path.display().fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_name_sqlite_files() {
        for (text, path) in [
            ("events.db", "events.db"),
            ("/var/lib/events.db", "/var/lib/events.db"),
            ("sqlite:///events.db", "events.db"),
            ("sqlite:////var/events.db", "/var/events.db"),
            ("sqlite+aiosqlite:///events.db", "events.db"),
        ] {
            assert_eq!(text.parse(), Ok(StoreLocation::Sqlite(path.into())));
        }
    }

    #[test]
    fn what_is_not_a_durable_file_is_refused_without_repeating_it() {
        for text in [
            "",
            ":memory:",
            "sqlite://",
            "sqlite:///:memory:",
            "postgres://u:secret@h/d",
            "postgres:/u:secret@h/d",
            "mysql+pymysql:u:secret@h/d",
            "redis://:secret@h",
        ] {
            let message = text.parse::<StoreLocation>().unwrap_err();
            assert!(message.contains("expected a path"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
