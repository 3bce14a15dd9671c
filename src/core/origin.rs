//! Hosts and origins, as browsers send them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::network::is_this_machine;

/// A URL's host, normalized: in lower case, without its port and without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// The host of an authority such as `Events.example.:8000`.
    pub fn of(authority: &str) -> HostName {
        let host = split_port(authority).0.to_ascii_lowercase();
        HostName(host.strip_suffix('.').map_or(host.clone(), str::to_owned))
    }

    pub fn is_this_machine(&self) -> bool {
        is_this_machine(&self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A port is ignored.
impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<HostName, String> {
        let host = HostName::of(text.trim());
        let in_brackets = host.0.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match in_brackets {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => host.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
        };
        let is_port = split_port(text.trim()).1.bytes().all(|byte| byte.is_ascii_digit());
        if host.is_empty() || !is_host || !is_port {
            return Err("expected a host such as `events.example.com`".to_owned());
        }
        Ok(host)
    }
}

/// The origin of a page (RFC 6454): scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: HostName,
    /// Empty if neither the origin nor its scheme has one.
    port: String,
}

impl Origin {
    pub fn is_https(&self) -> bool {
        self.scheme == "https"
    }

    /// Whether `Host` names this origin. `Host` has no scheme: if it has no port, the port is the default of the origin's
    /// scheme.
    pub fn is_at(&self, authority: &str) -> bool {
        let port = split_port(authority).1;
        let port = if port.is_empty() { default_port(&self.scheme) } else { port };
        self.host == HostName::of(authority) && self.port == port
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Origin, String> {
        const EXPECTED: &str = "expected an origin such as `https://dashboard.example.com`, without a path";
        let (scheme, authority) = text.trim().split_once("://").ok_or(EXPECTED)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (scheme, (_, port)) = (scheme.to_ascii_lowercase(), split_port(authority));
        let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if scheme.is_empty() || !scheme.bytes().all(in_scheme) {
            return Err(EXPECTED.to_owned());
        }
        let host: HostName = authority.parse().map_err(|_| EXPECTED)?;
        let port = if port.is_empty() { default_port(&scheme) } else { port }.to_owned();
        Ok(Origin { scheme, host, port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { scheme, host, port } = self;
        write!(formatter, "{scheme}://{}", host.0)?;
        if port == default_port(scheme) { Ok(()) } else { write!(formatter, ":{port}") }
    }
}

fn default_port(scheme: &str) -> &'static str {
    match scheme {
        "http" => "80",
        "https" => "443",
        _ => "",
    }
}

/// Host and port of an authority; an IPv6 address has brackets.
fn split_port(authority: &str) -> (&str, &str) {
    let bracket = authority.rfind(']').unwrap_or(0);
    match authority[bracket..].find(':') {
        Some(colon) => (&authority[..bracket + colon], &authority[bracket + colon + 1..]),
        None => (authority, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_is_the_same_whatever_its_case_its_port_and_its_last_dot() {
        for text in ["events.example", "EVENTS.example.", "events.example:8000", "Events.Example.:80"] {
            assert_eq!(HostName::of(text), HostName::of("events.example"), "{text}");
        }
        assert_ne!(HostName::of("events.example"), HostName::of("xevents.example"));
        assert_ne!(HostName::of("events.example"), HostName::of("events.example.org"));
        for text in
            ["localhost", "LOCALHOST.", "localhost:8000", "127.0.0.1:1", "127.1.2.3", "[::1]", "[::1]:8"]
        {
            assert!(HostName::of(text).is_this_machine(), "{text}");
        }
        for text in
            ["", "localhost.example", "localhost..", "0.0.0.0", "[::]", "10.0.0.1:8000", "127.0.0.1.nip.io"]
        {
            assert!(!HostName::of(text).is_this_machine(), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            " ",
            ":8000",
            "[",
            "[::1",
            "[x]",
            "a:b",
            "::1",
            "*",
            "a b",
            "http://a",
            "a/b",
            "é",
            "*.example.com",
        ] {
            assert!(text.parse::<HostName>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_origin_is_at_the_host_and_port_that_it_names() {
        for (page, authority) in [
            ("http://localhost:8000", "localhost:8000"),
            ("http://LOCALHOST:8000", "localhost.:8000"),
            ("http://a", "a:80"),
            ("http://a:80", "a"),
            ("https://a", "a"),
            ("https://a", "a:443"),
            ("http://[::1]:8000", "[::1]:8000"),
        ] {
            assert!(origin(page).is_at(authority), "{page} {authority}");
        }
        for (page, authority) in [
            ("http://localhost:8001", "localhost:8000"),
            ("http://localhost", "localhost:8000"),
            ("http://127.0.0.1:8000", "localhost:8000"),
            ("https://a", "a:80"),
            ("https://a", "b"),
            ("http://a", ""),
        ] {
            assert!(!origin(page).is_at(authority), "{page} {authority}");
        }
    }

    #[test]
    fn origins_are_equal_by_scheme_host_and_port() {
        assert_eq!(origin("https://a.example/"), origin("HTTPS://A.example:443"));
        assert_ne!(origin("https://a.example"), origin("http://a.example"));
        assert_ne!(origin("https://a.example"), origin("https://a.example:8443"));
        assert_eq!(origin("https://A.example:443").to_string(), "https://a.example");
        assert_eq!(origin("tauri://localhost").to_string(), "tauri://localhost");
        for text in
            ["null", "*", "a.example", "https://", "https://*", "https://a/b", "https://u@a", "https://a:x"]
        {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
