//! The URL of a server.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use hyper::Uri;

/// An http or https URL without a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(pub Uri);

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        const EXPECTED: &str = "expected a URL such as `http://127.0.0.1:8000/event`";
        if let Some(with_scheme) = with_scheme(text) {
            return Err(format!("it has no scheme; write {with_scheme}"));
        }
        let uri: Uri = text.parse().map_err(|error| format!("{error}; {EXPECTED}"))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(format!("a name or password does not belong into a URL; {EXPECTED}"));
        }
        match uri.scheme_str() {
            Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(Endpoint(uri)),
            Some("http" | "https") | None => Err(EXPECTED.to_owned()),
            Some(scheme) => Err(format!("`{scheme}` is neither http nor https; {EXPECTED}")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A URL whose scheme was left out, such as `localhost:8000/event`, as it should have been written.
fn with_scheme(text: &str) -> Option<String> {
    let missing = !text.contains("://") && !text.contains('@') && !text.starts_with(['/', ':', '-']);
    let url = format!("http://{text}");
    let uri: Uri = url.parse().ok().filter(|_| missing)?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let is_local = host == "localhost" || host.parse::<Ipv4Addr>().is_ok() || host.starts_with('[');
    (is_local || uri.port_u16().is_some() || host.contains('.')).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_http_and_hold_no_password() {
        assert!("http://localhost:8000/event".parse::<Endpoint>().is_ok());
        assert!("https://localhost/event".parse::<Endpoint>().is_ok());
        for wrong in
            ["localhost:8000", "localhost:8000/event", "events.example/event", "127.0.0.1", "[::1]:8000/"]
        {
            let message = wrong.parse::<Endpoint>().unwrap_err();
            assert_eq!(message, format!("it has no scheme; write http://{wrong}"));
        }
        for wrong in [
            "",
            "/event",
            "event",
            "ftp://host/",
            "user:secret@localhost:8000/",
            "http://",
            "http://u:secret@host/",
        ] {
            let message = wrong.parse::<Endpoint>().unwrap_err();
            assert!(message.contains("expected a URL"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
