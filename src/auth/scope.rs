//! Scopes (RFC 6749, section 3.3): what a client may do.

use std::fmt;
use std::str::FromStr;

use crate::core::type_filter::PermittedTypes;

pub const EXPECTED: &str = "expected the scopes write, read, work and admin";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Store events.
    Write,
    /// Read events and metrics.
    Read,
    /// Claim and acknowledge the events of subscriptions.
    Work,
    /// Make and delete subscriptions, delete events.
    Admin,
}

impl Scope {
    pub const ALL: [Scope; 4] = [Scope::Write, Scope::Read, Scope::Work, Scope::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Scope::Write => "write",
            Scope::Read => "read",
            Scope::Work => "work",
            Scope::Admin => "admin",
        }
    }
}

/// A set of scopes. Its text lists their names, separated by spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    pub const ALL: Scopes = Scopes((1 << Scope::ALL.len()) - 1);

    pub fn include(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    pub fn include_all(self, others: Scopes) -> bool {
        self.common(others) == others
    }

    pub fn common(self, others: Scopes) -> Scopes {
        Scopes(self.0 & others.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Scopes {
        Scopes(scopes.into_iter().fold(0, |bits, scope| bits | 1 << scope as u8))
    }
}

impl FromStr for Scopes {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Scopes, &'static str> {
        let scope_of = |name: &str| Scope::ALL.into_iter().find(|scope| scope.name() == name);
        text.split_ascii_whitespace().map(|name| scope_of(name).ok_or(EXPECTED)).collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Scope::ALL.into_iter().filter(|scope| self.include(*scope)).map(Scope::name);
        formatter.write_str(&names.collect::<Vec<_>>().join(" "))
    }
}

/// What a client may do, and with which events.
#[derive(Debug, Clone)]
pub struct Permissions {
    pub scopes: Scopes,
    pub types: PermittedTypes,
}

impl Permissions {
    pub fn all() -> Permissions {
        Permissions { scopes: Scopes::ALL, types: PermittedTypes::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_a_set_of_names() {
        let scopes: Scopes = " work read  work".parse().unwrap();
        assert_eq!(scopes.to_string(), "read work");
        assert!(scopes.include(Scope::Read) && !scopes.include(Scope::Write));
        assert!(Scopes::ALL.include_all(scopes) && !scopes.include_all(Scopes::ALL));
        assert_eq!(Scopes::ALL.to_string(), "write read work admin");
        assert!("".parse::<Scopes>().unwrap().is_empty());
        assert!("Read".parse::<Scopes>().is_err());
    }
}
